package flows_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/try"
)

// Every flow, with nothing that interrupts it: what the others are compared with.
func TestFlows(t *testing.T) {
	dir := t.TempDir()
	w, err := flows.NewWorld(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, f := range slices.Concat(flows.All, flows.Odd) {
		if slices.Contains(flows.Odd, f) && !f.Adopts || f.Full { // of a full disk: package weak has it
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			defer try.Fatal(t)
			site := try.Get(w.Build(t.Context(), f, filepath.Join(dir, "sites", f.Name), ""))
			defer site.Remove()
			// Nothing was said, nothing was done.
			found, problems := site.Check(nil)
			if found.State != f.Before {
				t.Errorf("prepared: %v, want %v", found.State, f.Before)
			}
			for _, p := range problems {
				t.Errorf("prepared: %v", p)
			}
			said := try.Get(site.Run(t.Context(), site.Args()))
			if said.Exit != f.Exit {
				t.Errorf("exit %d, want %d: %s%s", said.Exit, f.Exit, said.Stdout, said.Stderr)
			}
			_, problems = site.Check(said)
			for _, p := range problems {
				t.Errorf("after it: %v", p)
			}
			problems, err = site.Aftermath(t.Context(), true)
			if err != nil {
				t.Error(err)
			}
			for _, p := range problems {
				t.Errorf("aftermath: %v", p)
			}
		})
	}
}
