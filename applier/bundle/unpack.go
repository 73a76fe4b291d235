package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// An Unpacker writes the version of one bundle to a directory, in these steps:
//
//	Begin    makes the directories
//	Start    makes what no other version has, while Take works; may be left out
//	Take     gets files that other versions of the device have, from each of them
//	Finish   makes the rest, then the links
//	Sync     makes all of it durable
//
// Start and Finish have a Maker, which makes files from the bundle (Head.Maker) or from a
// patch. Between Take and Finish, Head.Missing says which parts of the bundle Finish reads:
// nothing else of it need be there. What an error leaves behind the caller removes.
//
// A bundle that is not what its manifest says is an *bootcheck.Error with
// ExitDamaged. Errors of the bundle's reader and of the disk are in the error: a
// full disk is found by bootcheck.IsNoSpace.
type Unpacker struct {
	*bootcheck.Fill // Have are files that are there, or that Start began to make
	progress        Progress

	started *Files // what Start began to make; nil: nothing. Then:
	stop    context.CancelFunc
	ended   chan struct{} // closed at its end; then err is known
	err     error
}

// Begin makes the directories of the version in root, an empty directory of the
// caller's, and .ota with what is in it. h is the head of the bundle and m its
// manifest, both from Verify.
func Begin(h *Head, m *bootcheck.Manifest, root *os.Root, progress Progress) (*Unpacker, error) {
	fill, err := bootcheck.NewFill(root.Name(), m, h.RawManifest, h.Signature, false)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack into %s: %w", root.Name(), twin(root, err))
	}
	if err := checkNames(root, m); err != nil {
		fill.Close()
		return nil, fmt.Errorf("cannot unpack into %s: %w", root.Name(), err)
	}
	fill.Resolve = func(link string) error {
		_, err := root.Stat(link)
		return err
	}
	return &Unpacker{Fill: fill, progress: progress}, nil
}

// Close ends what Start began and lets go of what Begin opened.
func (u *Unpacker) Close() {
	if u.started != nil {
		u.stop()
		<-u.ended
	}
	u.Fill.Close()
}

// Start begins to make the files that are missing and that offered does not name: those Take
// gets, at the same time. Wait returns its error.
func (u *Unpacker) Start(ctx context.Context, offered func(entry int) bool, maker Maker) {
	files := newFiles(u.M, u.Fill, slices.Clone(u.Have), u.progress)
	for i := range files.have {
		if files.Needs(i) {
			files.have[i] = offered(i)
			u.Have[i] = !files.have[i]
		}
	}
	ctx, u.stop = context.WithCancel(ctx)
	u.started, u.ended = files, make(chan struct{})
	go func() {
		defer close(u.ended)
		u.err = maker(ctx, files)
	}()
}

// Wait waits until all that Start began to make is there, and returns its error.
func (u *Unpacker) Wait() error {
	if u.started == nil {
		return nil
	}
	<-u.ended
	return u.err
}

// Finish makes what is missing.
//
// Each file is hashed before, or for a large one while, it is written; a file that is there
// already is never written to and no link is followed. Links are made last, and each must then
// lead to a place inside the directory, or to none.
func (u *Unpacker) Finish(ctx context.Context, maker Maker) error {
	if err := u.Wait(); err != nil {
		return err
	}
	files := newFiles(u.M, u.Fill, u.Have, u.progress)
	files.done, files.all = u.Taken, u.Taken == 0
	if u.started != nil {
		files.done += u.started.done
		files.all = false
	}
	if err := maker(ctx, files); err != nil {
		return err
	}
	if err := u.Fill.Finish(); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	return nil
}

// Sync makes all that was unpacked durable, see Fill.
func (u *Unpacker) Sync() error {
	if err := u.Fill.Sync(); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	return nil
}

// Check does all that an Unpacker does but for the writing: every frame, every
// member and every file is compared with the manifest.
func Check(ctx context.Context, r io.ReaderAt, h *Head, m *bootcheck.Manifest, progress Progress) error {
	files := newFiles(m, nil, make([]bool, len(m.Entries)), progress)
	files.all = true
	return h.Maker(r, nil)(ctx, files)
}

// checkNames sees whether the names of m are as many on this disk: before a byte of the
// payload is fetched. A disk that knows .ota by another name folds case, in its own way:
// there, all are tried. root has the directories and the empty files of m.
func checkNames(root *os.Root, m *bootcheck.Manifest) error {
	if _, err := root.Lstat(strings.ToUpper(bootcheck.ManifestDir)); err != nil {
		return nil
	}
	var made []string
	defer func() {
		for _, name := range made {
			_ = root.Remove(name) // else it cannot be unpacked, and that says why
		}
	}()
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Type == bootcheck.TypeDir || e.Type == bootcheck.TypeFile && e.Size == 0 {
			continue
		}
		f, err := root.OpenFile(e.Path, os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return twin(root, err)
		}
		f.Close()
		made = append(made, e.Path)
	}
	return nil
}

// twin is err, of a name that could not be made, or says that the disk takes it for
// another name.
func twin(root *os.Root, err error) error {
	at, ok := errors.AsType[*fs.PathError](err)
	if !ok || !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, openErr := root.Open(path.Dir(at.Path))
	if openErr != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	list, _ := dir.ReadDir(-1)
	is, _ := root.Lstat(at.Path)
	for _, d := range list {
		other := path.Join(path.Dir(at.Path), d.Name())
		if info, _ := d.Info(); other != at.Path && os.SameFile(info, is) {
			return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, "%q and %q are one name on the file system of the store, which folds case", other, at.Path).
				WithAdvice("rename one of them in the bundle, or put `root` of the configuration on a file system that tells them apart")
		}
	}
	return err
}
