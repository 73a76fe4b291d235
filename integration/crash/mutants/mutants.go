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

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/try"
)

// A Mutant is an edit of the programs, and the part that has to see it.
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
	defer try.End(&err)
	texts := make(map[string]string)
	for _, e := range m.Edits {
		text, known := texts[e.File]
		if !known {
			data := try.Get(os.ReadFile(filepath.Join(repo, e.File)))
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
		try.Check(os.WriteFile(name, []byte(text), 0o644))
		replace[filepath.Join(repo, file)] = name
	}
	data := try.Get(json.Marshal(map[string]any{"Replace": replace}))
	name = filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, data, 0o644)
}

// A Catcher is a test that has to fail.
type Catcher interface {
	// Name is what the table says.
	Name() string
	// Catch is what the test finds of the mutant whose overlay is given; empty:
	// nothing. dir is for its files.
	Catch(ctx context.Context, b *Bench, repo, overlay, dir string) (found string, err error)
	// flow is the one in which engines are shown it.
	flow() string
}

// Flow is the one in which engines are shown m.
func (m *Mutant) Flow() string { return m.By.flow() }

// Unit is a test of a package: it sees what no log shows. Flow is one whose command does
// what the mutant does wrong.
type Unit struct{ Package, Run, Flow string }

func (u Unit) Name() string { return fmt.Sprintf("`go test %s -run '%s'`", u.Package, u.Run) }
func (u Unit) flow() string { return u.Flow }

func (u Unit) Catch(ctx context.Context, _ *Bench, repo, overlay, dir string) (string, error) {
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

// Crash is an engine that is shown one flow.
type Crash struct {
	Engine Engine
	Flow   string
}

func (c Crash) Name() string { return fmt.Sprintf("%s, flow %s", c.Engine, c.Flow) }
func (c Crash) flow() string { return c.Flow }

func (c Crash) Catch(ctx context.Context, b *Bench, _, overlay, dir string) (string, error) {
	f := flows.Find(c.Flow)
	if f == nil {
		return "", fmt.Errorf("there is no flow %q", c.Flow)
	}
	t, err := b.Try(ctx, f, overlay, dir)
	if err != nil {
		return "", err
	}
	if found, err := t.Find(ctx, Runs); found != "" || err != nil {
		return found, err
	}
	return t.Find(ctx, c.Engine)
}
