package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// What a failure means for the download.
type kind int

const (
	transient kind = iota // try again from where it stopped
	rewind                // the server does not give ranges: try again from the first byte
	mismatch              // what is there is not the file, or not all of one file: start over, at most maxRestarts times
	final                 // no further try would help
)

// A fault is a failure of one try, with what follows from it.
type fault struct {
	kind   kind
	code   string        // bootcheck code; empty means CodeDownloadFailed
	after  time.Duration // the server asked for this pause
	slow   bool          // ended for slowness: bytes that it moved do not count
	drop   bool          // the partial file is of no use after a final fault
	bare   bool          // err is returned as it is: it is the caller's own
	err    error
	advice string // what an operator does next; empty: see advise
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func faultf(k kind, format string, args ...any) *fault {
	return &fault{kind: k, err: fmt.Errorf(format, args...)}
}

// sizeFault is a fault for which the length of the file is wrong.
func sizeFault(k kind, format string, args ...any) *fault {
	return faultf(k, format, args...).withCode(bootcheck.CodeSizeMismatch)
}

func (f *fault) withCode(code string) *fault { f.code = code; return f }
func (f *fault) dropping() *fault            { f.drop = true; return f }
func (f *fault) advising(what string) *fault { f.advice = what; return f }

// netFault classifies an error of the HTTP client or of an answer's body. Faults
// that our own code raised below the client (a refused redirect, the minimum
// rate, the deadline) come back as they are.
func netFault(ctx context.Context, err error) *fault {
	var f *fault
	if errors.As(err, &f) || errors.As(context.Cause(ctx), &f) {
		return f
	}
	f = &fault{kind: transient, err: Reason(err)}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || oldTLS(err) {
		f.kind = final // neither gets better within minutes
	}
	return f
}

// Reason is err, of a request, in words that have neither credentials nor queries.
func Reason(err error) error {
	// A *url.Error quotes the address with its query: keep the reason only.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return hidden{err}
}

// plain says in words why a server was not reached; empty: err is about something else.
func plain(err error) string {
	op, ok := errors.AsType[*net.OpError](err)
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case ok && op.Op == "proxyconnect":
		if text := plain(op.Err); text != "" {
			return "the proxy: " + text
		}
	case isDNS && dns.IsNotFound:
		return "the name " + dns.Name + " is not known"
	case isDNS:
		return "no name server answers for " + dns.Name
	case !ok && errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case !ok || op.Addr == nil:
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens on " + op.Addr.String()
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no route to " + op.Addr.String()
	case op.Op == "dial" && op.Timeout():
		return op.Addr.String() + " does not answer"
	}
	return ""
}

// oldTLS knows the two ways in which crypto/tls says that a server is too old; it
// has no types for them.
func oldTLS(err error) bool {
	text := err.Error()
	return strings.Contains(text, "tls: protocol version not supported") ||
		strings.Contains(text, "tls: server selected unsupported protocol version")
}

// hidden shows err without queries and credentials of addresses in it.
type hidden struct{ err error }

func (h hidden) Error() string { return Redact(cmp.Or(plain(h.err), h.err.Error())) }
func (h hidden) Unwrap() error { return h.err }

// Redact replaces the queries and the credentials of all addresses in s:
// presigned addresses carry their secret in the query. By hand, since package
// regexp, which nothing else here needs, is 320 kB of the program.
func Redact(s string) string {
	const ends = " \t\n\f\r\"'" // what no address holds
	var b strings.Builder
	for len(s) > 0 {
		switch {
		case strings.HasPrefix(s, "//"):
			host := s[2:]
			if i := strings.IndexAny(host, "/?#"+ends); i >= 0 {
				host = host[:i]
			}
			if i := strings.LastIndexByte(host, '@'); i >= 0 {
				b.WriteString("//…@")
				s = s[2+i+1:]
				continue
			}
		case s[0] == '?' || s[0] == '#':
			b.WriteString("?…")
			i := strings.IndexAny(s, ends)
			if i < 0 {
				i = len(s)
			}
			s = s[i:]
			continue
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

// unreached reports whether err is that no connection was made.
func unreached(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "dial" || op.Op == "proxyconnect")
}

// advise says what an operator does after f ended the download. Empty, if it was
// interrupted: the caller did that.
func (d *Download) advise(f *fault) string {
	invalid, _ := errors.AsType[x509.CertificateInvalidError](f)
	_, otherName := errors.AsType[x509.HostnameError](f)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](f)
	_, isDNS := errors.AsType[*net.DNSError](f)
	switch dates := d.route.dates; {
	case f.advice != "":
		return f.advice
	case invalid.Reason == x509.Expired && dates.Unset():
		return fmt.Sprintf("the device's clock is not set, it shows %s: set it, then run the same command again", dates.Clock().UTC().Format(time.DateOnly))
	case invalid.Reason == x509.Expired:
		return "if the date in the message is not today's, set the device's clock; else the server needs a new certificate"
	case otherName:
		return "ask for it by a name that the server's certificate is for"
	case untrusted && len(d.opt.CA) > 0:
		return "only the authorities in the files of `ca` in the configuration are trusted: the server's must be among them"
	case untrusted:
		return "if the server is yours, name the file with the certificate of its authority in `ca` of the configuration"
	case strings.Contains(f.Error(), "tls: certificate required"): // crypto/tls has no type for what the server says
		return "the server asks for a certificate of the device: name its file in `client_certificate` of the configuration"
	case strings.Contains(f.Error(), "remote error: tls:") && strings.Contains(f.Error(), "certificate"):
		return "the server refuses the certificate in `client_certificate` of the configuration: `openssl x509 -in FILE -text` shows its dates and its authority"
	case oldTLS(f):
		return "the server must speak TLS 1.2 or newer"
	case errors.Is(f, context.Canceled):
		return ""
	case f.code == bootcheck.CodeSizeMismatch, f.code == bootcheck.CodeHashMismatch:
		return "the server has another file than the one that was asked for: check the address, the size and the SHA-256, and whether a login page is in between"
	case isDNS:
		return "check the host's name in the address, and the device's network and DNS"
	case unreached(f):
		return "check the address and the network, then run the same command again"
	case d.have > 0 && !f.drop:
		return "run the same command again to resume"
	}
	return "run the same command again later"
}

// localError makes the error for trouble with the disk. where names the file that err is
// about: grab knows it only as a number in /proc.
func (o *origin) localError(where string, err error) error {
	if e, ok := errors.AsType[*bootcheck.Error](err); ok {
		return e
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = &fs.PathError{Op: p.Op, Path: where, Err: p.Err}
	}
	if bootcheck.IsNoSpace(err) {
		return bootcheck.Errorf(bootcheck.ExitNoSpace, bootcheck.CodeDiskFull, "cannot download %q: %w", o.shown, err)
	}
	return bootcheck.Errorf(bootcheck.ExitFailed, bootcheck.CodeDownloadFailed, "cannot download %q: %w", o.shown, err)
}

const (
	// maxRestarts is how often a file that turned out to be the wrong one is
	// fetched again. Once repairs a bad partial file, twice a file that was
	// replaced while we fetched it; after that the server has no better one.
	maxRestarts = 2

	// maxRewinds is how often in a row a server that gives no ranges is asked for one
	// again: another node behind its address may give them.
	maxRewinds = 2

	// coldFailures is for a server that was never reached: about 5 s.
	coldFailures = 3

	// A try counts as progress if it brought this much, or 1 % of the file.
	// Less would let a server that breaks after each byte keep us for hours.
	progressBytes = 64 << 10
)

// classify finds the fault in err, counts it, and decides what it means after
// those before.
func (d *Download) classify(err error) *fault {
	var f *fault
	switch cause := context.Cause(d.ctx); {
	case d.ctx.Err() != nil && errors.As(cause, &f): // the deadline
	case d.ctx.Err() != nil:
		return faultf(final, "interrupted after %s bytes: %w", d.soFar(), cause)
	case errors.As(err, &f):
	default:
		return d.spool.local(d.spool.part, err) // grab's other errors are those of the file
	}
	step := int64(progressBytes)
	if d.size > 0 {
		step = min(step, max(1, d.size/100))
	}
	if f.kind == transient && !f.slow && d.have >= d.best+step {
		d.best, d.failures, d.rewinds = d.have, 0, 0
	} else {
		d.failures++
	}
	kind := f.kind
	if kind == rewind && d.have > 0 && d.rewinds < maxRewinds {
		d.rewinds++
		kind = transient
	}
	if kind != final && d.failures >= d.mostFailures(f) || kind == mismatch && d.mismatches >= maxRestarts {
		kind = final
	}
	if kind == mismatch {
		d.mismatches++
	}
	g := *f // f may be shared: the deadline's is
	g.kind, g.drop = kind, f.drop || f.kind == mismatch
	return &g
}

// mostFailures is how many tries in a row may fail. Where nothing was ever heard of
// the server and nothing is here to lose, few are enough: the address is wrong, or
// the network is down, and the caller is told within seconds and can ask again.
func (d *Download) mostFailures(f *fault) int {
	switch {
	case d.have > 0 || d.stats.Fetched > 0:
	case d.opt.Whole:
		return min(d.tries, 2) // there is another way
	case unreached(f):
		return min(d.tries, coldFailures)
	}
	return d.tries
}

// soFar is how many bytes have arrived, and of how many if that is known.
func (d *Download) soFar() string {
	if d.size < 0 {
		return fmt.Sprint(d.have)
	}
	return fmt.Sprintf("%d of %d", d.have, d.size)
}

// pause is how long to wait after f: doubling, a little random so that a
// thousand devices do not come back together, and as long as the server asked.
func (d *Download) pause(f *fault) time.Duration {
	if f.kind == rewind || f.code == bootcheck.CodeAddressExpired && d.failures == 0 || d.size > 0 && d.have == d.size && f.kind == transient && d.doubt == nil && d.known {
		return 0 // the server is well: only the request changes, or nothing is left to ask for
	}
	p := d.backoff << min(max(d.failures, d.mismatches, 1)-1, 10)
	p += time.Duration(rand.Int64N(int64(p)/2 + 1))
	return min(max(p, f.after), d.maxPause)
}
