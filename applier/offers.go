package applier

// What other versions of the store have of a new one, and how it is taken from them.

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

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
	shared []uint8 // and for each with which it can be the same on the disk, as far as was looked
	roomy  bool    // there is room for a copy of all of it
}

// maxDonors bounds the time that it takes to read manifests: a file that none of
// the newest versions has is rarely in an older one.
const maxDonors = 4

// offers asks the versions of the store, the most like m first: the current version, then
// the newest. Factory comes last and shares nothing, also when it is what is installed: it must
// not suffer from what is done to another version. look: it matters what can be shared, which costs the metadata
// of each file. record nil: nothing is installed yet.
func (a *applier) offers(m *bootcheck.Manifest, record *bootcheck.Record, look bool) (*offers, error) {
	o := &offers{has: make([]uint8, len(m.Entries)), shared: make([]uint8, len(m.Entries))}
	names, err := a.store.VersionNames()
	if err != nil || record == nil {
		return o, err
	}
	factory := func(version string) bool { return record.Factory != nil && record.Factory.Version == version }
	rank := func(version string) int {
		switch {
		case factory(version):
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
		snapshot, err := a.snapshot(record, version)
		if err != nil {
			continue // not a version to take anything from
		}
		d := donor{version, a.cfg.Reuse != config.ReuseCopy && !factory(version) && !factory(m.Version)}
		bit := uint8(1) << len(o.donors)
		var files []*bootcheck.Entry // of the donor
		for i := range snapshot.Manifest.Entries {
			e := &snapshot.Manifest.Entries[i]
			if e.Type != bootcheck.TypeFile || len(wanted[e.SHA256]) == 0 {
				continue
			}
			files = append(files, e)
			for _, k := range wanted[e.SHA256] {
				o.has[k] |= bit
			}
		}
		if look && d.share && !a.unshared && len(files) > 0 {
			disk := lookAtSharing(a.store.Dir(), filepath.Join(snapshot.Dir, files[0].Path))
			var mu sync.Mutex
			bootcheck.Parallel(len(files), func(share iter.Seq[int]) {
				for i := range share {
					from := disk.look(filepath.Join(snapshot.Dir, files[i].Path))
					mu.Lock()
					for n, k := range wanted[files[i].SHA256] {
						if disk.can(from, &m.Entries[k], n) {
							o.shared[k] |= bit
						}
					}
					mu.Unlock()
				}
			})
		}
		o.donors = append(o.donors, d)
	}
	return o, nil
}

// without forgets what version offers.
func (o *offers) without(version string) {
	for d, donor := range o.donors {
		if donor.version == version {
			for i := range o.has {
				o.has[i] &^= 1 << d
				o.shared[i] &^= 1 << d
			}
		}
	}
}

// offered reports whether a version has the content of entry i of the new one.
func (o *offers) offered(i int) bool { return o.has[i] != 0 }

// planned reports whether there are offers, and there is room for the new version however
// much of them can be the same on the disk.
func (o *offers) planned() bool {
	some := false
	for i, from := range o.has {
		if from != 0 && o.shared[i] == 0 && !o.roomy {
			return false
		}
		some = some || from != 0
	}
	return some
}

// missing reports whether u lacks some of what is in some of entries.
func missing(u *bundle.Unpacker, entries []uint8, some uint8) bool {
	for i, from := range entries {
		if from&some != 0 && !u.Have[i] {
			return true
		}
	}
	return false
}

// A sharing is what can be seen, without changing anything, of how a donor's files can
// be the same blocks as the new version's. nil: they cannot.
type sharing struct {
	clones bool
	links  bool
	dev    uint64
}

const (
	// A file of a lower layer is copied when it gets another name (linux/magic.h).
	overlayMagic = 0x794c7630
	// ext4 has 65,000, others less: 32,000 is the lowest LINK_MAX of those that a
	// device has its versions on.
	maxLinks = 32000
)

// lookAtSharing looks at the file system of the store and at name, a file of the donor.
func lookAtSharing(store, name string) *sharing {
	var fs unix.Statfs_t
	var dir unix.Stat_t
	if unix.Statfs(store, &fs) != nil || unix.Stat(store, &dir) != nil {
		return nil
	}
	return &sharing{clones: clones(store, name), links: int64(fs.Type) != overlayMagic && sameProject(store, name), dev: dir.Dev}
}

// clones reports whether a file without a name in the directory store can be a clone of name.
func clones(store, name string) bool {
	from, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer from.Close()
	to, err := os.OpenFile(store, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return false
	}
	defer to.Close()
	return unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil
}

// sameProject reports whether what is made in the store may be linked to the file name:
// where projects have quotas, files of two of them may not be one.
func sameProject(store, name string) bool {
	dir, file := project(filepath.Join(store, ".staging")), project(name)
	const inherit = 0x200 // FS_XFLAG_PROJINHERIT, linux/fs.h
	return dir.flags&inherit == 0 || dir.id == file.id
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	flags, _, _, id, _ uint32
	_                  [8]byte
}

// project is the zero value where there is none.
func project(name string) (x fsxattr) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return x
	}
	defer f.Close()
	const get = 0x801c581f // FS_IOC_FSGETXATTR
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, f.Fd(), get, uintptr(unsafe.Pointer(&x)))
	return x
}

// look is what can asks of the donor's file name; nil: it cannot be linked, or need not.
func (s *sharing) look(name string) *unix.Statx_t {
	var x unix.Statx_t
	if s == nil || s.clones || !s.links || unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &x) != nil {
		return nil
	}
	return &x
}

// can reports whether e can be the same on the disk as the donor's file x, of look, after
// n others were made so.
func (s *sharing) can(x *unix.Statx_t, e *bootcheck.Entry, n int) bool {
	if s != nil && s.clones {
		return true
	}
	return x != nil && bootcheck.Linkable(uint32(x.Mode), x.Uid, x.Gid, e.Mode) &&
		unix.Mkdev(x.Dev_major, x.Dev_minor) == s.dev && uint64(x.Nlink)+uint64(n) < maxLinks &&
		x.Attributes&unix.STATX_ATTR_IMMUTABLE == 0 // what must not be changed gets no more names either
}

// takeOffers gets from other versions what they have of u, which is to be b: first what
// takes no room. If that is less than o says, there has to be room for the rest.
func (a *applier) takeOffers(ctx context.Context, u *bundle.Unpacker, b *openBundle, o *offers) error {
	take := func(noCopy bool) error {
		for d, donor := range o.donors {
			if noCopy && !donor.share || !missing(u, o.has, 1<<d) {
				continue
			}
			if err := a.takeFrom(ctx, u, donor, b.record, noCopy); err != nil {
				return err
			}
		}
		return nil
	}
	if err := take(true); err != nil && !bootcheck.IsNoSpace(err) {
		return err
	}
	if missing(u, o.shared, ^uint8(0)) {
		// What is written meanwhile is in no plan.
		if err := u.Wait(); err != nil {
			return err
		}
		var err error
		if o, err = a.makeRoom(ctx, b, u); err != nil {
			return err
		}
	}
	return take(false)
}

func (a *applier) takeFrom(ctx context.Context, u *bundle.Unpacker, d donor, record *bootcheck.Record, noCopy bool) error {
	snapshot, err := a.snapshot(record, d.version)
	if err != nil {
		return nil // removed, or damaged meanwhile: it comes out of the bundle
	}
	share := bootcheck.ShareNothing
	if d.share {
		share = bootcheck.ShareFile
	}
	var damaged int
	var first string
	err = u.Take(ctx, bootcheck.Donor{Dir: snapshot.Dir, Manifest: snapshot.Manifest, Share: share, NoCopy: noCopy, Damaged: func(path string, why error) {
		if _, known := a.damaged.LoadOrStore(d.version+"/"+path, true); known {
			return
		}
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
	if ref.Same(record.Factory) {
		if err := (bootcheck.FactoryCheck{Version: ref.Version, Damage: "factory " + text}).Keep(a.cfg.Run); err != nil {
			a.logf("cannot note the damage of the factory version: %v", err)
		}
	}
}
