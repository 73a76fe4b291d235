package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// upload is a file on its way in: written beside its place, moved there whole.
type upload struct {
	f    *os.File
	path string
	mode fs.FileMode
}

func newUpload(path string, mode fs.FileMode) (*upload, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("cannot write %q: the path is not absolute", path)
	}
	dir := filepath.Dir(path)
	if err := makeDirs(dir); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".ota-test-agent-*")
	if err != nil {
		return nil, err
	}
	return &upload{f: f, path: path, mode: mode}, nil
}

// commit puts the file in its place. When it returns nil, its content, its mode
// and its name are on the disk.
func (u *upload) commit() (err error) {
	defer func() {
		if err != nil {
			u.abort()
		}
	}()
	if err := u.f.Chmod(u.mode); err != nil {
		return err
	}
	if err := u.f.Sync(); err != nil {
		return err
	}
	if err := u.f.Close(); err != nil {
		return err
	}
	if err := os.Rename(u.f.Name(), u.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(u.path))
}

func (u *upload) abort() {
	u.f.Close()
	os.Remove(u.f.Name())
}

// write takes the next piece of a file.
func (g *guest) write(ctx context.Context, r request) {
	g.mu.Lock()
	u := g.uploads[r.ID]
	g.mu.Unlock()
	var err error
	if u == nil {
		u, err = newUpload(r.Path, fs.FileMode(r.Mode).Perm()|setBits(r.Mode))
		if err != nil {
			g.finish(r.ID, doneOf(err))
			return
		}
		g.mu.Lock()
		g.uploads[r.ID] = u
		g.mu.Unlock()
	}
	if _, err = u.f.Write(r.Data); err != nil {
		g.cancel(r.ID)
		g.finish(r.ID, doneOf(err))
		return
	}
	if !r.Last {
		return
	}
	g.mu.Lock()
	delete(g.uploads, r.ID)
	g.mu.Unlock()
	// An fsync can take seconds on a slow disk; the requests behind it go on.
	g.start(ctx, r.ID, func(context.Context) done { return doneOf(u.commit()) })
}

func (g *guest) readFile(ctx context.Context, r request) error {
	f, err := os.Open(r.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(pieces{g, r.ID, toOut}, &ctxReader{ctx, f})
	return err
}

// ctxReader ends with ctx: a file such as /dev/zero has no end of its own.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// setBits are the bits above the permissions that os.FileMode spells otherwise.
func setBits(mode uint32) fs.FileMode {
	var m fs.FileMode
	for bit, to := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= to
		}
	}
	return m
}

// makeDirs makes dir and what is missing above it, each durable by the fsync of
// the folder that got the new name.
func makeDirs(dir string) error {
	err := os.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		return syncDir(filepath.Dir(dir))
	case errors.Is(err, fs.ErrExist):
		return nil // a file of that name is found out by who makes something in it
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDirs(filepath.Dir(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return syncDir(filepath.Dir(dir))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
