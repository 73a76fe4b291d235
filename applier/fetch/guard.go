package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// A guard is grab's HTTPClient for one try. It answers grab's HEAD itself
// (many servers refuse HEAD, and a presigned address is good for GET only),
// and lets the answer to a GET pass only if it is exactly the one asked for:
// 206 from our offset to the end of the file, or to the limit of this try, or
// 200 from the first byte.
type guard struct {
	d      *Download
	offset int64 // length of the partial file when the try began
	limit  int64 // ask for the bytes before this one only; 0: for all
	aside  bool  // it is not the end of the file that becomes longer
	first  bool  // what follows is not known yet: that is asked for on the same connection
	end    int64 // where the answer ends by what it announces; 0: no answer yet, -1: unknown

	client *http.Client            // of the request; nil: none was sent
	stop   context.CancelCauseFunc // ends the try
	left   time.Duration           // of this window of waiting for the server
	got    int64                   // bytes in it
}

// wait waits for the server in f, which returns how many bytes came. Where less than
// MinRate comes for a whole Window of such waiting, the try ends. The time that the disk
// takes, or the limit of the rate, does not count.
func (g *guard) wait(f func() (int, error)) (int, error) {
	began := time.Now()
	timer := time.AfterFunc(g.left, func() {
		f := faultf(transient, "the server sent less than %d bytes a second for %v", g.d.minRate, g.d.window)
		f.slow = true
		g.stop(f)
	})
	n, err := f()
	timer.Stop()
	g.left -= time.Since(began)
	if g.got += int64(n); g.got >= max(1, int64(float64(g.d.minRate)*g.d.window.Seconds())) {
		g.left, g.got = g.d.window, 0
	}
	return n, err
}

// Do implements grab.HTTPClient.
func (g *guard) Do(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodHead {
		return g.head(req), nil
	}
	return g.get() // not grab's own Range: the offset decides
}

// get is the answer to the request of this try.
func (g *guard) get() (resp *http.Response, err error) {
	a := g.d.request(g.d.tryCtx, g.offset, g.limit)
	g.client = a.client
	g.askAhead(g.limit - g.offset)
	_, err = g.wait(func() (int, error) {
		r := <-a.answered
		resp = r.resp
		return 0, r.err
	})
	if err != nil {
		return nil, err
	}
	if err := g.admit(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	resp.Body = newBody(g, resp)
	if g.end != g.d.size {
		resp.ContentLength = -1 // grab would compare it with the length of the whole
	}
	return resp, nil
}

// askAhead sends requests for what follows, when unread bytes of the answer are to come. An
// address that is new has to be good for one request first.
func (g *guard) askAhead(unread int64) {
	if !g.aside && !g.first && g.d.taken {
		g.d.askAhead(g.limit, unread)
	}
}

// done ends the try.
func (g *guard) done() {
	if g.client != nil {
		g.d.idle = append(g.d.idle, g.client)
	}
}

// rangeOf is the Range of a request from offset on, up to limit if that is not 0; empty: none.
func rangeOf(offset, limit int64) string {
	switch {
	case limit > 0:
		return fmt.Sprintf("bytes=%d-%d", offset, limit-1)
	case offset > 0:
		return fmt.Sprintf("bytes=%d-", offset)
	}
	return ""
}

// head tells grab what we know: that it may ask for a range, and the length.
func (g *guard) head(req *http.Request) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Accept-Ranges": {"bytes"}},
		ContentLength: g.d.size,
		Body:          http.NoBody,
		Request:       req,
	}
}

// admit checks an answer before a byte of it is read, and notes in the
// sidecar what it says of the file.
func (g *guard) admit(resp *http.Response) error {
	if f := g.checkStatus(resp); f != nil {
		return f
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return g.strange("the server sends it encoded as %.20q though the plain file was asked for", e)
	}
	size := resp.ContentLength
	g.end = size
	if resp.StatusCode == http.StatusPartialContent {
		var f *fault
		if size, f = g.checkRange(resp); f != nil {
			return f
		}
	}
	d := g.d
	d.taken = true
	switch {
	case size == 0:
		return g.strange("the server sends an empty file").withCode(bootcheck.CodeSizeMismatch)
	case size > 0 && d.size > 0 && size != d.size:
		return faultf(mismatch, "the server's file has %d bytes, want %d", size, d.size).withCode(bootcheck.CodeSizeMismatch)
	case max(size, d.size) > d.maxSize:
		return faultf(final, "the file has %d bytes, more than the limit of %d", max(size, d.size), d.maxSize).
			withCode(bootcheck.CodeSizeMismatch).dropping()
	case size < 0 && d.size < 0 && d.from.sha256 == nil && endsByClosing(resp):
		return faultf(mismatch, "the server does not say how long the file is, so that its end could not be told from a lost connection")
	}
	if size > 0 {
		d.size = size
	}
	if g.end < 0 {
		g.end = d.size
	}
	if g.aside {
		return nil
	}
	coming := d.missing()
	if g.limit > 0 && d.now == nil {
		coming = g.end - g.offset // of the rest it is not known whether it is wanted
	}
	if err := d.spool.room(coming, d.opt.Reserve); err != nil {
		return err
	}
	if g.offset > 0 && d.spool.mark.Size == d.size {
		return nil // nothing new
	}
	return d.spool.note(func(m *mark) { m.Size = d.size })
}

// checkStatus passes 200 and 206 where they were asked for.
func (g *guard) checkStatus(resp *http.Response) *fault {
	ranged := g.offset > 0 || g.limit > 0
	status := statusOf(resp)
	switch code := resp.StatusCode; {
	case code == http.StatusOK && (g.offset > 0 || g.aside) && g.foreign(resp):
		return g.strange("the server answers with something else: %d bytes of %.40q", resp.ContentLength, resp.Header.Get("Content-Type"))
	case code == http.StatusOK && g.offset == 0, code == http.StatusPartialContent && ranged:
		return nil
	case code == http.StatusOK:
		return faultf(rewind, "the server sends all of the file instead of the rest")
	case ranged && code == http.StatusRequestedRangeNotSatisfiable && g.tooShort(resp):
		_, _, total, _ := contentRange(resp)
		return faultf(mismatch, "the server's file has %d bytes, want %d", total, g.d.size).withCode(bootcheck.CodeSizeMismatch)
	case g.d.taken && (code == 401 || code == 403 || code == 400 && g.d.opt.Fresh != nil): // 400: Google's storage
		f := &fault{kind: final, err: answer{code, status}, code: bootcheck.CodeAddressExpired}
		if g.d.opt.Fresh != nil {
			f.kind, f.expired = transient, true
		}
		return f.advising("the server took this address before: install from a fresh one, or with --url-from, to resume")
	case ranged && (code == 400 || code == 412 || code == 416 || code == 501):
		return faultf(rewind, "server answered %s when asked for a part", status)
	case code == 408 || code == 425 || code == 429 || code >= 500 && code != 501 && code != 505:
		f := faultf(transient, "server answered %s", status)
		f.after = retryAfter(resp.Header)
		return f
	case code >= 200 && code < 300:
		return g.strange("server answered %s instead of the file", status)
	default:
		return (&fault{kind: final, err: answer{code, status}}).advising(statusAdvice[code])
	}
}

// An answer is a status that ends a download.
type answer struct {
	code   int
	status string
}

func (a answer) Error() string { return "server answered " + a.status }

// Absent reports whether err, of a download, is that the server has no such file, or says
// so: object stores answer 403 where they do not let list.
func Absent(err error) bool {
	a, ok := errors.AsType[answer](err)
	return ok && (a.code == http.StatusNotFound || a.code == http.StatusGone || a.code == http.StatusForbidden)
}

// statusAdvice is what an operator does after a status that ends a download.
var statusAdvice = map[int]string{
	401: "put the user and the password into the address, https://user:password@host/…",
	403: "if the address is a presigned one, it may have expired: install from a fresh one",
	404: "check the address",
	407: proxyAdvice,
	410: "the file is gone for good: install from another address",
}

// statusOf is the status of resp without what the server makes of it in words.
func statusOf(resp *http.Response) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
}

// strange makes the fault of an answer that says nothing about the file: a
// captive portal, a proxy. It must not cost a good partial file.
func (g *guard) strange(format string, args ...any) *fault {
	if g.offset > 0 || g.aside {
		return faultf(transient, format, args...)
	}
	return faultf(mismatch, format, args...)
}

// tooShort reports whether a 416 says that the file has another length.
func (g *guard) tooShort(resp *http.Response) bool {
	_, _, total, ok := contentRange(resp)
	return ok && total >= 0 && g.d.size > 0 && total != g.d.size
}

// foreign reports whether a 200 in place of the rest cannot be the file.
func (g *guard) foreign(resp *http.Response) bool {
	wrongSize := g.d.from.size > 0 && resp.ContentLength >= 0 && resp.ContentLength != g.d.from.size
	return wrongSize || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
}

// checkRange passes a 206 that goes from our offset to the limit or to the
// end of the file, and returns the length of the whole file, -1 if unknown.
func (g *guard) checkRange(resp *http.Response) (int64, *fault) {
	first, last, total, ok := contentRange(resp)
	if total < 0 {
		total = g.d.size // "*": the server does not know, perhaps we do
	}
	switch {
	case !ok || first < 0:
		return 0, faultf(rewind, "the server's Content-Range %.60q is not a part of a file", resp.Header.Get("Content-Range"))
	case first != g.offset || last < first || last != total-1 && last != g.limit-1:
		return 0, faultf(rewind, "the server sends bytes %d to %d of %d, want %d to the end", first, last, total, g.offset)
	case resp.ContentLength >= 0 && resp.ContentLength != last-first+1:
		return 0, faultf(rewind, "the server sends %d bytes, but names %d to %d", resp.ContentLength, first, last)
	}
	g.end = last + 1
	return total, nil
}

// contentRange takes Content-Range apart: "bytes FIRST-LAST/TOTAL", with "*" for
// what it leaves open, which is -1.
func contentRange(resp *http.Response) (first, last, total int64, ok bool) {
	span, ofTotal, slash := strings.Cut(resp.Header.Get("Content-Range"), "/")
	span, unit := strings.CutPrefix(span, "bytes ")
	if !slash || !unit {
		return -1, -1, -1, false
	}
	ok = true
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil || len(s) > 18 {
			ok = false
		}
		return int64(n)
	}
	first, last, total = -1, -1, -1
	if span != "*" {
		from, to, _ := strings.Cut(span, "-")
		first, last = number(from), number(to)
	}
	if ofTotal != "*" {
		total = number(ofTotal)
	}
	if !ok {
		return -1, -1, -1, false
	}
	return first, last, total, true
}

// endsByClosing reports whether only the end of the connection says where the
// body ends: a body that was cut off then looks like an intact one.
func endsByClosing(resp *http.Response) bool {
	return resp.ProtoMajor == 1 && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0
}

// retryAfter reads the pause that a server asks for: seconds or a date, the
// latter measured by the server's own clock. Nonsense is no pause.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	until, err := http.ParseTime(v)
	now, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil {
		return 0
	}
	return max(0, until.Sub(now))
}
