package bootcheck

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// seenMark is a file in the run directory, which is in memory: that it is there says
// that this boot was seen. Together with the boot's ID it tells boots apart, as there
// are devices on which each boot has the same ID: boards without entropy, containers
// that see their host's, soft reboots. What it holds is a Boot, or nothing.
const seenMark = "boot-seen"

// A Boot is what is known of a boot until it ends, and in no record.
type Boot struct {
	ID        string `json:"id"`                  // the kernel's
	Last      string `json:"last,omitempty"`      // how the boot before it ended, a class of ota_last_boot; empty: not noted
	Uncounted bool   `json:"uncounted,omitempty"` // the disk had no room to count it
}

// ReadBoot is what the run directory says of this boot; a zero Boot: nothing, or nothing
// that can be read, which is no error.
func ReadBoot(run string) (b Boot) {
	if !kept(run, seenMark, &b) {
		return Boot{}
	}
	return b
}

// Keep notes b, which is of a boot that was seen; run is made if it is missing.
func (b Boot) Keep(run string) error {
	_, err := keep(run, seenMark, b)
	return err
}

// NoteLastBoot notes in run that the boot before the boot id ended in class. Only the
// first to say so in a boot knows it: seen says that this boot is the same as before if
// its ID is.
func NoteLastBoot(run, id, class string, seen bool) error {
	b := ReadBoot(run)
	if b.ID != id || id == "" || !seen {
		b = Boot{ID: id, Uncounted: b.Uncounted && b.ID == id}
	}
	if b.Last != "" {
		return nil
	}
	b.Last = class
	return b.Keep(run)
}

// SeeBoot notes in the directory run, which it makes if need be, that this boot is
// the one that a record is going to name. Call it before that record is committed:
// when the process dies between the two, the next run in this boot still counts it
// if its ID is new, and never counts it twice.
func SeeBoot(run string) error {
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(run, seenMark), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// BootSeen reports whether SeeBoot was called in this boot. A mark that cannot be
// looked for counts as one that is there.
func BootSeen(run string) bool {
	_, err := os.Lstat(filepath.Join(run, seenMark))
	return !errors.Is(err, fs.ErrNotExist)
}

// ForgetBoot removes the mark: this boot ends in good order.
func ForgetBoot(run string) error { return forget(run, seenMark) }
