package patch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// testKey is the same in every run, as the golden patch is signed with it. It signs
// nothing outside of tests.
var testKey = func() (key minisign.PrivateKey) {
	text, err := os.ReadFile("../bundle/testdata/test.key")
	if err == nil {
		err = key.UnmarshalText(text)
	}
	if err != nil {
		panic(err)
	}
	return key
}()

func testKeys() *trust.Keys { return trust.These(testKey.Public().(minisign.PublicKey)) }

// noise is n bytes that do not shrink, the same for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// text is n lines that shrink as source does.
func text(seed, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "func call%d(x int) int { return x*%d + lookup(%q) }\n", i*seed%977, i*seed%31, hex.EncodeToString(noise(byte(seed), 4)))
	}
	return b.String()
}

type tree map[string]string // path: content; "-> target": a link; a path that ends in /: a directory

// A pair is two versions and the patch between them.
type pair struct {
	from, to string // bundles
	file     string // the patch
	raw      []byte
	old      []byte // manifest
	dir      string // of the old version, unpacked
	m        *bootcheck.Manifest
}

func bundleOf(t testing.TB, name, version string, files tree) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(full), 0o755)
		target, link := strings.CutPrefix(content, "-> ")
		switch {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(full, 0o755)
		case link:
			err = os.Symlink(target, full)
		default:
			if err = os.WriteFile(full, []byte(content), 0o644); err == nil {
				err = os.Chmod(full, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := bundle.Create(t.Context(), name, bundle.Contents{
		Dir: dir, Version: version, Models: []string{"tope-x1"}, Release: 1, Key: testKey, Level: bundle.LevelFast,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func pairOf(t testing.TB, old, made tree) *pair {
	t.Helper()
	dir := t.TempDir()
	p := &pair{from: dir + "/1.0.0.ota", to: dir + "/1.1.0.ota", dir: dir + "/old"}
	bundleOf(t, p.from, "1.0.0", old)
	bundleOf(t, p.to, "1.1.0", made)
	m, err := Make(context.Background(), p.from, p.to, testKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.file = m.File
	if p.raw, err = os.ReadFile(m.File); err != nil {
		t.Fatal(err)
	}
	v, err := unpack(context.Background(), p.from, p.dir)
	if err != nil {
		t.Fatal(err)
	}
	v.root.Close()
	p.old = v.RawManifest
	f, err := os.Open(p.to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := bundle.ReadHead(f, -1)
	if err == nil {
		p.m, err = h.Parse()
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// apply installs the patch raw, as a device that runs p.dir does, and returns the new
// version's directory.
func (p *pair) apply(t testing.TB, raw []byte) (string, error) {
	t.Helper()
	return p.applyFrom(t, context.Background(), bytes.NewReader(raw), nil)
}

// open is Open of a patch for the version with the manifest raw.
func open(t testing.TB, ctx context.Context, r io.ReaderAt, raw []byte) (*Patch, error) {
	t.Helper()
	old, err := bootcheck.ParseManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	return Open(ctx, r, raw, old, testKeys())
}

func (p *pair) applyFrom(t testing.TB, ctx context.Context, r io.ReaderAt, damaged func(path string, why error)) (string, error) {
	t.Helper()
	x, err := open(t, ctx, r, p.old)
	if err != nil {
		return "", err
	}
	m, err := bootcheck.ParseManifest(x.Manifest)
	if err != nil {
		return "", err
	}
	dir := t.TempDir()
	u := begin(t, x, m, dir, nil)
	_, old, err := bootcheck.ReadManifest(p.dir)
	if err != nil {
		return "", err
	}
	if err := u.Take(ctx, bootcheck.Donor{Dir: p.dir, Manifest: old}); err != nil {
		t.Fatal(err)
	}
	if err := u.Finish(ctx, x.Maker(r, p.dir, nil, damaged)); err != nil {
		return dir, err
	}
	return dir, bootcheck.CheckTree(ctx, dir, m, bootcheck.Full)
}

// begin begins to unpack the version m, which x makes, into the directory dir.
func begin(t testing.TB, x *Patch, m *bootcheck.Manifest, dir string, progress bundle.Progress) *bundle.Unpacker {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	u, err := bundle.Begin(bundle.NewHead(x.Manifest, x.Signature), m, root, progress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

// sample has one file of each kind that the planner knows.
func sample() (old, made tree) {
	program := noise(1, 5<<20)
	changed := bytes.Clone(program[:4<<20])
	for i := 0; i < len(changed); i += 3000 {
		changed[i]++
	}
	changed = append(append(bytes.Clone(changed[:2<<20]), text(3, 500)...), changed[2<<20:]...)
	old = tree{
		"bin/program": string(program), "bin/same": string(noise(2, 1<<20)), "lib/a.py": text(5, 400), "lib/b.py": text(7, 300),
		"share/moved/notes.md": text(11, 900), "share/gone": "gone", "etc/empty": "", "link": "-> lib/a.py", "dir/": "",
		"small": "one", "grown": "x",
	}
	made = tree{
		"bin/program": string(changed), "bin/same": old["bin/same"], "lib/a.py": old["lib/a.py"] + "# end\n", "lib/b.py": "# begin\n" + old["lib/b.py"],
		"share/to/notes.md": old["share/moved/notes.md"] + "more\n", "etc/empty": "", "link": "-> lib/b.py", "new/": "",
		"small": "two", "grown": string(noise(4, 3<<20)), "lib/new.py": text(5, 380) + text(13, 20), "lib/new.bin": string(noise(9, 1<<20+1)),
		"lib/none": "new", "etc/empty2": "",
	}
	return old, made
}

// A device has of the patch and the old version what it has of the new bundle.
func TestRoundTrip(t *testing.T) {
	old, made := sample()
	p := pairOf(t, old, made)
	if _, err := p.apply(t, p.raw); err != nil {
		t.Fatal(err)
	}
	// 4 MiB of noise are new, and all else is small.
	if limit := 4<<20 + 64<<10; len(p.raw) > limit {
		t.Errorf("the patch has %d bytes, want at most %d", len(p.raw), limit)
	}
	if want := p.to + ".from/" + bundle.Sum(p.old) + ".otp"; p.file != want {
		t.Errorf("it is called %s, want %s", p.file, want)
	}
	left, err := filepath.Glob(filepath.Dir(p.to) + "/.*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The same bundles and key give the same bytes, however many cores there are.
func TestReproducible(t *testing.T) {
	old, made := sample()
	p := pairOf(t, old, made)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if _, err := Make(t.Context(), p.from, p.to, testKey, nil); err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, p.raw) {
		t.Error("one core makes another patch")
	}
}

// A difference of anything to anything makes it.
func TestDiff(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		window := noise(byte(i), 1+r.IntN(3000))
		out := append(bytes.Clone(window), noise(byte(i+1), r.IntN(500))...)
		for range r.IntN(20) {
			switch at := r.IntN(len(out)); r.IntN(3) {
			case 0:
				out[at]++
			case 1:
				out = append(out[:at], append(noise(byte(r.IntN(256)), r.IntN(40)), out[at:]...)...)
			case 2:
				out = append(out[:at], out[min(len(out), at+r.IntN(400)):]...)
			}
			if len(out) == 0 {
				out = []byte{1}
			}
		}
		if i%7 == 0 {
			out = bytes.Repeat([]byte{0}, 1+r.IntN(2000))
		}
		got := make([]byte, len(out))
		d := makeDiff(out, window)
		if err := applyDiff(got, window, d.stream(0)); err != nil || !bytes.Equal(got, out) {
			t.Fatalf("%d: %v", i, err)
		}
		clear(got)
		if err := applyDiff(got, window[d.first:d.end], d.stream(d.first)); err != nil || !bytes.Equal(got, out) {
			t.Fatalf("%d, with what is used of the window: %v", i, err)
		}
	}
}

// A frame of a large file names no more of the old one than it uses: a device reads all of it.
func TestWindowsAreAsUsed(t *testing.T) {
	old := noise(1, 5<<20)
	made := bytes.Clone(old)
	for i := 1000; i < len(made); i += 5000 {
		made[i]++
	}
	p := pairOf(t, tree{"f": string(old)}, tree{"f": string(made)})
	opened, err := open(t, t.Context(), bytes.NewReader(p.raw), p.old)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for i := range opened.frames {
		if opened.frames[i].Op == OpAdd {
			sum += opened.frames[i].Window.total()
		}
	}
	if most := int64(len(made)) * 11 / 10; sum == 0 || sum > most {
		t.Errorf("the windows of %d bytes have %d, want at most %d", len(made), sum, most)
	}
	if dir, err := p.apply(t, p.raw); err != nil {
		t.Errorf("%s: %v", dir, err)
	}
}

func TestWindowAround(t *testing.T) {
	for _, tt := range []struct {
		old, at, n, size int64
		first, length    int64
	}{
		{100, 0, 50, 50, 0, 100},                                           // all of a small one
		{10 << 20, 0, 1 << 20, 10 << 20, 0, 4 << 20},                       // the beginning
		{10 << 20, 9 << 20, 1 << 20, 10 << 20, 6 << 20, 4 << 20},           // the end
		{20 << 20, 5 << 20, 1 << 20, 10 << 20, 11<<20 - 2<<20, 4 << 20},    // twice as large
		{10 << 20, 0, 10, 10, 3 << 20, 4 << 20},                            // all of a large one is in its middle
		{8 << 30, 8<<30 - 1<<20, 1 << 20, 8 << 30, 8<<30 - 4<<20, 4 << 20}, // the largest
	} {
		if got, want := around(3, tt.old, tt.at, tt.n, tt.size), (ranges{3, tt.first, tt.length}); cmp.Compare(fmt.Sprint(got), fmt.Sprint(want)) != 0 {
			t.Errorf("around(%d, %d, %d, %d) = %v, want %v", tt.old, tt.at, tt.n, tt.size, got, want)
		}
	}
}

// What is to be reused is left out while that is taken. What could not be taken is made
// afterwards, of the same patch.
func TestTwice(t *testing.T) {
	old, made := tree{}, tree{}
	for i, name := range []string{"a", "b", "c", "d"} {
		old[name] = text(i+2, 2000)
		made[name] = old[name] + "more\n"
	}
	p := pairOf(t, old, made)
	x, err := open(t, t.Context(), bytes.NewReader(p.raw), p.old)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var done int64
	u := begin(t, x, p.m, dir, func(n, _ int64) { done = n })
	maker := x.Maker(bytes.NewReader(p.raw), p.dir, nil, nil)
	u.Start(t.Context(), func(i int) bool { return strings.Contains("b c", p.m.Entries[i].Path) }, maker)
	if err := u.Wait(); err != nil {
		t.Fatal(err)
	}
	if size := int64(len(made["a"]) + len(made["d"])); done != size {
		t.Errorf("%d bytes were made at first, want %d", done, size)
	}
	if err := u.Finish(t.Context(), maker); err != nil {
		t.Fatal(err)
	}
	if done != p.m.Size {
		t.Errorf("%d bytes are there, want %d", done, p.m.Size)
	}
	if err := bootcheck.CheckTree(t.Context(), dir, p.m, bootcheck.Full); err != nil {
		t.Error(err)
	}
}
