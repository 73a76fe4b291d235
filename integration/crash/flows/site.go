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

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A Site is a device without systemd: a store, its configuration and what was
// downloaded. Its store may be on a file system of its own.
type Site struct {
	World *World
	Dir   string // holds ota.toml, check, run/ (what a reboot loses) and, unless it is elsewhere, the store
	Root  string // the store
	// Keep and Reserve are the configuration's.
	Keep, Reserve string
	Channel       bool // it follows stable.channel, and not the server with hawkBit's API

	filled string // the directory of what takes all room of the store's file system; empty: nothing does
}

// NewSite makes an empty site in dir, which it makes. An empty root is the directory
// "versions" in dir.
func (w *World) NewSite(dir, root string) (*Site, error) {
	if root == "" {
		root = filepath.Join(dir, "versions")
	}
	s := &Site{World: w, Dir: dir, Root: root, Keep: "2", Reserve: "0"}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return s, s.Configure()
}

// Build is a site in dir on which f was prepared, all of it durable.
func (w *World) Build(ctx context.Context, f *Flow, dir, root string) (_ *Site, err error) {
	defer try.End(&err)
	s := try.Get(w.NewSite(dir, root))
	try.Check(os.MkdirAll(s.Root, 0o755))
	if f.Prepare != nil {
		if err := f.Prepare(ctx, s); err != nil {
			return nil, fmt.Errorf("flow %s: %w", f.Name, err)
		}
	}
	if f.Full && root != "" {
		if err := s.fill(); err != nil {
			return nil, fmt.Errorf("flow %s: %w", f.Name, err)
		}
	}
	d, err := os.Open(s.Root)
	if errors.Is(err, os.ErrNotExist) {
		d, err = os.Open(s.Dir) // the flow makes the store itself
	}
	try.Check(err)
	defer d.Close()
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
	c := &Site{World: s.World, Dir: dir, Root: filepath.Join(dir, rel), Keep: s.Keep, Reserve: s.Reserve, Channel: s.Channel}
	return c, c.Configure()
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

// Command is args (see Flow.Args) as an argv, whose first is a program's file.
func (s *Site) Command(args []string) []string {
	return append([]string{s.World.Program(args[0])}, args[1:]...)
}

// Env is the environment in which a program finds the site.
func (s *Site) Env() []string {
	return []string{"OTA_CONFIG=" + s.config(), "PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "TMPDIR=/nonexistent"}
}

func (s *Site) expand(args []string) []string {
	out := slices.Clone(args)
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], "{url}", s.World.server.URL)
	}
	return out
}

// Run runs a command, without interrupting it.
func (s *Site) Run(ctx context.Context, args []string) (*invariants.Said, error) {
	argv := s.Command(args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = s.Env()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	s.Forget()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	return s.Heard(cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()), nil
}

// Forget drops what the site has reported so far; the screen's file, too.
func (s *Site) Forget() {
	s.World.mu.Lock()
	defer s.World.mu.Unlock()
	delete(s.World.reports, s.id())
	_ = os.Remove(filepath.Join(s.run(), "progress.json"))
}

// OnReport calls hear with each stage that the site reports, before the report is
// answered; nil: no more.
func (s *Site) OnReport(hear func(stage string)) {
	s.World.mu.Lock()
	defer s.World.mu.Unlock()
	s.World.hears[s.id()] = hear
}

// Heard is all that a program said that ended with exit (-1: it was killed) since
// Forget.
func (s *Site) Heard(exit int, stdout, stderr string) *invariants.Said {
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
