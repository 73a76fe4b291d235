package blocks

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/try"
)

// sectorSize is what a disk writes whole or not at all: that of a loop device.
const sectorSize = 512

// A State is what a disk may hold when the power goes after its first Point
// entries. Seed 0: all of them arrived. Else chance decides, for each write since the
// last flush, whether it did, or only some of its sectors.
type State struct {
	Point int
	Seed  uint64
}

// A Replay makes the states of a recording. States whose points go up are cheap.
type Replay struct {
	r       *Recording
	durable *os.File // the first flushed entries, and those of them that were not flushed
	flushed int      // entries that are in durable
}

// NewReplay begins a replay; the caller closes it.
func NewReplay(r *Recording) (*Replay, error) {
	p := &Replay{r: r}
	if err := p.restart(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// restart makes durable what was there before the first entry.
func (p *Replay) restart() (err error) {
	p.Close()
	if p.durable, err = newDisk(p.r.Size); err != nil {
		return err
	}
	p.flushed = 0
	return copyDisk(p.durable, p.r.Base)
}

// Close gives the memory back.
func (p *Replay) Close() { _ = p.durable.Close() }

// A Set says which writes after the last flush a state has.
type Set struct {
	Flushed int // entries before it have all arrived
	Writes  []Write
	Torn    bool // some write arrived in part
}

// A Write is one of a Set.
type Write struct {
	Entry   int // from 1
	Sectors int // that it has
	Arrived []bool
}

// pending lists the writes among the first point entries that no flush has made
// durable, and the number of entries before them.
func (r *Recording) pending(point int) (flushed int, writes []int) {
	for i := point; i > 0; i-- {
		e := r.Entries[i-1]
		if e.Flags&Flush != 0 {
			flushed = i - 1
			if e.Length == 0 {
				flushed = i
			}
			break
		}
	}
	for i := flushed; i < point; i++ {
		if e := r.Entries[i]; e.Length > 0 && e.Flags&Mark == 0 {
			writes = append(writes, i)
		}
	}
	return flushed, writes
}

// Set decides what the state has.
func (r *Recording) Set(s State) Set {
	flushed, writes := r.pending(s.Point)
	set := Set{Flushed: flushed}
	rng := rand.New(rand.NewPCG(s.Seed, uint64(s.Point)))
	// How probable it is that a write arrived; all but one, and only one, are what
	// the order of two writes depends on.
	chance, except, but := 1.0, -1, false
	tear := 0.0
	if s.Seed != 0 && len(writes) > 0 {
		switch kind := rng.IntN(8); kind {
		case 0:
			chance = 0
		case 1:
			except = rng.IntN(len(writes))
		case 2:
			chance, except, but = 0, rng.IntN(len(writes)), true
		default:
			chance = []float64{0.1, 0.3, 0.5, 0.7, 0.9}[kind-3]
		}
		if rng.IntN(4) == 0 {
			tear = 0.3
		}
	}
	for n, i := range writes {
		e := r.Entries[i]
		w := Write{Entry: i + 1, Sectors: int((e.Length + sectorSize - 1) / sectorSize)}
		arrived := rng.Float64() < chance
		if n == except {
			arrived = but
		}
		if e.Flags&FUA != 0 {
			arrived = true
		}
		if arrived {
			w.Arrived = make([]bool, w.Sectors)
			torn := e.Flags&(FUA|Discard) == 0 && w.Sectors > 1 && rng.Float64() < tear
			upTo := w.Sectors
			if torn && rng.IntN(2) == 0 {
				upTo, torn = rng.IntN(w.Sectors), false // in order, and not to its end
				set.Torn = true
			}
			for s := range upTo {
				w.Arrived[s] = !torn || rng.IntN(2) == 0
				set.Torn = set.Torn || !w.Arrived[s]
			}
		}
		set.Writes = append(set.Writes, w)
	}
	return set
}

// String is the set as an operator reads it:
// "entries 1-40 41 43[sectors 0-3,7 of 8], without 42".
func (s Set) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "entries 1-%d", s.Flushed)
	var lost []string
	for _, w := range s.Writes {
		switch runs := ranges(w.Arrived); {
		case !w.some():
			lost = append(lost, fmt.Sprint(w.Entry))
		case w.all():
			fmt.Fprintf(&b, " %d", w.Entry)
		default:
			fmt.Fprintf(&b, " %d[sectors %s of %d]", w.Entry, runs, w.Sectors)
		}
	}
	if len(lost) > 0 {
		fmt.Fprintf(&b, ", without %s", strings.Join(lost, " "))
	}
	return b.String()
}

// content is the same for two sets of r that make the same disk.
func (s Set) content(r *Recording) string {
	for n := len(s.Writes); n > 0; n-- {
		if w := s.Writes[n-1]; w.some() {
			s.Writes = s.Writes[:n]
			// What came before and arrived whole need not be told.
			whole := 0
			for whole < n && s.Writes[whole].all() {
				s.Flushed = s.Writes[whole].Entry
				whole++
			}
			s.Writes = s.Writes[whole:]
			return s.String()
		}
	}
	for s.Flushed > 0 && (r.Entries[s.Flushed-1].Length == 0 || r.Entries[s.Flushed-1].Flags&Mark != 0) {
		s.Flushed--
	}
	return Set{Flushed: s.Flushed}.String()
}

// all and some: that much of the write arrived.
func (w Write) all() bool  { return w.Arrived != nil && !slices.Contains(w.Arrived, false) }
func (w Write) some() bool { return slices.Contains(w.Arrived, true) }

// ranges writes which of b are true: "0-3,7".
func ranges(b []bool) string {
	var s []string
	for i := 0; i < len(b); i++ {
		if !b[i] {
			continue
		}
		from := i
		for i+1 < len(b) && b[i+1] {
			i++
		}
		if from == i {
			s = append(s, fmt.Sprint(from))
		} else {
			s = append(s, fmt.Sprintf("%d-%d", from, i))
		}
	}
	return strings.Join(s, ",")
}

// advance makes durable what the first n entries wrote.
func (p *Replay) advance(n int) (err error) {
	defer try.End(&err)
	if n < p.flushed {
		try.Check(p.restart())
	}
	for ; p.flushed < n; p.flushed++ {
		switch e := p.r.Entries[p.flushed]; {
		case e.Flags&Mark != 0 || e.Length == 0:
		case e.Flags&Discard != 0:
			try.Check(zero(p.durable, e.Offset, e.Length))
		default:
			try.Get(p.durable.WriteAt(e.Data, e.Offset))
		}
	}
	return nil
}

// File is a file in memory that holds the disk in a state; the caller closes it.
func (p *Replay) File(set Set) (f *os.File, err error) {
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	defer try.End(&err)
	try.Check(p.advance(set.Flushed))
	f = try.Get(newDisk(p.r.Size))
	try.Check(copyDisk(f, p.durable))
	for _, w := range set.Writes {
		e := p.r.Entries[w.Entry-1]
		if e.Flags&Discard != 0 {
			if w.Arrived != nil { // whole or not at all
				try.Check(zero(f, e.Offset, e.Length))
			}
			continue
		}
		for s := 0; s < len(w.Arrived); s++ {
			if !w.Arrived[s] {
				continue
			}
			from := int64(s) * sectorSize
			for s+1 < len(w.Arrived) && w.Arrived[s+1] {
				s++
			}
			to := min(int64(s+1)*sectorSize, e.Length)
			try.Get(f.WriteAt(e.Data[from:to], e.Offset+from))
		}
	}
	return f, nil
}

// errMount is a file system that cannot be mounted in a state.
type errMount struct{ err error }

func (e *errMount) Error() string { return e.err.Error() }
func (e *errMount) Unwrap() error { return e.err }

// Mount mounts the disk in a state at dir, which plays the journal of its file
// system, calls check, and unmounts it.
func (p *Replay) Mount(set Set, dir string, check func() error) error {
	f, err := p.File(set)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := mount(f, p.r.Size, p.r.FS, dir); err != nil {
		return &errMount{err}
	}
	return errors.Join(check(), unmount(dir))
}
