package patch

import (
	"cmp"
	"path"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
)

// plan says which frames make the new version of the old one: Window and Out of each. The
// first ones make the manifest, which is size bytes long, of that of the old one of from bytes.
//
// A file has the window of the old file of its path, else of its name: a large one, part by
// part, what is at the same place in proportion. Small ones share a frame. What is new altogether has the
// old files of its extension: they are of the same language.
func plan(old, made *bootcheck.Manifest, from, size int64) (manifest, files []Frame) {
	for at := int64(0); at < size; at += maxOut {
		n := min(maxOut, size-at)
		manifest = append(manifest, Frame{
			Window: around(theManifest, from, at, n, size),
			Out:    ranges{theManifest, at, n},
		})
	}
	pl := planner{old: old, byPath: make(map[string]int), byName: make(map[string][]int), byExt: make(map[string][]int), fresh: make(map[string]*Frame)}
	has := make(map[string]bool)
	for i := range old.Entries {
		if e := &old.Entries[i]; e.Type == bootcheck.TypeFile && e.Size > 0 {
			has[e.SHA256] = true
			pl.byPath[e.Path] = i
			pl.byName[path.Base(e.Path)] = append(pl.byName[path.Base(e.Path)], i)
			pl.byExt[path.Ext(e.Path)] = append(pl.byExt[path.Ext(e.Path)], i)
		}
	}
	for i := range made.Entries {
		if e := &made.Entries[i]; e.Type == bootcheck.TypeFile && e.Size > 0 && !has[e.SHA256] {
			pl.add(i, e)
		}
	}
	return manifest, pl.end()
}

type planner struct {
	old           *bootcheck.Manifest
	byPath        map[string]int
	byName, byExt map[string][]int
	frames        []Frame
	small         Frame             // of small files that have a window
	fresh         map[string]*Frame // by extension: of small files that have none
}

func (pl *planner) add(i int, e *bootcheck.Entry) {
	from, ok := pl.counterpart(e)
	ext := path.Ext(e.Path)
	if e.Size > maxOut {
		for at := int64(0); at < e.Size; at += maxOut {
			n := min(maxOut, e.Size-at)
			f := Frame{Out: ranges{int64(i), at, n}}
			if ok {
				f.Window = around(from, pl.old.Entries[from].Size, at, n, e.Size)
			} else {
				f.Window = pl.dictionary(ext)
			}
			pl.frames = append(pl.frames, f)
		}
		return
	}
	to := &pl.small
	var window ranges
	if ok {
		window = around(from, pl.old.Entries[from].Size, 0, e.Size, e.Size)
	} else if to = pl.fresh[ext]; to == nil {
		to = &Frame{Window: pl.dictionary(ext)}
		pl.fresh[ext] = to
	}
	if to.Out.total()+e.Size > maxOut || to.Window.total()+window.total() > maxWindow || to.Window.count()+window.count() > maxRanges {
		pl.frames = append(pl.frames, *to)
		to.Out = nil
		if ok {
			to.Window = nil
		}
	}
	to.Out = append(to.Out, int64(i), 0, e.Size)
	to.Window = append(to.Window, window...)
}

// end is all frames.
func (pl *planner) end() []Frame {
	rest := []Frame{pl.small}
	for _, f := range pl.fresh {
		rest = append(rest, *f)
	}
	for _, f := range rest {
		if len(f.Out) > 0 {
			pl.frames = append(pl.frames, f)
		}
	}
	// The parts of one file stay in their order.
	slices.SortStableFunc(pl.frames, func(a, b Frame) int { return cmp.Compare(a.Out[0], b.Out[0]) })
	return pl.frames
}

// counterpart is the old file that e is most like.
func (pl *planner) counterpart(e *bootcheck.Entry) (entry int, ok bool) {
	if i, ok := pl.byPath[e.Path]; ok {
		return i, true
	}
	far := func(i int) int64 { return max(pl.old.Entries[i].Size, e.Size) - min(pl.old.Entries[i].Size, e.Size) }
	same := pl.byName[path.Base(e.Path)]
	if len(same) == 0 {
		return 0, false
	}
	return slices.MinFunc(same, func(a, b int) int { return cmp.Compare(far(a), far(b)) }), true
}

// dictionary is as much as there may be of the old files with the extension ext.
func (pl *planner) dictionary(ext string) (r ranges) {
	left := int64(maxWindow)
	for _, i := range pl.byExt[ext] {
		if n := min(left, pl.old.Entries[i].Size); n > 0 && r.count() < maxRanges {
			r = append(r, int64(i), 0, n)
			left -= n
		}
	}
	return r
}

// around is the window of n bytes at offset at of a file of size bytes: of the old file
// from, of old bytes, what is around the same place in proportion.
func around(from int, old, at, n, size int64) ranges {
	length := min(old, maxWindow)
	middle := int64(float64(at+n/2) / float64(size) * float64(old))
	first := min(max(middle-length/2, 0), old-length)
	return ranges{int64(from), first, length}
}
