package bootcheck

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// seenMark is an empty file in the run folder, which is in memory: it says that
// this boot was seen. Together with the boot's ID it tells boots apart, as there
// are devices on which each boot has the same ID: boards without entropy, containers
// that see their host's, soft reboots.
const seenMark = "boot-seen"

// SeeBoot notes in the folder run, which it makes if need be, that this boot is
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

// ForgetBoot removes the mark, and that of a boot that went uncounted: this boot
// ends in good order.
func ForgetBoot(run string) error {
	var errs []error
	for _, name := range []string{seenMark, uncounted} {
		if err := os.Remove(filepath.Join(run, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
