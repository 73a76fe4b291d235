package blocks

import (
	"bufio"
	"compress/gzip"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// saved is a Run in a file: no flow writes the same twice, and a state that must not
// be is worth to be looked at again. Behind it is the disk as it was before.
type saved struct {
	FS, Flow string
	Size     int64
	Entries  []Entry
	Said     *invariants.Said
	Kept     map[string]string
}

// Save writes the run to a new file in dir and returns its name.
func (r *Run) Save(dir string) (name string, err error) {
	f, err := os.CreateTemp(dir, fmt.Sprintf("ota-blocks-%s-%s-*.recording", r.FS, r.Site.Flow.Name))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s := saved{FS: r.FS, Flow: r.Site.Flow.Name, Size: r.Size, Entries: r.Entries, Said: r.Said, Kept: r.Site.Kept}
	z := gzip.NewWriter(f)
	err = gob.NewEncoder(z).Encode(&s)
	if err == nil {
		_, err = io.Copy(z, io.NewSectionReader(r.Base, 0, r.Size))
	}
	return f.Name(), errors.Join(err, z.Close())
}

// LoadRun reads what Save wrote. dir is made, as by RecordFlow; the world is another
// one than the flow ran in, so its keys are.
func LoadRun(w *flows.World, name, dir string) (_ *Run, err error) {
	defer try.End(&err)
	f := try.Get(os.Open(name))
	defer f.Close()
	var s saved
	defer try.Say("cannot read the recording %s", name)
	z := bufio.NewReader(try.Get(gzip.NewReader(f))) // gob takes no more of it than is its own
	try.Check(gob.NewDecoder(z).Decode(&s))
	r := &Run{Recording: &Recording{FS: s.FS, Size: s.Size, Entries: s.Entries}, Said: s.Said, Mount: filepath.Join(dir, "disk")}
	flow := flows.Find(s.Flow)
	if flow == nil {
		try.Failf("it is of the flow %q, which there is no more", s.Flow)
	}
	try.Check(os.MkdirAll(r.Mount, 0o755))
	r.Site = try.Get(w.NewSite(flow, filepath.Join(dir, "site"), filepath.Join(r.Mount, "versions")))
	r.Site.Kept = s.Kept
	r.Base = try.Get(newDisk(s.Size))
	return r, put(r.Base, 0, z)
}
