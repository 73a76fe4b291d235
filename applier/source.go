package applier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// openBundle is a bundle whose head is verified and admitted. It is read through
// one open file from the check of its signature to the last byte unpacked, so
// nobody can exchange it in between. A download may still go on: then a read waits
// for it, and a *brokenOff says how it ended if it fails.
type openBundle struct {
	io.ReaderAt
	head     *bundle.Head
	manifest *bootcheck.Manifest
	digest   string
	plan     *plan // nil: to be made
	coming   int64 // bytes that have still to be downloaded, if all of it is wanted

	want    func([]bundle.Span)           // says what else of it is wanted; called once
	arrived <-chan struct{}               // closed when that is here, or never will be
	again   againFunc                     // fetches a part anew; nil: nothing does
	settle  func() (time.Duration, error) // after the last again: waits for the end of the download; how long it takes to have it again
	drop    func()                        // ends the download and removes what it left
}

func (b *openBundle) ref() *bootcheck.Ref {
	return &bootcheck.Ref{Version: b.manifest.Version, Digest: b.digest}
}

// A source is where the bundle comes from.
type source interface {
	// next is the bundle, and after errStartedOver what came in its place.
	next(ctx context.Context) (*openBundle, error)
	close()
}

// An againFunc is for bundle.Options.Again.
type againFunc = func(ctx context.Context, s bundle.Span, wrong error) error

// admitFunc refuses a bundle by its verified manifest.
type admitFunc func(b *openBundle) error

// open opens the bundle at from, an http or https address, a file: address or a
// path. Whoever gets it from next has a bundle that admit let pass: it is refused
// as soon as its head has arrived.
func (a *applier) open(ctx context.Context, from string, o installOptions, keys *trust.Keys, admit admitFunc) (source, error) {
	path, err := localPath(from)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return a.download(ctx, from, o, keys, admit), nil
	}
	if a.bundle == nil {
		return openFile(ctx, path, o, keys, admit)
	}
	fd, err := unix.FcntlInt(a.bundle.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), path)
	_, _ = f.Seek(0, io.SeekStart) // what cannot is refused for its type
	return checked(ctx, f, o, keys, admit)
}

// readHead verifies the head of f and admits its manifest. size is the length
// of the whole bundle, -1 while it is not known; have bytes of it are here.
func readHead(f io.ReaderAt, size, have int64, keys *trust.Keys, admit admitFunc) (*openBundle, error) {
	head, err := bundle.ReadHead(f, size)
	if err != nil {
		return nil, err
	}
	m, _, err := head.Verify(keys)
	if err != nil {
		return nil, err
	}
	b := &openBundle{
		ReaderAt: f, head: head, manifest: m, digest: bootcheck.Digest(head.RawManifest), coming: head.Size(m) - have,
		want:    func([]bundle.Span) {},
		arrived: here,
		settle:  func() (time.Duration, error) { return 0, nil },
		drop:    func() {},
	}
	if err := admit(b); err != nil {
		return nil, err
	}
	return b, nil
}

// here is what is on this machine: it need not be waited for.
var here = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// A local is a bundle on this machine.
type local struct {
	*os.File
	b *openBundle
}

func (l local) next(context.Context) (*openBundle, error) { return l.b, nil }
func (l local) close()                                    { l.Close() }

func openFile(ctx context.Context, path string, o installOptions, keys *trust.Keys, admit admitFunc) (*local, error) {
	f, err := openPath(path)
	if err != nil {
		return nil, err
	}
	return checked(ctx, f, o, keys, admit)
}

func openPath(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO does not block
	if err != nil {
		return nil, fmt.Errorf("cannot open the bundle: %w", err)
	}
	return f, nil
}

// checked is the bundle f, which it closes if it is none.
func checked(ctx context.Context, f *os.File, o installOptions, keys *trust.Keys, admit admitFunc) (*local, error) {
	b, err := checkFile(ctx, f, o, keys, admit)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &local{f, b}, nil
}

func checkFile(ctx context.Context, f *os.File, o installOptions, keys *trust.Keys, admit admitFunc) (*openBundle, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot open the bundle: %q is not a regular file", f.Name())
	}
	if o.size > 0 && info.Size() != o.size {
		return nil, bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeSizeMismatch, "the bundle %q has %d bytes, want %d", f.Name(), info.Size(), o.size)
	}
	if o.sha256 == "" {
		return readHead(f, info.Size(), info.Size(), keys, admit)
	}
	sum := sha256.New()
	head, err := hashFile(ctx, sum, f)
	if err != nil {
		return nil, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != o.sha256 {
		// What it is instead is not said: it may be a file that the caller cannot read.
		return nil, bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeHashMismatch, "the SHA-256 of %q is not %s", f.Name(), o.sha256)
	}
	// Not f: it can be another bundle by now. The head says what the rest must be.
	b, err := readHead(bytes.NewReader(head), info.Size(), info.Size(), keys, admit)
	if err == nil {
		b.ReaderAt = f
	}
	return b, err
}

// hashFile writes all of f to sum, and returns the prefix and the head of a bundle
// as they were written; less, if f is none.
func hashFile(ctx context.Context, sum io.Writer, f io.Reader) (head []byte, err error) {
	f = untilDone{ctx, f}
	head = make([]byte, bundle.PrefixSize)
	n, err := io.ReadFull(f, head)
	if size, headErr := bundle.HeadSize(head[:n]); err == nil && headErr == nil {
		head = append(head, make([]byte, size-bundle.PrefixSize)...)
		n, err = io.ReadFull(f, head[bundle.PrefixSize:])
		n += bundle.PrefixSize
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	if err == nil {
		_, err = sum.Write(head[:n])
	}
	if err == nil {
		_, err = io.Copy(sum, f)
	}
	return head[:n], err
}

// untilDone reads until ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// localPath is the path that from names, or empty for an http or https address.
func localPath(from string) (string, error) {
	usage := func(format string, args ...any) (string, error) {
		return "", bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed, format, args...)
	}
	scheme, _, isURL := strings.Cut(from, "://")
	if !isURL && !strings.HasPrefix(from, "file:") {
		return from, nil
	}
	switch scheme = strings.ToLower(scheme); {
	case scheme == "http" || scheme == "https":
		return "", nil
	case !strings.HasPrefix(strings.ToLower(from), "file:"):
		return usage("cannot download from %q: only http, https and file are known", scheme+"://")
	}
	u, err := url.Parse(from)
	if err != nil || u.Path == "" || !strings.HasPrefix(u.Path, "/") || u.Host != "" && u.Host != "localhost" {
		return usage("%q is not the address of a file: want file:///path", from)
	}
	return u.Path, nil
}

// keys are the keys that may sign a bundle. A device that has none refuses every
// install: without a key there is nothing to believe.
func (a *applier) keys() (*trust.Keys, error) {
	keys := trust.Load(a.cfg.Keys)
	for _, err := range keys.Skipped {
		a.logf("%v", err)
	}
	if keys.Len() == 0 {
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "no trusted keys in %s: every install is refused", strings.Join(a.cfg.Keys, ", ")).
			WithAdvice("put the public key (NAME.pub of `ota-bundle keygen`) there")
	}
	a.nameTwins(keys)
	return keys, a.applyRevoked(keys)
}
