package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// A doubt is a part of the file whose content is wrong. It is fetched again, at most
// maxAgain times.
type doubt struct {
	Part                // what of it is still to be fetched
	last  bool          // it was fetched again often enough
	err   error         // what the download ends with if the content stays wrong
	again chan struct{} // closed when the part was fetched again
}

// maxAgain is how often a part is fetched again: once repairs what was damaged on the
// way, twice also what came from a server with an old copy.
const maxAgain = 2

// errDoubt ends a try for a part that is fetched again first.
var errDoubt = errors.New("a part is in doubt")

// doubted takes a doubt, if there is one. It does not wait.
func (d *Download) doubted() error {
	if d.doubt != nil || !d.known {
		return nil
	}
	select {
	case x, open := <-d.now.doubts:
		if open {
			return d.take(x)
		}
	default:
	}
	return nil
}

// take takes the doubt x. Its error is errDoubt.
func (d *Download) take(x *doubt) error {
	if d.again == nil {
		d.again = make(map[Part]int)
	}
	d.again[x.Part]++
	x.last = d.again[x.Part] > maxAgain
	if d.doubt = x; x.last {
		d.known, d.compared = false, 0 // the server may have another file now
	} else if d.opt.Log != nil {
		d.opt.Log(fmt.Sprintf("download of %q: %v; fetching bytes %d to %d again", d.from.shown, x.err, x.First, x.End-1))
	}
	return errDoubt
}

// compare compares the head with the server's.
func (d *Download) compare() error {
	n, err := d.aside(Part{d.compared, d.now.head}, sameAs{io.NewSectionReader(d.spool.file, d.compared, d.now.head-d.compared)})
	d.compared += n
	d.known = err == nil
	return err
}

// repeat fetches the part that is in doubt.
func (d *Download) repeat() error {
	x := d.doubt
	if x.last {
		return d.damaged()
	}
	f, err := os.OpenFile(d.spool.dest(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := d.aside(x.Part, io.NewOffsetWriter(f, x.First))
	x.First += n
	if f, ok := errors.AsType[*fault](err); ok && f.kind == rewind && d.fresh {
		return d.damaged() // the whole file came in one answer: the server has no ranges
	}
	if err != nil {
		return err
	}
	close(x.again)
	d.doubt = nil
	return nil
}

// damaged returns the end of a download whose file is wrong on the server, too.
func (d *Download) damaged() *fault {
	return &fault{kind: final, drop: true, bare: true, err: d.doubt.err}
}

// aside fetches p of the file to w, and returns how many bytes of it arrived.
func (d *Download) aside(p Part, w io.Writer) (n int64, err error) {
	r := d.request(p.First, p.End)
	defer r.done()
	r.aside = true
	if err := r.open(); err != nil {
		return 0, err
	}
	n, err = io.CopyN(w, r, p.End-p.First)
	if n >= progressBytes {
		d.failures = 0
	}
	if err == io.EOF {
		err = sizeFault(transient, "the server sent %d bytes, want %d", n, p.End-p.First)
	}
	return n, err
}

// sameAs takes only what it reads.
type sameAs struct{ io.Reader }

func (s sameAs) Write(p []byte) (int, error) {
	had := make([]byte, len(p))
	if _, err := io.ReadFull(s, had); err != nil {
		return 0, err
	}
	if !bytes.Equal(had, p) {
		return 0, faultf(mismatch, "the file changed on the server")
	}
	return len(p), nil
}
