package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/tope-ota/ota/bootcheck"
)

// A Doubt is a part of the file whose content is wrong: damaged on the way, or from
// a server that has another file. Fetch fetches it anew, at most maxAgain times.
type Doubt struct {
	Part
	Err   error         // what Fetch returns if the content stays wrong
	Again chan struct{} // Fetch closes it when the part was fetched anew
}

// maxAgain is how often a part is fetched anew: once heals what was damaged on the
// way, twice also what came from a server with an old copy.
const maxAgain = 2

// errDoubt ends a try for a part that is fetched anew first.
var errDoubt = errors.New("a part is in doubt")

// checked reports whether the caller finds every wrong byte: then parts are joined
// without a validator.
func (d *download) checked() bool { return d.opt.Doubts != nil }

// unsure reports whether it is not known yet that the server has the file that an
// earlier call began: the head tells, as it has the hash of all that follows.
func (d *download) unsure() bool { return d.checked() && d.judged && !d.known }

// doubted takes a doubt, if there is one: then the error is errDoubt. It does not wait.
func (d *download) doubted() error {
	if d.doubt != nil || d.unsure() {
		return nil
	}
	select {
	case x, open := <-d.doubts:
		return d.take(x, open)
	default: // also of a nil channel
		return nil
	}
}

// take takes the doubt x; open: there may be others.
func (d *download) take(x *Doubt, open bool) error {
	if !open {
		d.doubts = nil
		return nil
	}
	if d.again == nil {
		d.again = make(map[Part]int)
	}
	d.doubt, d.doubtAt = x, x.First
	if d.again[x.Part]++; d.again[x.Part] > maxAgain {
		d.known, d.compared = false, 0 // the server may have another file now
	} else if d.opt.Log != nil {
		d.opt.Log(fmt.Sprintf("download of %q: %v; fetching bytes %d to %d again", d.from.shown, x.Err, x.First, x.End-1))
	}
	return errDoubt
}

// clear does what comes first: it compares the head with the server's if that is
// unsure, and fetches the part that is in doubt.
func (d *download) clear(ctx context.Context) error {
	if d.unsure() {
		n, err := d.aside(ctx, Part{d.compared, d.head}, &sameAs{d.spool.file, d.compared})
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
	close(d.doubt.Again)
	d.doubt = nil
	return nil
}

// damaged returns the end of a download whose file is wrong on the server, too.
func (d *download) damaged() *fault {
	return &fault{kind: final, drop: true, bare: true, err: d.doubt.Err}
}

// aside fetches p of the file to w, and returns how many bytes of it arrived.
func (d *download) aside(ctx context.Context, p Part, w io.Writer) (n int64, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	g := d.begin(ctx, p.End, end)
	defer g.pace.stop()
	g.offset, g.aside = p.First, true
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.from.url.String(), nil)
	if err != nil {
		return 0, faultf(final, "the address is malformed") // cannot be: it was parsed
	}
	resp, err := g.Do(req)
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
func (d *download) settle() error {
	if d.doubts == nil {
		return nil
	}
	d.hangUp()
	select {
	case x, open := <-d.doubts:
		return d.take(x, open)
	case <-d.caller.Done(): // not the deadline: all has arrived
		return context.Cause(d.caller)
	}
}
