package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/cavaliergopher/grab/v3"
	"golang.org/x/time/rate"
)

const (
	// bufferSize of grab: 32 KiB, its default, takes 2.5 times the CPU.
	bufferSize = 256 << 10

	// maxAsked is how many requests are in flight at once. With four a round trip of 100 ms
	// costs each range 25 ms, in which a link of 20 Mbit/s brings minGap.
	maxAsked = 4

	// aheadBytes is how much may lie between what is read and what is asked for ahead, bytes.
	// A server breaks off an answer that is not read for a minute.
	aheadBytes = 1 << 20

	// minAhead is how many ranges that are still to be fetched are worth one more connection:
	// with TLS it takes three round trips.
	minAhead = 3
)

// A request is for the bytes of the file from offset on, up to limit if that is not 0. It may
// be sent before its turn: then the answer waits in the buffers of its connection, and is
// written to the file in its turn. So the partial file grows at its end only, however many
// requests are in flight.
//
// In its turn it is grab's HTTPClient, and the body that grab reads. It passes only the answer
// that was asked for: 206 from offset to the limit or to the end of the file, or 200 from the
// first byte; and never more bytes than that announces.
type request struct {
	d             *Download
	offset, limit int64
	aside         bool // it is not the end of the file that becomes longer
	ahead         bool // what follows it may be asked for before its turn

	client   *http.Client
	ctx      context.Context
	stop     context.CancelCauseFunc
	answered chan struct{} // closed when resp or err is there
	resp     *http.Response
	err      error

	end    int64         // where the answer ends by what it announces; -1: unknown
	left   int64         // bytes of it that may still be read
	window time.Duration // what is left of it
	got    int64         // bytes in this window
}

// ask sends a request.
func (d *Download) ask(offset, limit int64) *request {
	r := &request{d: d, offset: offset, limit: limit, client: d.client(), answered: make(chan struct{}), window: d.window}
	r.ctx, r.stop = context.WithCancelCause(d.ctx)
	req := d.from.req.Clone(r.ctx)
	switch {
	case limit > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, limit-1))
	case offset > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	d.stats.Requests++
	go func() {
		defer close(r.answered)
		r.resp, r.err = r.client.Do(req)
	}()
	return r
}

// request is the one for a range whose turn has come: one that was sent ahead, else a new one.
func (d *Download) request(offset, limit int64) *request {
	if len(d.ahead) > 0 && d.ahead[0].offset == offset && d.ahead[0].limit == limit {
		r := d.ahead[0]
		d.ahead = d.ahead[1:]
		return r
	}
	d.dropAhead()
	return d.ask(offset, limit)
}

// done ends the request. Its connection is used again if all of the answer was read.
func (r *request) done() {
	r.stop(nil)
	<-r.answered
	if r.err == nil {
		r.resp.Body.Close()
	}
	r.d.idle = append(r.d.idle, r.client)
}

// dropAhead ends what was asked for ahead.
func (d *Download) dropAhead() {
	for _, r := range d.ahead {
		r.done()
	}
	d.ahead = nil
}

// hangUp ends all connections: one that died silently would be used again.
func (d *Download) hangUp() {
	d.dropAhead()
	for _, c := range d.idle {
		c.CloseIdleConnections()
	}
	d.idle = nil
}

// client is one that no request uses: it checks where redirects lead for one after the other.
func (d *Download) client() *http.Client {
	n := len(d.idle)
	if n == 0 {
		return d.route.newClient(new(hops))
	}
	c := d.idle[n-1]
	d.idle = d.idle[:n-1]
	return c
}

// askAhead sends requests for what follows r, of which unread bytes are to come. An address
// that is new has to be good for one request first.
func (r *request) askAhead(unread int64) {
	d := r.d
	if !r.ahead || r.limit == 0 || !d.taken || d.limit.Limit() != rate.Inf {
		return // what waits in buffers would not keep to the limit of the rate
	}
	for i, p := range d.parts {
		if p.First < r.limit {
			continue
		}
		if n := len(d.ahead); n == 0 || p.First > d.ahead[n-1].offset {
			if n+1 >= d.asked || unread > aheadBytes || len(d.idle) == 0 && len(d.parts)-i < minAhead-1 {
				return
			}
			d.ahead = append(d.ahead, d.ask(p.First, d.limitOf(p)))
		}
		unread += p.End - p.First
	}
}

// appendTo lets grab append the answer to a file. grab stats the file, asks by HEAD whether it
// may continue, opens it to append, and has written all that a Read gave before it calls Read
// again: so at the beginning of each Read the file holds d.have bytes. Whether the file
// is complete, and what is asked for, is not left to grab.
func (r *request) appendTo(name string) error {
	req := &grab.Request{HTTPRequest: r.d.from.req.Clone(r.ctx), Filename: name, NoCreateDirectories: true, IgnoreRemoteTime: true}
	client := &grab.Client{HTTPClient: r, BufferSize: bufferSize}
	return client.Do(req.WithContext(r.ctx)).Err()
}

// Do implements grab.HTTPClient. It answers HEAD itself: many servers refuse that, and a
// presigned address is good for GET only.
func (r *request) Do(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Body: http.NoBody, Request: req}
	if req.Method == http.MethodHead {
		resp.Header = http.Header{"Accept-Ranges": {"bytes"}}
		return resp, nil
	}
	resp.Body = r
	return resp, r.open()
}

// open waits for the answer, which can then be read.
func (r *request) open() error {
	r.askAhead(r.limit - r.offset)
	if _, err := r.wait(func() (int, error) { <-r.answered; return 0, r.err }); err != nil {
		return netFault(r.ctx, err)
	}
	if err := r.admit(r.resp); err != nil {
		return err
	}
	if r.left = r.end - r.offset; r.end < 0 {
		r.left = r.d.maxSize - r.offset
	}
	return nil
}

// wait waits for the server in f, which returns how many bytes came. Where less than
// minRate comes for a whole window of such waiting, the request ends. The time that the disk
// takes, or the limit of the rate, does not count.
func (r *request) wait(f func() (int, error)) (int, error) {
	d := r.d
	began := time.Now()
	timer := time.AfterFunc(r.window, func() {
		f := faultf(transient, "the server sent less than %d bytes a second for %v", d.minRate, d.window)
		f.slow = true
		r.stop(f)
	})
	n, err := f()
	timer.Stop()
	r.window -= time.Since(began)
	if r.got += int64(n); r.got >= max(1, int64(float64(d.minRate)*d.window.Seconds())) {
		r.window, r.got = d.window, 0
	}
	return n, err
}

// Close does nothing: done does.
func (r *request) Close() error { return nil }

func (r *request) Read(p []byte) (int, error) {
	d := r.d
	if !r.aside {
		if err := d.arrived(); err != nil {
			return 0, err
		}
		r.askAhead(r.left)
	}
	if r.left <= 0 {
		return 0, r.atEnd()
	}
	n, err := r.read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if !r.aside {
		d.have += int64(n)
	}
	if err != nil && err != io.EOF {
		f := netFault(r.ctx, err)
		if f.kind == transient && !f.slow {
			f = faultf(transient, "the connection was lost after %s bytes: %w", d.soFar(), f)
		}
		return n, f
	}
	return n, err
}

// read reads from the connection, at most as fast as the limit allows: what is not read
// stays with the server.
func (r *request) read(p []byte) (int, error) {
	d := r.d
	n, err := r.wait(func() (int, error) { return r.resp.Body.Read(p[:min(len(p), d.limit.Burst())]) })
	d.stats.Fetched += int64(n)
	if limitErr := d.limit.WaitN(r.ctx, n); err == nil {
		err = limitErr
	}
	return n, err
}

// atEnd finds out whether a server that has sent all it announced sends more.
// Not a byte of that reaches the disk. A connection that breaks here broke
// too late to matter.
func (r *request) atEnd() error {
	n, err := r.read(make([]byte, 1))
	switch {
	case n > 0 && r.end < 0:
		return sizeFault(final, "the file is longer than the limit of %d bytes", r.d.maxSize).dropping()
	case n > 0:
		return sizeFault(final, "the server sends more than the %d bytes it announced", r.end-r.offset).dropping()
	case r.end < 0 && err != io.EOF:
		return netFault(r.ctx, err)
	}
	return io.EOF
}
