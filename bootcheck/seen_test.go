package bootcheck

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBootSeen(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run", "ota") // nothing of it is there yet
	if BootSeen(run) {
		t.Error("a new boot was seen")
	}
	for range 2 {
		if err := SeeBoot(run); err != nil || !BootSeen(run) {
			t.Fatalf("SeeBoot: %v, seen: %v", err, BootSeen(run))
		}
	}
	if err := (Boot{ID: "an ID", Uncounted: true}).Keep(run); err != nil || !BootSeen(run) {
		t.Fatalf("Keep: %v, seen: %v", err, BootSeen(run))
	}
	for range 2 {
		if err := ForgetBoot(run); err != nil || BootSeen(run) {
			t.Fatalf("ForgetBoot: %v, seen: %v", err, BootSeen(run))
		}
	}
	// A soft reboot keeps the directory: what goes uncounted in the boot after it is not this one.
	if left, err := os.ReadDir(run); err != nil || len(left) > 0 {
		t.Errorf("after an orderly end %v (%v) are left, want nothing", left, err)
	}
}

// How the last boot ended is asked at each start of the unit; only the first in a
// boot can know.
func TestTheFirstToSayHowTheBootEnded(t *testing.T) {
	run := t.TempDir()
	for _, row := range []struct {
		boot  string
		seen  bool
		class string
		want  string
	}{
		{"one", false, "hard", "hard"}, {"one", true, "unclean", "hard"}, {"two", true, "clean", "clean"},
		{"two", false, "unclean", "unclean"}, {"two", true, "hard", "unclean"}, {"", true, "unclean", "unclean"}, {"", true, "hard", "hard"},
	} {
		if err := NoteLastBoot(run, row.boot, row.class, row.seen); err != nil {
			t.Fatal(err)
		}
		if got := ReadBoot(run).Last; got != row.want {
			t.Errorf("in boot %q, after %s: the last boot ended %s, want %s", row.boot, row.class, got, row.want)
		}
	}
	// That it was not counted is another matter, and stays.
	if err := (Boot{ID: "two", Uncounted: true}).Keep(run); err != nil {
		t.Fatal(err)
	}
	if err := NoteLastBoot(run, "two", "clean", false); err != nil || ReadBoot(run) != (Boot{ID: "two", Last: "clean", Uncounted: true}) {
		t.Errorf("%v, %v, want two, clean, uncounted", ReadBoot(run), err)
	}
}

// A mark without content is of an older program: the boot was seen, and that is all.
func TestBootSeenByAnOlderProgram(t *testing.T) {
	run := t.TempDir()
	for _, text := range []string{"", "{", "null"} {
		if err := os.WriteFile(filepath.Join(run, seenMark), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if !BootSeen(run) || ReadBoot(run) != (Boot{}) {
			t.Errorf("a mark %q: seen %v, %+v", text, BootSeen(run), ReadBoot(run))
		}
	}
}
