package bundle

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// levelTree is text that a stronger compressor makes smaller: lists of words in many files.
func levelTree(t *testing.T) string {
	words := strings.Fields("the store of a device holds each version that it may run again and one link says which it is now")
	files := make(map[string]string)
	state := uint32(1)
	for _, name := range strings.Fields("a b c d e f g h i j k l") {
		var text strings.Builder
		for text.Len() < 90<<10 {
			state = state*1664525 + 1013904223 // deterministic: Numerical Recipes
			text.WriteString(words[state>>16%uint32(len(words))])
			text.WriteByte(' ')
		}
		files["share/"+name] = text.String()
	}
	return treeOf(t, files)
}

func TestLevels(t *testing.T) {
	needTool(t, "zstd")
	src := levelTree(t)
	sizes := make(map[Level]int64)
	frames := make(map[Level]int)
	for _, level := range []Level{"", LevelFast, LevelDefault, LevelBest, LevelMax} {
		c := contents(src)
		c.Level = level
		name := mustCreate(t, c)
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		_, m := unpack(t, name) // as a device does
		sizes[level], frames[level] = st.Size(), len(m.Frames)
	}
	if sizes[""] != sizes[LevelBest] {
		t.Errorf("no level gives %d bytes, best %d", sizes[""], sizes[LevelBest])
	}
	if sizes[LevelMax] > sizes[LevelBest]*97/100 {
		t.Errorf("max gives %d bytes, best %d", sizes[LevelMax], sizes[LevelBest])
	}
	// Twelve files of 90 KiB and the end of the archive.
	if frames[LevelMax] != 3 || frames[LevelBest] != 7 {
		t.Errorf("max has %d frames and best %d, want 3 and 7", frames[LevelMax], frames[LevelBest])
	}
}

func TestMaxNeedsZstd(t *testing.T) {
	c := contents(treeOf(t, map[string]string{"bin/app": "the system is small\n"}))
	c.Level = LevelMax
	for _, tt := range []struct{ name, zstd, want string }{
		{"it is not installed", "", "cannot compress at the level max: the program zstd is not installed"},
		{"it fails", "#!/bin/sh\necho no memory >&2\nexit 1\n", "exit status 1: no memory"},
		{"it makes no frame", "#!/bin/sh\nexec cat\n", "made a wrong frame"},
		{"it makes a frame of something else", "#!/bin/sh\ntr s z | ZSTD \"$@\"\n", "made a wrong frame: it decodes to other bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.zstd != "" {
				needTool(t, "zstd")
				real, err := exec.LookPath("zstd")
				if err != nil {
					t.Fatal(err)
				}
				script := strings.ReplaceAll(tt.zstd, "ZSTD", real)
				if err := os.WriteFile(filepath.Join(dir, "zstd"), []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
				dir += ":/usr/bin:/bin"
			}
			t.Setenv("PATH", dir)
			out := filepath.Join(t.TempDir(), "x.ota")
			_, err := Create(t.Context(), out, c)
			if err == nil || !strings.Contains(err.Error(), tt.want) || bootcheck.Exit(err) != bootcheck.ExitFailed {
				t.Errorf("Create = %v (exit %d), want %q (exit 1)", err, bootcheck.Exit(err), tt.want)
			}
			if list, _ := os.ReadDir(filepath.Dir(out)); len(list) > 0 {
				t.Errorf("it left %v", list)
			}
		})
	}
}
