package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

// run posts what is queued until ctx ends. The end of patient ends the report
// that is under way, and no later one.
func (r *Reporter) run(ctx, patient context.Context) {
	defer close(r.stopped)
	defer r.post.client.CloseIdleConnections()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		for s, ok := r.next(); ok; s, ok = r.next() {
			if patient.Err() == nil {
				r.post.do(patient, s)
			} else {
				r.post.do(ctx, s)
			}
			r.mu.Lock()
			r.sending = false
			r.mu.Unlock()
			signal(r.idle)
			r.pause(ctx, s.Stage)
		}
		signal(r.idle)
	}
}

// pause waits a little before the next report of stage: what comes meanwhile is
// one. Another stage is told at once: the last ones follow each other within
// milliseconds, and then device-api is restarted.
func (r *Reporter) pause(ctx context.Context, stage string) {
	over := time.NewTimer(postPause)
	defer over.Stop()
	for {
		r.mu.Lock()
		other := len(r.queue) > 0 && r.queue[0].Stage != stage
		r.mu.Unlock()
		if other {
			return
		}
		select {
		case <-r.wake:
		case <-over.C:
			return
		case <-r.closing:
			return
		case <-ctx.Done():
			return
		}
	}
}

// next takes the oldest report off the queue.
func (r *Reporter) next() (s State, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sending = len(r.queue) > 0; !r.sending {
		return State{}, false
	}
	s = r.queue[0]
	r.queue = slices.Delete(r.queue, 0, 1)
	return s, true
}

// Flush waits until what was said has arrived, for a quarter of a second at most, and
// not at all where the endpoint let the last report time out. device-api is restarted
// next: what waits then would never be told.
func (r *Reporter) Flush(ctx context.Context) {
	if r.post != nil && !r.post.slow.Load() {
		r.drained(ctx, slowLimit)
	}
}

// Close lets the last report out, has the last state in its file and ends the
// Reporter: within 2 s, within half a second if the endpoint let the report before
// time out, and at once when ctx ends. It may be called more than once.
func (r *Reporter) Close(ctx context.Context) {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		return
	}
	if r.keep != nil {
		// First: who asks a screen and a report at the same moment hears the same.
		close(r.keep.closing)
		select {
		case <-r.keep.ended:
		case <-ctx.Done():
		}
	}
	if r.post == nil {
		return
	}
	close(r.closing)
	defer func() {
		r.stop()
		<-r.stopped
	}()
	limit := lastLimit
	if r.post.slow.Load() {
		limit = slowLimit
	}
	if r.drained(ctx, limit) {
		return
	}
	// There is no time for all of it: what is under way and what waits is
	// given up for the last.
	r.mu.Lock()
	if n := len(r.queue); n > 0 {
		r.queue = r.queue[n-1:]
		r.hurry()
	}
	r.mu.Unlock()
	r.drained(ctx, limit)
}

// drained waits until nothing is queued or under way.
func (r *Reporter) drained(ctx context.Context, limit time.Duration) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		done := len(r.queue) == 0 && !r.sending
		r.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-r.idle: // perhaps of an earlier time: look again
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// A poster posts reports over one connection that is kept.
type poster struct {
	url    string
	client *http.Client
	slow   atomic.Bool // the endpoint has let the last report time out
}

// replyMax is how much of a reply is read, so that the connection can be used
// again. device-api answers a few bytes.
const replyMax = 4 << 10

func newPoster(address string) (*poster, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("cannot report to %q: want an address that begins with http:// or https://", address)
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    1,
		MaxResponseHeaderBytes: 16 << 10,
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		transport.Proxy = nil // a proxy's loopback is another machine
	}
	return &poster{url: address, client: &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a report goes where the configuration says, nowhere else
		},
	}}, nil
}

// do posts s. Whether it arrived is nobody's concern but that of slow.
func (p *poster) do(ctx context.Context, s State) {
	ctx, cancel := context.WithTimeout(ctx, postLimit)
	defer cancel()
	data, err := json.Marshal(s)
	if err != nil {
		return // cannot be: strings and a number
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(data))
	if err != nil {
		return // cannot be: newPoster parsed the address
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "ota-apply")
	// A report says what is, so it may be sent again when the connection turns
	// out to be that of a device-api that has ended. An empty value is not sent.
	req.Header["Idempotency-Key"] = []string{}
	resp, err := p.client.Do(req)
	if err == nil {
		// A longer reply, or one of unknown length, costs the connection instead.
		if n := resp.ContentLength; n <= replyMax {
			_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, max(0, n)))
		}
		resp.Body.Close()
	}
	p.slow.Store(errors.Is(err, context.DeadlineExceeded))
}
