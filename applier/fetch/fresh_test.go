package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// A presigned is a server of addresses, ?sig=…, each of which is good for some answers.
type presigned struct {
	*server
	mu     sync.Mutex
	left   map[string]int // answers for which an address is still good
	issued int
}

// issue makes an address that is good for n answers.
func (p *presigned) issue(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.issued++
	sig := fmt.Sprint("secret", p.issued)
	p.left[sig] = n
	return p.URL + "/x.ota?sig=" + sig
}

// newPresigned serves file by serve; an address that is used up is answered with code.
func newPresigned(t *testing.T, file []byte, code int) *presigned {
	p := &presigned{left: make(map[string]int)}
	p.server = newServer(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		sig := r.FormValue("sig")
		p.mu.Lock()
		p.left[sig]--
		good := p.left[sig] >= 0
		p.mu.Unlock()
		if !good {
			w.WriteHeader(code)
			return
		}
		serve(w, r, file)
	})
	return p
}

// TestFresh holds that an address that is good no longer is replaced by a fresh one, from
// which the download continues; and that one that never was good is not asked for again.
func TestFresh(t *testing.T) {
	file := content(bigSize, 1)
	parts := manyParts(12)
	for _, row := range []struct {
		name   string
		code   int      // of an expired address
		first  int      // answers for which the first address is good
		then   int      // those after it; 0: there is none
		parts  []Part   // nil: all
		gets   string   // the error; empty: the file
		report string   // its code
		issued int      // addresses; 0: any number
		log    []string // what the log says
	}{
		{name: "it expires after the head", code: 403, first: 1, then: 100, issued: 2, log: []string{"server answered 403"}},
		{name: "it expires between ranges, four times", code: 403, first: 3, then: 3, parts: parts},
		{name: "a token of it expires", code: 401, first: 2, then: 100, parts: parts, issued: 2},
		{name: "as Google's storage says it", code: 400, first: 2, then: 100, parts: parts, issued: 2},
		{name: "it never was good", code: 403, then: 100, gets: "server answered 403", report: failed, issued: 1},
		{name: "nor is the fresh one", code: 403, first: 1, then: -1, gets: "server answered 403", report: failed, issued: 2},
		{name: "there is no fresh one", code: 403, first: 1, gets: "there is none", report: failed, issued: 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newPresigned(t, file, row.code)
			opt := quick(spoolDir(t))
			var log strings.Builder
			opt.Log = func(line string) { log.WriteString(line + "\n") }
			opt.Fresh = func(context.Context) (string, error) {
				if row.then == 0 {
					return "", errors.New("there is none")
				}
				return s.issue(row.then), nil
			}
			f, st, err := caller{parts: row.parts}.fetch(t.Context(), Source{URL: s.issue(row.first), Size: bigSize}, opt)
			switch {
			case row.gets != "" && err == nil:
				t.Fatal("Fetch succeeded")
			case row.gets != "":
				checkError(t, err, row.gets, lost, row.report)
				if row.first > 0 && !exists(partOf(t, opt.Dir, s.URL+"/x.ota")) {
					t.Error("what had arrived is gone")
				}
			case err != nil:
				t.Fatal(err)
			default:
				want := row.parts
				if want == nil {
					want = []Part{{0, bigSize}}
				}
				mustHaveParts(t, f, file, want)
				if st.Restarts > 0 || st.Fetched > bigSize {
					t.Errorf("%+v, want no restart and nothing twice", st)
				}
			}
			if row.issued > 0 && s.issued != row.issued {
				t.Errorf("%d addresses were used, want %d", s.issued, row.issued)
			}
			for _, text := range append(row.log, "") {
				if !strings.Contains(log.String(), text) || strings.Contains(log.String(), "secret") {
					t.Errorf("the log %q has no %q, or an address with its query", &log, text)
				}
			}
		})
	}
}

// TestExpired holds that an address that the server took before, in this call or in an
// earlier one, is said to have expired where no other can be had, and what arrived is kept.
func TestExpired(t *testing.T) {
	file := content(fileSize, 1)
	s := newPresigned(t, file, 403)
	opt := quick(spoolDir(t))
	for _, src := range []Source{{URL: s.issue(1)}, {URL: s.issue(0)}} {
		_, _, err := Fetch(t.Context(), src, opt, file)
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		checkError(t, err, "server answered 403", lost, bootcheck.CodeAddressExpired)
		if a := bootcheck.Advice(err); !strings.Contains(a, "--url-from") {
			t.Errorf("it says %q, want what to do", a)
		}
	}
	f, st, err := Fetch(t.Context(), Source{URL: s.issue(9)}, opt, file)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
	if st.Resumed != headFirst {
		t.Errorf("it resumed after %d bytes, want %d", st.Resumed, headFirst)
	}
}

// TestFreshWithoutProgress holds that a server that takes each address for one answer, and
// sends next to nothing then, does not keep us for ever.
func TestFreshWithoutProgress(t *testing.T) {
	file := content(fileSize, 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n%2 == 0 {
			w.WriteHeader(403)
			return
		}
		serveCut(w, r, file, 1)
	})
	opt := quick(spoolDir(t))
	opt.Fresh = func(context.Context) (string, error) { return s.URL + "/other/x.ota", nil }
	_, st, err := Fetch(t.Context(), Source{URL: s.URL + "/x.ota"}, opt, file)
	if err == nil {
		t.Fatal("Fetch succeeded")
	}
	checkError(t, err, "", lost, bootcheck.ReportCode(err))
	if st.Requests > 2*opt.patience.tries {
		t.Errorf("%d requests were sent, want at most %d", st.Requests, 2*opt.patience.tries)
	}
}
