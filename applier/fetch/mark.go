package fetch

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// A mark is the sidecar of a partial file: what must be known to go on.
type mark struct {
	URL          string `json:"url"`                     // as printed: no credentials, no query
	Query        string `json:"query,omitempty"`         // hash of the query that the validators belong to
	SHA256       string `json:"sha256,omitempty"`        // of the whole file, if the caller knew it
	Size         int64  `json:"size"`                    // bytes of the whole file; -1: unknown
	ETag         string `json:"etag,omitempty"`          // strong ones only
	LastModified string `json:"last_modified,omitempty"` // only if it can serve as a validator
	Synced       int64  `json:"synced"`                  // bytes that a power cut cannot take
	Boot         string `json:"boot"`                    // boot ID in which the partial file was last written
	Holes        []Part `json:"holes,omitempty"`         // of the partial file, in order; those behind Synced may not be all
}

// readMark reads a sidecar. Whatever is odd about it is an error: the download
// then starts over.
func readMark(name string) (*mark, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !private(fi) {
		return nil, fmt.Errorf("%q is not a file of ours", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxMark))
	if err != nil {
		return nil, err
	}
	m := new(mark)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, err
	}
	if !isStrong(m.ETag) {
		m.ETag = ""
	}
	end := int64(1)
	for _, h := range m.Holes {
		if h.First < end || h.End <= h.First {
			return nil, fmt.Errorf("%q names holes that cannot be", name)
		}
		end = h.End
	}
	return m, nil
}

// maxMark bounds what is read of a sidecar, bytes. A hole is at least minGap wide
// and takes 50 bytes, so the largest file, 8 GB, can have more than that: then it
// is fetched anew.
const maxMark = 1 << 20

// setValidators keeps what an answer of 200 says of the file, if it is strong
// enough to join two halves by.
func (m *mark) setValidators(h http.Header) {
	m.ETag, m.LastModified = "", ""
	if e := h.Get("ETag"); isStrong(e) {
		m.ETag = e
	}
	// Within a minute a file may change twice and keep its Last-Modified
	// (RFC 7232, 2.2.2: strong only if at least 60 s older than Date).
	modified, err := http.ParseTime(h.Get("Last-Modified"))
	date, err2 := http.ParseTime(h.Get("Date"))
	if err == nil && err2 == nil && date.Sub(modified) >= time.Minute {
		m.LastModified = modified.UTC().Format(http.TimeFormat)
	}
}

// validator is what If-Range is set to; empty: nothing.
func (m *mark) validator(from *origin) string {
	switch {
	case m.ETag != "":
		return m.ETag
	case m.Query == from.query:
		return m.LastModified // too weak where the query may name another file
	}
	return ""
}

// differs reports whether an answer is about another file than the one that
// we have a part of.
func (m *mark) differs(h http.Header) bool {
	if e := h.Get("ETag"); m.ETag != "" && e != "" {
		return e != m.ETag
	}
	if t, err := http.ParseTime(h.Get("Last-Modified")); err == nil && m.LastModified != "" {
		return t.UTC().Format(http.TimeFormat) != m.LastModified
	}
	return false
}

// proves reports whether an answer is about the file that we have a part of.
func (m *mark) proves(h http.Header) bool {
	if m.ETag != "" {
		return h.Get("ETag") == m.ETag
	}
	return m.LastModified != "" && h.Get("Last-Modified") != "" && !m.differs(h)
}

// isStrong reports whether e is a strong entity tag that may be sent back.
func isStrong(e string) bool {
	if len(e) < 2 || len(e) > 512 || e[0] != '"' || e[len(e)-1] != '"' {
		return false
	}
	return strings.IndexFunc(e[1:len(e)-1], func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' }) < 0
}
