// Package metrics writes two files for a fleet's tools:
//
//	<run>/release       KEY="value" lines as in /etc/os-release    release.go
//	[metrics] file      figures in Prometheus' text format         table.go has THE list
//
// Both programs write them, whole, after each change and at each boot, and gather the
// facts again each time: the versions and the rollbacks from the record, the installs
// from <root>/.installs.json, and of this boot, from the run directory, how the boot
// before ended (bootcheck.Boot) and whether factory is intact (bootcheck.FactoryCheck).
//
// Without [metrics] file only <run>/release is written, so that an ordinary boot writes
// nothing but memory. What cannot be written is an error for a log: no install and no
// boot ends for it.
package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// A Publisher writes the files of one device.
type Publisher struct {
	cfg   *config.Config
	store *bootcheck.Store
}

// New is the Publisher of the device that has this configuration and this store.
func New(cfg *config.Config, store *bootcheck.Store) *Publisher { return &Publisher{cfg, store} }

func (d *Publisher) on() bool { return d.cfg.Metrics.File != "" }

// Publish writes both files as things are now.
func (d *Publisher) Publish() error {
	return d.locked(d.publish)
}

func (d *Publisher) publish() error {
	f, err := d.gather()
	if err != nil {
		return fmt.Errorf("cannot gather the metrics: %w", err)
	}
	err = d.publishRelease(f)
	if d.on() {
		name := d.cfg.Metrics.File
		// The directory is in memory, so that it is gone after a reboot.
		mkErr := os.Mkdir(filepath.Dir(name), 0o755)
		if mkErr == nil || errors.Is(mkErr, fs.ErrExist) {
			mkErr = bootcheck.ReplaceFile(name, f.text(), 0o644, false)
		}
		if mkErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot write the metrics: %w", mkErr))
		}
	}
	return err
}

// lockWait is for one other program that writes a few files in memory.
const lockWait = 2 * time.Second

// locked runs write under a lock: else the slower of two programs would leave what was
// true before the other. It is not the store's lock, which may be held for minutes. It
// is in the run directory, in memory; where there is none, nothing is locked.
func (d *Publisher) locked(write func() error) error {
	if d.on() {
		if err := os.MkdirAll(d.cfg.Run, 0o755); err != nil {
			return err
		}
	}
	name := filepath.Join(d.cfg.Run, ".metrics.lock")
	release, err := bootcheck.LockFile(context.Background(), name, lockWait)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return write()
	case errors.Is(err, unix.EWOULDBLOCK):
		return errors.New("cannot write metrics: locked by another process")
	case err != nil:
		return fmt.Errorf("cannot write metrics: %w", err)
	}
	defer release()
	defer os.Remove(name)
	return write()
}

// BootUnknown is a class of ota_last_boot: nothing tells how the boot before ended.
const BootUnknown = "unknown"

// facts are all that the files say.
type facts struct {
	cfg      *config.Config
	record   *bootcheck.Record // one of an empty store names no current version
	damaged  bool              // the record, or a link, was not what it should be
	release  int64             // of the current version; 0: not counted
	free     bootcheck.Space
	installs *installs
	lastBoot string               // empty: not known
	follow   *bootcheck.Following // nil: no follower ran in this boot
	factory  *bool                // whether it was intact when every byte of it was read in this boot; nil: it was not read
}

// gather reads few and small files: it runs in each boot. No manifest is read whole.
func (d *Publisher) gather() (*facts, error) {
	f := &facts{cfg: d.cfg, record: &bootcheck.Record{}, installs: readInstalls(d.installsFile()), follow: bootcheck.ReadFollowing(d.cfg.Run)}
	active, err := d.store.Active()
	switch {
	case err == nil:
		f.record, f.damaged = active.Record, active.Damage != ""
	case errors.Is(err, bootcheck.ErrRecord):
		f.damaged = true
	case !errors.Is(err, bootcheck.ErrEmpty):
		return nil, err
	}
	if current := f.record.Current; current != nil {
		f.release = d.store.Release(current.Version)
	}
	if f.free, err = d.store.Free(); err != nil {
		return nil, err
	}
	f.lastBoot = bootcheck.ReadBoot(d.cfg.Run).Last
	if factory := f.record.Factory; factory != nil {
		if c := bootcheck.ReadFactoryCheck(d.cfg.Run, factory); c != nil {
			f.factory = new(c.Damage == "")
		}
	}
	return f, nil
}

// text is the file for the collector.
func (f *facts) text() []byte {
	var b bytes.Buffer
	for _, m := range table {
		first := true
		m.samples(f, func(value float64, labels ...string) {
			if first {
				fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
				first = false
			}
			var pairs []string
			for i := 0; i+1 < len(labels); i += 2 {
				pairs = append(pairs, labels[i]+`="`+labelEscape.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD"))+`"`)
			}
			b.WriteString(m.name)
			if len(pairs) > 0 {
				b.WriteString("{" + strings.Join(pairs, ",") + "}")
			}
			b.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
		})
	}
	return b.Bytes()
}

var labelEscape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
