package applier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// openBundle is a bundle whose head is verified and admitted. It is read through
// one open file from the check of its signature to the last byte unpacked, so
// nobody can exchange it in between.
type openBundle struct {
	*os.File
	size     int64
	head     *bundle.Head
	manifest *bootcheck.Manifest
	digest   string
	done     func() // removes what the download left; the bundle is not needed any more
}

// admitFunc refuses a bundle by its verified manifest.
// coming is how many bytes of it have still to be downloaded.
type admitFunc func(m *bootcheck.Manifest, digest string, coming int64) error

// fetch opens the bundle at from, an http or https address, a file: address or
// a path. A refusal ends a download as soon as the bundle's head has arrived.
func (a *applier) fetch(ctx context.Context, from string, o installOptions, keys *trust.Keys, admit admitFunc) (*openBundle, error) {
	path, err := localPath(from)
	if err != nil {
		return nil, err
	}
	if path != "" {
		return openFile(ctx, path, o, keys, admit)
	}
	src := fetch.Source{URL: from, Size: o.size, SHA256: o.sha256}
	f, stats, err := fetch.Fetch(ctx, src, fetch.Options{
		Dir:       a.cfg.Spool,
		Reserve:   int64(a.cfg.Reserve),
		Proxy:     a.cfg.Proxy,
		CA:        a.cfg.CA,
		LimitRate: int64(a.cfg.LimitRate),
		Deadline:  a.cfg.DownloadDeadline,
		Calendar:  a.calendar(),
		Progress:  a.progress,
		Log:       func(line string) { a.logf("%s", line) },
		Inspect: func(f *os.File, have int64) (bool, error) {
			whole, err := headArrived(f, have)
			if err != nil || !whole {
				return false, err
			}
			_, err = readHead(f, -1, have, keys, admit)
			return true, err
		},
	})
	if err != nil {
		return nil, err
	}
	remove := func() {
		if err := fetch.Remove(a.cfg.Spool, src); err != nil {
			a.logf("cannot remove the downloaded bundle: %v", err)
		}
	}
	// Read again from the whole file: the download may have started over, with
	// another file, after its head was admitted.
	head, err := readHead(f, stats.Size, stats.Size, keys, admit)
	if err != nil {
		f.Close()
		remove()
		return nil, err
	}
	head.done = remove
	return head, nil
}

// headArrived reports whether the first have bytes of f hold the whole head.
func headArrived(f io.ReaderAt, have int64) (bool, error) {
	var first [bundle.PrefixSize]byte
	if have < int64(len(first)) {
		return false, nil
	}
	if _, err := f.ReadAt(first[:], 0); err != nil {
		return false, err
	}
	size, err := bundle.HeadSize(first[:])
	return err == nil && have >= size, err
}

// readHead verifies the head of f and admits its manifest. size is the length
// of the whole bundle, -1 while it is not known; have bytes of it are here.
func readHead(f *os.File, size, have int64, keys *trust.Keys, admit admitFunc) (*openBundle, error) {
	head, err := bundle.ReadHead(f, size)
	if err != nil {
		return nil, err
	}
	m, _, err := head.Verify(keys)
	if err != nil {
		return nil, err
	}
	digest := bootcheck.Digest(head.RawManifest)
	if err := admit(m, digest, head.Size(m)-have); err != nil {
		return nil, err
	}
	return &openBundle{File: f, size: size, head: head, manifest: m, digest: digest, done: func() {}}, nil
}

// openFile opens a bundle on this machine.
func openFile(ctx context.Context, path string, o installOptions, keys *trust.Keys, admit admitFunc) (*openBundle, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO does not block
	if err != nil {
		return nil, fmt.Errorf("cannot open the bundle: %w", err)
	}
	b, err := checkFile(ctx, f, o, keys, admit)
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
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
	if o.sha256 != "" {
		sum := sha256.New()
		if _, err := io.Copy(sum, untilDone{ctx, f}); err != nil {
			return nil, err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != o.sha256 {
			return nil, bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeHashMismatch, "the bundle %q has the SHA-256 %s, want %s", f.Name(), got, o.sha256)
		}
	}
	return readHead(f, info.Size(), info.Size(), keys, admit)
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
	if from == "" {
		return usage("an address or a file is missing")
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
	keys, err := trust.Load(a.cfg.Keys)
	if err != nil {
		return nil, err
	}
	if keys.Len() == 0 {
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "no trusted keys in %s: every install is refused", strings.Join(a.cfg.Keys, ", ")).
			WithAdvice("put the public key (NAME.pub of `ota-bundle keygen`) there")
	}
	return keys, a.applyRevoked(keys)
}
