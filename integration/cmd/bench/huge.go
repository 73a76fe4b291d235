package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"

	"aead.dev/minisign"
	"github.com/klauspost/compress/zstd"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/integration/try"
)

// huge measures the memory of an install of a bundle of 4 GiB: content that does
// not shrink. It needs 13 GB of disk.
func (b *bench) huge(ctx context.Context) (err error) {
	defer try.End(&err)
	const files, size = 1024, 4 << 20
	tree := b.path("huge")
	random := rand.NewChaCha8([32]byte{5})
	for i := range files {
		name := filepath.Join(tree, fmt.Sprintf("d%02d/file-%04d", i%32, i))
		try.Check(os.MkdirAll(filepath.Dir(name), 0o755))
		f := try.Get(os.Create(name))
		_, err = io.CopyN(f, random, size)
		try.Check(errors.Join(err, f.Close()))
	}
	var key minisign.PrivateKey
	text, err := os.ReadFile(b.path("release.key"))
	if err == nil {
		err = key.UnmarshalText(text)
	}
	try.Check(err)
	name := b.path("huge.ota")
	_, err = bundle.Create(ctx, name, bundle.Contents{
		Dir: tree, Version: "4.0.0", Models: []string{"x1"}, Key: key, Level: zstd.SpeedFastest,
	})
	if err == nil {
		err = os.RemoveAll(tree)
	}
	try.Check(err)
	info := try.Get(os.Stat(name))
	b.file.Store(&name)
	defer b.file.Store(nil)
	r := try.Get(b.install(""))
	fmt.Printf("\nA bundle of %.2f GiB, %d files: peak memory %.1f MiB, %.0f s\n", float64(info.Size())/(1<<30), files, float64(r.rss)/(1<<20), r.took.Seconds())
	return nil
}

// serveFile serves a bundle that is too large for the memory.
func (b *bench) serveFile(w http.ResponseWriter, r *http.Request) bool {
	name := b.file.Load()
	if name == nil {
		return false
	}
	w.Header().Set("ETag", `"huge"`)
	http.ServeFile(w, r, *name)
	return true
}
