package patch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// maxMemory is what a patch may make an install take at its peak, bytes, the program
// included. The devices have 512 MB.
const maxMemory = 48 << 20

// Each in a process of its own, which says how much it took at its peak.
func TestMemory(t *testing.T) {
	const child = "OTA_TEST_PATCH"
	if dir := os.Getenv(child); dir != "" {
		applyMeasured(t, dir)
		return
	}
	program := noise(1, 24<<20)
	changed := bytes.Clone(program)
	for i := 0; i < len(changed); i += 5000 {
		changed[i]++
	}
	large := pairOf(t, tree{"program": string(program)}, tree{"program": string(changed)})
	small := smallPair(t)
	stuffed := func(what string) []byte {
		r := recipeOf(t, small.raw)
		text := string(mustJSON(t, r.head))
		text = text[:len(text)-1] + what + "}"
		raw, err := encodeRaw([]byte(text), int64(len(r.frames[0])), testKey, "")
		if err != nil {
			t.Fatal(err)
		}
		return append(raw, bytes.Join(r.frames, nil)...)
	}
	fill := func(before, text, after string) string {
		return before + strings.Repeat(text, (maxHeadSize-10_000)/len(text)) + after
	}
	for _, tt := range []struct {
		name string
		pair *pair
		raw  []byte
		want string
	}{
		{"a file of 24 MiB", large, large.raw, ""},
		{"a window of as many numbers as fit", small, stuffed(fill(`,"frames":[{"window":[`, "0,", "0]}]")), "refused"},
		{"as many frames as fit", small, stuffed(fill(`,"frames":[`, "{},", "{}]")), "refused"},
		{"a head that is nested", small, stuffed(fill(`,"x":`, "[", "")), "refused"},
		{"a head that decodes to more", small, stuffed(strings.Repeat(" ", maxHeadSize)), "decodes to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			job, err := json.Marshal([]string{tt.pair.dir, string(tt.pair.old)})
			if err == nil {
				err = os.WriteFile(dir+"/job", job, 0o600)
			}
			if err == nil {
				err = os.WriteFile(dir+"/patch", tt.raw, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			test := exec.Command(os.Args[0], "-test.run=^TestMemory$", "-test.v")
			test.Env = append(os.Environ(), child+"="+dir, "GOMEMLIMIT=48MiB") // as ota-apply sets it
			out, err := test.CombinedOutput()
			var peak int64
			var said string
			for line := range strings.Lines(string(out)) {
				if rest, ok := strings.CutPrefix(line, "PEAK "); ok {
					_, _ = fmt.Sscanf(rest, "%d %q", &peak, &said)
				}
			}
			if err != nil || peak == 0 {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("peak %d MiB", peak>>20)
			if peak > maxMemory {
				t.Errorf("it took %d MiB, want at most %d", peak>>20, maxMemory>>20)
			}
			if tt.want == "" && said != "" || !strings.Contains(said, tt.want) {
				t.Errorf("it ended with %q, want %q", said, tt.want)
			}
		})
	}
}

// applyMeasured applies the patch in dir, and prints its figures.
func applyMeasured(t *testing.T, dir string) {
	job, err := os.ReadFile(dir + "/job")
	var of []string
	if err == nil {
		err = json.Unmarshal(job, &of)
	}
	if err != nil {
		t.Fatal(err)
	}
	job = nil
	p := &pair{dir: of[0], old: []byte(of[1])}
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // proc(5): resets VmHWM
		t.Fatal(err)
	}
	before := peakMemory(t)
	f, err := os.Open(filepath.Join(dir, "patch"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	said := ""
	if _, err := p.applyFrom(t, context.Background(), f, nil); err != nil {
		said = err.Error()
	}
	const program = 12 << 20 // of ota-apply itself, idle
	fmt.Printf("\nPEAK %d %.200q\n", peakMemory(t)-before+program, said)
}

// peakMemory is the most that this process had in memory so far, bytes.
func peakMemory(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	kib, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
