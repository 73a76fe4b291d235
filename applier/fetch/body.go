package fetch

import (
	"io"
	"net/http"

	"github.com/tope-ota/ota/bootcheck"
)

// A body is what grab reads an answer through. grab has written all that a
// Read gave before it calls Read again, so at the beginning of each Read the
// file holds everything up to d.have and can be read.
type body struct {
	g    *guard
	rc   io.ReadCloser
	left int64 // bytes that grab may still get
}

func newBody(g *guard, resp *http.Response) *body {
	end := g.end
	if end < 0 {
		end = g.d.maxSize
	}
	return &body{g: g, rc: resp.Body, left: end - g.offset}
}

func (b *body) Close() error { return b.rc.Close() }

func (b *body) Read(p []byte) (int, error) {
	d := b.g.d
	if !b.g.aside {
		if err := d.arrived(); err != nil {
			return 0, err
		}
		b.g.askAhead(b.left)
	}
	if b.left <= 0 {
		return 0, b.atEnd()
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.read(p)
	b.left -= int64(n)
	if !b.g.aside {
		d.have += int64(n)
	}
	if err != nil && err != io.EOF {
		f := netFault(d.tryCtx, err)
		if f.kind == transient && !f.slow {
			f = faultf(transient, "the connection was lost after %d%s bytes: %w", d.have, ofTotal(d.size), f)
		}
		return n, f
	}
	return n, err
}

// read reads from the connection, at most as fast as the limit allows: what is not read
// stays with the server.
func (b *body) read(p []byte) (int, error) {
	d := b.g.d
	n, err := b.g.wait(func() (int, error) { return b.rc.Read(p[:min(len(p), d.limit.Burst())]) })
	d.stats.Fetched += int64(n)
	if limitErr := d.limit.WaitN(d.tryCtx, n); err == nil {
		err = limitErr
	}
	return n, err
}

// atEnd finds out whether a server that has sent all it announced sends more.
// Not a byte of that reaches the disk. A connection that breaks here broke
// too late to matter.
func (b *body) atEnd() error {
	n, err := b.read(make([]byte, 1))
	switch {
	case n > 0 && b.g.end < 0:
		return faultf(final, "the file is longer than the limit of %d bytes", b.g.d.maxSize).
			withCode(bootcheck.CodeSizeMismatch).dropping()
	case n > 0:
		return faultf(final, "the server sends more than the %d bytes it announced", b.g.end-b.g.offset).
			withCode(bootcheck.CodeSizeMismatch).dropping()
	case b.g.end < 0 && err != io.EOF:
		return netFault(b.g.d.tryCtx, err)
	}
	return io.EOF
}
