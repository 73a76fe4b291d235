package bundle

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/klauspost/compress/zstd"

	"github.com/tope-ota/ota/bootcheck"
)

func TestSmoke(t *testing.T) {
	_, key, _ := minisign.GenerateKey(nil)
	src := os.Getenv("SMOKE")
	if src == "" {
		t.Skip()
	}
	out := filepath.Join(t.TempDir(), "x.ota")
	t0 := time.Now()
	lvl := zstd.SpeedDefault
	if os.Getenv("BEST") != "" {
		lvl = zstd.SpeedBestCompression
	}
	m, err := Create(context.Background(), out, Contents{Dir: src, Version: "1.0.0", Models: []string{"m"}, Key: key, Level: lvl})
	if err != nil {
		t.Fatal(err)
	}
	st, _ := os.Stat(out)
	t.Log(len(m.Entries), len(m.Frames), m.Size, st.Size(), time.Since(t0))
	f, _ := os.Open(out)
	h, err := ReadHead(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	m, id, err := h.Verify(bootcheck.TrustKeys(key.Public().(minisign.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(id)
	dir := t.TempDir()
	root, _ := os.OpenRoot(dir)
	t0 = time.Now()
	if err := Unpack(context.Background(), f, h, m, root, Options{}); err != nil {
		t.Fatal(err)
	}
	t.Log("unpack", time.Since(t0))
	t0 = time.Now()
	if err := bootcheck.CheckTree(context.Background(), dir, m, bootcheck.Full); err != nil {
		t.Fatal(err)
	}
	t.Log("full", time.Since(t0))
	t0 = time.Now()
	if err := bootcheck.CheckTree(context.Background(), dir, m, bootcheck.Quick); err != nil {
		t.Fatal(err)
	}
	t.Log("quick", time.Since(t0))
	t0 = time.Now()
	bootcheck.ReadManifest(dir)
	t.Log("manifest", time.Since(t0))
	os.Rename(out, "/tmp/b/x.ota")
}
