package crash

import (
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/try"
)

// An install that finds its version confirmed says success of a switch that another
// process made. Whoever made it was maybe killed, or is just about to make it last:
// what is said must hold after a power cut all the same.
func TestSuccessOfAnothersSwitchIsDurable(t *testing.T) {
	w := theWorld(t)
	f := flows.Find("confirm")
	s, err := w.Build(t.Context(), f, filepath.Join(t.TempDir(), "site"), "")
	if err != nil {
		t.Fatal(err)
	}
	ofRoot := func(c *crashpoint.Call) bool {
		return c.Name == "syncfs" || c.Name == "fsync" && c.File.Path == s.Root
	}
	// Killed between the rename that confirms and the fsync that makes it last.
	switched := false
	_, r, err := run(t.Context(), s, f.Args(s), 1, func(c *crashpoint.Call) crashpoint.Verdict {
		if c.Name == "rename" && c.To.Path == filepath.Join(s.Root, ".active") {
			switched = true
		}
		return crashpoint.Verdict{Kill: switched && ofRoot(c)}
	})
	if err != nil || !r.Killed {
		t.Fatalf("confirm was not killed where it should be (%v)", err)
	}
	install := flows.Find("install-beside-factory").Args(s)
	said, r, err := run(t.Context(), s, install, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !said.Success() || said.Exit != 0 {
		t.Fatalf("install of the version that runs: %+v, want success", said)
	}
	if !slices.ContainsFunc(r.Calls, func(c crashpoint.Call) bool { return ofRoot(&c) && c.Errno == 0 }) {
		t.Errorf("success was said, and nothing has made durable what it is about: a power cut makes it %s again", f.Before)
	}

	// And what cannot be made durable is no success.
	said, _, err = run(t.Context(), s, install, 1, func(c *crashpoint.Call) crashpoint.Verdict {
		if ofRoot(c) {
			return crashpoint.Verdict{Errno: unix.EIO}
		}
		return crashpoint.Verdict{}
	})
	if err != nil {
		t.Fatal(err)
	}
	if said.Success() || said.Exit != 10 {
		t.Errorf("with a disk that fails: exit %d, stages %v; want 10, unknown", said.Exit, said.Stages)
	}
}

// An adoption that finds all of it done says so of what another one did, which was
// maybe killed before its links were durable.
func TestAdoptionThatIsToldIsDurable(t *testing.T) {
	w := theWorld(t)
	f := flows.Find("adopt")
	s, err := w.Build(t.Context(), f, filepath.Join(t.TempDir(), "site"), "")
	if err != nil {
		t.Fatal(err)
	}
	ofRoot := func(c *crashpoint.Call) bool { return c.Name == "fsync" && c.File.Path == s.Root }
	// Killed when the last of the links is there, at the fsync that makes them last.
	linked := false
	_, r, err := run(t.Context(), s, f.Args(s), 1, func(c *crashpoint.Call) crashpoint.Verdict {
		linked = linked || c.Name == "rename" && c.To.Path == filepath.Join(s.Root, "factory")
		return crashpoint.Verdict{Kill: linked && ofRoot(c)}
	})
	if err != nil || !r.Killed {
		t.Fatalf("the adoption was not killed where it should be (%v)", err)
	}
	if found := f.Look(s); found.State != f.After {
		t.Fatalf("killed at its end: %v, want %v", found.State, f.After)
	}
	// What cannot be made durable is no success.
	said, _, err := run(t.Context(), s, f.Args(s), 1, func(c *crashpoint.Call) crashpoint.Verdict {
		if ofRoot(c) {
			return crashpoint.Verdict{Errno: unix.EIO}
		}
		return crashpoint.Verdict{}
	})
	if err != nil {
		t.Fatal(err)
	}
	if said.Exit != 10 {
		t.Errorf("another adoption, with a disk that fails: exit %d: %s%s; want 10, unknown", said.Exit, said.Stdout, said.Stderr)
	}
	said, r, err = run(t.Context(), s, f.Args(s), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if said.Exit != 0 {
		t.Fatalf("another adoption: exit %d: %s", said.Exit, said.Stderr)
	}
	if !slices.ContainsFunc(r.Calls, func(c crashpoint.Call) bool { return ofRoot(&c) && c.Errno == 0 }) {
		t.Errorf("another adoption says %q, and nothing has made the links durable", said.Stdout)
	}
}

// The guardian tells device-api of a rollback that another run of it made.
func TestRollbackThatIsToldIsDurable(t *testing.T) {
	defer try.Fatal(t)
	w := theWorld(t)
	f := flows.Find("fallback-health")
	s := try.Get(w.Build(t.Context(), f, filepath.Join(t.TempDir(), "site"), ""))
	switched := false
	_, r, err := run(t.Context(), s, f.Args(s), 1, func(c *crashpoint.Call) crashpoint.Verdict {
		if c.Name == "rename" && c.To.Path == filepath.Join(s.Root, ".active") {
			switched = true
		}
		return crashpoint.Verdict{Kill: switched && c.Name == "fsync" && c.File.Path == s.Root}
	})
	if err != nil || !r.Killed {
		t.Fatalf("confirm was not killed where it should be (%v)", err)
	}
	try.Check(s.Cure())
	var fsyncs, atReport atomic.Int32
	atReport.Store(-1)
	s.OnReport(func(stage string) {
		if stage == "failed" {
			atReport.CompareAndSwap(-1, fsyncs.Load())
		}
	})
	defer s.OnReport(nil)
	if _, _, err = run(t.Context(), s, f.Args(s), 1, func(c *crashpoint.Call) crashpoint.Verdict {
		if c.Name == "fsync" && c.File.Path == s.Root {
			fsyncs.Add(1)
		}
		return crashpoint.Verdict{}
	}); err != nil {
		t.Fatal(err)
	}
	if n := atReport.Load(); n < 1 {
		t.Errorf("when the rollback was told, the store had been made durable %d times, want 1 (-1: it was not told)", n)
	}
}
