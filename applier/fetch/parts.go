package fetch

import "slices"

// A Part is some bytes of the file: from First on, up to End, exclusive.
type Part struct {
	First int64 `json:"first"`
	End   int64 `json:"end"`
}

// minGap is the shortest hole, bytes. Less is fetched although it is not wanted:
// to ask again costs a round trip, in which a slow link brings as much.
const minGap = 64 << 10

// maxParts is how many ranges are asked for at most: each is an entry in what some servers
// write down of a device, which holds 1,000 (hawkBit before 0.8).
const maxParts = 200

// merge joins parts that are less than a hole apart, and more of them while there are more
// than maxParts. They are in order.
func merge(parts []Part) []Part {
	for gap := int64(minGap); ; gap *= 2 {
		var joined []Part
		for _, p := range parts {
			if n := len(joined); n > 0 && p.First-joined[n-1].End < gap {
				joined[n-1].End = max(joined[n-1].End, p.End)
			} else if p.First < p.End {
				joined = append(joined, p)
			}
		}
		if parts = joined; len(parts) <= maxParts {
			return parts
		}
	}
}

// Requests is how many a download takes that wants parts, which are in order, behind the head.
func Requests(parts []Part) int { return len(merge(parts)) }

// choose notes which parts are wanted of a file that was checked. A file whose SHA-256 is
// known has to be fetched whole: nothing else can be compared with it. At the first hole of
// an earlier call where this one wants something, the partial file is cut off. The head has no
// holes.
func (d *Download) choose(parts []Part) error {
	if parts != nil && !d.noHead && d.size >= 0 && d.from.sha256 == "" {
		d.parts = append([]Part{}, merge(parts)...) // none is not all
	}
	holes := d.spool.mark.Holes
	i := slices.IndexFunc(holes, func(h Part) bool {
		return d.parts == nil || slices.ContainsFunc(d.parts, func(p Part) bool { return p.First < h.End && h.First < p.End })
	})
	if i < 0 {
		return nil
	}
	if err := d.spool.cut(holes[i].First, holes[:i]); err != nil {
		return d.spool.local(d.spool.part, err)
	}
	d.have = holes[i].First
	d.best, d.stats.Resumed = min(d.best, d.have), min(d.stats.Resumed, d.have)
	return nil
}

// limitOf is up to where the request for p goes, 0 for the end of the file.
func (d *Download) limitOf(p Part) int64 {
	if p.End >= d.size {
		return 0
	}
	return p.End
}

// skip makes a hole of the partial file up to offset.
func (d *Download) skip(offset int64) error {
	if offset <= d.have || offset-d.have < minGap && offset < d.size {
		return nil // it is fetched together with what follows
	}
	if err := d.spool.skip(d.have, offset); err != nil {
		return d.spool.local(d.spool.part, err)
	}
	d.best += offset - d.have // that is no progress
	d.have = offset
	return nil
}

// amount is how much has arrived and how much is wanted in all; -1 while that is
// not known.
func (d *Download) amount() (done, total int64) {
	done, total = d.have, d.size
	for _, h := range d.spool.mark.Holes {
		done -= h.End - h.First
	}
	if total >= 0 {
		total = done + d.missing()
	}
	return done, total
}

// missing is how much is still to be fetched, bytes, as far as it is known.
func (d *Download) missing() int64 {
	if d.parts == nil {
		return max(0, d.size-d.have)
	}
	var n int64
	for _, p := range d.parts {
		n += max(0, p.End-max(p.First, d.have))
	}
	return n
}
