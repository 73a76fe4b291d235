package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
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
	kind  kind
	code  string        // bootcheck code; empty means CodeDownloadFailed
	after time.Duration // the server asked for this pause
	slow  bool          // ended for slowness: bytes that it moved do not excuse it
	drop  bool          // the partial file is of no use after a final fault
	bare  bool          // err is returned as it is: it is the caller's own
	err   error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func faultf(k kind, format string, args ...any) *fault {
	return &fault{kind: k, err: fmt.Errorf(format, args...)}
}

func (f *fault) withCode(code string) *fault { f.code = code; return f }
func (f *fault) dropping() *fault            { f.drop = true; return f }

// netFault judges an error of the HTTP client or of an answer's body. Faults
// that our own code raised below the client (a refused redirect, the minimum
// rate, the deadline) come back as they are.
func netFault(ctx context.Context, err error) *fault {
	var f *fault
	if errors.As(err, &f) || errors.As(context.Cause(ctx), &f) {
		return f
	}
	// A *url.Error quotes the address with its query: keep the reason only.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	k := transient
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		k = final // a certificate does not get better within minutes
	}
	return &fault{kind: k, err: hidden{err}}
}

// hidden shows err without queries and credentials of addresses in it.
type hidden struct{ err error }

func (h hidden) Error() string { return redact(h.err.Error()) }
func (h hidden) Unwrap() error { return h.err }

var (
	queries     = regexp.MustCompile(`[?#][^\s"']*`)
	credentials = regexp.MustCompile(`//[^/?#\s"']*@`)
)

// redact replaces the queries and the credentials of all addresses in s:
// presigned addresses carry their secret in the query.
func redact(s string) string {
	return queries.ReplaceAllString(credentials.ReplaceAllString(s, "//…@"), "?…")
}

// failed makes the error that Fetch returns for a download that f ended.
func (o *origin) failed(f *fault) error {
	if f.bare {
		return f.err
	}
	if _, ok := errors.AsType[*bootcheck.Error](f.err); ok {
		return f.err
	}
	code := f.code
	if code == "" {
		code = bootcheck.CodeDownloadFailed
	}
	e := bootcheck.Errorf(bootcheck.ExitDownloadFailed, code, "cannot download %q: %w", o.shown, f.err)
	if c, ok := errors.AsType[x509.CertificateInvalidError](f.err); ok && c.Reason == x509.Expired {
		e.WithAdvice("if the date in the message is not today's, set the device's clock")
	}
	return e
}

// localError makes the error for trouble with the spool folder or the file
// in it. where names the one that err is about: grab knows it only as a
// number in /proc.
func (o *origin) localError(where string, err error) error {
	if e, ok := errors.AsType[*bootcheck.Error](err); ok {
		return e
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = &fs.PathError{Op: p.Op, Path: where, Err: p.Err}
	}
	exit, code := bootcheck.ExitFailed, bootcheck.CodeDownloadFailed
	if bootcheck.IsNoSpace(err) {
		exit, code = bootcheck.ExitNoSpace, bootcheck.CodeDiskFull
	}
	return bootcheck.Errorf(exit, code, "cannot download %q: %w", o.shown, err)
}
