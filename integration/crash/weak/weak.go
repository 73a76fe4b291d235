// Package weak checks what the real programs do by what they ask of the disk: all that
// power cuts may leave of the logs of the flows must be an intact store and what was said.
//
//	recording.go a flow and its log
//	said.go      what is promised and is seen in the log alone
//	disk.go      a disk that a log is played on (play.go), of which a power cut leaves
//	             trees (node.go), which are shown at one place (mirror.go)
//	weak.go      what power cuts may leave at each point of a log
//	check.go     whether that is as it must be
//
// States are made by the weakest rules that POSIX allows (see disk.go), at every
// point of a log. No file system is as bad; but each of them does some of it, and a
// program that holds here needs none of their favours. What a file holds of which not all
// is durable is, block by block, what it was, what it is or zeros; and its length is any
// that it ever had in between.
package weak

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// A State is what one power cut leaves.
type State struct {
	// Point is that of the last call that was made; 0: none. How says what of it is
	// there: with the seed of Each it is enough to have the state again.
	Point int
	How   string
	Tree  *Node // the site's directory, without what was in its run directory
	// Seen is Tree without what is in the store's directories for what is half: that has
	// to be of no account.
	Seen *Node
	// Disk is as it is before the power goes. It is not to be changed.
	Disk *Disk
}

// block is what of a file reaches the disk at once, or not.
const block = 4096

// Each makes states at each point of a log, most of them different: all that there are,
// if these are no more than most; else those in which nothing or everything is lost,
// only one change, and all but one; and others that seed chooses. It ends when yield
// returns false. The error is of a log that is not complete.
func (r *Recording) Each(most int, seed uint64, yield func(State) bool) error {
	m := model{Recording: r, disk: NewDisk(r.Dir, r.Before), most: most, yield: yield}
	if !m.at(0, seed) {
		return nil
	}
	for i := range r.Calls {
		c := &r.Calls[i]
		if err := m.disk.Play(c); err != nil {
			return err
		}
		if !m.at(c.Point, seed) {
			return nil
		}
	}
	return nil
}

type model struct {
	*Recording
	disk  *Disk
	most  int
	yield func(State) bool

	choices []choice
	free    int // choices[:free] are seen by a reader of the store, the others not
	left    map[*Inode][]bool
	variant map[*Inode]int
	rand    *rand.Rand
}

// A choice is one thing that a power cut takes or leaves: a pending change of an
// inode, or, if data, what a file holds.
type choice struct {
	inode *Inode
	k     int
	data  bool
	point int
}

// What a file may hold.
const (
	old     = iota
	now     // all that was written
	zeroed  // its new length, and zeros in all blocks that are not durable
	earlier // what it held in between, or a beginning of what it holds
	mixed   // of each block that is not durable one of these
	variants
)

// at makes the states after point.
func (m *model) at(point int, seed uint64) bool {
	m.rand = rand.New(rand.NewPCG(seed, uint64(point)))
	m.find()
	bits := make([]int, len(m.choices)) // of what is data: a variant; else 1: it is there
	emit := func(how string, set func(i int) int) bool {
		for i := range bits {
			bits[i] = set(i)
		}
		return m.emit(point, how, bits)
	}
	all := func(int) int { return now }
	none := func(int) int { return old }
	if len(m.choices) == 0 {
		return emit("all", all)
	}
	// Everything that can be seen, as far as it is few.
	combinations := 1
	for _, c := range m.choices[:m.free] {
		if combinations *= c.ways(); combinations > m.most {
			break
		}
	}
	made := 0
	if combinations <= m.most {
		for n := range combinations {
			rest := n
			if !emit(fmt.Sprintf("%d of %d", n, combinations), func(i int) int {
				if i >= m.free {
					return m.random(m.choices[i], 0.5)
				}
				v := rest % m.choices[i].ways()
				rest /= m.choices[i].ways()
				return v
			}) {
				return false
			}
		}
		made = combinations
		if !slices.ContainsFunc(m.choices, func(c choice) bool { return c.data }) && m.free == len(m.choices) {
			return true // there is no other
		}
	}
	ok := emit("all", all) && emit("none", none)
	made += 2
	for one := 0; ok && one < len(m.choices) && made+2 <= m.most; one++ {
		c := m.choices[len(m.choices)-1-one] // the newest first: the others had their turn at earlier points
		for v := range c.ways() {
			ok = ok && (v == now || emit(fmt.Sprintf("all but that of %d (%d)", c.point, v), m.except(c, now, v)))
			ok = ok && (v == old || emit(fmt.Sprintf("only that of %d (%d)", c.point, v), m.except(c, old, v)))
			made += 2
		}
	}
	for k := 0; ok && made < m.most; k++ {
		made++
		p := []float64{0.5, 0.1, 0.9}[k%3]
		ok = emit(fmt.Sprintf("seed %d.%d.%d", seed, point, k), func(i int) int { return m.random(m.choices[i], p) })
	}
	return ok
}

func (c choice) ways() int {
	if c.data {
		return variants
	}
	return 2
}

func (m *model) random(c choice, p float64) int {
	if c.data {
		return m.rand.IntN(variants)
	}
	if m.rand.Float64() < p {
		return now
	}
	return old
}

// except is rest for every choice but one, which is v.
func (m *model) except(one choice, rest, v int) func(int) int {
	return func(i int) int {
		if m.choices[i] == one {
			return v
		}
		return rest
	}
}

// find lists what a power cut may take now: of what can be reached from the top by
// some name that may be there. What has no name is of no account.
func (m *model) find() {
	m.choices = m.choices[:0]
	seen := map[*Inode]bool{m.disk.Lookup(m.run()): true} // no power cut leaves what is in it
	var dull []*Inode
	for _, name := range m.halves() {
		if is := m.disk.Lookup(name); is != nil {
			dull = append(dull, is)
		}
	}
	var visit func(i *Inode)
	visit = func(i *Inode) {
		if seen[i] || slices.Contains(dull, i) {
			return
		}
		seen[i] = true
		data := false
		for k, change := range i.Pending {
			if change.Data == nil {
				m.choices = append(m.choices, choice{i, k, false, change.Point})
			} else if !data {
				data = true
				m.choices = append(m.choices, choice{i, k, true, change.Point})
			}
		}
		for _, is := range i.MayHold() {
			visit(is)
		}
	}
	visit(m.disk.root)
	m.sort(0)
	m.free = len(m.choices)
	// Now what is only to be seen through the directories for what is half.
	halves := dull
	dull = nil
	for _, is := range halves {
		visit(is)
	}
	m.sort(m.free)
	m.left = make(map[*Inode][]bool)
	m.variant = make(map[*Inode]int)
	for _, c := range m.choices {
		if m.left[c.inode] == nil {
			m.left[c.inode] = make([]bool, len(c.inode.Pending))
		}
	}
}

func (m *model) sort(from int) {
	slices.SortStableFunc(m.choices[from:], func(a, b choice) int { return a.point - b.point })
}

// emit makes the state of bits.
func (m *model) emit(point int, how string, bits []int) bool {
	for i, c := range m.choices {
		if c.data {
			m.variant[c.inode] = bits[i]
		} else {
			m.left[c.inode][c.k] = bits[i] == now
		}
	}
	held := make(map[*Inode]*Blob) // a file that is met twice is one
	tree := m.disk.Crash(func(i *Inode, k int) bool {
		left := m.left[i]
		return left == nil || left[k] // nil: in the run directory
	}, func(i *Inode) *Blob {
		if held[i] == nil {
			held[i] = m.hold(i, m.variant[i])
		}
		return held[i]
	})
	tree = m.emptied(tree, m.run())
	seen := m.emptied(tree, m.halves()...)
	return m.yield(State{Point: point, How: how, Tree: tree, Seen: seen, Disk: m.disk})
}

// run is the directory that no power cut leaves anything in, as /run.
func (r *Recording) run() string { return filepath.Join(r.Dir, "run") }

// halves are the store's directories for what is half.
func (r *Recording) halves() []string {
	return []string{filepath.Join(r.Root, ".staging"), filepath.Join(r.Root, ".trash"), filepath.Join(r.Root, ".spool")}
}

// emptied is tree without what is in the directories named.
func (m *model) emptied(tree *Node, directories ...string) *Node {
	for _, name := range directories {
		if names, in := m.disk.below(name); in {
			tree = tree.without(names)
		}
	}
	return tree
}

// without is n without what is in the directory that names lead to.
func (n *Node) without(names []string) *Node {
	if n == nil || n.Names == nil {
		return n
	}
	next := &Node{ID: n.ID, Mode: n.Mode, Names: map[string]*Node{}}
	if len(names) == 0 {
		return next
	}
	sub := n.Names[names[0]]
	if sub == nil {
		return n
	}
	next.Names = maps.Clone(n.Names)
	next.Names[names[0]] = sub.without(names[1:])
	return next
}

// hold is what the file i holds in a variant.
func (m *model) hold(i *Inode, variant int) *Blob {
	was, is := i.kept.data.bytes, i.Data.bytes
	switch variant {
	case old:
		return i.kept.data
	case now:
		return i.Data
	case earlier:
		if between := m.between(i); between != nil {
			return between
		}
		base := 0
		if bytes.HasPrefix(is, was) {
			base = len(was) // it was appended to: what was durable is
		}
		if len(is) > base {
			return &Blob{bytes: is[:base+m.rand.IntN(len(is)-base)]}
		}
		return i.Data
	}
	size := len(is)
	if variant == mixed {
		if between := m.between(i); between != nil {
			size = int(between.Len())
		}
	}
	data := make([]byte, size)
	for at := 0; at < size; at += block {
		end := min(at+block, size)
		part := data[at:end]
		before, after := slice(was, at, end), slice(is, at, end)
		if slices.Equal(before, after) && len(before) == len(part) {
			copy(part, before)
			continue
		}
		if bytes.HasPrefix(after, before) {
			copy(part, before)
		}
		if variant == mixed {
			switch m.rand.IntN(3) {
			case old:
				copy(part, before)
			case now:
				copy(part, after)
			}
		}
	}
	return &Blob{bytes: data}
}

// between is what i held before one of the changes that are pending; nil: there was
// only one.
func (m *model) between(i *Inode) *Blob {
	var all []*Blob
	for _, change := range i.Pending {
		if change.Data != nil && change.Data != i.Data {
			all = append(all, change.Data)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[m.rand.IntN(len(all))]
}

func slice(b []byte, from, to int) []byte {
	return b[min(from, len(b)):min(to, len(b))]
}
