package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tope-ota/ota/bootcheck"
)

// A doubt is a part of the file whose content is wrong. It is fetched again, at most
// maxAgain times.
type doubt struct {
	Part
	err   error         // what the download ends with if the content stays wrong
	again chan struct{} // closed when the part was fetched again
}

// maxAgain is how often a part is fetched again: once repairs what was damaged on the
// way, twice also what came from a server with an old copy.
const maxAgain = 2

// errDoubt ends a try for a part that is fetched again first.
var errDoubt = errors.New("a part is in doubt")

// doubted takes a doubt, if there is one: then the error is errDoubt. It does not wait.
func (d *Download) doubted() error {
	if d.settled || d.doubt != nil || !d.known {
		return nil
	}
	select {
	case x, open := <-d.now.doubts:
		return d.take(x, open)
	default:
		return nil
	}
}

// take takes the doubt x; open: there may be others.
func (d *Download) take(x *doubt, open bool) error {
	if !open {
		d.settled = true
		return nil
	}
	if d.again == nil {
		d.again = make(map[Part]int)
	}
	d.doubt, d.doubtAt = x, x.First
	if d.again[x.Part]++; d.again[x.Part] > maxAgain {
		d.known, d.compared = false, 0 // the server may have another file now
	} else if d.opt.Log != nil {
		d.opt.Log(fmt.Sprintf("download of %q: %v; fetching bytes %d to %d again", d.from.shown, x.err, x.First, x.End-1))
	}
	return errDoubt
}

// clear does what comes first: it compares the head with the server's if that is
// unsure, and fetches the part that is in doubt.
func (d *Download) clear(ctx context.Context) error {
	if d.now == nil {
		return nil
	}
	if !d.known {
		n, err := d.aside(ctx, Part{d.compared, d.now.head}, &sameAs{d.spool.file, d.compared})
		d.compared += n
		if err != nil {
			return err
		}
		d.known = true
	}
	if d.doubt == nil {
		return nil
	}
	if d.again[d.doubt.Part] > maxAgain {
		return d.damaged()
	}
	f, err := os.OpenFile(d.spool.dest(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := d.aside(ctx, Part{d.doubtAt, d.doubt.End}, io.NewOffsetWriter(f, d.doubtAt))
	d.doubtAt += n
	if f, ok := errors.AsType[*fault](err); ok && f.kind == rewind && d.fresh {
		return d.damaged() // the whole file came in one answer: the server has no ranges
	}
	if err != nil {
		return err
	}
	d.rewritten = true
	close(d.doubt.again)
	d.doubt = nil
	return nil
}

// damaged returns the end of a download whose file is wrong on the server, too.
func (d *Download) damaged() *fault {
	return &fault{kind: final, drop: true, bare: true, err: d.doubt.err}
}

// aside fetches p of the file to w, and returns how many bytes of it arrived.
func (d *Download) aside(ctx context.Context, p Part, w io.Writer) (n int64, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	g := d.guard(ctx, p.End, end)
	g.offset, g.aside = p.First, true
	defer g.done()
	resp, err := g.get()
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err = io.Copy(w, io.LimitReader(resp.Body, p.End-p.First))
	if d.moved = n; n >= progressBytes {
		d.failures = 0
	}
	if err == nil && n < p.End-p.First {
		err = faultf(transient, "the server sent %d bytes, want %d", n, p.End-p.First).withCode(bootcheck.CodeSizeMismatch)
	}
	return n, err
}

// sameAs takes only what f has from at on.
type sameAs struct {
	f  io.ReaderAt
	at int64
}

func (s *sameAs) Write(p []byte) (int, error) {
	had := make([]byte, len(p))
	if _, err := s.f.ReadAt(had, s.at); err != nil {
		return 0, err
	}
	if !bytes.Equal(had, p) {
		return 0, faultf(mismatch, "the file changed on the server")
	}
	s.at += int64(len(p))
	return len(p), nil
}

// settle waits until the caller has closed its doubts. errDoubt: it has one.
func (d *Download) settle() error {
	if d.settled {
		return nil
	}
	d.hangUp()
	select {
	case x, open := <-d.now.doubts:
		return d.take(x, open)
	case <-d.caller.Done(): // not the deadline: all has arrived
		return context.Cause(d.caller)
	}
}
