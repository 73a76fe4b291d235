package blocks

import (
	"compress/gzip"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// saved is a Run in a file: no flow writes the same twice, and a state that must not
// be is worth to be looked at again.
type saved struct {
	FS, Flow string
	Size     int64
	Runs     []savedRun
	Entries  []Entry
	Said     *invariants.Said
	Kept     map[string]string
}

type savedRun struct {
	Offset int64
	Data   []byte
}

// Save writes the run to a new file in dir and returns its name.
func (r *Run) Save(dir string) (name string, err error) {
	f, err := os.CreateTemp(dir, fmt.Sprintf("ota-blocks-%s-%s-*.recording", r.FS, r.Site.Flow.Name))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s := saved{FS: r.FS, Flow: r.Site.Flow.Name, Size: r.Base.Size(), Entries: r.Entries, Said: r.Said, Kept: r.Site.Kept}
	_ = r.Base.runs(func(off int64, p []byte) error {
		s.Runs = append(s.Runs, savedRun{off, p})
		return nil
	})
	z := gzip.NewWriter(f)
	return f.Name(), errors.Join(gob.NewEncoder(z).Encode(&s), z.Close())
}

// LoadRun reads what Save wrote. dir is made, as by RecordFlow; the world is another
// one than the flow ran in, so its keys are.
func LoadRun(w *flows.World, name, dir string) (_ *Run, err error) {
	defer try.End(&err)
	f := try.Get(os.Open(name))
	defer f.Close()
	var s saved
	z, err := gzip.NewReader(f)
	if err == nil {
		err = gob.NewDecoder(z).Decode(&s)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the recording %s: %w", name, err)
	}
	r := &Run{Recording: &Recording{FS: s.FS, Entries: s.Entries}, Said: s.Said, Mount: filepath.Join(dir, "disk")}
	flow := flows.Find(s.Flow)
	if flow == nil {
		return nil, fmt.Errorf("the recording %s is of the flow %q, which there is no more", name, s.Flow)
	}
	try.Check(os.MkdirAll(r.Mount, 0o755))
	r.Site = try.Get(w.NewSite(flow, filepath.Join(dir, "site"), filepath.Join(r.Mount, "versions")))
	r.Site.Kept = s.Kept
	r.Base = try.Get(NewImage(s.Size))
	for _, run := range s.Runs {
		r.Base.Write(run.Offset, run.Data)
	}
	return r, nil
}
