package invariants

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// prepared looks at what rolls back generation n, whose record is r: on a disk
// that is full it must be there, complete, when a version on trial fails. Its link is
// missing in a store that was just about to use it, as it is renamed.
func (l *looker) prepared(n uint64, r *record) {
	dir := filepath.Join(l.root, fmt.Sprintf(".generations/%d.fallback", n))
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if r.Phase == "trial" && r.Previous != nil {
			l.torn("generation %d is a trial, and nothing is prepared to roll back from it", n)
		}
		return
	}
	target, err := os.Readlink(filepath.Join(dir, "active"))
	if errors.Is(err, fs.ErrNotExist) {
		l.found.Spent = true
		return
	}
	if want := fmt.Sprintf(".generations/%d", n+2); err != nil || target != want {
		l.torn("what rolls back generation %d is %q, want %q (%v)", n, target, want, err)
		return
	}
	made := filepath.Join(l.root, target)
	text, err := os.ReadFile(filepath.Join(made, "record.json"))
	backup, err2 := os.ReadFile(filepath.Join(made, "record.backup.json"))
	p := new(record)
	if err = errors.Join(err, err2); err == nil {
		err = json.Unmarshal(text, p)
	}
	if err != nil || !bytes.Equal(text, backup) {
		l.torn("what rolls back generation %d has no record that is intact: %v", n, err)
		return
	}
	l.sealed(n+2, text)
	if p.Generation != n+2 || p.Current == nil || r.Current == nil || p.Current.Version == r.Current.Version || p.Phase != "fallback" && p.Phase != "factory" {
		l.torn("what rolls back generation %d is generation %d in phase %q", n, p.Generation, p.Phase)
	}
	for _, name := range links {
		got, err := os.Readlink(filepath.Join(made, name))
		want := p.link(name)
		if want == nil && !errors.Is(err, fs.ErrNotExist) || want != nil && (!strings.HasPrefix(got, "../../v") || versionOf(path.Base(got)) != want.Version) {
			l.torn("what rolls back generation %d: %s leads to %q, its record says otherwise (%v)", n, name, got, err)
		}
	}
}
