// Package fetch downloads one large file to a spool directory, over connections
// that break and from servers that cannot be trusted, and continues where it
// stopped, in this process or in a later one.
//
// The bytes are moved by grab. Used plainly, grab splices old and new halves
// of a file that changed, appends a whole answer to a partial one, hangs for
// ever on a silent server and fills the disk from an endless one. Everything
// that prevents this is in its HTTPClient, the request:
//
//	Download ── the loop: a step; after a failure classify it, pause, again  download.go, fault.go
//	  └ grab ── stat, append
//	      └ request ── sent in its turn or before; its body: never more bytes      request.go
//	          │        than announced, never slower than the minimum nor faster than the limit
//	          ├ admit ── lets only the answer pass that was asked for      answer.go
//	          └ http.Client ── proxy, dialling, redirects                  connect.go, redirect.go
//	                           certificates, checked without a clock       certificates.go, package calendar
//	File ── the reader meanwhile: what is wanted, what is in doubt         file.go, parts.go, doubt.go
//	spool ── the partial file, its sidecar, what of it can be trusted      spool.go
//
// In the spool directory, NAME being a hash of the address without its query:
//
//	NAME.part   what has arrived, from the first byte on; holes are what is not wanted
//	NAME.json   the sidecar: length, holes, how much is surely on the disk
//	.lock       locked while a download uses the directory
//	newest-date the newest date that a signature proved, for devices without a clock
//
// The name leaves out the query because presigned addresses carry a new
// signature there each time they are asked for; without that, they could never
// be resumed.
//
// Servers behind one address may give other validators for the same file, or none,
// so none is asked for: the caller has a signature of the head and a hash of every
// part, and a part that is wrong is fetched again. Whether the server still has the
// file of which an earlier call left a part its head says: it is fetched and compared.
package fetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
)

// Source says what to fetch and what is known of it beforehand.
type Source struct {
	URL    string // http or https; may carry credentials, which are sent to its host only and never printed
	Size   int64  // bytes; 0 or less: unknown
	SHA256 string // of the whole file, 64 hex digits; empty: unknown
}

// usualDeadline is for Options that have none: 600 MB at 7 kB/s.
const usualDeadline = 24 * time.Hour

// A patience is how much of a server is borne.
type patience struct {
	maxSize  int64         // bytes; nothing longer is fetched
	minRate  int64         // bytes a second, over window; time that the disk takes does not count
	window   time.Duration // also the longest wait for a server's answer
	tries    int           // how many in a row may fail without getting further
	backoff  time.Duration // the pause after the first failure; it doubles
	maxPause time.Duration // the longest pause; a server's Retry-After is cut to it
}

// usual is the patience of all downloads but those of tests.
var usual = patience{
	maxSize:  8 << 30,          // a bundle is at most a few GB; the flash of the devices has 8
	minRate:  1 << 10,          // slower than any link that could ever finish a bundle
	window:   30 * time.Second, // a mobile link may well be silent for 10 to 20 s
	tries:    8,                // about 2 min until a dead server is given up
	backoff:  time.Second,
	maxPause: time.Minute,
}

// Options says where the file goes and how servers are reached. Only Dir, Prefix and HeadSize
// must be set.
type Options struct {
	// Dir is the spool directory. It is made if missing (0700), locked while Fetch
	// runs, and must be writable by no other user. Partial files of other
	// addresses in it are deleted; names that are not ours are left alone.
	Dir string

	// The file begins with a head, by which it is checked before the rest is fetched: its
	// first Prefix bytes say, by HeadSize, how long that is. A server that gives ranges is
	// asked for the first 256 KiB, then for the first MiB, then for the rest, and sends
	// nothing that was not asked for. An error of HeadSize says that it is not the file.
	Prefix   int
	HeadSize func(prefix []byte) (int64, error)

	// Whole asks for all of the file at once: one request, of a file that is short. What
	// arrives before it is checked by its head may be for nothing. A server that does not
	// begin to send it is given up soon.
	Whole bool

	// Progress is called at most every 200 ms and once at the end, with the
	// bytes that are there (resumed ones included) and how many are wanted in all,
	// -1 while that is unknown. done falls when a download starts over, total when
	// not all is wanted.
	Progress func(done, total int64)

	// Log gets one line for each failure after which the download continues.
	// It holds no credentials and no query.
	Log func(line string)

	// Fresh asks for the address again when the server no longer takes it (401, 403) though it
	// gave bytes before, as of a presigned address that expired. nil: that ends the download.
	Fresh func(ctx context.Context) (address string, err error)

	// Proxy is the address of a proxy, http://user:password@host:port (https,
	// socks5 and socks5h too), config.NoProxy for none, or empty for what
	// http_proxy, https_proxy and no_proxy say in the environment. What is on
	// the device itself is reached without one.
	Proxy string

	// Transport goes between the redirects and the connections: it sees every request, each with
	// the host that it goes to. nil: nothing does.
	Transport func(http.RoundTripper) http.RoundTripper

	// ClientCertificate is a PEM file with a certificate and its key, which a server that asks
	// for one is shown. It is read for each connection, must be private (0600), and no error
	// shows what it holds. Empty: none.
	ClientCertificate string

	CA        []string      // PEM files: authorities that a server's certificate must come from; none: the system's
	LimitRate int64         // bytes a second that are read at most; 0 or less: as fast as it goes
	Reserve   int64         // bytes that must stay free on the file system of Dir
	Deadline  time.Duration // for the whole download with all its tries; 0: 24 h

	// Calendar says by which date certificates are checked, and is told the dates
	// that they prove. It was opened in Dir. nil: one of this Fetch's own.
	Calendar *calendar.Calendar

	patience *patience // nil: the usual one
}

// Stats tells how a download went.
type Stats struct {
	Size     int64 // length of the file, bytes, what is not wanted included
	Resumed  int64 // bytes of it that an earlier call had left
	Fetched  int64 // bytes that arrived in this call, those thrown away included
	Requests int   // requests sent, redirects not counted
	Restarts int   // how often the download began at the first byte again
	Resumes  int   // how often it continued from where it had broken off, in this call or in an earlier one
}

// Start begins to download src into opt.Dir; the caller calls Close or Drop at the end. The
// caller finds every wrong byte, by a signature in the head and by hashes in the rest, so
// parts of the file are joined also without a validator of the server; a part that is wrong
// is fetched again (Again). If src says a SHA-256, the whole has that when Finish returns.
//
// The file is not durable: a power cut loses what arrived in the last 15 seconds, and a
// later call fetches that again. To write a bundle to the flash that is deleted a moment
// later would be to wear it for nothing.
//
// Errors are *bootcheck.Error: ExitUsage for what src or opt say wrongly, ExitBusy if another
// download uses the directory, ExitNoSpace, ExitFailed for other trouble with the disk,
// ExitDownloadFailed for everything else, with the code DOWNLOAD_FAILED, SIZE_MISMATCH or
// HASH_MISMATCH, or ADDRESS_EXPIRED if the server took the address before. A cancelled ctx is
// ExitDownloadFailed wrapping context.Canceled. After an error the partial file is kept if a
// later call can continue from it.
func Start(ctx context.Context, src Source, opt Options) *Download {
	d := &Download{opt: opt, patience: *cmp.Or(opt.patience, &usual), began: time.Now(), heads: make(chan *File), ended: make(chan struct{})}
	d.caller, d.cancel = context.WithCancel(ctx)
	go func() {
		defer close(d.ended)
		d.err = d.fetch(src)
		if d.now != nil {
			d.now.end(d.err)
		}
	}()
	return d
}

// fetch is the whole download.
func (d *Download) fetch(src Source) (err error) {
	if d.from, err = src.parse(); err != nil {
		return err
	}
	// Before the spool is touched: a mistake here must not cost what is there.
	if d.route, err = newRoute(&d.opt); err != nil {
		return err
	}
	if d.route.roots, err = LoadCA(d.opt.CA); err != nil {
		return err
	}
	if d.opt.ClientCertificate != "" {
		if _, err := LoadClientCertificate(d.opt.ClientCertificate); err != nil {
			return err
		}
	}
	deadline := cmp.Or(d.opt.Deadline, usualDeadline)
	ctx, cancel := context.WithTimeoutCause(d.caller, deadline, faultf(final, "it is not complete after %v", deadline))
	defer cancel()
	if d.spool, err = openSpool(d.opt.Dir, d.from); err != nil {
		return d.from.localError(d.opt.Dir, err)
	}
	defer d.spool.close()
	if d.route.dates == nil {
		d.route.dates = calendar.Open(d.opt.Dir, nil)
	}
	defer d.route.dates.Save()
	d.begin()
	return d.run(ctx)
}

// An origin is a Source that has been checked.
type origin struct {
	req    *http.Request // to be cloned
	shown  string        // the address as it may be printed
	name   string        // of the spool files, without their endings
	size   int64         // -1: unknown
	sha256 string        // hex digits; empty: unknown
}

// CheckAddress fails, with ExitUsage, if nothing can ever be downloaded from address. It
// uses no network.
func CheckAddress(address string) error {
	_, err := Source{URL: address}.parse()
	return err
}

func (src Source) parse() (*origin, error) {
	usage := func(format string, args ...any) error {
		return bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed, format, args...)
	}
	req, err := http.NewRequest(http.MethodGet, src.URL, nil)
	if err != nil {
		// Neither the parser's error nor the address may be shown: where the
		// password of a malformed address ends is unknown.
		for _, scheme := range []string{"http:", "https:"} {
			if strings.HasPrefix(src.URL, scheme) {
				return nil, usage("cannot download \"%s…\": the address is malformed", scheme)
			}
		}
		return nil, usage("cannot download: the address is malformed")
	}
	u, shown := req.URL, Redact(src.URL)
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, usage("cannot download %q: the address must begin with http:// or https://", shown)
	}
	if u.Hostname() == "" {
		return nil, usage("cannot download %q: the address names no host", shown)
	}
	o := &origin{req: req, shown: shown, size: src.Size, sha256: strings.ToLower(src.SHA256)}
	if o.size <= 0 {
		o.size = -1
	}
	if sum, err := hex.DecodeString(o.sha256); err != nil || len(sum) != sha256.Size && len(sum) > 0 {
		return nil, usage("cannot download %q: %q is not a SHA-256 of 64 hex digits", shown, src.SHA256)
	}
	req.Header = http.Header{"User-Agent": {"ota-apply"}, "Accept-Encoding": {"identity"}, "Cache-Control": {"no-transform"}}
	if u.User != nil {
		password, _ := u.User.Password()
		req.SetBasicAuth(u.User.Username(), password)
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	sum := sha256.Sum256([]byte(u.Scheme + "://" + strings.ToLower(u.Host) + u.EscapedPath()))
	o.name = hex.EncodeToString(sum[:])[:nameLen]
	return o, nil
}
