package cuts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/debian"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/vm"
)

// Where things are on the data disk; see integration/initramfs.
const (
	storeOnDisk   = "opt-tope/versions"
	reportsOnDisk = "device-api/reports.jsonl"
)

// A Disk is what is on the data disk of a device.
type Disk struct {
	Found   *invariants.Found
	Factory string             // invariants.Fingerprint of version 1.0.0
	Reports []deviceapi.Report // what device-api was told, the oldest first
	// Committing: a generation after the one that counts is there, whole or not.
	Committing bool
	Left       string // the version that the last rollback left; empty: there was none
	Blocked    []string
}

// Look reads the disk in file, which it leaves as it is.
func (w *World) Look(ctx context.Context, file string) (d *Disk, err error) {
	err = w.mounted(ctx, func(image string) error { return vm.CopySparse(file, image) }, func(root string) error {
		d, err = read(root)
		return err
	})
	return d, err
}

// mounted mounts the disk that make makes, for f. Its journal is replayed, as the
// device's own kernel does.
func (w *World) mounted(ctx context.Context, make func(image string) error, f func(root string) error) (err error) {
	dir, err := os.MkdirTemp(w.dir, "mounted-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image, root := filepath.Join(dir, "data.img"), filepath.Join(dir, "root")
	if err := errors.Join(make(image), os.Mkdir(root, 0o755)); err != nil {
		return err
	}
	return mount(ctx, image, root, f)
}

// mount mounts the ext4 in image on root for as long as f runs.
func mount(ctx context.Context, image, root string, f func(root string) error) (err error) {
	if err := tool(ctx, "mount", "-t", "ext4", "-o", "loop", image, root); err != nil {
		return err
	}
	defer func() {
		// Also when ctx has ended: nothing may stay mounted. A program that is started
		// in this moment holds for a while what was open then, as a file of the disk.
		for tries := 0; ; tries++ {
			left := tool(context.WithoutCancel(ctx), "umount", root)
			if left == nil || tries == 100 {
				err = errors.Join(err, left)
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return f(root)
}

func tool(ctx context.Context, name string, args ...string) error {
	path, err := debian.LookTool(name)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, bytes.TrimSpace(out))
	}
	return nil
}

// read reads the disk that is mounted on root.
func read(root string) (*Disk, error) {
	store := filepath.Join(root, storeOnDisk)
	d := &Disk{Found: invariants.Look(store)}
	var err error
	if d.Factory, err = invariants.Fingerprint(filepath.Join(store, "v1.0.0")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	generation := func(n uint64) string {
		return filepath.Join(store, ".generations", strconv.FormatUint(n, 10))
	}
	if _, err := os.Lstat(generation(d.Found.Generation + 1)); err == nil {
		d.Committing = true
	}
	var record struct {
		LastRollback *struct{ From string } `json:"last_rollback"`
		Blocked      []struct{ Version string }
	}
	text, err := os.ReadFile(filepath.Join(generation(d.Found.Generation), "record.json"))
	if err == nil && json.Unmarshal(text, &record) == nil { // what is wrong with it is in Found
		if record.LastRollback != nil {
			d.Left = record.LastRollback.From
		}
		for _, b := range record.Blocked {
			d.Blocked = append(d.Blocked, b.Version)
		}
	}
	if text, err = os.ReadFile(filepath.Join(root, reportsOnDisk)); err != nil {
		return nil, err
	}
	d.Reports = parseReports(text)
	return d, nil
}

// parseReports reads the reports that device-api kept. The last line may be half.
func parseReports(text []byte) (all []deviceapi.Report) {
	for line := range bytes.Lines(text) {
		var r deviceapi.Received
		var report deviceapi.Report
		if json.Unmarshal(line, &r) == nil && json.Unmarshal(r.Raw, &report) == nil {
			all = append(all, report)
		}
	}
	return all
}

// aftermath is what the guardian and the applier make of the disk on root, on the
// host, where no systemd runs: the next boot, the verdict, a good install.
func (w *World) aftermath(ctx context.Context, root string, now invariants.State) ([]invariants.Problem, error) {
	dir, err := os.MkdirTemp(w.dir, "site-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	site, err := w.flows.NewSite(dir, filepath.Join(root, storeOnDisk))
	if err != nil {
		return nil, err
	}
	defer site.Forget()
	c := &flows.Case{Flow: &flows.Flow{Before: now, After: now}, Site: site, Kept: map[string]string{"1.0.0": w.factory}}
	return c.Aftermath(ctx, true)
}

func problem(kind invariants.Kind, format string, args ...any) invariants.Problem {
	return invariants.Problem{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// Judge looks at the disk of c, and at what becomes of it on the host. It leaves the
// file as it is. The error is that nothing could be judged.
func (w *World) Judge(ctx context.Context, c *Cut) error {
	return w.mounted(ctx, func(image string) error { return applyDelta(w.disk(), c.File, image) }, func(root string) (err error) {
		c.Disk, c.Problems, err = w.judge(ctx, c.Story, root, c.Exit)
		if err == nil {
			c.Stage = c.Story.stage(c.Disk, c.Disk.Reports[min(len(w.base.Reports), len(c.Disk.Reports)):], c.Started)
		}
		return err
	})
}

func (w *World) judge(ctx context.Context, s *Story, root string, exit int) (*Disk, []invariants.Problem, error) {
	d, err := read(root)
	if err != nil {
		return nil, nil, err
	}
	problems := append(d.Found.Problems, w.honest(s, d, exit)...)
	if len(problems) > 0 {
		return d, problems, nil
	}
	problems, err = w.aftermath(ctx, root, d.Found.State)
	return d, problems, err
}

// honest compares the disk with what device-api was told, and with how ota-apply
// had ended before (running: it had not).
func (w *World) honest(s *Story, d *Disk, exit int) (problems []invariants.Problem) {
	if d.Factory != w.factory {
		problems = append(problems, problem(invariants.Torn, "factory was touched"))
	}
	lie := func(format string, args ...any) {
		problems = append(problems, problem(invariants.Lie, format+": "+d.Found.State.String(), args...))
	}
	n := len(w.base.Reports)
	if len(d.Reports) < n {
		lie("device-api has lost reports that it had long before")
		return problems
	}
	for i, r := range w.base.Reports {
		if d.Reports[i] != r {
			lie("report %d changed from %+v to %+v", i, r, d.Reports[i])
		}
	}
	now, said := s.meaning(d), s.said(d.Reports[n:], exit)
	switch {
	case now == nowhere:
		lie("no state on the way of %q", s.Name)
	case now < said:
		lie("device-api was told %+v, ota-apply ended with %d", d.Reports[len(d.Reports)-1], exit)
	}
	return problems
}
