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
			test.Env = append(os.Environ(), child+"="+name)
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
		err = Unpack(t.Context(), f, h, m, openRoot(t, dir), Options{})
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
