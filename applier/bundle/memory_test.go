package bundle

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// maxMemory is what a hostile bundle may make an install take at its peak, bytes,
// the program included. The devices have 512 MB.
const maxMemory = 64 << 20

// hungry are bundles that would like to have much memory, each as the file that it
// is on a device.
var hungry = []struct {
	name string
	bake func(t *testing.T) []byte
	want string // a part of the refusal; empty: it is good
}{
	{"a head of 3 KB that decodes to all that is allowed, unsigned", func(t *testing.T) []byte {
		r := baseRecipe()
		r.signed = func(raw, sig []byte) ([]byte, []byte) { return make([]byte, bootcheck.MaxManifest), nil }
		return r.bake(t)
	}, "is not signed"},
	{"a head of 16 MB that decodes to all that is allowed, unsigned", func(t *testing.T) []byte {
		raw := make([]byte, bootcheck.MaxManifest)
		rand.NewChaCha8([32]byte{1}).Read(raw[:MaxHead-64<<10])
		r := baseRecipe()
		r.signed = func([]byte, []byte) ([]byte, []byte) { return raw, nil }
		return r.bake(t)
	}, "is not signed"},
	{"a head that says that it decodes to 1 GiB", func(t *testing.T) []byte {
		r := baseRecipe()
		r.headZstd = func([]byte) []byte { return zstdRLE(1<<30, 1<<30) }
		return r.bake(t)
	}, "decodes to 1073741824 bytes"},
	{"a frame of 33 KB that decodes to 1 GiB", func(t *testing.T) []byte {
		r := baseRecipe()
		r.frame = func(i int, tar []byte) []byte {
			if i == 0 {
				return zstdRLE(uint64(len(tar)), 1<<30)
			}
			return nil
		}
		return r.bake(t)
	}, "cannot decode it"},
	{"a signed manifest with as many entries as are allowed, and one lie", func(t *testing.T) []byte {
		r := baseRecipe()
		dir := strings.Repeat("d", 60)
		r.entries = append(r.entries, entry(dir, bootcheck.TypeDir, ""))
		for i := len(r.entries); i < bootcheck.MaxEntries; i++ {
			r.entries = append(r.entries, file(fmt.Sprintf("%s/%0100d", dir, i)))
		}
		r.manifest = func(m *bootcheck.Manifest) { m.Size++ }
		return r.bake(t)
	}, "but it says"},
	{"entries that are nothing", stuffed(`"entries":[`, "{},"), "more than 65536 entries"},
	{"entries that are lists", stuffed(`"entries":[`, "[],"), "more than 65536 entries"},
	{"frames that are nothing", stuffed(`"frames":[`, "{},"), "more than 131072 frames"},
	{"models that are empty", stuffed(`"models":[`, `"",`), "more than 64 models"},
	{"services that are null", stuffed(`"release":3,`, `"services":[`, `null,`, `"x.service"],`), "more than 64 services"},
	{"revoked keys that are empty", stuffed(`"release":3,`, `"revoked_keys":[`, `"",`, `""],`), "more than 64 revoked_keys"},
	{"an unknown list that is long", stuffed(`"release":3,`, `"x":[`, `{},`, `0],`), ""},
	{"an unknown list that is deep", stuffed(`"release":3,`, `"x":`, `[`, `0,`), "more in it than"},
	{"unknown objects in one another", stuffed(`"release":3,`, `"x":`, `{"x":`, `0,`), "more in it than"},
	{"an object with many keys", stuffed(`"release":3,`, `"x":{`, `"a":0,`, `"b":0},`), "stands twice"},
	{"a long key", stuffed(`"release":3,`, `"`, `k`, `":0,`), "more in it than"},
	{"a long version", stuffed(`"version":"`, `1`), "more in it than"},
	{"a long mode", stuffed(`"mode":"`, `7`), "more in it than"},
	{"a long number", stuffed(`"release":`, `1`), "more in it than"},
	{"a format that is a long number", stuffed(`"format":`, `1`), "more in it than"},
	{"as many entries as are allowed, with long names", stuffed(`"entries":[`, `{"path":"`+strings.Repeat("d", 550)+`"},`), "more in it than"},
	{"as many frames as are allowed", func(t *testing.T) []byte {
		r := baseRecipe()
		r.json = func(raw []byte) []byte {
			i := bytes.Index(raw, []byte(`"frames":[`)) + len(`"frames":[`)
			n := bytes.IndexByte(raw[i:], '}') + 1
			frame := append(bytes.Clone(raw[i:i+n]), ',')
			return slices.Concat(raw[:i], bytes.Repeat(frame, bootcheck.MaxFrames-9), raw[i:])
		}
		return r.bake(t)
	}, "frame 1"},
	{"frames of as much as is allowed, as many as cores", func(t *testing.T) []byte {
		r := baseRecipe()
		for i := range 8 {
			name := fmt.Sprint("zeros", i)
			r.entries = append(r.entries, file(name))
			r.content[name] = strings.Repeat("\x00", bootcheck.MaxFrameSize-blockSize)
		}
		return r.bake(t)
	}, ""},
}

// stuffed bakes a bundle whose manifest, where it says after, holds before, as many of
// the text as fit, and behind. That is all of parts; text alone may be given.
func stuffed(after string, parts ...string) func(t *testing.T) []byte {
	before, text, behind := "", parts[0], ""
	if len(parts) == 3 {
		before, text, behind = parts[0], parts[1], parts[2]
	}
	return func(t *testing.T) []byte {
		r := baseRecipe()
		r.json = func(raw []byte) []byte {
			i := bytes.Index(raw, []byte(after)) + len(after)
			if i < len(after) {
				t.Fatalf("%s is not in %s", after, raw)
			}
			n := (bootcheck.MaxManifest - len(raw) - len(before) - len(behind)) / len(text)
			return slices.Concat(raw[:i], []byte(before), bytes.Repeat([]byte(text), n), []byte(behind), raw[i:])
		}
		return r.bake(t)
	}
}

// Each in a process of its own, which says how much it took at its peak and how much
// it wrote.
func TestHostileMemory(t *testing.T) {
	const child = "OTA_TEST_HUNGRY"
	if name := os.Getenv(child); name != "" {
		installHungry(t, name)
		return
	}
	for _, row := range hungry {
		t.Run(row.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "x.ota")
			if err := os.WriteFile(name, row.bake(t), 0o600); err != nil {
				t.Fatal(err)
			}
			test := exec.Command(os.Args[0], "-test.run=^TestHostileMemory$", "-test.v")
			test.Env = append(os.Environ(), child+"="+name, "GOMEMLIMIT=48MiB") // as ota-apply sets it
			out, err := test.CombinedOutput()
			var peak, written, declared int64
			var said string
			for line := range strings.Lines(string(out)) {
				if rest, ok := strings.CutPrefix(line, "HUNGRY "); ok {
					_, _ = fmt.Sscanf(rest, "%d %d %d %q", &peak, &written, &declared, &said)
				}
			}
			if err != nil || peak == 0 {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("peak %d MiB, %d KiB written", peak>>20, written>>10)
			if peak > maxMemory {
				t.Errorf("it took %d MiB, want at most %d", peak>>20, maxMemory>>20)
			}
			if written > declared {
				t.Errorf("it wrote %d bytes, the manifest says %d", written, declared)
			}
			if row.want == "" && said != "" || !strings.Contains(said, row.want) {
				t.Errorf("it ended with %q, want %q", said, row.want)
			}
		})
	}
}

// installHungry unpacks the bundle in the file name, and prints its figures.
func installHungry(t *testing.T, name string) {
	// What the tests of this package keep in memory is no part of an install, and
	// what they have freed must not be taken for it.
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // proc(5): resets VmHWM
		t.Fatal(err)
	}
	before := peakMemory(t)
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var m *bootcheck.Manifest
	h, err := ReadHead(f, st.Size())
	if err == nil {
		m, _, err = h.Verify(testKeys())
	}
	if err == nil {
		err = unpackTo(t.Context(), f, h, m, openRoot(t, dir), nil)
	}
	var declared, written int64
	if m != nil {
		declared = m.Size + int64(len(h.RawManifest)+len(h.Signature))
	}
	if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			info, infoErr := d.Info()
			if infoErr != nil {
				return infoErr
			}
			written += info.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	said := ""
	if err != nil {
		said = err.Error()
	}
	const program = 12 << 20 // of ota-apply itself, idle
	fmt.Printf("\nHUNGRY %d %d %d %q\n", peakMemory(t)-before+program, written, declared, said)
}

// peakMemory is the most that this process had in memory so far, bytes.
func peakMemory(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := bytes.Cut(status, []byte("VmHWM:"))
	if !ok {
		t.Skip("SKIPPED: the kernel does not say how much memory a process had")
	}
	kib, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
