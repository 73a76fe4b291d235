package applier

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/calendar"
	"github.com/tope-ota/ota/bootcheck"
)

// admit refuses a bundle for everything that its signed manifest says, before
// its payload is fetched. Each refusal has ExitRefused, but for the room that
// it needs (ExitNoSpace).
//
// coming is how much of the bundle has still to be downloaded, in bytes.
func (a *applier) admit(m *bootcheck.Manifest, digest string, coming int64, o installOptions) error {
	refuse := refusal(m)
	if a.cfg.Model != "" && !slices.Contains(m.Models, a.cfg.Model) {
		return refuse("it is for %s, this device is %q", strings.Join(m.Models, ", "), a.cfg.Model)
	}
	if today := a.calendar().Today(); m.NotAfter != nil && today.After(*m.NotAfter) {
		return refuse("it expired at %s", m.NotAfter.Format(time.RFC3339)).
			WithAdvice("ask for a newer one; if it is not %s or later, set the device's clock", today.UTC().Format(time.DateOnly))
	}
	record, err := a.record()
	if err != nil {
		return err
	}
	ref := &bootcheck.Ref{Version: m.Version, Digest: digest}
	if snapshot, err := a.store.Snapshot(m.Version); err == nil && snapshot.Ref == *ref {
		m = &bootcheck.Manifest{Version: m.Version, Models: m.Models, Release: m.Release} // it is here: it needs no room
	}
	if err := a.checkRelease(m, record, ref, o); err != nil {
		return err
	}
	if record == nil {
		return a.checkRoom(m, coming, nil)
	}
	if b := record.BlockedBy(ref); b != nil && !o.force {
		return refuse("it failed on this device (%s)", strings.TrimSuffix(b.Reason+": "+b.Check, ": ")).
			WithAdvice("`ota-apply unblock %s` or --force tries it again", m.Version)
	}
	for name, linked := range map[string]*bootcheck.Ref{"current": record.Current, "previous": record.Previous, "factory": record.Factory} {
		if linked != nil && linked.Version == m.Version && !linked.Same(ref) {
			return refuse("%s is a version of this name with other content", name).
				WithAdvice("give every release a version of its own")
		}
	}
	return a.checkRoom(m, coming, record)
}

// refusal makes refusals of m.
func refusal(m *bootcheck.Manifest) func(format string, args ...any) *bootcheck.Error {
	return func(format string, args ...any) *bootcheck.Error {
		return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, "version "+m.Version+" is refused: "+format, args...)
	}
}

// calendar says which date it is, for bundles that expire and for certificates.
func (a *applier) calendar() *calendar.Calendar {
	if a.dates == nil {
		a.dates = calendar.Open(a.cfg.Spool, a.clock)
	}
	return a.dates
}

// checkRoom refuses a version that does not fit beside what must stay. What may
// be removed to make room for it counts as free. coming bytes of the bundle are
// still to be spooled, which counts where the spool is on the same disk.
func (a *applier) checkRoom(m *bootcheck.Manifest, coming int64, record *bootcheck.Record) error {
	free, err := a.store.Free()
	if err != nil {
		return err
	}
	bytes, inodes := need(m, free.Block)
	bytes += uint64(a.cfg.Reserve)
	if coming > 0 && sameDisk(a.cfg.Spool, a.store.Dir()) {
		bytes += uint64(coming)
	}
	if record != nil {
		surplus, err := a.store.Surplus(record, 0)
		if err != nil {
			return err
		}
		for _, version := range surplus {
			if old, err := a.store.Snapshot(version); err == nil {
				b, i := need(old.Manifest, free.Block)
				free.Bytes += b
				free.Inodes += i
			}
		}
	}
	noRoom := func(format string, args ...any) error {
		return bootcheck.Errorf(bootcheck.ExitNoSpace, bootcheck.CodeDiskFull, "no room for version %s: %s", m.Version, fmt.Sprintf(format, args...)).
			WithAdvice("free some of the disk of %s, or lower `reserve` in the configuration", a.store.Dir())
	}
	switch {
	case bytes > free.Bytes:
		return noRoom("it needs %d MiB with the reserve of %d MiB, %d MiB can be had", bytes>>20, int64(a.cfg.Reserve)>>20, free.Bytes>>20)
	case inodes > free.Inodes && !free.NoInodes:
		return noRoom("it needs %d inodes, %d can be had", inodes, free.Inodes)
	}
	return nil
}

// sameDisk reports whether both folders are on one file system; when nobody
// knows, they are.
func sameDisk(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) != nil || unix.Stat(b, &y) != nil || x.Dev == y.Dev
}

// need is what a version takes on a file system with blocks of block bytes:
// each file rounded up, a block for each directory and link, and as much as its
// manifest has entries for the manifest itself.
func need(m *bootcheck.Manifest, block uint64) (bytes, inodes uint64) {
	for _, e := range m.Entries {
		bytes += (uint64(e.Size) + block - 1) / block * block
		if e.Type != bootcheck.TypeFile {
			bytes += block
		}
	}
	const manifestLine = 256 // bytes of one entry in the manifest, with a long path
	bytes += uint64(len(m.Entries)+len(m.Frames)) * manifestLine
	return bytes, uint64(len(m.Entries)) + 4
}
