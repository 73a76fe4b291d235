package fetch

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

type handler = func(w http.ResponseWriter, r *http.Request, n int)

// A behaviour is a server's way of giving us the file, or not.
type behaviour struct {
	name   string
	handle func(file, other []byte) handler

	noSize bool // Source.Size is not given
	sha    bool // Source.SHA256 is given

	gets string // "": the file; else a part of the error's text
	exit bootcheck.ExitCode
	code string

	stalls     bool
	maxFetched int64 // 0: twice the file
	requests   int   // 0: any number
}

const (
	lost   = bootcheck.ExitDownloadFailed
	failed = bootcheck.CodeDownloadFailed
	wrong  = bootcheck.CodeSizeMismatch
	hashed = bootcheck.CodeHashMismatch
)

// always answers each request in the same way.
func always(f func(w http.ResponseWriter, r *http.Request, file []byte)) func(file, other []byte) handler {
	return func(file, _ []byte) handler {
		return func(w http.ResponseWriter, r *http.Request, _ int) { f(w, r, file) }
	}
}

// firstThen answers the first request in one way and all others properly.
func firstThen(f func(w http.ResponseWriter, r *http.Request, file []byte)) func(file, other []byte) handler {
	return func(file, _ []byte) handler {
		return func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				f(w, r, file)
				return
			}
			serve(w, r, file)
		}
	}
}

// cutThen breaks the first answer in the middle and gives the others to f.
func cutThen(f func(w http.ResponseWriter, r *http.Request, file []byte, n int)) func(file, other []byte) handler {
	return func(file, _ []byte) handler {
		return func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				serveCut(w, r, file, len(file)/2)
			}
			f(w, r, file, n)
		}
	}
}

func status(code int, header ...string) func(w http.ResponseWriter, r *http.Request, file []byte) {
	return func(w http.ResponseWriter, r *http.Request, _ []byte) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, "<html>no file here</html>")
	}
}

func portal(w http.ResponseWriter, r *http.Request, _ []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	io.WriteString(w, "<html><h1>Welcome to our hotel</h1></html>")
}

func unvalidated(w http.ResponseWriter) {
	w.Header()["Date"] = nil // and so no Last-Modified that counts
}

func behaviours() []behaviour {
	rows := []behaviour{
		{name: "a good server", handle: always(serve), requests: 2, maxFetched: fileSize},
		{name: "a good server, length not known before", handle: always(serve), noSize: true, requests: 2, maxFetched: fileSize},
		{name: "a good server, hash known", handle: always(serve), sha: true, requests: 2, maxFetched: fileSize},
		{name: "HEAD is forbidden", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			serve(w, r, file)
		}), requests: 2},
		{name: "HTTP/1.0 with a length", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, fmt.Sprintf("HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(file), file))
		}), noSize: true},

		// Broken connections.
		{name: "dropped before the headers, once", handle: firstThen(func(w http.ResponseWriter, _ *http.Request, _ []byte) { panic(http.ErrAbortHandler) })},
		{name: "dropped before the headers, always", handle: always(func(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }),
			gets: "EOF", exit: lost, code: failed, requests: 5},
		{name: "dropped after every 15 kB, twenty times in a row", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			serveCut(w, r, file, 15_000)
		}), maxFetched: fileSize},
		{name: "dropped in the middle, no ranges", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			r.Header.Del("Range")
			serve(w, r, file)
		})},
		{name: "dropped in the middle, neither ETag nor Last-Modified", handle: func(file, _ []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				unvalidated(w)
				if n == 1 {
					w = &cutter{ResponseWriter: w, left: len(file) / 2}
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
			}
		}, maxFetched: fileSize},
		{name: "dropped in the middle, no validators, but the hash is known", sha: true, handle: func(file, _ []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					unvalidated(w)
					w.Header().Set("Content-Length", strconv.Itoa(len(file)))
					w.Write(file[:len(file)/2])
					cut(w)
				}
				partial(w, file, offset(r), len(file))
			}
		}, maxFetched: fileSize, requests: 2},
		{name: "dropped after each byte", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			serveCut(w, r, file, 1)
		}), gets: "the connection was lost", exit: lost, code: failed, requests: 5},

		{name: "dropped at any request for a range", handle: func(file, _ []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if r.Header.Get("Range") != "" {
					panic(http.ErrAbortHandler)
				}
				serve(w, r, file)
			}
		}, requests: 3},

		// Ranges that are not what was asked for.
		{name: "206 from the wrong offset", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if offset(r) > 0 {
				partial(w, file, offset(r)-100, len(file))
				return
			}
			serve(w, r, file)
		})},
		{name: "206 from the wrong offset, without a length", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if o := offset(r); o > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", o-100, len(file)-1, len(file)))
				w.WriteHeader(http.StatusPartialContent)
				http.NewResponseController(w).Flush()
				w.Write(file[o-100 : len(file)-100])
				return
			}
			serve(w, r, file)
		})},
		{name: "206 that ends early", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if offset(r) > 0 {
				partial(w, file, offset(r), len(file)-1)
				return
			}
			serve(w, r, file)
		})},
		{name: "206 whose length is not that of its range", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if o := offset(r); o > 0 {
				raw(w, fmt.Sprintf("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: 9\r\n\r\n123456789", o, len(file)-1, len(file)))
				return
			}
			serve(w, r, file)
		})},
		{name: "206 without Content-Range", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if offset(r) > 0 {
				w.WriteHeader(http.StatusPartialContent)
				w.Write(file[offset(r):])
				return
			}
			serve(w, r, file)
		})},
		{name: "206 as multipart/byteranges", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if o := offset(r); o > 0 {
				w.Header().Set("Content-Type", "multipart/byteranges; boundary=XX")
				w.WriteHeader(http.StatusPartialContent)
				fmt.Fprintf(w, "--XX\r\nContent-Range: bytes %d-%d/%d\r\n\r\n%s\r\n--XX--\r\n", o, len(file)-1, len(file), file[o:])
				return
			}
			serve(w, r, file)
		})},
		{name: "206 with a total of *", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", offset(r), len(file)-1))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(file[offset(r):])
		}), maxFetched: fileSize, requests: 2},
		{name: "206 of a longer file under the same ETag", handle: func(file, _ []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					serveCut(w, r, file, len(file)/2)
				}
				if o := offset(r); o > 0 {
					w.Header().Set("ETag", `"`+sum(file)[:16]+`"`)
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", o, len(file), len(file)+1))
					w.WriteHeader(http.StatusPartialContent)
					return
				}
				serve(w, r, file)
			}
		}},
		{name: "206 without being asked", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			partial(w, file, 0, len(file)/2)
		}), gets: "the server sends bytes 0 to 150002", exit: lost, code: failed, maxFetched: 1},
		{name: "416 to the rest", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if offset(r) > 0 {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			serve(w, r, file)
		})},
		{name: "400 to any range", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if offset(r) > 0 {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			serve(w, r, file)
		})},

		{name: "500 to any range, always", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if offset(r) > 0 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			serve(w, r, file)
		}), maxFetched: fileSize, gets: "server answered 500", exit: lost, code: failed},
		{name: "dropped at any range, always", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if offset(r) > 0 {
				panic(http.ErrAbortHandler)
			}
			serve(w, r, file)
		}), maxFetched: fileSize, gets: "EOF", exit: lost, code: failed},
		{name: "503 until just before it is given up", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if n < 6 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			serve(w, r, file)
		}), maxFetched: fileSize, requests: 6},
		{name: "503 to the rest, always", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}), maxFetched: fileSize, gets: "server answered 503", exit: lost, code: failed, requests: 6},

		// Files that change.
		{name: "the file changed between two tries", handle: func(file, other []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					serveCut(w, r, other, len(other)/2)
				}
				serve(w, r, file)
			}
		}},
		{name: "the file changed, and the rest is of the other one", handle: func(file, other []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					serveCut(w, r, other, len(other)/2)
				}
				r.Header.Del("If-Range")
				serve(w, r, file)
			}
		}},
		{name: "the file changed under the same ETag, but the hash is known", sha: true, handle: func(file, other []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("ETag", `"the same"`)
				b := file
				if n == 1 {
					b = other
					w = &cutter{ResponseWriter: w, left: len(b) / 2}
				}
				http.ServeContent(w, r, "", old, bytes.NewReader(b))
			}
		}},
		// Lengths.
		{name: "chunked, without a length", noSize: true, handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			http.NewResponseController(w).Flush()
			w.Write(file)
		})},
		{name: "chunked, without a length, cut off", noSize: true, sha: true, handle: firstThen(func(w http.ResponseWriter, r *http.Request, file []byte) {
			w.Header().Set("ETag", `"`+sum(file)[:16]+`"`)
			w.Write(file[:len(file)/2])
			cut(w)
		}), maxFetched: fileSize},
		{name: "ended by closing, whole", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, "HTTP/1.0 200 OK\r\n\r\n"+string(file))
		})},
		{name: "ended by closing, too early", handle: firstThen(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, "HTTP/1.0 200 OK\r\nETag: \""+sum(file)[:16]+"\"\r\n\r\n"+string(file[:len(file)/2]))
		}), maxFetched: fileSize},
		{name: "ended by closing, nothing known", noSize: true, handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, "HTTP/1.0 200 OK\r\n\r\n"+string(file[:len(file)/2]))
		}), gets: "does not say how long the file is", exit: lost, code: failed, maxFetched: 1},
		{name: "ended by closing too early, hash known", noSize: true, sha: true, handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, "HTTP/1.0 200 OK\r\n\r\n"+string(file[:len(file)/2]))
		}), gets: "a frame is damaged", exit: bootcheck.ExitDamaged, code: hashed},
		{name: "chunked and one byte short", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			http.NewResponseController(w).Flush()
			w.Write(file[:len(file)-1])
		}), gets: "the server sends all of the file instead of the rest", exit: lost, code: failed, maxFetched: 10 * fileSize},
		{name: "chunked and one byte short, and 416 to the rest", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			if offset(r) > 0 {
				serve(w, r, file[:len(file)-1])
				return
			}
			w.Header().Set("ETag", `"`+sum(file[:len(file)-1])[:16]+`"`)
			http.NewResponseController(w).Flush()
			w.Write(file[:len(file)-1])
		}), gets: "the server's file has 300006 bytes, want 300007", exit: lost, code: wrong, maxFetched: 3 * fileSize},
		{name: "chunked and one byte long", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			http.NewResponseController(w).Flush()
			w.Write(append(file[:len(file):len(file)], 'x'))
		}), gets: "more than the 300007 bytes it announced", exit: lost, code: wrong, maxFetched: fileSize + 1, requests: 1},
		{name: "Content-Length too short", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			serve(w, r, file[:1000])
		}), gets: "the server's file has 1000 bytes, want 300007", exit: lost, code: wrong, maxFetched: 1, requests: 3},
		{name: "Content-Length too long", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			serve(w, r, append(file[:len(file):len(file)], 'x'))
		}), gets: "the server's file has 300008 bytes, want 300007", exit: lost, code: wrong, maxFetched: 1, requests: 3},
		{name: "Content-Length too long for what is sent", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(file), file[:1000]))
		}), gets: "the connection was lost after 1000 of 300007 bytes", exit: lost, code: failed},
		{name: "Content-Length of nonsense", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello")
		}), gets: "bad Content-Length", exit: lost, code: failed},
		{name: "an endless chunked body", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			for {
				if _, err := w.Write(file); err != nil {
					return
				}
			}
		}), gets: "more than the 300007 bytes it announced", exit: lost, code: wrong, maxFetched: fileSize + 1, requests: 1},
		{name: "an endless chunked body, length unknown", noSize: true, handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			for {
				if _, err := w.Write(file); err != nil {
					return
				}
			}
		}), gets: "longer than the limit of 1000000 bytes", exit: lost, code: wrong, maxFetched: 1_000_001, requests: 1},
		{name: "announced longer than the limit", noSize: true, handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			w.Header().Set("Content-Length", "9000000000000")
			w.Write(file)
		}), gets: "more than the limit of 1000000", exit: lost, code: wrong, maxFetched: 1, requests: 1},
		{name: "an empty file", noSize: true, handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {}),
			gets: "empty file", exit: lost, code: wrong},
		{name: "204 No Content", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) { w.WriteHeader(204) }),
			gets: "server answered 204 No Content", exit: lost, code: failed},

		// Other content than the file.
		{name: "gzip by a proxy", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			z.Write(file)
			z.Close()
		}), gets: `encoded as "gzip"`, exit: lost, code: failed, maxFetched: 1},
		{name: "gzip by a proxy, of the rest only", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if n == 2 {
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset(r), len(file)-1, len(file)))
				w.WriteHeader(http.StatusPartialContent)
				z := gzip.NewWriter(w)
				z.Write(file[offset(r):])
				z.Close()
				return
			}
			serve(w, r, file)
		}), maxFetched: fileSize, requests: 3},
		{name: "a captive portal", handle: always(portal), gets: "want 300007", exit: lost, code: wrong, maxFetched: 1},
		{name: "a captive portal, hash known", noSize: true, sha: true, handle: always(portal), gets: "the signature is wrong", exit: bootcheck.ExitDamaged, code: bootcheck.CodeSignatureInvalid},
		{name: "a captive portal in the middle costs nothing", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if n == 2 {
				portal(w, r, file)
				return
			}
			serve(w, r, file)
		}), maxFetched: fileSize, requests: 3},
		{name: "a wrong file of the right length, hash known", sha: true, handle: func(_, other []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, _ int) { serve(w, r, other) }
		}, gets: "its SHA-256 is not", exit: lost, code: hashed, maxFetched: 3 * fileSize},
		{name: "a wrong file of the right length once, hash known", sha: true, handle: func(file, other []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					file, other = other, file
				}
				serve(w, r, file)
				if n == 1 {
					file, other = other, file
				}
			}
		}},
		{name: "not HTTP at all", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, "SSH-2.0-OpenSSH_9.2p1\r\n")
		}), gets: "malformed HTTP", exit: lost, code: failed},
		{name: "headers without end", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			raw(w, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X-Filler: "+strings.Repeat("x", 1000)+"\r\n", 1000)+"\r\n")
		}), gets: "exceeded", exit: lost, code: failed, maxFetched: 1},

		// Slowness.
		{name: "a stall before the headers, once", handle: firstThen(func(w http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }), stalls: true, requests: 3},
		{name: "a stall in the body, once", handle: firstThen(func(w http.ResponseWriter, r *http.Request, file []byte) {
			w.Header().Set("ETag", `"`+sum(file)[:16]+`"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(file)))
			w.Write(file[:len(file)/2])
			hang(w, r)
		}), stalls: true, maxFetched: fileSize, requests: 2},
		{name: "a stall after the last byte", handle: always(func(w http.ResponseWriter, r *http.Request, file []byte) {
			http.NewResponseController(w).Flush()
			w.Write(file)
			hang(w, r)
		}), stalls: true, maxFetched: fileSize, requests: 1},

		// Status codes.
		{name: "401", handle: always(status(401)), gets: "server answered 401 Unauthorized", exit: lost, code: failed, requests: 1},
		{name: "403", handle: always(status(403)), gets: "server answered 403 Forbidden", exit: lost, code: failed, requests: 1},
		{name: "404", handle: always(status(404)), gets: "server answered 404 Not Found", exit: lost, code: failed, requests: 1},
		{name: "404 to the rest", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, _ int) { w.WriteHeader(404) }),
			gets: "server answered 404 Not Found", exit: lost, code: failed, requests: 2},
		{name: "407", handle: always(status(407)), gets: "server answered 407", exit: lost, code: failed, requests: 1},
		{name: "410", handle: always(status(410)), gets: "server answered 410 Gone", exit: lost, code: failed, requests: 1},
		{name: "451", handle: always(status(451)), gets: "server answered 451", exit: lost, code: failed, requests: 1},
		{name: "304 without a question", handle: always(status(304)), gets: "server answered 304", exit: lost, code: failed, requests: 1},
		{name: "501", handle: always(status(501)), gets: "server answered 501", exit: lost, code: failed, requests: 2},
		{name: "an unknown status", handle: always(status(799)), gets: "server answered 799", exit: lost, code: failed},
		{name: "429 with Retry-After, once", handle: firstThen(status(429, "Retry-After", "0")), requests: 3},
		{name: "503 with a Retry-After of a year is cut short", handle: firstThen(status(503, "Retry-After", "31536000")), requests: 3},
		{name: "503 with a Retry-After in the past", handle: firstThen(status(503, "Retry-After", "Fri, 01 Jan 2021 00:00:00 GMT")), requests: 3},
		{name: "503 with a Retry-After of nonsense", handle: firstThen(status(503, "Retry-After", "-1")), requests: 3},
		{name: "429 with a Retry-After of a year, always", handle: always(status(429, "Retry-After", "31536000")),
			gets: "server answered 429 Too Many Requests", exit: lost, code: failed, requests: 5},
		{name: "503 with a Retry-After in a year by its own clock, once",
			handle: firstThen(status(503, "Retry-After", "Sat, 02 Jan 2027 00:00:00 GMT", "Date", "Fri, 02 Jan 2026 00:00:00 GMT")), requests: 3},
		{name: "500 always", handle: always(status(500)), gets: "server answered 500 Internal Server Error", exit: lost, code: failed, requests: 5},
		{name: "502 to the rest, once, keeps what there is", handle: cutThen(func(w http.ResponseWriter, r *http.Request, file []byte, n int) {
			if n == 2 {
				w.WriteHeader(502)
				return
			}
			serve(w, r, file)
		}), maxFetched: fileSize, requests: 3},
	}
	for percent := 0; percent <= 100; percent += 5 {
		at, asks := min(fileSize*percent/100, fileSize-1), 2
		if at == 0 {
			asks = 3 // its head, once more
		}
		rows = append(rows, behaviour{
			name:   fmt.Sprintf("dropped once at %d %%", percent),
			handle: firstThen(func(w http.ResponseWriter, r *http.Request, file []byte) { serveCut(w, r, file, at) }),
			// What the server had sent arrives once: the rest is asked for.
			maxFetched: fileSize, requests: asks,
		})
	}
	return rows
}
