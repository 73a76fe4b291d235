package fetch

import (
	"context"
	"net/http"

	"golang.org/x/time/rate"
)

const (
	// maxAsked is how many requests are in flight at once. With four a round trip of 100 ms
	// costs each range 25 ms, in which a link of 20 Mbit/s brings minGap.
	maxAsked = 4

	// aheadBytes is how much may lie between what is read and what is asked for ahead, bytes.
	// A server breaks off an answer that is not read for a minute.
	aheadBytes = 1 << 20

	// pays is how many ranges must be left for one more connection: with TLS it costs three
	// round trips.
	pays = 3
)

// An ask is a request for a range that was sent, perhaps before its turn: then the answer
// waits in the buffers of its connection, and is written to the file in its turn. So the
// partial file grows at its end only, however many requests are in flight.
type ask struct {
	offset, limit int64 // as those of a guard
	client        *http.Client
	stop          context.CancelCauseFunc
	answered      chan answered
}

type answered struct {
	resp *http.Response
	err  error
}

// ask sends a request for the bytes from offset on, up to limit if that is not 0.
func (d *Download) ask(offset, limit int64) *ask {
	ctx, stop := context.WithCancelCause(d.ctx)
	a := &ask{offset: offset, limit: limit, client: d.client(), stop: stop, answered: make(chan answered, 1)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.from.url.String(), nil)
	if err != nil { // cannot be: it was parsed
		a.answered <- answered{err: faultf(final, "the address is malformed")}
		return a
	}
	if r := rangeOf(offset, limit); r != "" {
		req.Header.Set("Range", r)
	}
	req.Header.Set("User-Agent", "ota-apply")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Cache-Control", "no-transform")
	d.stats.Requests++
	from := d.from
	go func() {
		resp, err := send(ctx, a.client, req, from)
		a.answered <- answered{resp, err}
	}()
	return a
}

// request is that for a range: one that was sent ahead, else a new one. Its answer ends
// with ctx.
func (d *Download) request(ctx context.Context, offset, limit int64) *ask {
	var a *ask
	if len(d.ahead) > 0 && d.ahead[0].offset == offset && d.ahead[0].limit == limit {
		a, d.ahead = d.ahead[0], d.ahead[1:]
	} else {
		d.dropAhead()
		a = d.ask(offset, limit)
	}
	context.AfterFunc(ctx, func() { a.stop(context.Cause(ctx)) })
	return a
}

// askAhead sends requests for what follows the range that is read now, of which unread
// bytes are to come and which ends at limit; 0: at the end of the file.
func (d *Download) askAhead(limit, unread int64) {
	if d.noHead || limit == 0 || d.limit.Limit() != rate.Inf {
		return // what waits in buffers would not keep to the limit of the rate
	}
	for i, p := range d.parts {
		if p.First < limit {
			continue
		}
		if n := len(d.ahead); n == 0 || p.First > d.ahead[n-1].offset {
			if n+1 >= d.asked || unread > aheadBytes || len(d.idle) == 0 && len(d.parts)-i < pays-1 {
				return
			}
			d.ahead = append(d.ahead, d.ask(p.First, d.limitOf(p)))
		}
		unread += p.End - p.First
	}
}

// dropAhead ends what was asked for ahead.
func (d *Download) dropAhead() {
	for _, a := range d.ahead {
		a.stop(nil)
	}
	for _, a := range d.ahead {
		if r := <-a.answered; r.err == nil {
			r.resp.Body.Close()
		}
		d.idle = append(d.idle, a.client)
	}
	d.ahead = nil
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

// hangUp ends the connections of the tries so far: one that died silently would be used again.
func (d *Download) hangUp() {
	d.dropAhead()
	for _, c := range d.idle {
		c.CloseIdleConnections()
	}
	d.idle = nil
}
