package flows

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A Site is a device without systemd on which a flow is interrupted, or not: a store, its
// configuration and what was downloaded. Its store may be on a file system of its own.
type Site struct {
	World *World
	Flow  *Flow
	Dir   string // holds ota.toml, check, run/ (what a reboot loses) and, unless it is elsewhere, the store
	Root  string // the store
	// Kept are the fingerprints of the versions that nothing may change; see Remember.
	Kept map[string]string
	// Keep and Reserve are the configuration's.
	Keep, Reserve string
	Channel       bool // it follows stable.channel, and not the server with hawkBit's API

	filled string // the directory of what takes all room of the store's file system; empty: nothing does
}

// NewSite makes a site for f in dir, which it makes if it must. An empty root is the
// directory "versions" in dir.
func (w *World) NewSite(f *Flow, dir, root string) (*Site, error) {
	if root == "" {
		root = filepath.Join(dir, "versions")
	}
	s := &Site{World: w, Flow: f, Dir: dir, Root: root, Keep: "2", Reserve: "0"}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return s, s.Configure()
}

// Build is a site in dir on which f was prepared, all of it durable.
func (w *World) Build(ctx context.Context, f *Flow, dir, root string) (_ *Site, err error) {
	defer try.End(&err)
	s := try.Get(w.NewSite(f, dir, root))
	try.Check(os.MkdirAll(s.Root, 0o755))
	defer try.Say("flow %s", f.Name)
	for _, st := range f.Prepare {
		if err := s.do(ctx, st); err != nil {
			return nil, fmt.Errorf("flow %s: preparing: %v: %w", f.Name, st, err)
		}
	}
	if f.Full && root != "" {
		try.Check(s.fill())
	}
	d, err := os.Open(s.Root)
	if errors.Is(err, os.ErrNotExist) {
		d, err = os.Open(s.Dir) // the flow makes the store itself
	}
	try.Check(err)
	defer d.Close()
	try.Check(s.Remember())
	return s, unix.Syncfs(int(d.Fd()))
}

// Clone copies s, whose store must be below its directory, to dir, which must not
// exist. Files that were one with several names are so again.
func (s *Site) Clone(dir string) (*Site, error) {
	rel, err := filepath.Rel(s.Dir, s.Root)
	if err != nil || strings.HasPrefix(rel, "..") {
		return nil, fmt.Errorf("the store %s is not below %s", s.Root, s.Dir)
	}
	if out, err := exec.Command("cp", "-a", s.Dir, dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cp -a %s %s: %w\n%s", s.Dir, dir, err, out)
	}
	c := *s
	c.Dir, c.Root = dir, filepath.Join(dir, rel)
	return &c, c.Configure()
}

// In is s with the programs of w, which is s's world or one that was made of it by
// Rebuild.
func (s *Site) In(w *World) *Site {
	other := *s
	other.World = w
	return &other
}

// Remove deletes the site, with any modes of its factory.
func (s *Site) Remove() error {
	s.World.mu.Lock()
	delete(s.World.reports, s.id())
	delete(s.World.hears, s.id())
	s.World.mu.Unlock()
	return errors.Join(os.RemoveAll(s.Root), os.RemoveAll(s.Dir))
}

func (s *Site) id() string          { return strings.Trim(strings.ReplaceAll(s.Dir, "/", "_"), "_") }
func (s *Site) sick() string        { return filepath.Join(s.Dir, "sick") }
func (s *Site) run() string         { return filepath.Join(s.Dir, "run") }
func (s *Site) config() string      { return filepath.Join(s.Dir, "ota.toml") }
func (s *Site) url(v string) string { return s.World.server.URL + "/" + v + ".ota" }

// Configure writes the configuration and the health check.
func (s *Site) Configure() error {
	check := filepath.Join(s.Dir, "check")
	source, server := "ddi", s.World.server.URL
	if s.Channel {
		source, server = "channel", server+"/stable.channel"
	}
	text := fmt.Sprintf(`root = %q
model = "x1"
keys = [%q]
keep = %s
reserve = %s
run = %q
services = []
[report]
url = %q
[trial]
deadline = "2s"
stable = "1ms"
[[check]]
name = "app is well"
script = %q
[follow]
source = %q
url = %q
device_id = "site"
`, s.Root, filepath.Join(s.World.Dir, "keys"), s.Keep, s.Reserve, s.run(), s.World.server.URL+"/report/"+s.id(), check, source, server)
	script := fmt.Sprintf("#!/bin/sh\n[ ! -e %s ]\n", s.sick())
	if old, err := os.ReadFile(check); err != nil || string(old) != script {
		// Not over a file that may be running: ETXTBSY.
		if err := os.WriteFile(check, []byte(script), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(s.config(), []byte(text), 0o644)
}

// MakeHealthy makes the current version healthy, and room on the disk.
func (s *Site) MakeHealthy() error {
	if err := os.Remove(s.sick()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if s.filled != "" {
		if err := os.RemoveAll(s.filled); err != nil {
			return err
		}
	}
	if s.Reserve == "0" {
		return nil
	}
	s.Reserve = "0"
	return s.Configure()
}

// Reboot loses what a reboot loses.
func (s *Site) Reboot() error { return os.RemoveAll(s.run()) }

// Args is the command of the flow.
func (s *Site) Args() []string { return s.Flow.Args(s) }

func (s *Site) expand(args []string) []string {
	out := slices.Clone(args)
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], "{url}", s.World.server.URL)
	}
	return out
}

// patience is how long one command may take, on a machine that has other work, too. A
// download that finds no way gives up after 2.5 minutes.
const patience = 5 * time.Minute

// ErrHangs is that of a command that did not end.
var ErrHangs = fmt.Errorf("it does not end within %v", patience)

// Run runs a command, without interrupting it.
func (s *Site) Run(ctx context.Context, args []string) (*invariants.Said, error) {
	said, _, err := s.RunBy(ctx, args, 0, func(ctx context.Context, cmd *exec.Cmd) (*crashpoint.Run, error) {
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		if !stop() {
			return nil, context.Cause(ctx)
		}
		if _, ended := errors.AsType[*exec.ExitError](err); ended {
			err = nil
		}
		return &crashpoint.Run{State: cmd.ProcessState}, err
	})
	return said, err
}

// Interrupt runs a command under plan, with so many processors: with one a run is much like
// the other, and a point is found again.
func (s *Site) Interrupt(ctx context.Context, args []string, procs int, plan crashpoint.Plan) (*invariants.Said, *crashpoint.Run, error) {
	return s.RunBy(ctx, args, procs, func(ctx context.Context, cmd *exec.Cmd) (*crashpoint.Run, error) {
		return crashpoint.Start(ctx, cmd, plan)
	})
}

// A Starter runs a command to its end, as crashpoint.Start does.
type Starter func(context.Context, *exec.Cmd) (*crashpoint.Run, error)

// RunBy runs a command by start, with so many processors (0: all), and returns what it said
// since it began. With ErrHangs that is what was seen until then.
func (s *Site) RunBy(ctx context.Context, args []string, procs int, start Starter) (*invariants.Said, *crashpoint.Run, error) {
	cmd := exec.Command(s.World.Program(args[0]), args[1:]...)
	cmd.Env = []string{"OTA_CONFIG=" + s.config(), "PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "TMPDIR=/nonexistent"}
	if procs > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprint("GOMAXPROCS=", procs))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	s.Forget()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, ErrHangs)
	defer cancel()
	r, err := start(ctx, cmd)
	if errors.Is(err, ErrHangs) {
		return s.heard(-1, stdout.String(), stderr.String()), r, ErrHangs
	}
	if err != nil {
		return nil, nil, err
	}
	exit := r.State.ExitCode()
	if !r.Killed && exit < 0 {
		return nil, nil, fmt.Errorf("%v ended with %v, and was not killed: %s", args, r.State, &stderr)
	}
	return s.heard(exit, stdout.String(), stderr.String()), r, nil
}

// OnReport calls hear with each stage that the site reports, before the report is
// answered; nil: no more.
func (s *Site) OnReport(hear func(stage string)) {
	s.World.mu.Lock()
	defer s.World.mu.Unlock()
	s.World.hears[s.id()] = hear
}

// Forget drops what the site has reported so far; the screen's file, too.
func (s *Site) Forget() {
	s.World.mu.Lock()
	defer s.World.mu.Unlock()
	delete(s.World.reports, s.id())
	_ = os.Remove(filepath.Join(s.run(), "progress.json"))
}

// heard is all that a program said that ended with exit (-1: it was killed) since
// Forget.
func (s *Site) heard(exit int, stdout, stderr string) *invariants.Said {
	said := &invariants.Said{Killed: exit < 0, Exit: exit, Stdout: stdout, Stderr: stderr}
	s.World.mu.Lock()
	said.Stages = slices.Clone(s.World.reports[s.id()])
	s.World.mu.Unlock()
	var op struct{ Stage string }
	if data, err := os.ReadFile(filepath.Join(s.run(), "progress.json")); err == nil {
		if json.Unmarshal(data, &op) == nil {
			said.Operation = op.Stage
		}
	}
	return said
}
