package patch

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aead.dev/minisign"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// A recipe is a patch that can be baked with faults: signed all the same.
type recipe struct {
	head   *Head
	frames [][]byte
	key    minisign.PrivateKey
}

func recipeOf(t testing.TB, raw []byte) *recipe {
	t.Helper()
	l, err := parsePrefix(raw)
	if err != nil {
		t.Fatal(err)
	}
	r := &recipe{head: new(Head), key: testKey}
	text, err := bundle.DecodeFrame(raw[PrefixSize+l.signature:][:l.head], maxHeadSize)
	if err == nil {
		err = json.Unmarshal(text, r.head)
	}
	if err != nil {
		t.Fatal(err)
	}
	at := l.total() - l.manifest
	for _, f := range r.head.Frames {
		r.frames = append(r.frames, raw[at:at+f.Length])
		at += f.Length
	}
	return r
}

func (r *recipe) bake(t testing.TB) []byte {
	t.Helper()
	first, err := encodeHead(r.head, r.key, "")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(first, bytes.Join(r.frames, nil))
}

// compress makes the zstd frame of content, with dict if that is not nil.
func compress(content, dict []byte) []byte {
	enc, err := newEncoder(len(content)+len(dict), dict)
	if err != nil {
		panic(err)
	}
	defer enc.Close()
	return enc.EncodeAll(content, nil)
}

// put makes frame i of content, of which the head tells the truth.
func (r *recipe) put(i int, op Op, content []byte) {
	b := compress(content, nil)
	r.frames[i] = b
	f := &r.head.Frames[i]
	f.Op, f.Length, f.Size, f.SHA256 = op, int64(len(b)), int64(len(content)), bundle.Sum(b)
}

// diff is a difference of steps, gaps, differences and what is copied.
func diff(steps []int64, gaps []uint64, diffs, copied string) []byte {
	var s, g []byte
	for i, n := range steps {
		if i%3 == 0 {
			s = binary.AppendVarint(s, n)
		} else {
			s = binary.AppendUvarint(s, uint64(n))
		}
	}
	for _, n := range gaps {
		g = binary.AppendUvarint(g, n)
	}
	var b []byte
	for _, n := range []int{len(s), len(g), len(diffs)} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return slices.Concat(b, s, g, []byte(diffs), []byte(copied))
}

// smallPair has one frame of files: "data", of 1,000 bytes, from one of as many. It is frame 1.
func smallPair(t testing.TB) *pair {
	changed := noise(1, 1000)
	changed[500]++
	return pairOf(t, tree{"data": string(noise(1, 1000)), "dir/": "", "other": "x"}, tree{"data": string(changed), "dir/": "", "other": "x"})
}

// Nothing comes of a patch but the right bytes, and each refusal says why.
func TestHostile(t *testing.T) {
	p := smallPair(t)
	data := int64(slices.IndexFunc(p.m.Entries, func(e bootcheck.Entry) bool { return e.Path == "data" }))
	dir := int64(slices.IndexFunc(p.m.Entries, func(e bootcheck.Entry) bool { return e.Path == "dir" }))
	frame := func(change func(f *Frame)) func(r *recipe) { return func(r *recipe) { change(&r.head.Frames[1]) } }
	window := func(w ...int64) func(r *recipe) { return frame(func(f *Frame) { f.Window = w }) }
	out := func(o ...int64) func(r *recipe) { return frame(func(f *Frame) { f.Out = o }) }
	delta := func(steps []int64, gaps []uint64, diffs, copied string) func(r *recipe) {
		return func(r *recipe) { r.put(1, OpAdd, diff(steps, gaps, diffs, copied)) }
	}
	many := func(n int, r ...int64) ranges { return slices.Repeat(r, n) }
	zeros := strings.Repeat("x", 1000)
	for _, tt := range []struct {
		name  string
		spoil func(r *recipe)
		want  string
	}{
		{"another format", func(r *recipe) { r.head.Format = 2 }, "format 2 is not known"},
		{"for another version", func(r *recipe) { r.head.From = strings.Repeat("0", 64) }, "for the version with the manifest"},
		{"for no version", func(r *recipe) { r.head.From = "x" }, "no SHA-256"},
		{"to another version", func(r *recipe) { r.head.To = strings.Repeat("0", 64) }, "the manifest that the patch makes has the SHA-256"},
		{"a manifest of no bytes", func(r *recipe) { r.head.Size = 0 }, "a manifest of 0 bytes"},
		{"a manifest that is too long", func(r *recipe) { r.head.Size = bootcheck.MaxManifest + 1 }, "a manifest of"},
		{"a manifest that is not made to its end", func(r *recipe) { r.head.Size++ }, "not made to its end"},
		{"no frames", func(r *recipe) { r.head.Frames = nil }, "cut off"},
		{"more frames make the manifest than there are", func(r *recipe) { r.head.Manifest = 3 }, ""},
		{"a bundle of less than no bytes", func(r *recipe) { r.head.Bundle = -1 }, "a bundle of"},

		{"another operation", frame(func(f *Frame) { f.Op = 4 }), "operation 4"},
		{"an operation below none", frame(func(f *Frame) { f.Op = -1 }), "operation -1"},
		{"a window for nothing", frame(func(f *Frame) { f.Op = 0 }), "operation 0"},
		{"no window", window(), "with a window of 0 ranges"},
		{"a window of half a range", window(data, 0), "2 numbers"},
		{"a window of no bytes", window(data, 0, 0), "has no 0 bytes"},
		{"a window of a directory", window(dir, 0, 1), "has no 1 bytes"},
		{"a window of the manifest", window(-1, 0, 1), "has no 1 bytes"},
		{"a window of what is not listed", window(99, 0, 1), "has no 1 bytes"},
		{"a window of another number that is the same in 32 bits", window(data+1<<32, 0, 1), "has no 1 bytes"},
		{"a window before its file", window(data, -1, 2), "has no 2 bytes at -1"},
		{"a window beyond its file", window(data, 999, 2), "has no 2 bytes at 999"},
		{"a window that overflows", window(data, 1<<62, 1<<62), "has no"},
		{"a window of too many ranges", frame(func(f *Frame) { f.Window = many(maxRanges+1, data, 0, 1) }), "not at most 256 ranges"},

		{"it makes nothing", out(), "it makes nothing"},
		{"it makes a directory", out(dir, 0, 1), "has no 1 bytes"},
		{"it makes the manifest", out(-1, 0, 1), "has no 1 bytes"},
		{"it makes a part", out(data, 0, 500), ""},
		{"it makes the end only", out(data, 500, 500), ""},
		{"it makes more than there is", out(data, 0, 1001), "has no 1001 bytes"},
		{"it makes a file twice", out(data, 0, 1000, data, 0, 1000), ""},
		{"it makes another file", out(data+1, 0, 1), ""},
		{"the manifest is made of more", func(r *recipe) { r.head.Frames[0].Out[2]++ }, "entry -1 has no"},

		{"a length below none", frame(func(f *Frame) { f.Length = -1 }), "-1 bytes that decode"},
		{"a length beyond all", frame(func(f *Frame) { f.Length = 1 << 40 }), "1099511627776 bytes that decode"},
		{"a size beyond all", frame(func(f *Frame) { f.Size = 1 << 40 }), "that decode to 1099511627776"},
		{"a hash that is none", frame(func(f *Frame) { f.SHA256 = strings.Repeat("g", 64) }), "no SHA-256"},
		{"another hash", frame(func(f *Frame) { f.SHA256 = strings.Repeat("0", 64) }), "the patch is damaged"},
		{"a bomb", func(r *recipe) {
			b := compress(make([]byte, maxSize), nil)
			r.frames[1] = b
			f := &r.head.Frames[1]
			f.Length, f.SHA256 = int64(len(b)), bundle.Sum(b)
		}, "a zstd frame of 1114112 bytes, want"},
		{"a frame that is no zstd", func(r *recipe) {
			f := &r.head.Frames[1]
			r.frames[1] = bytes.Repeat([]byte{1}, int(f.Length))
			f.SHA256 = bundle.Sum(r.frames[1])
		}, "not a zstd frame"},
		{"the right frame for another window", window(data, 1, 999), ""},

		{"the wrong content", func(r *recipe) { r.put(1, 0, []byte(zeros)); r.head.Frames[1].Window = nil }, "file \"data\": sha256"},
		{"a difference that is empty", delta(nil, nil, "", ""), "not used up"},
		{"a difference that ends too early", delta([]int64{0, 999, 0}, nil, "", ""), "not used up"},
		{"a difference that makes too much", delta([]int64{0, 1000, 1}, nil, "", "x"), "makes too much"},
		{"a difference that makes too much in all", delta([]int64{0, 600, 0, -600, 600, 0}, nil, "", ""), "makes too much"},
		{"a step that overflows", delta([]int64{0, -1, -1}, nil, "", ""), "makes too much"},
		{"a step that is empty", delta([]int64{0, 1000, 0, 0, 0, 0}, nil, "", ""), "or nothing"},
		{"a step before the window", delta([]int64{-1, 1000, 0}, nil, "", ""), "not in the window"},
		{"a step beyond the window", delta([]int64{1, 1000, 0}, nil, "", ""), "not in the window"},
		{"a step far beyond", delta([]int64{1 << 62, 1000, 0}, nil, "", ""), "wrong step"},
		{"a copy of more than there is", delta([]int64{0, 0, 1000}, nil, "", "x"), "cut off"},
		{"a copy of less than there is", delta([]int64{0, 0, 1000}, nil, "", zeros+"y"), "not used up"},
		{"a gap beyond all", delta([]int64{0, 1000, 0}, []uint64{1000}, "x", ""), "not used up"},
		{"a gap that is huge", delta([]int64{0, 1000, 0}, []uint64{1 << 63}, "x", ""), "wrong gap"},
		{"a gap without a difference", delta([]int64{0, 1000, 0}, []uint64{1}, "", ""), "wrong gap"},
		{"a difference of nothing", delta([]int64{0, 1000, 0}, []uint64{1}, "\x00", ""), "wrong gap"},
		{"a difference without a gap", delta([]int64{0, 1000, 0}, nil, "x", ""), "not used up"},
		{"parts that are longer than all", func(r *recipe) { r.put(1, OpAdd, []byte{200, 1, 1, 1}) }, "cut off"},
		{"a number that does not end", func(r *recipe) { r.put(1, OpAdd, bytes.Repeat([]byte{255}, 20)) }, "cut off"},

		{"another key", func(r *recipe) { _, r.key, _ = minisign.GenerateKey(nil) }, "not trusted here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := recipeOf(t, p.raw)
			tt.spoil(r)
			if len(r.head.Frames) == 0 || r.head.Manifest > len(r.head.Frames) {
				if _, err := parseHead(mustJSON(t, r.head), lengths{}, 1); err == nil {
					t.Error("it is taken")
				}
				return
			}
			p.refuses(t, r.bake(t), tt.want)
		})
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// refuses holds that nothing comes of raw, and that want says why.
func (p *pair) refuses(t *testing.T, raw []byte, want string) {
	t.Helper()
	dir, err := p.apply(t, raw)
	exit := bootcheck.Exit(err)
	if err == nil || exit != bootcheck.ExitDamaged && exit != bootcheck.ExitRefused || !strings.Contains(err.Error(), want) {
		t.Errorf("%v (exit %d), want it refused with %q", err, exit, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); dir != "" && err == nil {
		t.Error("the file is there")
	}
}

// What the frames of one patch say is bounded, with anything on the disk.
func TestBounds(t *testing.T) {
	size := func(int64) int64 { return 1 << 32 }
	good := Frame{Length: 1, Size: 1, SHA256: strings.Repeat("0", 64), Op: OpDict, Window: ranges{0, 0, 1}, Out: ranges{0, 0, 1}}
	good.Out = ranges{0, 0, maxOut}
	good.Size = maxOut
	for name, change := range map[string]func(f *Frame){
		"a huge window":                     func(f *Frame) { f.Window = ranges{0, 0, maxWindow + 1} },
		"a huge window of several ranges":   func(f *Frame) { f.Window = ranges{0, 0, maxWindow, 0, 0, 1} },
		"a huge frame":                      func(f *Frame) { f.Out = ranges{0, 0, maxOut + 1}; f.Size++ },
		"a difference that is huge":         func(f *Frame) { f.Op = OpAdd; f.Size += diffSlack + 1 },
		"more compressed bytes than zstd's": func(f *Frame) { f.Length = maxLength + 1 },
	} {
		f := good
		change(&f)
		if err := checkFrames([]Frame{f}, size, size); err == nil || strings.Contains(err.Error(), "to its end") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkFrames([]Frame{good}, size, func(int64) int64 { return maxOut }); err != nil {
		t.Error(err)
	}
}

// Each byte counts: of the prefix, the signature, the head, each frame, and the end.
func TestDamaged(t *testing.T) {
	p := smallPair(t)
	for i := range p.raw {
		raw := bytes.Clone(p.raw)
		raw[i] ^= 0x10
		if _, err := p.apply(t, raw); err == nil && !comment(raw, i) {
			t.Errorf("byte %d of %d may be wrong", i, len(raw))
		}
	}
	for n := range p.raw {
		if n%7 == 0 || n < 400 {
			p.refuses(t, p.raw[:n], "")
		}
	}
	if _, err := p.apply(t, append(bytes.Clone(p.raw), 0)); err == nil || !strings.Contains(err.Error(), "something follows") {
		t.Errorf("%v, want something that follows to be refused", err)
	}
}

// comment reports whether byte i is of the comment of a signature that nothing signs: the
// first line.
func comment(raw []byte, i int) bool {
	return i >= PrefixSize && i < PrefixSize+bytes.IndexByte(raw[PrefixSize:], '\n')
}

// What was damaged on the way is fetched again.
func TestAgain(t *testing.T) {
	p := smallPair(t)
	raw := bytes.Clone(p.raw)
	raw[len(raw)-1] ^= 1
	asked := 0
	if _, err := p.apply(t, raw); err == nil {
		t.Fatal("it is taken")
	}
	r := bytes.NewReader(raw)
	x, err := open(t, context.Background(), r, p.old)
	if err != nil {
		t.Fatal(err)
	}
	u := begin(t, x, p.m, t.TempDir(), nil)
	again := func(_ context.Context, s bundle.Span, wrong error) error {
		asked++
		copy(raw[s.First:s.End], p.raw[s.First:s.End])
		return nil
	}
	u.Start(t.Context(), func(i int) bool { return p.m.Entries[i].Path == "other" }, x.Maker(r, p.dir, again, nil))
	err = u.Wait()
	if err != nil || asked != 1 {
		t.Errorf("%v, asked %d times", err, asked)
	}
}

// A disk that does not take the last bytes of a file ends it: nothing counts that is not
// there.
func TestWriteFails(t *testing.T) {
	// In a process of its own: go test's list of the files that a test opens is a file, too.
	const child = "OTA_TEST_SHORT_FILES"
	if os.Getenv(child) == "" {
		test := exec.Command(os.Args[0], "-test.run=^TestWriteFails$")
		test.Env = append(os.Environ(), child+"=1")
		if out, err := test.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	for _, n := range []int{1000, 1<<20 + 1000} {
		old, changed := noise(1, n), noise(1, n)
		changed[n/2]++
		p := pairOf(t, tree{"data": string(old)}, tree{"data": string(changed)})
		var was unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
			t.Fatal(err)
		}
		x, err := open(t, t.Context(), bytes.NewReader(p.raw), p.old)
		if err != nil {
			t.Fatal(err)
		}
		done := int64(-1)
		u := begin(t, x, p.m, t.TempDir(), func(n, _ int64) { done = max(done, n) })
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(n - 1), Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		err = u.Finish(t.Context(), x.Maker(bytes.NewReader(p.raw), p.dir, nil, nil))
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, unix.EFBIG) || done >= int64(n) {
			t.Errorf("%d bytes: %v, want %v, and %d not to count", n, err, unix.EFBIG, done)
		}
	}
}

// The old version is not trusted: nor a file of it that is damaged, shorter, no file, or gone.
func TestRotten(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(name string) error
	}{
		{"one bit", func(name string) error {
			b := noise(1, 1000)
			b[500] ^= 1
			return os.WriteFile(name, b, 0o644)
		}},
		{"shorter", func(name string) error { return os.Truncate(name, 999) }},
		{"longer", func(name string) error { return os.Truncate(name, 1001) }},
		{"gone", os.Remove},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := smallPair(t)
			if err := tt.spoil(filepath.Join(p.dir, "data")); err != nil {
				t.Fatal(err)
			}
			told := ""
			_, err := p.applyFrom(t, t.Context(), bytes.NewReader(p.raw), func(path string, _ error) { told += path })
			if bootcheck.Exit(err) != bootcheck.ExitDamaged || !strings.Contains(err.Error(), "\"data\" of the old version") || told != "data" {
				t.Errorf("%v, told %q", err, told)
			}
		})
	}
}
