package applier

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// A plan is what an install does to the disk, known from the bundle's head: before
// the payload is fetched and before anything is removed.
type plan struct {
	here     bool  // the very version is in the store: nothing is to be done
	download int64 // bytes that have still to be fetched
	reused   int64 // bytes of content that other versions have
	files    int   // that these are in
	from     []string
	write    int64 // bytes of content that come out of the bundle

	need   bootcheck.Space // what it takes at its peak, with the reserve and the spool
	free   bootcheck.Space // what there is, without what is removed
	remove []string        // versions that have to go to make room, in order
	freed  bootcheck.Space // what that gives
}

// plan says how b comes into the store, or refuses it for want of room
// (ExitNoSpace). It looks at the disk and changes nothing. stays are versions that
// cannot be removed.
func (a *applier) plan(b *openBundle, record *bootcheck.Record, stays ...string) (*plan, error) {
	free, err := a.store.Free()
	if err != nil {
		return nil, err
	}
	p := &plan{free: free}
	if snapshot, err := a.store.Snapshot(b.manifest.Version); err == nil && snapshot.Ref.Digest == b.digest {
		p.here = true
		return p, nil
	}
	var surplus []string
	if record != nil {
		if surplus, err = a.store.Surplus(record, 0); err != nil {
			return nil, err
		}
		// What is replaced goes anyway, and gives nothing to itself.
		surplus = slices.DeleteFunc(surplus, func(v string) bool { return v == b.manifest.Version || slices.Contains(stays, v) })
	}
	offers, err := a.offers(b.manifest, record)
	if err != nil {
		return nil, err
	}
	for {
		p.estimate(b, offers, a.cfg)
		if p.fits() {
			return p, nil
		}
		if len(surplus) == 0 {
			return nil, p.refusal(b, a.store.Dir(), int64(a.cfg.Reserve))
		}
		p.remove = append(p.remove, surplus[0])
		offers.without(surplus[0])
		surplus = surplus[1:]
		if p.freed, err = a.store.Occupied(p.remove...); err != nil {
			return nil, err
		}
	}
}

func (p *plan) fits() bool {
	return p.need.Bytes <= p.free.Bytes+p.freed.Bytes && (p.free.NoInodes || p.need.Inodes <= p.free.Inodes+p.freed.Inodes)
}

func (p *plan) refusal(b *openBundle, dir string, reserve int64) error {
	why := fmt.Sprintf("it needs %d MiB with the reserve of %d MiB, %d MiB can be had",
		p.need.Bytes>>20, reserve>>20, (p.free.Bytes+p.freed.Bytes)>>20)
	if p.need.Bytes <= p.free.Bytes+p.freed.Bytes {
		why = fmt.Sprintf("it needs %d inodes, %d can be had", p.need.Inodes, p.free.Inodes+p.freed.Inodes)
	}
	return bootcheck.Errorf(bootcheck.ExitNoSpace, bootcheck.CodeDiskFull, "no room for version %s: %s", b.manifest.Version, why).
		WithAdvice("free some of the disk of %s, or lower `reserve` in the configuration", dir)
}

// estimate fills in what b takes when other versions give what they offer.
func (p *plan) estimate(b *openBundle, o *offers, cfg *config.Config) {
	m, block := b.manifest, p.free.Block
	p.reused, p.files, p.from = 0, 0, nil
	p.need = bootcheck.Space{Inodes: uint64(len(m.Entries)) + 4}
	var gave uint8
	for i := range m.Entries {
		e := &m.Entries[i]
		from, shared := o.of(i)
		if from != 0 {
			p.reused += e.Size
			p.files++
			gave |= from
		}
		switch {
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
	var wanted int64
	for _, s := range b.head.Missing(m, func(i int) bool { from, _ := o.of(i); return from != 0 }) {
		wanted += s.End - s.First
	}
	p.download = min(b.coming, wanted)

	const manifestLine = 256 // bytes of one entry in the manifest, with a long path
	p.need.Bytes += uint64(len(m.Entries)+len(m.Frames)) * manifestLine
	p.need.Bytes += uint64(cfg.Reserve)
	if p.download > 0 && sameDisk(cfg.Spool, cfg.Root) {
		p.need.Bytes += uint64(p.download)
	}
}

// A donor is a version of the store that the new one may take files from.
type donor struct {
	version string
	share   bool // the files may be the same on the disk
}

// offers are what other versions of the store have of a new one. Their manifests
// are read one after another: a device has little memory.
type offers struct {
	donors []donor
	has    []uint8 // by entry of the new version: a bit for each donor that has its content
}

// maxDonors bounds the time that it takes to read manifests: a file that none of
// the newest versions has is rarely in an older one.
const maxDonors = 4

// offers asks the versions of the store, the most like m first: what runs, then
// the newest. Factory comes last and shares nothing: it must not suffer from what
// is done to another version. record nil: nothing is installed yet.
func (a *applier) offers(m *bootcheck.Manifest, record *bootcheck.Record) (*offers, error) {
	o := &offers{has: make([]uint8, len(m.Entries))}
	names, err := a.store.VersionNames()
	if err != nil || record == nil {
		return o, err
	}
	rank := func(version string) int {
		switch {
		case record.Factory != nil && record.Factory.Version == version:
			return 2
		case record.Current.Version == version:
			return 0
		}
		return 1
	}
	slices.Reverse(names)
	slices.SortStableFunc(names, func(x, y string) int { return rank(x) - rank(y) })
	wanted := make(map[string][]int) // by content
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeFile && e.Size > 0 {
			wanted[e.SHA256] = append(wanted[e.SHA256], i)
		}
	}
	for _, version := range names {
		if len(o.donors) == maxDonors {
			break
		}
		if version == m.Version {
			continue
		}
		snapshot, err := a.store.Snapshot(version)
		if err != nil {
			continue // not a version to take anything from
		}
		for i := range snapshot.Manifest.Entries {
			if e := &snapshot.Manifest.Entries[i]; e.Type == bootcheck.TypeFile {
				for _, k := range wanted[e.SHA256] {
					o.has[k] |= 1 << len(o.donors)
				}
			}
		}
		o.donors = append(o.donors, donor{version, a.cfg.Reuse != config.ReuseCopy && rank(version) < 2})
	}
	return o, nil
}

// of are the donors that have the content of entry i, and whether the first of
// them shares it.
func (o *offers) of(i int) (donors uint8, shared bool) {
	donors = o.has[i]
	return donors, donors != 0 && o.donors[bits.TrailingZeros8(donors)].share
}

// without forgets what version offers.
func (o *offers) without(version string) {
	for d, donor := range o.donors {
		if donor.version == version {
			for i := range o.has {
				o.has[i] &^= 1 << d
			}
		}
	}
}

// takeOffers gets from other versions what they have of u.
func (a *applier) takeOffers(ctx context.Context, u *bundle.Unpacker, m *bootcheck.Manifest) error {
	record, err := a.record()
	if err != nil {
		return err
	}
	o, err := a.offers(m, record)
	if err != nil {
		return err
	}
	for d, donor := range o.donors {
		if !slices.ContainsFunc(o.has, func(from uint8) bool { return from&(1<<d) != 0 }) {
			continue
		}
		if err := a.takeFrom(ctx, u, donor, record); err != nil {
			return err
		}
	}
	a.account.took(u.Reused())
	return nil
}

func (a *applier) takeFrom(ctx context.Context, u *bundle.Unpacker, d donor, record *bootcheck.Record) error {
	snapshot, err := a.store.Snapshot(d.version)
	if err != nil {
		return nil // removed, or damaged meanwhile: it comes out of the bundle
	}
	root, err := os.OpenRoot(snapshot.Dir)
	if err != nil {
		return nil
	}
	defer root.Close()
	var damaged int
	var first string
	err = u.Take(ctx, bundle.Donor{Root: root, Manifest: snapshot.Manifest, Share: d.share, Damaged: func(path string, why error) {
		damaged++
		first = cmp.Or(first, fmt.Sprintf("%s: %v", path, why))
	}})
	if damaged > 0 {
		a.foundDamage(&snapshot.Ref, record, damaged, first)
	}
	return err
}

// foundDamage tells that files of ref, which an install wanted to reuse, are not what
// its manifest says: the install does not need them.
func (a *applier) foundDamage(ref *bootcheck.Ref, record *bootcheck.Record, files int, first string) {
	text := fmt.Sprintf("version %s is damaged: %s", ref, first)
	if files > 1 {
		text += fmt.Sprintf(" (and %d more files)", files-1)
	}
	a.logf("warning: %s; not reused", text)
	a.logf("hint: `ota-guardian verify --repair %s` repairs it from other versions", ref)
	a.account.found(files)
	if ref.Same(record.Factory) {
		if err := bootcheck.FlagFactory(a.cfg.Run, "factory "+text); err != nil {
			a.logf("cannot tell status about the factory version: %v", err)
		}
	}
}

// sameDisk reports whether both folders are on one file system; when nobody
// knows, they are.
func sameDisk(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) != nil || unix.Stat(b, &y) != nil || x.Dev == y.Dev
}
