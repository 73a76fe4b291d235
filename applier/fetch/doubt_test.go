package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// twins are two files of one length whose ends are the same.
func twins(n int) (a, b []byte) {
	a, b = content(n, 1), content(n, 2)
	copy(b[n-1000:], a[n-1000:])
	return a, b
}

// validators are the ways in which servers say, or do not say, what file they have.
var validators = map[string]func(w http.ResponseWriter, r *http.Request, n int){
	"one strong ETag": func(w http.ResponseWriter, r *http.Request, n int) { w.Header().Set("ETag", `"one"`) },
	"two strong ETags": func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("ETag", fmt.Sprintf(`"node %d"`, n%2))
	},
	"another ETag each time, and If-Range is ignored": func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n))
		r.Header.Del("If-Range")
	},
	"If-Range is answered with the whole": func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("ETag", `"one"`)
		if r.Header.Get("If-Range") != "" {
			r.Header.Del("Range")
		}
	},
	"a weak ETag": func(w http.ResponseWriter, r *http.Request, n int) { w.Header().Set("ETag", `W/"one"`) },
	"an ETag on one of two nodes": func(w http.ResponseWriter, r *http.Request, n int) {
		if n%2 == 0 {
			w.Header().Set("ETag", `"one"`)
		}
	},
	"ranges on one of two nodes": func(w http.ResponseWriter, r *http.Request, n int) {
		if n%2 == 0 {
			r.Header.Del("Range")
		}
	},
	"no validator": func(w http.ResponseWriter, r *http.Request, n int) {},
	"two times of modification": func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Last-Modified", old.Add(time.Duration(n%2)*time.Hour).Format(http.TimeFormat))
	},
	"modified just now": func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	},
}

// serveAs serves b with the validators of how, and breaks the connection after cut
// bytes; 0: never.
func serveAs(how func(w http.ResponseWriter, r *http.Request, n int), w http.ResponseWriter, r *http.Request, n int, b []byte, cut int) {
	how(w, r, n)
	if cut > 0 {
		w = &cutter{ResponseWriter: w, left: cut}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// TestUnequalValidators holds that a caller that knows all hashes gets the file from
// any server, over a link that breaks, for hardly more than its bytes; also when its
// SHA-256 is known, and when an earlier call has begun it.
func TestUnequalValidators(t *testing.T) {
	file := content(1_500_000, 1)
	for name, how := range validators {
		for _, cut := range []int{0, 300_000} {
			for _, sha := range []string{"", sum(file)} {
				t.Run(fmt.Sprintf("%s, cut %d, sha %.4s", name, cut, sha), func(t *testing.T) {
					t.Parallel()
					s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
						if r.Header.Get("If-Range") != "" {
							t.Error("If-Range was sent")
						}
						serveAs(how, w, r, n, file, cut)
					})
					opt := quick(spoolDir(t))
					src := Source{URL: s.URL + "/x", SHA256: sha}
					f, st, err := Fetch(t.Context(), src, opt, file)
					if err != nil {
						t.Fatal(err)
					}
					mustHave(t, f, file)
					if st.Fetched != int64(len(file)) || st.Restarts > 0 {
						t.Errorf("%d bytes were fetched with %d restarts, want %d and none", st.Fetched, st.Restarts, len(file))
					}

					// A later call that finds half of it.
					part := partOf(t, opt.Dir, src.URL)
					truncate(t, part, 700_000)
					f, st, err = Fetch(t.Context(), src, opt, file)
					if err != nil {
						t.Fatal(err)
					}
					mustHave(t, f, file)
					if want := int64(len(file) - 700_000 + headSize); st.Resumed != 700_000 || st.Fetched > want || st.Restarts > 0 {
						t.Errorf("of a second call: %+v, want at most %d bytes fetched after 700000", st, want)
					}
				})
			}
		}
	}
}

// TestDoubts holds that a part that is wrong is fetched again, and nothing else; that
// nothing is joined of two files; and that what is wrong on the server, too, ends the
// download.
func TestDoubts(t *testing.T) {
	file, other := twins(1_500_000)
	damaged := bytes.Clone(file)
	damaged[777_777] ^= 1
	serveNow := func(w http.ResponseWriter, r *http.Request, n int, b []byte) {
		serveAs(validators["no validator"], w, r, n, b, 0)
	}
	for _, row := range []struct {
		name     string
		handle   handler
		earlier  []byte // what an earlier call has left of
		left     int
		gets     []byte // nil: an error
		restarts int
		most     int // bytes
	}{
		{
			name: "one bad frame",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				b := file
				if n == 2 {
					b = damaged
				}
				serveNow(w, r, n, b)
			},
			gets: file, most: len(file) + frameSize,
		},
		{
			name: "one bad frame twice, over a link that breaks",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				b := file
				if n < 5 {
					b = damaged
				}
				serveAs(validators["two strong ETags"], w, r, n, b, 300_000)
			},
			gets: file, most: len(file) + 2*frameSize,
		},
		{
			name: "the frames are longer than the link holds",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				b := file
				if n == 2 {
					b = damaged
				}
				cut := 0
				if n > 2 {
					cut = 30_000
				}
				serveAs(validators["no validator"], w, r, n, b, cut)
			},
			gets: file, most: len(file) + frameSize,
		},
		{
			name: "a frame that is bad on the server",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				serveNow(w, r, n, damaged)
			},
			most: len(file) + 2*frameSize + headSize,
		},
		{
			name: "a frame that is bad on a server without ranges",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				r.Header.Del("Range")
				serveNow(w, r, n, damaged)
			},
			most: len(file),
		},
		{
			name: "the file changed after its head",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				b := other
				if n == 1 {
					b = file
				}
				serveNow(w, r, n, b)
			},
			gets: other, restarts: 1, most: 2*len(file) + 2*frameSize + headSize,
		},
		{
			name: "the file changed after its head, into a longer one",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				b := append(bytes.Clone(other), "more"...)
				if n == 1 {
					b = file
				}
				serveNow(w, r, n, b)
			},
			gets: append(bytes.Clone(other), "more"...), restarts: 1, most: len(file) + headFirst + 4,
		},
		{
			name:    "the file changed between two calls",
			handle:  func(w http.ResponseWriter, r *http.Request, n int) { serveNow(w, r, n, other) },
			earlier: file, left: 700_000,
			gets: other, restarts: 1, most: len(file) + headSize,
		},
		{
			name:    "the file changed after it was intact",
			handle:  func(w http.ResponseWriter, r *http.Request, n int) { serveNow(w, r, n, other) },
			earlier: file, left: len(file),
			gets: other, restarts: 1, most: len(file) + headSize,
		},
		{
			name:    "what an earlier call left has a bad frame",
			handle:  func(w http.ResponseWriter, r *http.Request, n int) { serveNow(w, r, n, file) },
			earlier: damaged, left: len(file),
			gets: file, most: headSize + frameSize,
		},
		{
			name: "a captive portal when the head is compared",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				switch n {
				case 1:
					portal(w, r, nil)
				case 2:
					w.WriteHeader(204)
				case 3:
				default:
					serveNow(w, r, n, file)
				}
			},
			earlier: file, left: 700_000,
			gets: file, most: len(file) - 700_000 + headSize,
		},
		{
			name: "the server cannot be reached for a while, and only the head has to be compared",
			handle: func(w http.ResponseWriter, r *http.Request, n int) {
				if n < 4 {
					panic(http.ErrAbortHandler)
				}
				serveNow(w, r, n, file)
			},
			earlier: file, left: len(file),
			gets: file, most: headSize,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var earlier atomic.Bool
			earlier.Store(row.earlier != nil)
			var first int
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
				if earlier.Load() {
					first = n
					serveNow(w, r, n, row.earlier)
					return
				}
				row.handle(w, r, n-first)
			})
			opt := quick(spoolDir(t))
			files := [][]byte{file, other, append(bytes.Clone(other), "more"...)}
			src := Source{URL: s.URL + "/x"}
			if row.earlier != nil {
				f, _, err := Fetch(t.Context(), src, opt, row.earlier)
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
				truncate(t, partOf(t, opt.Dir, src.URL), int64(row.left))
				earlier.Store(false)
			}
			if row.name == "the file changed after its head, into a longer one" {
				files = [][]byte{file, row.gets}
			}
			f, st, err := Fetch(t.Context(), src, opt, files...)
			switch {
			case row.gets == nil && !errors.Is(err, errDamaged):
				t.Errorf("%v, want %v", err, errDamaged)
			case row.gets == nil:
				if list := entries(t, opt.Dir); strings.Contains(fmt.Sprint(list), partSuffix) {
					t.Errorf("left: %v", list)
				}
			case err != nil:
				t.Fatal(err)
			default:
				mustHave(t, f, row.gets)
			}
			if st.Restarts != row.restarts || st.Fetched > int64(row.most) {
				t.Errorf("%+v, want %d restarts and at most %d bytes", st, row.restarts, row.most)
			}
		})
	}
}

// TestDoubtWithSHA256 holds that the SHA-256 of the whole is that of what is there
// when nothing is in doubt any more.
func TestDoubtWithSHA256(t *testing.T) {
	file, other := twins(1_500_000)
	damaged := bytes.Clone(file)
	damaged[777_777] ^= 1
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
		b := file
		if n == 2 {
			b = damaged
		}
		serveAs(validators["no validator"], w, r, n, b, 0)
	})
	opt := quick(spoolDir(t))
	f, st, err := Fetch(t.Context(), Source{URL: s.URL + "/x", SHA256: sum(file)}, opt, file, other)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
	if st.Restarts > 0 || st.Fetched > int64(len(file)+frameSize) {
		t.Errorf("%+v, want one frame to be fetched again", st)
	}
	opt.Dir = spoolDir(t)
	_, st, err = Fetch(t.Context(), Source{URL: s.URL + "/x", SHA256: sum(other)}, opt, file, other)
	if err == nil {
		t.Fatal("Fetch succeeded")
	}
	checkError(t, err, "its SHA-256 is not", lost, hashed)
}
