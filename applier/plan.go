package applier

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
)

// A plan is what an install does to the disk, known from the bundle's head: before
// the payload is fetched and before anything is removed.
type plan struct {
	here     bool  // the very version is in the store: nothing is to be done
	download int64 // bytes that have still to be fetched
	requests int   // that these take
	reused   int64 // bytes of content that other versions have
	files    int   // that these are in
	from     []string
	write    int64 // bytes of content that come out of the bundle

	need   bootcheck.Space // what it takes at its peak, with the reserve and the spool
	free   bootcheck.Space // what there is, without what is removed
	remove []string        // versions that have to go to make room, in order
	freed  bootcheck.Space // what that gives

	offers *offers // of the versions that stay; nil if here
}

// plan says how b comes into the store, or refuses it for want of room
// (ExitNoSpace). It looks at the disk and changes nothing.
func (a *applier) plan(b *openBundle) (*plan, error) {
	if snapshot, err := a.store.Snapshot(b.manifest.Version); err == nil && snapshot.Ref.Digest == b.digest {
		free, err := a.store.Free()
		return &plan{here: true, free: free}, err
	}
	return a.planUnpack(b, nil, nil)
}

// planUnpack is plan of a version that has to be unpacked, also if it is there. u has taken from them what can be shared, nil: nothing yet.
// stays are versions that cannot be removed.
func (a *applier) planUnpack(b *openBundle, u *bundle.Unpacker, stays []string) (*plan, error) {
	record := b.record
	free, err := a.store.Free()
	if err != nil {
		return nil, err
	}
	var swept bootcheck.Space // by an install, before it comes here; a dry run changes nothing
	if a.report == nil {
		swept, _ = a.store.Leavings() // what cannot be read makes no room
	}
	p := &plan{free: free, freed: swept}
	var surplus []string
	if record != nil {
		if surplus, err = a.store.Surplus(record, 0); err != nil {
			return nil, err
		}
		// What is replaced goes anyway, and gives nothing to itself.
		surplus = slices.DeleteFunc(surplus, func(v string) bool { return v == b.manifest.Version || slices.Contains(stays, v) })
	}
	// Where a copy of all of it has room, it does not matter what can be shared; but a dry
	// run says how little it takes.
	looks := []bool{false, true}
	if a.report == nil {
		looks = looks[1:]
	}
	for _, look := range looks {
		if p.offers, err = a.offers(b.manifest, record, look); err != nil {
			return nil, err
		}
		if p.estimate(b, u, a.cfg); p.fits() {
			p.offers.roomy = !look
			return p, nil
		}
	}
	for _, version := range surplus {
		remove := append(slices.Clone(p.remove), version)
		freed, _, err := a.store.Occupied(remove...)
		if err != nil {
			a.logf("version %s stays, as it is not known how much room that makes: %v", version, err)
			continue
		}
		p.remove, p.freed = remove, freed
		p.offers.without(version)
		p.freed.Bytes += swept.Bytes
		p.freed.Inodes += swept.Inodes
		if p.estimate(b, u, a.cfg); p.fits() {
			return p, nil
		}
	}
	return nil, p.refusal(b, a.store.Dir(), int64(a.cfg.Reserve))
}

// sayPlan says what an install of b fetches, and what other versions give.
func (a *applier) sayPlan(b *openBundle) {
	p, m := b.plan, b.manifest
	if p == nil || p.here {
		return
	}
	if b.now != nil {
		a.say("downloading %s: %s, %s reused", m.Version, bootcheck.Size(p.download+b.now.Have), bootcheck.Size(p.reused))
		spans := b.head.Missing(m, p.offers.offered)
		a.detail("bundle: %s in %s; %s to download", bootcheck.Size(b.head.Size(m)),
			cli.Plural(len(m.Frames), "frame", "frames"), cli.Plural(len(spans), "range", "ranges"))
	} else {
		a.say("unpacking %s: %s, %s reused", m.Version, bootcheck.Size(p.write), bootcheck.Size(p.reused))
	}
	if p.files > 0 {
		a.detail("reused: %s in %s of %s", bootcheck.Size(p.reused), cli.Plural(p.files, "file", "files"), strings.Join(p.from, ", "))
	}
}

func (p *plan) fits() bool {
	return p.need.Bytes <= p.free.Bytes+p.freed.Bytes && (p.free.NoInodes || p.need.Inodes <= p.free.Inodes+p.freed.Inodes)
}

func (p *plan) refusal(b *openBundle, dir string, reserve int64) error {
	why := fmt.Sprintf("it needs %s with the reserve of %s, %s are available",
		bootcheck.Size(int64(p.need.Bytes)), bootcheck.Size(reserve), bootcheck.Size(int64(p.free.Bytes+p.freed.Bytes)))
	if p.need.Bytes <= p.free.Bytes+p.freed.Bytes {
		why = fmt.Sprintf("it needs %d inodes, %d are available", p.need.Inodes, p.free.Inodes+p.freed.Inodes)
	}
	return bootcheck.Errorf(bootcheck.ExitNoSpace, bootcheck.CodeDiskFull, "not enough space for version %s: %s", b.manifest.Version, why).
		WithAdvice("free space on the disk of %s, or lower `reserve` in the configuration", dir)
}

// estimate fills in what b takes when other versions give what they offer. What u has is
// there already; the rest could not be shared.
func (p *plan) estimate(b *openBundle, u *bundle.Unpacker, cfg *config.Config) {
	o, m, block := p.offers, b.manifest, p.free.Block
	p.reused, p.files, p.from = 0, 0, nil
	p.need = bootcheck.Space{Inodes: uint64(len(m.Entries)) + 4}
	var gave uint8
	for i := range m.Entries {
		e := &m.Entries[i]
		from, shared := o.has[i], o.shared[i] != 0
		if from != 0 {
			p.reused += e.Size
			p.files++
			gave |= from
		}
		if u != nil {
			shared = u.Have[i]
		}
		switch {
		case u != nil && e.Type != bootcheck.TypeFile: // it was made first
		case e.Type != bootcheck.TypeFile:
			p.need.Bytes += block
		case !shared: // else it is the same blocks, by a clone or by another name
			p.need.Bytes += (uint64(e.Size) + block - 1) / block * block
		}
	}
	for d, donor := range o.donors {
		if gave&(1<<d) != 0 {
			p.from = append(p.from, donor.version)
		}
	}
	p.write = m.Size - p.reused
	have := b.head.Size(m) - b.coming
	var wanted int64
	var parts []fetch.Part
	for _, s := range b.head.Missing(m, func(i int) bool { return o.has[i] != 0 || u != nil && u.Have[i] }) {
		if first := max(s.First, have); first < s.End {
			wanted += s.End - first
			parts = append(parts, fetch.Part{First: first, End: s.End})
		}
	}
	p.download, p.requests = wanted, fetch.Requests(parts)
	if b.patch != nil { // it comes with what was asked for its head
		p.download, p.requests = b.coming, 0
	}

	const manifestLine = 256 // bytes of one entry in the manifest, with a long path
	p.need.Bytes += uint64(len(m.Entries)+len(m.Frames)) * manifestLine
	p.need.Bytes += uint64(cfg.Reserve)
	if p.download > 0 && sameDisk(cfg.Spool, cfg.Root) {
		p.need.Bytes += uint64(p.download)
	}
}

// sameDisk reports whether both directories are on one file system; when that
// is not known, they are.
func sameDisk(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) != nil || unix.Stat(b, &y) != nil || x.Dev == y.Dev
}
