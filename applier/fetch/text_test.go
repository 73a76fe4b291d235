package fetch

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"
)

// What the program does by hand, in a tenth of the size, is what these say.
var (
	queries          = regexp.MustCompile(`[?#][^\s"']*`)
	credentials      = regexp.MustCompile(`//[^/?#\s"']*@`)
	oursForm         = regexp.MustCompile(`^\.?([0-9a-f]{32})\.(part|json)([0-9]*)$`)
	contentRangeForm = regexp.MustCompile(`^bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)$`)
)

func FuzzRedact(f *testing.F) {
	for _, s := range []string{
		"", "/", "//", "//@", "https://user:pass@host/a?sig=x y", `Get "http://h/b?q": //u@v@w//x@`, "a#b\nc?d'e", "///u@h", "//u:p\xff@h?\xff", "//a?b@c", "?//u@h",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := queries.ReplaceAllString(credentials.ReplaceAllString(s, "//…@"), "?…")
		if got := Redact(s); got != want {
			t.Errorf("Redact(%q) = %q, want %q", s, got, want)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{
		"", "bytes 0-9/10", "bytes */10", "bytes 5-9/*", "bytes */*", "bytes 0-9", "bytes 0-/10", "bytes -9/10", "bytes +0-9/10", "bytes 0-9/10/", "bytes 0-9-9/10",
		"bytes 1234567890123456789-1/1", "bytes 0-9/-1", "byte 0-9/10", "bytes 0 - 9/10", "bytes 1_0-9/10", "bytes 0-9/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := "-1 -1 -1 false"
		if m := contentRangeForm.FindStringSubmatch(s); m != nil {
			number := func(s string) int64 {
				n, err := strconv.ParseInt(s, 10, 64)
				if err != nil {
					return -1
				}
				return n
			}
			want = fmt.Sprint(number(m[1]), number(m[2]), number(m[3]), true)
		}
		first, last, total, ok := contentRange(&http.Response{Header: http.Header{"Content-Range": {s}}})
		if got := fmt.Sprint(first, last, total, ok); got != want {
			t.Errorf("contentRange of %q = %s, want %s", s, got, want)
		}
	})
}

func FuzzOurs(f *testing.F) {
	const hex = "0123456789abcdef0123456789abcdef"
	for _, s := range []string{
		"", ".", hex, hex + ".part", "." + hex + ".json", "." + hex + ".part123", ".." + hex + ".part", hex + "0.part", hex + ".parts", hex[1:] + "G.part",
		hex[:10] + "." + hex[11:] + ".json", hex + ".json1x", hex + ".part.json",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := ours(s), oursForm.MatchString(s); got != want {
			t.Errorf("ours(%q) = %t, want %t", s, got, want)
		}
	})
}
