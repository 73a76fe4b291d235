// Package metrics tells a fleet's tools, which look at files, how this device is:
//
//	<run>/release       KEY="value" lines as in /etc/os-release    release.go
//	[metrics] file      figures in Prometheus' text format         table.go has THE list
//
// Both are written whole, by both programs, after whatever they changed and at each
// boot. Neither program knows more than the other, as nothing is kept in them: each
// gathers all facts anew from where they live.
//
//	what                                 lives in                    survives
//	-----------------------------------  --------------------------  -----------------------------
//	versions, phase, trial, blocked      the record                  everything that the device does
//	rollbacks, counted since the first   the record                  everything: they are counted by the
//	                                                                 commit that makes them
//	installs, counted, and the last one  <root>/.installs.json       reboots and power cuts
//	how the boot before ended            <run>/last-boot             this boot
//	when factory was found whole         <run>/factory-verified      this boot; it is checked in each
//	what is wrong with factory           <run>/factory-damage        this boot
//
// The last three of these files, but for factory-damage, and .installs.json are
// written only when the configuration names a file for the figures. So a boot on
// which nothing is on trial writes nothing but the run folder, which is in memory,
// and the flash is not touched as long as that file is in memory, too.
//
// What cannot be written is said by an error, for a log: no install and no boot ends
// for it.
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

// A Desk writes the files of one device.
type Desk struct {
	cfg   *config.Config
	store *bootcheck.Store
}

// New is the desk of the device that has this configuration and this store.
func New(cfg *config.Config, store *bootcheck.Store) *Desk { return &Desk{cfg, store} }

// on reports whether anybody asked for figures.
func (d *Desk) on() bool { return d.cfg.Metrics.File != "" }

// Publish writes both files as things are now.
func (d *Desk) Publish() error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return d.publish()
}

// publish is Publish by who holds the lock: what is newest is written last.
func (d *Desk) publish() error {
	f, err := d.gather()
	if err != nil {
		return fmt.Errorf("cannot gather what the fleet is told: %w", err)
	}
	err = d.publishRelease(f)
	if d.on() {
		name := d.cfg.Metrics.File
		// The folder is in memory, so that it is gone after a reboot.
		if mkErr := os.Mkdir(filepath.Dir(name), 0o755); mkErr != nil && !errors.Is(mkErr, fs.ErrExist) {
			return errors.Join(err, fmt.Errorf("cannot write the metrics: %w", mkErr))
		}
		if writeErr := bootcheck.ReplaceFile(name, f.text(), 0o644, false); writeErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot write the metrics: %w", writeErr))
		}
	}
	return err
}

// lockWait is for one other program that writes a few files in memory.
const lockWait = 2 * time.Second

// lock is held while facts are gathered and written: else the slower of two
// programs would leave what was true before the other. It is not the store's lock:
// the process that holds that may take minutes. It is in the run folder, which is in memory:
// no boot writes to the flash for it. Where that folder is not there, nothing is
// locked and nothing written.
func (d *Desk) lock() (unlock func(), err error) {
	if d.on() {
		if err := os.MkdirAll(d.cfg.Run, 0o755); err != nil {
			return nil, err
		}
	}
	name := filepath.Join(d.cfg.Run, ".metrics.lock")
	release, err := bootcheck.LockFile(context.Background(), name, lockWait)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return func() {}, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.New("cannot write metrics: locked by another process")
	case err != nil:
		return nil, fmt.Errorf("cannot write metrics: %w", err)
	}
	return func() { os.Remove(name); release() }, nil
}

// Names of the run folder's files, beside bootcheck.FactoryDamage.
const (
	lastBootFile    = "last-boot"
	factoryVerified = "factory-verified"
)

// Booted notes how the boot before the boot bootID ended: one of the classes of
// ota_last_boot. Only the first to say so in a boot knows it: seen says that this
// boot is the same as before if its ID is.
func (d *Desk) Booted(bootID, class string, seen bool) error {
	if said, _ := d.read(lastBootFile); seen && strings.HasSuffix(said, " "+bootID) {
		return nil
	}
	return d.note(lastBootFile, class+" "+bootID)
}

// FactoryWhole notes that every byte of the factory version was found right just
// now. version empty: it was not.
func (d *Desk) FactoryWhole(version string) error {
	if version != "" {
		return d.note(factoryVerified, version)
	}
	if err := os.Remove(filepath.Join(d.cfg.Run, factoryVerified)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// note writes a line about this boot into the run folder.
func (d *Desk) note(name, line string) error {
	if !d.on() {
		return nil
	}
	if err := os.MkdirAll(d.cfg.Run, 0o755); err != nil {
		return err
	}
	return bootcheck.ReplaceFile(filepath.Join(d.cfg.Run, name), []byte(line+"\n"), 0o644, false)
}

// facts are all that the files say.
type facts struct {
	cfg       *config.Config
	record    *bootcheck.Record // one of an empty store names no current version
	damaged   bool              // the record, or a link, was not what it should be
	release   int64             // of the current version; 0: not counted
	versions  int               // snapshots in the store
	leftovers int
	free      bootcheck.Space
	installs  *installs
	lastBoot  string // empty: not known
	factory   *factoryCheck
}

// A factoryCheck is the last look at every byte of factory in this boot.
type factoryCheck struct {
	whole bool
	at    time.Time
}

// gather reads few and small files: it runs in each boot. No manifest is read whole.
func (d *Desk) gather() (*facts, error) {
	f := &facts{cfg: d.cfg, record: &bootcheck.Record{}}
	active, err := d.store.Active()
	switch {
	case err == nil:
		f.record, f.damaged = active.Record, active.Damage != ""
	case errors.Is(err, bootcheck.ErrEmpty):
	case errors.Is(err, bootcheck.ErrRecord):
		f.damaged = true
	default:
		return nil, err
	}
	if current := f.record.Current; current != nil {
		f.release = d.store.Release(current.Version)
	}
	names, err := d.store.VersionNames()
	if err != nil {
		return nil, err
	}
	f.versions, f.leftovers = len(names), d.store.Leftovers()
	if f.free, err = d.store.Free(); err != nil {
		return nil, err
	}
	f.installs = readInstalls(d.installsFile())
	said, _ := d.read(lastBootFile)
	f.lastBoot, _, _ = strings.Cut(said, " ")
	if factory := f.record.Factory; factory != nil {
		if _, at := d.read(bootcheck.FactoryDamage); !at.IsZero() {
			f.factory = &factoryCheck{false, at}
		} else if version, at := d.read(factoryVerified); version == factory.Version {
			f.factory = &factoryCheck{true, at}
		}
	}
	return f, nil
}

// read is what a file of the run folder says, and since when; the zero time: it is
// not there.
func (d *Desk) read(name string) (string, time.Time) {
	name = filepath.Join(d.cfg.Run, name)
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > 4<<10 {
		return "", time.Time{}
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return "", time.Time{}
	}
	return strings.TrimSpace(string(data)), info.ModTime()
}

// text is the file for the collector.
func (f *facts) text() []byte {
	var b bytes.Buffer
	for _, m := range table {
		first := true
		m.samples(f, func(value float64, labels ...string) {
			if first {
				fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", m.name, escape(m.help, false), m.name, m.kind)
				first = false
			}
			b.WriteString(m.name)
			for i := 0; i+1 < len(labels); i += 2 {
				b.WriteByte("{,"[min(i, 1)])
				b.WriteString(labels[i] + `="` + escape(labels[i+1], true) + `"`)
			}
			if len(labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteByte(' ')
			b.Write(strconv.AppendFloat(nil, value, 'f', -1, 64))
			b.WriteByte('\n')
		})
	}
	return b.Bytes()
}

// escape is s as the text format wants it in a HELP line, or quoted in a label.
func escape(s string, quoted bool) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.ReplaceAll(s, `\`, `\\`)
	s = strings.ReplaceAll(s, "\n", `\n`)
	if quoted {
		s = strings.ReplaceAll(s, `"`, `\"`)
	}
	return s
}
