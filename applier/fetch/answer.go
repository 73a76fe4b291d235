package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// admit checks an answer before a byte of it is read, and notes in the
// sidecar what it says of the file.
func (r *request) admit(resp *http.Response) error {
	if f := r.checkStatus(resp); f != nil {
		return f
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return r.strange("the server sends it encoded as %.20q though the plain file was asked for", e)
	}
	size := resp.ContentLength
	r.end = size
	if resp.StatusCode == http.StatusPartialContent {
		var f *fault
		if size, f = r.checkRange(resp); f != nil {
			return f
		}
	}
	d := r.d
	d.taken = true
	switch {
	case size == 0:
		return r.strange("the server sends an empty file").withCode(bootcheck.CodeSizeMismatch)
	case size > 0 && d.size > 0 && size != d.size:
		return sizeFault(mismatch, "the server's file has %d bytes, want %d", size, d.size)
	case max(size, d.size) > d.maxSize:
		return sizeFault(final, "the file has %d bytes, more than the limit of %d", max(size, d.size), d.maxSize).dropping()
	case size < 0 && d.size < 0 && d.from.sha256 == "" && endsByClosing(resp):
		return faultf(mismatch, "the server does not say how long the file is, so that its end could not be told from a lost connection")
	}
	if size > 0 {
		d.size = size
	}
	if r.end < 0 {
		r.end = d.size
	}
	if r.aside {
		return nil
	}
	coming := d.missing()
	if r.limit > 0 && d.now == nil {
		coming = r.end - r.offset // of the rest it is not known whether it is wanted
	}
	if err := d.spool.room(coming, d.opt.Reserve); err != nil {
		return err
	}
	if r.offset > 0 && d.spool.mark.Size == d.size {
		return nil // nothing new
	}
	return d.spool.note(d.size)
}

// checkStatus passes 200 and 206 where they were asked for.
func (r *request) checkStatus(resp *http.Response) *fault {
	ranged := r.offset > 0 || r.limit > 0
	status := statusOf(resp)
	_, _, total, _ := contentRange(resp)
	switch code := resp.StatusCode; {
	case code == http.StatusOK && (r.offset > 0 || r.aside) && r.foreign(resp):
		return r.strange("the server answers with something else: %d bytes of %.40q", resp.ContentLength, resp.Header.Get("Content-Type"))
	case code == http.StatusOK && r.offset == 0, code == http.StatusPartialContent && ranged:
		return nil
	case code == http.StatusOK:
		return faultf(rewind, "the server sends all of the file instead of the rest")
	case ranged && code == http.StatusRequestedRangeNotSatisfiable && total >= 0 && r.d.size > 0 && total != r.d.size:
		return sizeFault(mismatch, "the server's file has %d bytes, want %d", total, r.d.size)
	case r.d.taken && (code == 401 || code == 403 || code == 400 && r.d.opt.Fresh != nil): // 400: Google's storage
		f := &fault{kind: final, err: answer{code, status}, code: bootcheck.CodeAddressExpired}
		if r.d.opt.Fresh != nil {
			f.kind = transient // a fresh one is asked for
		}
		return f.advising("the server took this address before: install from a fresh one, or with --url-from, to resume")
	case ranged && (code == 400 || code == 412 || code == 416 || code == 501):
		return faultf(rewind, "server answered %s when asked for a part", status)
	case code == 408 || code == 425 || code == 429 || code >= 500 && code != 501 && code != 505:
		f := faultf(transient, "server answered %s", status)
		f.after = RetryAfter(resp.Header)
		return f
	case code >= 200 && code < 300:
		return r.strange("server answered %s instead of the file", status)
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
func (r *request) strange(format string, args ...any) *fault {
	if r.offset > 0 || r.aside {
		return faultf(transient, format, args...)
	}
	return faultf(mismatch, format, args...)
}

// foreign reports whether a 200 in place of the rest cannot be the file.
func (r *request) foreign(resp *http.Response) bool {
	size, want := resp.ContentLength, r.d.from.size
	return want > 0 && size >= 0 && size != want || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
}

// checkRange passes a 206 that goes from our offset to the limit or to the
// end of the file, and returns the length of the whole file, -1 if unknown.
func (r *request) checkRange(resp *http.Response) (int64, *fault) {
	first, last, total, ok := contentRange(resp)
	if total < 0 {
		total = r.d.size // "*": the server does not know, perhaps we do
	}
	switch {
	case !ok || first < 0:
		return 0, faultf(rewind, "the server's Content-Range %.60q is not a part of a file", resp.Header.Get("Content-Range"))
	case first != r.offset || last < first || last != total-1 && last != r.limit-1:
		return 0, faultf(rewind, "the server sends bytes %d to %d of %d, want %d to the end", first, last, total, r.offset)
	case resp.ContentLength >= 0 && resp.ContentLength != last-first+1:
		return 0, faultf(rewind, "the server sends %d bytes, but names %d to %d", resp.ContentLength, first, last)
	}
	r.end = last + 1
	return total, nil
}

// contentRange takes Content-Range apart: "bytes FIRST-LAST/TOTAL", with "*" for
// what it leaves open, which is -1.
func contentRange(resp *http.Response) (first, last, total int64, ok bool) {
	span, ofTotal, slash := strings.Cut(resp.Header.Get("Content-Range"), "/")
	span, unit := strings.CutPrefix(span, "bytes ")
	ok = slash && unit
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 63)
		ok = ok && err == nil && len(s) <= 18
		return int64(n)
	}
	first, last, total = -1, -1, -1
	if from, to, _ := strings.Cut(span, "-"); span != "*" {
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

// RetryAfter reads the pause that a server asks for: seconds or a date, the
// latter measured by the server's own clock. Nonsense is no pause.
func RetryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) { // then it is the longest
		return time.Duration(s) * time.Second
	}
	until, err := http.ParseTime(v)
	now, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil {
		return 0
	}
	return max(0, until.Sub(now))
}
