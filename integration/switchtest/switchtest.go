// Package switchtest tries the atomic switch on a scratch store: how long it takes
// on a disk, and whether a reader ever sees nothing or a mixture.
package switchtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/try"
)

// Figure is how long one thing took.
type Figure struct {
	Name   string
	Median time.Duration
	P99    time.Duration
}

// scratch is a store of two versions in a directory of its own.
type scratch struct {
	dir    string
	store  *bootcheck.Store
	record *bootcheck.Record
}

// versions of the scratch store.
var versions = []string{"1.0.0", "1.1.0"}

// newScratch makes a scratch store below dir; the caller removes its directory.
func newScratch(dir string) (_ *scratch, err error) {
	defer try.End(&err)
	s := &scratch{dir: try.Get(os.MkdirTemp(dir, ".ota-switch-test-"))}
	s.store = try.Get(bootcheck.Create(filepath.Join(s.dir, "versions")))
	for _, v := range versions {
		try.Check(os.Mkdir(s.store.VersionDir(v), 0o755))
		for _, name := range []string{"first", "second"} {
			try.Check(os.WriteFile(filepath.Join(s.store.VersionDir(v), name), []byte(v), 0o644))
		}
	}
	s.record = &bootcheck.Record{Phase: bootcheck.PhaseConfirmed,
		Current: &bootcheck.Ref{Version: versions[0]}, Previous: &bootcheck.Ref{Version: versions[1]}}
	return s, s.store.Commit(s.record.Clone())
}

// commit switches to the other version.
func (s *scratch) commit() error {
	s.record.Current, s.record.Previous = s.record.Previous, s.record.Current
	return s.store.Commit(s.record.Clone())
}

// Measure takes the time of the switch and of the durable commit on the disk of
// dir, each beside the bare system call that it cannot do without, in turns.
func Measure(ctx context.Context, dir string, rounds int) (_ []Figure, err error) {
	defer try.End(&err)
	s := try.Get(newScratch(dir))
	defer os.RemoveAll(s.dir)
	file := try.Get(os.Create(filepath.Join(s.dir, "file")))
	defer file.Close()
	link := filepath.Join(s.dir, "link")
	steps := []struct {
		name string
		run  func() error
	}{
		{"rename of a link", func() error {
			return errors.Join(os.Symlink("a", link+".new"), os.Rename(link+".new", link))
		}},
		{"the switch: a reader sees the new version", func() error { return renameio.Symlink("a", filepath.Join(s.dir, "switch")) }},
		{"fsync of 4 KiB", func() error {
			_, err := file.WriteAt(make([]byte, 4096), 0)
			return errors.Join(err, file.Sync())
		}},
		{"Commit: record, links and switch, durable", s.commit},
	}
	took := make([][]time.Duration, len(steps))
	for range rounds {
		for i, step := range steps {
			try.Check(ctx.Err())
			began := time.Now()
			if err := step.run(); err != nil {
				return nil, fmt.Errorf("%s: %w", step.name, err)
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	var figures []Figure
	for i, step := range steps {
		slices.Sort(took[i])
		figures = append(figures, Figure{step.name, took[i][rounds/2], took[i][rounds*99/100]})
	}
	return figures, nil
}

// watch switches a scratch store in dir, repeatedly, while readers resolve its
// links all the time, and returns what they saw. Each looks twice in a round: at current, behind which both
// files must be of one version; and at the generation that is active, whose links
// and record must say the same.
func watch(ctx context.Context, dir string, switches, readers int) (_ *watcher, err error) {
	defer try.End(&err)
	s := try.Get(newScratch(dir))
	defer os.RemoveAll(s.dir)
	w := &watcher{dir: s.store.Dir(), versions: map[string]bool{}}
	var wg sync.WaitGroup
	var ended atomic.Bool
	defer wg.Wait()
	defer ended.Store(true)
	for range readers {
		wg.Go(func() {
			for !ended.Load() {
				w.look()
			}
		})
	}
	for range switches {
		try.Check(ctx.Err())
		try.Check(s.commit())
		w.switches.Add(1)
	}
	return w, nil
}

// watcher is what all readers share.
type watcher struct {
	dir      string
	switches atomic.Int64
	reads    atomic.Int64 // each resolved the links once and read what is behind them

	mu       sync.Mutex
	versions map[string]bool // that were seen
	wrong    int64           // nothing, or a mixture
	examples []string
}

// overtaken is how many switches in one look make its generation one that was
// removed meanwhile: 32 are kept.
const overtaken = 30

// look resolves the links once, in both ways.
func (w *watcher) look() {
	before := w.switches.Load()
	version, err := w.lookAtCurrent()
	if err == nil {
		err = w.lookAtActive()
	}
	w.reads.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.versions[version] = true
		return
	}
	if errors.Is(err, os.ErrNotExist) && w.switches.Load()-before >= overtaken {
		return // this process was stopped in the middle of it
	}
	w.wrong++
	if len(w.examples) < 3 {
		w.examples = append(w.examples, err.Error())
	}
}

// lookAtCurrent is what a service that starts does: one resolution of current,
// then its files.
func (w *watcher) lookAtCurrent() (_ string, err error) {
	defer try.End(&err)
	current, err := os.OpenRoot(filepath.Join(w.dir, "current"))
	if err != nil {
		return "", fmt.Errorf("current leads nowhere: %w", err)
	}
	defer current.Close()
	first := string(try.Get(current.ReadFile("first")))
	second := string(try.Get(current.ReadFile("second")))
	if first != second || !slices.Contains(versions, first) {
		return "", fmt.Errorf("behind current one file is of version %q and another of %q", first, second)
	}
	return first, nil
}

// lookAtActive compares the links and the record of the generation that is active.
func (w *watcher) lookAtActive() (err error) {
	defer try.End(&err)
	active, err := os.OpenRoot(filepath.Join(w.dir, ".active"))
	if err != nil {
		return fmt.Errorf("the switch leads nowhere: %w", err)
	}
	defer active.Close()
	text := try.Get(active.ReadFile("record.json"))
	var record struct{ Current, Previous struct{ Version string } }
	if err := json.Unmarshal(text, &record); err != nil {
		return fmt.Errorf("the record is not intact: %w", err)
	}
	for name, version := range map[string]string{"current": record.Current.Version, "previous": record.Previous.Version} {
		if got := try.Get(active.Readlink(name)); got != "../../v"+version {
			return fmt.Errorf("the record says %s is %q, the link leads to %q", name, version, got)
		}
	}
	return nil
}
