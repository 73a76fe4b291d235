package applier

// How an install uses a patch in the place of the bundle.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/applier/oci"
	"github.com/tope-ota/ota/applier/patch"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A patched is the progress of a source that is a patch.
type patched struct {
	ctx      context.Context
	old      *bootcheck.Snapshot // what the patch is for
	manifest string              // what the digest of the new version has to be; empty: anything
	bundle   func() (*source, error)
}

// A noPatch is why a patch cannot be used: the bundle can.
type noPatch struct{ error }

func (e *noPatch) Unwrap() error { return e.error }

// openPatch begins to download the patch from the current version to the bundle at from;
// nil: none is to be asked for. A device that has no version has none to patch; the SHA-256 of a bundle
// can only be found by fetching all of it; beside a presigned address, a file and what a registry has there is
// nothing to ask for.
func (a *applier) openPatch(ctx context.Context, from string, o installOptions) (*source, error) {
	path, err := localPath(from)
	beside := path == "" && !strings.ContainsRune(from, '?') && !strings.HasPrefix(from, oci.Scheme)
	if err != nil || o.noPatch || o.sha256 != "" || o.patch == "" && !beside {
		return nil, err
	}
	record, err := a.store.Record()
	if err != nil || record == nil {
		return nil, nil // what cannot be read is checked when it is needed
	}
	old, err := a.snapshot(record, record.Current.Version)
	if err != nil || !old.Ref.Same(record.Current) {
		return nil, nil // damaged: there is nothing to patch
	}
	opt := a.fetchOptions()
	opt.Dir = filepath.Join(opt.Dir, "patch") // beside what is there of the bundle
	opt.Prefix, opt.HeadSize, opt.Whole = patch.PrefixSize, patch.HeadSize, true
	name := cmp.Or(o.patch, patchAddress(from, strings.TrimPrefix(old.Ref.Digest, "sha256:")))
	return &source{a: a, download: fetch.Start(ctx, fetch.Source{URL: name}, opt), patched: &patched{
		ctx: ctx, old: old, manifest: o.manifest,
		bundle: func() (*source, error) { return a.openBundle(ctx, from, o) },
	}}, nil
}

// patchAddress is where the patch for the version with the manifest sum is, beside the bundle at
// address.
func patchAddress(address, sum string) string {
	address, _, _ = strings.Cut(address, "#")
	return patch.Name(address, sum)
}

// checkPatch fails if s cannot be the address of a patch.
func checkPatch(s string) error {
	if u, err := url.Parse(s); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("want an address that begins with http:// or https://")
	}
	return nil
}

// nextPatched is next of a source that is a patch. Its error is a *noPatch for all that is wrong with the
// patch; what the new version is refused for is final.
func (s *source) nextPatched(keys *trust.Keys) (*openBundle, error) {
	not := func(err error) error {
		if s.patched.ctx.Err() != nil || errors.Is(err, fetch.ErrStartedOver) {
			return err
		}
		return &noPatch{err}
	}
	now, err := s.download.Next()
	if err != nil {
		return nil, not(err)
	}
	b := &openBundle{ReaderAt: now, source: s, now: now}
	old := s.patched.old
	raw, err := bootcheck.ReadSnapshotFile(old.Dir, bootcheck.ManifestPath, bootcheck.MaxManifest)
	if err == nil && bootcheck.Digest(raw) != old.Ref.Digest {
		err = fmt.Errorf("the manifest of version %s has changed", &old.Ref)
	}
	if err == nil {
		b.patch, err = patch.Open(s.patched.ctx, now, raw, old.Manifest, keys)
	}
	if err == nil && s.patched.manifest != "" && bootcheck.Digest(b.patch.Manifest) != s.patched.manifest {
		err = fmt.Errorf("it makes the version with the digest %s", bootcheck.Digest(b.patch.Manifest))
	}
	if err != nil {
		return nil, not(now.Refuse(err))
	}
	b.head = bundle.NewHead(b.patch.Manifest, b.patch.Signature)
	if b.manifest, _, err = b.head.Verify(keys); err != nil {
		return nil, now.Refuse(err)
	}
	b.head.PayloadOffset = max(0, b.patch.Bundle-b.head.Size(b.manifest))
	b.digest, b.coming = bootcheck.Digest(b.patch.Manifest), b.patch.Size-now.Have
	return b, nil
}

// withoutPatch continues with the bundle.
func (s *source) withoutPatch(why *noPatch) error {
	if fetch.Absent(why) {
		s.a.detail("no patch: %v", why)
	} else {
		s.a.logf("no patch: %v; downloading from the bundle", why)
	}
	s.drop()
	s.close()
	next := s.patched.bundle
	*s = source{a: s.a} // that is closed
	b, err := next()
	if err == nil {
		*s = *b
	}
	return err
}

// maker makes files from b: from the bundle, or from the patch and the version that it is for.
func (a *applier) maker(b *openBundle) bundle.Maker {
	if b.patch == nil {
		return b.head.Maker(b, b.again)
	}
	old := b.patched.old
	return b.patch.Maker(b, old.Dir, b.again, func(path string, why error) {
		if _, known := a.damaged.LoadOrStore(old.Ref.Version+"/"+path, true); !known {
			a.foundDamage(&old.Ref, b.record, 1, fmt.Sprintf("%s: %v", path, why))
		}
	})
}

// unpackFailed is err, of an unpacking, or that of the download if that failed first, or
// if ctx has ended both: it says how far that came.
func unpackFailed(ctx context.Context, b *openBundle, err error) error {
	if broken, ok := errors.AsType[*fetch.Broken](err); ok {
		err = broken.Err // it says what failed, and is no fault of the bundle
	} else if ctx.Err() != nil {
		if _, ended := b.now.Finish(); ended != nil {
			return ended
		}
	}
	return b.orBundle(ctx, err)
}

// orBundle is err, of an unpacking: of a patch it is a *noPatch, unless the bundle would fail, too.
func (b *openBundle) orBundle(ctx context.Context, err error) error {
	if b.patch == nil || ctx.Err() != nil || bootcheck.IsNoSpace(err) || errors.Is(err, fetch.ErrStartedOver) {
		return err
	}
	return &noPatch{err}
}
