package applier

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/applier/oci"
	"github.com/tope-ota/ota/applier/patch"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A source is where a bundle comes from: a download or a file. The bundle is read through
// one open file from the check of its signature to the last byte unpacked, so it cannot
// be exchanged in between.
type source struct {
	a        *applier
	download *fetch.Download // nil: it is on this machine
	file     *os.File        // nil: it is downloaded
	size     int64           // of file
	head     io.ReaderAt     // what the head of file is read from
	patched  *patched        // nil: it is the bundle
}

// openBundle is a bundle whose head is verified. Where it is still being downloaded, a read
// waits, and a *fetch.Broken says how the download ended if it fails.
type openBundle struct {
	io.ReaderAt
	*source
	head     *bundle.Head
	manifest *bootcheck.Manifest
	digest   string
	record   *bootcheck.Record // of the device into which it is brought; nil: it is empty
	plan     *plan             // nil: to be made
	coming   int64             // bytes that have still to be downloaded, if all of it is wanted
	now      *fetch.File       // nil: it is a file of this machine
	patch    *patch.Patch      // that is read in the place of the bundle; nil: none
}

func (b *openBundle) ref() *bootcheck.Ref {
	return &bootcheck.Ref{Version: b.manifest.Version, Digest: b.digest}
}

// open begins to read the patch to the bundle at from, if there may be one, else that: an
// http, https or oci address, a file: address or a path.
func (a *applier) open(ctx context.Context, from string, o installOptions) (*source, error) {
	if s, err := a.openPatch(ctx, from, o); s != nil || err != nil {
		return s, err
	}
	return a.openBundle(ctx, from, o)
}

// openBundle is open without a patch.
func (a *applier) openBundle(ctx context.Context, from string, o installOptions) (*source, error) {
	path, err := localPath(from)
	if err != nil {
		return nil, err
	}
	if path != "" {
		return a.openFile(ctx, path, o)
	}
	if o.sha256 != "" {
		a.logf("all of the bundle is downloaded, as --sha256 is of all its bytes; --manifest pins the version and reuses what is here")
	}
	src := fetch.Source{URL: from, Size: o.size, SHA256: o.sha256}
	opt := a.fetchOptions()
	opt.Prefix, opt.HeadSize = bundle.PrefixSize, bundle.HeadSize
	if strings.HasPrefix(from, oci.Scheme) {
		if err := a.locate(ctx, from, &src, &opt); err != nil {
			return nil, err
		}
	}
	return &source{a: a, download: fetch.Start(ctx, src, opt)}, nil
}

func (a *applier) fetchOptions() fetch.Options {
	return fetch.Options{
		Dir:     cmp.Or(a.spool, a.cfg.Spool),
		Reserve: int64(a.cfg.Reserve),
		Proxy:   a.cfg.Proxy,
		CA:      a.cfg.CA,

		ClientCertificate: credential(a.cfg.ClientCertificate),
		LimitRate:         int64(a.cfg.LimitRate),
		Deadline:          a.cfg.DownloadDeadline,
		Calendar:          a.calendar(),
		Transport:         a.serverAuth(),
		Progress:          a.progress,
		Fresh:             a.fresh,
		Log:               func(line string) { a.logf("%s", line) },
	}
}

// openFile is a.bundle, or else the bundle at path, which is a.bundle from then on: what is
// opened again is the same file.
func (a *applier) openFile(ctx context.Context, path string, o installOptions) (s *source, err error) {
	if a.bundle == nil {
		if a.bundle, err = openPath(path); err != nil {
			return nil, err
		}
	}
	_, _ = a.bundle.Seek(0, io.SeekStart) // what cannot is refused for its type
	s = &source{a: a, file: a.bundle, head: a.bundle}
	return s, s.check(ctx, o)
}

func openPath(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO does not block
	if errors.Is(err, fs.ErrNotExist) {
		return nil, (&bootcheck.Error{Err: fmt.Errorf("cannot open the bundle %q: %w", path, fs.ErrNotExist)}).
			WithAdvice("check the path; an address begins with http://, https:// or oci://")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the bundle: %w", err)
	}
	if _, err := regular(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

var errNotRegular = errors.New("is not a regular file")

func regular(f *os.File) (fs.FileInfo, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("cannot open the bundle: %q %w", f.Name(), errNotRegular)
	}
	return info, err
}

// check fails if the file is not what o says.
func (s *source) check(ctx context.Context, o installOptions) error {
	info, err := regular(s.file)
	if err != nil {
		return err
	}
	if s.size = info.Size(); o.size > 0 && s.size != o.size {
		return bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeSizeMismatch, "the bundle %q has %d bytes, want %d", s.file.Name(), s.size, o.size)
	}
	if o.sha256 == "" {
		return nil
	}
	sum := sha256.New()
	head, err := hashFile(ctx, sum, s.file)
	if err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != o.sha256 {
		// What it is instead is not said: it may be a file that the caller cannot read.
		return bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeHashMismatch, "the SHA-256 of %q is not %s", s.file.Name(), o.sha256)
	}
	// Not the file: it can be another bundle by now. The head says what the rest must be.
	s.head = bytes.NewReader(head)
	return nil
}

// next is the bundle, its head verified, and after fetch.ErrStartedOver what came in its
// place.
func (s *source) next(keys *trust.Keys) (*openBundle, error) {
	if s.patched != nil {
		b, err := s.nextPatched(keys)
		why, fails := errors.AsType[*noPatch](err)
		if !fails {
			return b, err
		}
		if err := s.withoutPatch(why); err != nil {
			return nil, err
		}
	}
	b := &openBundle{ReaderAt: s.file, source: s}
	from, size, have := s.head, s.size, s.size
	if s.download != nil {
		now, err := s.download.Next()
		if err != nil {
			return nil, err
		}
		b.ReaderAt, b.now = now, now
		from, size, have = now, -1, now.Have
	}
	var err error
	if b.head, err = bundle.ReadHead(from, size); err == nil {
		b.manifest, _, err = b.head.Verify(keys)
	}
	if err != nil {
		return nil, b.now.Refuse(err)
	}
	b.digest, b.coming = bootcheck.Digest(b.head.RawManifest), b.head.Size(b.manifest)-have
	return b, nil
}

// want says what else of the bundle is wanted. It is called once.
func (b *openBundle) want(spans []bundle.Span) {
	parts := make([]fetch.Part, len(spans)) // none is not nil, which is all
	for i, s := range spans {
		parts[i] = fetch.Part(s)
	}
	b.now.Want(parts)
}

// again is a bundle.Again.
func (b *openBundle) again(ctx context.Context, s bundle.Span, wrong error) error {
	return b.now.Again(ctx, fetch.Part(s), wrong)
}

// drop ends the download and removes what it left.
func (s *source) drop() {
	if s.download != nil {
		if err := s.download.Drop(); err != nil {
			s.a.logf("cannot remove the downloaded bundle: %v", err)
		}
	}
}

// close ends the download, which keeps what a later one can continue from.
func (s *source) close() {
	if s.download != nil {
		s.a.account.fetched(s.download.Close())
	}
}

// hashFile writes all of f to sum, and returns the prefix and the head of a bundle
// as they were written; less, if f is none.
func hashFile(ctx context.Context, sum io.Writer, f io.Reader) ([]byte, error) {
	f = bootcheck.UntilDone(ctx, f)
	var head bytes.Buffer
	begin := io.TeeReader(f, sum)
	_, err := io.CopyN(&head, begin, bundle.PrefixSize)
	if size, headErr := bundle.HeadSize(head.Bytes()); err == nil && headErr == nil {
		_, err = io.CopyN(&head, begin, int64(size)-bundle.PrefixSize)
	}
	if err == nil || err == io.EOF {
		_, err = io.Copy(sum, f)
	}
	return head.Bytes(), err
}

// localPath is the path that from names, or empty for an http, https or oci address, which
// it checks.
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
		return "", fetch.CheckAddress(from)
	case scheme == "oci":
		if _, err := oci.Parse(from); err != nil {
			return usage("cannot download: %v", err)
		}
		return "", nil
	case !strings.HasPrefix(strings.ToLower(from), "file:"):
		return usage("cannot download from %q: only http, https, oci and file are known", scheme+"://")
	}
	u, err := url.Parse(from)
	if err != nil || u.Path == "" || !strings.HasPrefix(u.Path, "/") || u.Host != "" && u.Host != "localhost" {
		return usage("%q is not the address of a file: want file:///path", from)
	}
	return u.Path, nil
}

// keys are the keys that may sign a bundle. A device that has none refuses every
// install: without a key there is nothing to trust.
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
