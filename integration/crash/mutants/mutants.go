// Package mutants takes from the programs, one after the other, each call that makes
// something durable or safe. The tests must see every one of these mutants: one that
// they do not see is a hole in them, or a call that is not needed.
package mutants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/model"
)

// A Mutant is an edit of the programs, and who has to see it.
type Mutant struct {
	Name  string // what is gone
	Edits []Edit
	By    Catcher
	// Quick: CI makes it; the others are made nightly.
	Quick bool
}

// An Edit is of one file: Old, which is there once, becomes New.
type Edit struct{ File, Old, New string }

// Overlay makes in dir what `go build -overlay` needs for m, from the sources in repo.
// It is an error if one of the edits does not fit any more.
func (m *Mutant) Overlay(repo, dir string) (name string, err error) {
	texts := make(map[string]string)
	for _, e := range m.Edits {
		text, known := texts[e.File]
		if !known {
			data, err := os.ReadFile(filepath.Join(repo, e.File))
			if err != nil {
				return "", err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return "", fmt.Errorf("mutant %q: %s has %d times, want once:\n%s", m.Name, e.File, n, e.Old)
		}
		texts[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	replace := make(map[string]string)
	for file, text := range texts {
		name := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(repo, file)] = name
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name = filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, data, 0o644)
}

// A Catcher is a test that has to fail.
type Catcher interface {
	// Name is what the table says.
	Name() string
	// Catch is what the test finds of the mutant whose overlay is given; empty:
	// nothing. dir is for its files, w the world of the programs as they are.
	Catch(ctx context.Context, w *flows.World, repo, overlay, dir string) (found string, err error)
}

// Unit is a test of a package: it sees what no log shows.
type Unit struct{ Package, Run string }

func (u Unit) Name() string { return fmt.Sprintf("`go test %s -run '%s'`", u.Package, u.Run) }

func (u Unit) Catch(ctx context.Context, _ *flows.World, repo, overlay, dir string) (string, error) {
	test := filepath.Join(dir, "unit.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", test, u.Package)
	build.Dir = repo
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	run := exec.CommandContext(ctx, test, "-test.run", u.Run, "-test.v", "-test.timeout", "10m")
	run.Dir = filepath.Join(repo, u.Package)
	out, err := run.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	if !strings.Contains(string(out), "=== RUN") {
		return "", fmt.Errorf("%s: there is no such test", u.Name())
	}
	if err == nil {
		return "", nil
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go:") || strings.Contains(line, "FAIL: ") {
			return strings.TrimSpace(line), nil
		}
	}
	return err.Error(), nil
}

// A How is one of the tests that need the programs.
type How string

const (
	Order  How = "order"  // the oracle, and who holds the lock
	Weak   How = "weak"   // the weak model
	Errors How = "errors" // each sync fails with EIO, and each removal with all after it
	Kills  How = "kills"  // each point is the last
)

// Crash is one of them, with one flow.
type Crash struct {
	How  How
	Flow string
}

func (c Crash) Name() string { return fmt.Sprintf("%s, flow %s", c.How, c.Flow) }

func (c Crash) Catch(ctx context.Context, w *flows.World, _, overlay, dir string) (string, error) {
	f := flows.Find(c.Flow)
	if f == nil {
		return "", fmt.Errorf("there is no flow %q", c.Flow)
	}
	// Only the command of the flow is a mutant's; what was before it is as it must be.
	site, err := prepared(ctx, w, f)
	if err != nil {
		return "", err
	}
	bad, err := w.Rebuild(ctx, f.Args(site)[0], dir, "-overlay="+overlay)
	if err != nil {
		return "", err
	}
	again := func(plan crashpoint.Plan) (*model.Recording, error) {
		clone, err := site.Clone(filepath.Join(dir, "clone"))
		if err != nil {
			return nil, err
		}
		defer clone.Remove()
		return model.RecordAt(ctx, clone.In(bad), f, plan)
	}
	r, err := again(nil)
	var wrongExit *model.ExitError
	if errors.As(err, &wrongExit) {
		return err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	switch c.How {
	case Order:
		return first(r)
	case Weak:
		var line string
		_, err := r.Weak(ctx, bad, model.Options{Most: 60, Seed: 1, Enough: 1}, func(l string) { line = l })
		return line, err
	case Errors:
		for i := range r.Calls {
			c := &r.Calls[i]
			if c.Name != "fsync" && c.Name != "syncfs" && c.Name != "unlink" {
				continue
			}
			plans := map[string]crashpoint.Plan{"fails": crashpoint.Fail(c.Point, unix.EIO)}
			if c.Name == "unlink" {
				// One that fails once is made again, by another call.
				plans = map[string]crashpoint.Plan{"and all after it fail": crashpoint.FailFrom(c.Point, unix.EIO)}
			}
			for how, plan := range plans {
				failed, err := again(plan)
				if err != nil {
					return "", err
				}
				if found, err := first(failed); found != "" || err != nil {
					return fmt.Sprintf("point %d (%s) %s: %s", c.Point, c.Name, how, found), err
				}
			}
		}
	case Kills:
		for i := range r.Calls {
			killed, err := again(crashpoint.Kill(r.Calls[i].Point))
			if err != nil {
				return "", err
			}
			if len(killed.Problems) > 0 {
				return fmt.Sprintf("killed at point %d: %v", r.Calls[i].Point, killed.Problems[0]), nil
			}
		}
	}
	return "", nil
}

// sites are those that were prepared, by flow.
var (
	sites   = make(map[*flows.Flow]*flows.Site)
	sitesMu sync.Mutex
)

func prepared(ctx context.Context, w *flows.World, f *flows.Flow) (*flows.Site, error) {
	sitesMu.Lock()
	defer sitesMu.Unlock()
	if s := sites[f]; s != nil {
		return s, nil
	}
	s, err := w.Build(ctx, f, filepath.Join(w.Dir, "sites", f.Name), "")
	if err == nil {
		sites[f] = s
	}
	return s, err
}

// first is the first thing that is wrong with r, looked at by itself.
func first(r *model.Recording) (string, error) {
	if len(r.Problems) > 0 {
		return r.Problems[0].String(), nil
	}
	found, err := r.Order()
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		return found[0].String(), nil
	}
	if len(r.Unlocked) > 0 {
		return r.Unlocked[0], nil
	}
	return "", nil
}
