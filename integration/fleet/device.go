// Package fleet makes up a fleet of devices, a day of it, and what Prometheus has
// scraped of it at the end. Nothing waits and nothing is at random: the same story
// gives the same figures.
//
// Made up are the events, when they happen, how long an install takes, and the room
// on the disk. What a device makes of an event is the product's: the guardian's own
// functions decide, the store commits the record that they return, and package
// metrics writes the file that node_exporter would read.
//
//	story.go    what happens to which of the devices, and when
//	device.go   a device: install, boot, crash, and the file after each
//	scraped.go  the files as what Prometheus gets to see of them
package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/metrics"
	"github.com/tope-ota/ota/guardian"
)

// A Device is one of the fleet, with what it has told so far.
type Device struct {
	Instance string // as Prometheus knows it
	Told     []Told // oldest first

	rng    *rand.Rand
	at     time.Time // it is now for this device
	boots  int
	cfg    *config.Config
	store  *bootcheck.Store
	desk   *metrics.Desk
	record *bootcheck.Record
	disk   guardian.Disk
	others uint64 // bytes that the application fills its disk with
	err    error  // the first; nothing happens after it
}

// Told is what a device's file says from a time on.
type Told struct {
	At   time.Time
	File []byte // nil: it is switched off
}

// A release that devices install.
type release struct {
	version string
	counter int64
	bytes   uint64
}

const (
	diskBytes  = 4 << 30
	diskInodes = 262144
)

// newDevice has run current for weeks: with previous and factory behind it, of which
// factory may be missing. dir is for its store.
func newDevice(dir, instance string, seed uint64, at time.Time, factory, previous, current *release) *Device {
	d := &Device{Instance: instance, rng: rand.New(rand.NewPCG(seed, 6)), at: at}
	d.cfg = config.Default(filepath.Join(dir, "ota.toml"))
	d.cfg.Root, d.cfg.Run, d.cfg.Model = filepath.Join(dir, "versions"), filepath.Join(dir, "run"), "x1"
	d.cfg.Metrics.File = filepath.Join(d.cfg.Run, "ota.prom")
	d.do(os.MkdirAll(d.cfg.Run, 0o755))
	d.do(os.Mkdir(d.cfg.Root, 0o755))
	if d.err != nil {
		return d
	}
	if d.store, d.err = bootcheck.Create(d.cfg.Root); d.err != nil {
		return d
	}
	d.desk = metrics.New(d.cfg, d.store)
	d.others = 2900<<20 + uint64(d.rng.IntN(400))<<20

	r := &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Floor: current.counter}
	for _, is := range []struct {
		release *release
		as      **bootcheck.Ref
	}{{factory, &r.Factory}, {previous, &r.Previous}, {current, &r.Current}} {
		if is.release == nil {
			continue
		}
		d.unpack(is.release)
		*is.as = is.release.ref()
		r.Confirm(*is.release.ref())
	}
	d.commit(r)
	d.ended(&metrics.Install{Version: current.version, Ended: at.Add(-21 * 24 * time.Hour).Unix()}, nil, 64<<20,
		map[string]float64{"downloading": 31, "installing": 6, "rebooting": 3, metrics.StageJudging: 66})
	d.boot(guardian.LastUnclean)
	d.pass(3 * time.Minute)
	d.factoryChecked()
	return d
}

func (r *release) ref() *bootcheck.Ref {
	return &bootcheck.Ref{Version: r.version, Digest: "sha256:" + r.version}
}

// do keeps the first error.
func (d *Device) do(err error) {
	if d.err == nil && err != nil {
		d.err = fmt.Errorf("%s, %s: %w", d.Instance, d.at.Format(time.DateTime), err)
	}
}

// pass lets time go by.
func (d *Device) pass(t time.Duration) { d.at = d.at.Add(t) }

// about is t, give or take a fifth.
func (d *Device) about(t time.Duration) time.Duration {
	return t*4/5 + time.Duration(d.rng.Int64N(int64(t)*2/5)).Round(time.Second)
}

// unpack puts a version into the store: of its manifest as much as is read for the
// metrics.
func (d *Device) unpack(r *release) {
	dir := filepath.Join(d.store.VersionDir(r.version), bootcheck.ManifestDir)
	d.do(os.MkdirAll(dir, 0o755))
	manifest := fmt.Sprintf(`{"format":1,"models":["x1"],"version":%q,"release":%d,"size":%d,"entries":[`, r.version, r.counter, r.bytes)
	d.do(os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(manifest), 0o644))
}

// commit makes next what the device runs, and removes what an install would.
func (d *Device) commit(next *bootcheck.Record) {
	if d.err != nil || next == nil {
		return
	}
	d.do(d.store.Commit(next))
	d.record = next
	if next.Phase != bootcheck.PhaseConfirmed || d.err != nil {
		return
	}
	names, err := d.store.VersionNames()
	d.do(err)
	for _, version := range names {
		named := slices.ContainsFunc([]*bootcheck.Ref{next.Current, next.Previous, next.Factory}, func(r *bootcheck.Ref) bool {
			return r != nil && r.Version == version
		})
		if !named {
			d.do(os.RemoveAll(d.store.VersionDir(version)))
		}
	}
}

// room are the metrics whose value is of this machine's disk, not the device's.
var room = regexp.MustCompile(`(?m)^(ota_store_free_bytes|ota_store_free_inodes) .*$`)

// tell publishes how the device is.
func (d *Device) tell() {
	if d.err != nil {
		return
	}
	d.do(d.desk.Publish())
	text, err := os.ReadFile(d.cfg.Metrics.File)
	d.do(err)
	names, err := d.store.VersionNames()
	d.do(err)
	free := uint64(diskBytes) - d.others
	for _, name := range names {
		free -= sizes[name]
	}
	n := 0
	text = room.ReplaceAllFunc(text, func(line []byte) []byte {
		n++
		name, _, _ := bytes.Cut(line, []byte(" "))
		value := free
		if string(name) == "ota_store_free_inodes" {
			value = diskInodes - uint64(len(names))*900
		}
		return fmt.Appendf(nil, "%s %d", name, value)
	})
	if n == 0 {
		d.do(errors.New("the file says nothing about the room on the disk: has a metric another name?"))
	}
	d.Told = append(d.Told, Told{d.at, text})
}

// off is the power switch.
func (d *Device) off() { d.Told = append(d.Told, Told{At: d.at}) }

// boot is ota-guardian boot, on a device whose run folder is empty.
func (d *Device) boot(last guardian.LastBoot) {
	if d.err != nil {
		return
	}
	d.boots++
	id := d.bootID()
	d.do(os.RemoveAll(d.cfg.Run))
	d.do(os.Mkdir(d.cfg.Run, 0o755))
	before := d.record
	t := d.cfg.Trial
	decision := guardian.Decide(before, d.disk, guardian.Boot{ID: id, Last: last,
		Budget: guardian.Budget{Hard: t.Hard, Unclean: t.Unclean, Clean: t.Clean, Streak: 5}})
	d.commit(decision.Next)
	class := string(last)
	if last == guardian.LastUnclean && !before.Phase.Counted() {
		class = metrics.BootUnknown // an orderly end leaves a mark only while something is on trial
	}
	d.do(d.desk.Booted(id, class, false))
	d.tell()
}

func (d *Device) bootID() string { return fmt.Sprintf("boot-%d", d.boots) }

// factoryChecked is what ota-factory.service does some minutes after each boot.
func (d *Device) factoryChecked() {
	if d.err != nil || d.record.Factory == nil {
		return
	}
	damage := filepath.Join(d.cfg.Run, bootcheck.FactoryDamage)
	if text := d.disk.Damaged[d.record.Factory.Version]; text != "" {
		d.do(d.desk.FactoryWhole(""))
		d.do(os.WriteFile(damage, []byte(text+"\n"), 0o644))
	} else {
		if err := os.Remove(damage); !errors.Is(err, fs.ErrNotExist) {
			d.do(err)
		}
		d.do(d.desk.FactoryWhole(d.record.Factory.Version))
	}
	files, err := os.ReadDir(d.cfg.Run)
	d.do(err)
	for _, f := range files { // when they were written is told, too
		d.do(os.Chtimes(filepath.Join(d.cfg.Run, f.Name()), d.at, d.at))
	}
	d.tell()
}

// recordRots damages the record that the device goes by.
func (d *Device) recordRots() {
	if d.err != nil {
		return
	}
	d.commit(d.record.Clone()) // an older one to go on with
	generation, err := os.Readlink(filepath.Join(d.cfg.Root, ".active"))
	d.do(err)
	d.do(os.WriteFile(filepath.Join(d.cfg.Root, generation, "record.json"), []byte("{\"schema\":1,\x00"), 0o644))
	d.tell()
}

// ended is the end of an install, by err. last has what differs.
func (d *Device) ended(last *metrics.Install, err error, downloaded uint64, seconds map[string]float64) {
	if d.err != nil {
		return
	}
	last.Result, last.Exit = metrics.Success, bootcheck.Exit(err)
	if err != nil {
		last.Result = bootcheck.ReportCode(err)
	}
	if last.Ended == 0 {
		last.Ended = d.at.Unix()
	}
	last.Downloaded, last.Seconds = downloaded, seconds
	d.do(d.desk.Ended(*last))
}

// An install of a release: what is special about it.
type install struct {
	resumes    int
	fails      error                       // of the download: nothing changed
	crashes    bool                        // the new version's service ends again and again
	failsCheck string                      // a check that the new version and the old one fail
	interrupt  func(d *Device, r *release) // instead of a verdict
}

// install is ota-apply install with all that follows from it.
func (d *Device) install(r *release, how install) {
	if d.err != nil {
		return
	}
	// A device reuses what it has. A bad line takes longer.
	fetch := r.bytes/4 + uint64(d.rng.IntN(int(r.bytes/16)))
	download := d.about(time.Duration(25+40*how.resumes) * time.Second)
	unpack, restart := d.about(7*time.Second), d.about(3*time.Second)
	last := &metrics.Install{Version: r.version, Reused: r.bytes - fetch, Resumes: how.resumes}
	seconds := map[string]float64{"downloading": download.Seconds()}
	if how.fails != nil {
		d.pass(download)
		if bootcheck.Exit(how.fails) == bootcheck.ExitNoSpace {
			fetch = 0 // refused as soon as the head was there
		}
		d.ended(last, how.fails, fetch/2, seconds)
		d.tell()
		return
	}
	d.pass(download + unpack)
	d.unpack(r)
	d.commit(d.record.Activate(r.ref(), d.bootID(), nil, func(*bootcheck.Ref) bool { return true }))
	d.tell()
	d.pass(restart)
	seconds["installing"], seconds["rebooting"] = unpack.Seconds(), restart.Seconds()
	if how.interrupt != nil {
		how.interrupt(d, r) // ota-apply was killed with the power: nothing is counted
		return
	}
	begin := d.at
	var err error
	switch {
	case how.crashes:
		d.pass(d.about(40 * time.Second))
		d.condemn(guardian.Failure{Cause: bootcheck.CauseCrash, Check: "device-api.service"})
		err = bootcheck.Errorf(bootcheck.ExitRolledBack, bootcheck.CodeRolledToPrevious, "rolled back")
		if d.record.LastRollback.Level == bootcheck.LevelFactory {
			err = bootcheck.Errorf(bootcheck.ExitRolledBack, bootcheck.CodeRolledToFactory, "rolled back")
		}
		d.confirm()
	case how.failsCheck != "":
		for range 2 {
			d.pass(d.cfg.Trial.Deadline)
			d.condemn(guardian.Failure{Cause: bootcheck.CauseHealth, Check: how.failsCheck})
		}
		err = bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "on hold")
	default:
		d.confirm()
	}
	seconds[metrics.StageJudging] = d.at.Sub(begin).Seconds()
	d.ended(last, err, fetch, seconds)
	d.tell()
}

// condemn is the guardian's verdict on a version that fails.
func (d *Device) condemn(f guardian.Failure) {
	if d.err == nil {
		d.commit(guardian.Condemn(d.record, d.disk, d.bootID(), f).Next)
		d.tell()
	}
}

// confirm is the guardian's verdict on a version whose checks stay good.
func (d *Device) confirm() {
	d.pass(d.cfg.Trial.Stable + d.about(15*time.Second))
	if d.err == nil {
		d.commit(guardian.Absolve(d.record, d.store.Release(d.record.Current.Version)).Next)
		d.tell()
	}
}
