package patch

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// klauspost/compress finds what is far away at one level only, and only where its window
// holds both: else a patch is several times larger, and right all the same.
func TestDictReaches(t *testing.T) {
	window := noise(1, maxWindow)
	for _, tt := range []struct{ window, from, length int }{
		{maxWindow, 0, maxOut}, {maxWindow, 3 << 20, maxOut}, {maxWindow, 100, 200_000}, {maxOut, 0, maxOut}, {maxOut / 2, 0, maxOut / 2}, {100_000, 0, 100_000},
	} {
		content := bytes.Clone(window[tt.from:][:tt.length])
		changes := 0
		for i := 2000; i < len(content); i += 4000 {
			content[i]++
			changes++
		}
		b := compress(content, window[:tt.window])
		if limit := 100 + 12*changes; len(b) > limit {
			t.Errorf("%d bytes with %d changes to a window of %d take %d, want at most %d", tt.length, changes, tt.window, len(b), limit)
		}
	}
}

// A program that was built again, with one line more, is a patch of few kB.
func TestRatio(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	const file = "applier/bundlecmd/patch.go"
	source, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	line := []byte("	m, err := patch.Make(")
	if !bytes.Contains(source, line) {
		t.Fatalf("%s has no line %q", file, line)
	}
	changed := bytes.Replace(source, line, append([]byte("	fmt.Fprintln(c.stderr, \"making the patch\", from, to)\n"), line...), 1)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, file): dir + "/changed.go"}})
	if err == nil {
		err = os.WriteFile(dir+"/changed.go", changed, 0o600)
	}
	if err == nil {
		err = os.WriteFile(dir+"/overlay.json", overlay, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	build := func(name string, args ...string) string {
		cmd := exec.Command("go", append(append([]string{"build", "-trimpath", "-ldflags=-s -w", "-buildvcs=false", "-o", dir + "/" + name}, args...), "./applier/cmd/ota-bundle")...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
		b, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	p := pairOf(t, tree{"bin/ota-bundle": build("old")}, tree{"bin/ota-bundle": build("new", "-overlay", dir+"/overlay.json")})
	info, err := os.Stat(p.to)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, the bundle %d", len(p.raw), info.Size())
	if limit := info.Size() / 20; int64(len(p.raw)) > limit {
		t.Errorf("the patch has %d bytes, want at most %d", len(p.raw), limit)
	}
	if _, err := p.apply(t, p.raw); err != nil {
		t.Error(err)
	}
}
