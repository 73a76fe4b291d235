package weak

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/try"
)

// What no state of the store shows, as its programs make up for it, and is promised all the
// same: what was said to be done stays so. It is looked for in the log itself.

// passing are names in the store of which no promise is made.
var passing = regexp.MustCompile(`^\.((install\.)?lock(\.new)?|spool|(\.active|current|previous|factory)[0-9]+)$`)

// Undone is what a power cut behind the last call takes of what a run did that said that
// it is done; what it did outside of its directories; and a download that is begun too early.
// The error is of a log that is not complete.
func (r *Recording) Undone() (found []string, err error) {
	defer try.End(&err)
	d := NewDisk(r.Dir, r.Before)
	if r.Flow.Name == "install-again" {
		// Another program made the switch a moment before, and may have been killed.
		try.Check(d.Unsettle(filepath.Join(r.Root, ".active")))
	}
	for i := range r.Calls {
		c := &r.Calls[i]
		for _, p := range []crashpoint.Place{c.File, c.To} {
			if filepath.IsAbs(p.Path) && changes(c) && p.Path != r.Root && !strings.HasPrefix(p.Path, r.Root+"/") && !strings.HasPrefix(p.Path, r.run()) {
				found = append(found, fmt.Sprintf("%s of %s, outside of the store", c.Name, p.Path))
			}
		}
		if base, isPart := strings.CutSuffix(filepath.Base(c.File.Path), ".part"); isPart && c.Name == "open" && c.File.Made && c.Errno == 0 {
			if dir := d.Lookup(filepath.Dir(c.File.Path)); dir != nil && len(dir.Unsynced(base+".json")) > 0 {
				found = append(found, "a download is begun, and the note of another one may come back and speak for it")
			}
		}
		try.Check(d.Play(c))
	}
	root := d.Lookup(r.Root)
	if r.Said.Exit != r.Flow.Exit || root == nil {
		return found, nil
	}
	lost := func(dir *Inode, name string, may func(string) bool) {
		for _, change := range dir.Pending {
			for _, n := range change.Names {
				if text := fmt.Sprintf("it is done, and %s is not durable", filepath.Join(name, n.Name)); !may(n.Name) && !slices.Contains(found, text) {
					found = append(found, text)
				}
			}
		}
	}
	lost(root, "", passing.MatchString)
	if made := root.Names[".generations"]; made != nil && made.Type.IsDir() {
		for name, dir := range made.Names {
			if strings.HasSuffix(name, ".fallback") && dir.Names["active"] != nil {
				lost(dir, filepath.Join(".generations", name), func(string) bool { return false })
			}
		}
	}
	if spool := root.Names[".spool"]; spool != nil && spool.Type.IsDir() {
		lost(spool, ".spool", func(name string) bool {
			// One whose sync failed is of no account: nothing is promised of a download.
			is, pending := spool.Names[name], spool.Unsynced(name)
			return is == nil || vouches(is.Data) == 0 || pending[0].Lost
		})
	}
	return found, nil
}

// changes reports whether c changes the file that it is given, or its name.
func changes(c *crashpoint.Call) bool {
	switch c.Name {
	case "fsync", "syncfs":
		return false
	case "open":
		return c.File.Made
	}
	return true
}

// vouches is how many bytes of a download its note says to be durable.
func vouches(note *Blob) int64 {
	var says struct{ Synced int64 }
	if note == nil || json.Unmarshal(note.bytes, &says) != nil {
		return 0
	}
	return says.Synced
}

// vouched says what notes in tree, the store, vouch for of downloads that are not so;
// empty: nothing. now is the store as it is before the power goes.
func vouched(tree *Node, now *Inode) string {
	spool := tree.Names[".spool"]
	if spool == nil {
		return ""
	}
	for name, note := range spool.Names {
		base, isNote := strings.CutSuffix(name, ".json")
		n := vouches(note.Data)
		if !isNote || n == 0 {
			continue
		}
		part := spool.Names[base+".part"]
		if part == nil {
			continue // it vouches for nothing
		}
		if part.Data.Len() < n {
			return fmt.Sprintf("%s vouches for %d bytes of a download that are not there", name, n)
		}
		if dir := now.Names[".spool"]; dir != nil {
			if is := dir.Names[base+".part"]; is != nil && is.ID == part.ID && is.Data.Len() >= n && !bytes.Equal(is.Data.bytes[:n], part.Data.bytes[:n]) {
				return fmt.Sprintf("%s vouches for %d bytes that were not synced", name, n)
			}
		}
	}
	return ""
}
