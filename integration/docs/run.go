package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// limit is for one command, ten times what the slowest of them takes here.
const limit = 10 * time.Minute

// A runner runs the blocks of one document.
type runner struct {
	work   *workstation
	device deviceShell
	match  matcher
	update bool                             // write down what commands print, instead of comparing
	logf   func(format string, args ...any) // what was done
}

// run does with a block what its kind asks for.
func (r *runner) run(ctx context.Context, b *block) (err error) {
	defer try.End(&err)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if b.notes.file != "" {
		name := filepath.Join(r.work.home, b.notes.file)
		try.Check(os.MkdirAll(filepath.Dir(name), 0o755))
		try.Check(os.WriteFile(name, []byte(b.text()), 0o644))
	}
	if b.notes.device != "" {
		try.Check(r.device.WriteFile(ctx, b.notes.device, 0o644, []byte(b.text())))
	}
	switch b.kind {
	case "console":
		return r.transcript(ctx, b)
	case "sh":
		var sh shell = r.work
		if b.notes.onDevice {
			sh = r.device
		}
		out, code, err := sh.run(ctx, "set -eu\n"+b.text())
		if err == nil && code != 0 {
			err = fmt.Errorf("exit %d:\n%s", code, out)
		}
		return err
	case "toml":
		dir := try.Get(os.MkdirTemp("", "ota-docs-"))
		defer os.RemoveAll(dir)
		name := filepath.Join(dir, "ota.toml")
		try.Check(os.WriteFile(name, []byte(b.text()), 0o644))
		_, err = config.Load(name)
		return err
	case "json":
		dec := json.NewDecoder(strings.NewReader(b.text()))
		for n := 0; ; n++ {
			var v any
			if err := dec.Decode(&v); errors.Is(err, io.EOF) && n > 0 {
				return nil
			} else if err != nil {
				return err
			}
		}
	case "go":
		if b.notes.file == "" {
			return errors.New("a program has a name: <!-- file: NAME.go -->")
		}
		return r.vet(ctx, filepath.Join(r.work.home, b.notes.file))
	case "python":
		return r.onDevice(ctx, b, "program.py", "python3", "-m", "py_compile", "/run/docs/program.py")
	case "ini":
		name := filepath.Base(b.notes.device + b.notes.file)
		if name == "." {
			return errors.New("a unit has a name: <!-- device: /etc/systemd/system/NAME.service -->")
		}
		if unit, is := strings.CutSuffix(filepath.Base(filepath.Dir(b.notes.device+b.notes.file)), ".d"); is {
			return r.onDevice(ctx, b, unit+".d/"+name, "env", "SYSTEMD_UNIT_PATH=/run/docs:", "systemd-analyze", "verify", "--man=no", unit)
		}
		return r.onDevice(ctx, b, name, "systemd-analyze", "verify", "--man=no", "/run/docs/"+name)
	}
	return nil
}

// vet lets go vet look at a program that uses nothing but the standard library.
func (r *runner) vet(ctx context.Context, file string) (err error) {
	defer try.End(&err)
	cmd := exec.CommandContext(ctx, "go", "vet", file)
	cmd.Dir, cmd.Env = r.work.home, append(r.work.env, "GO111MODULE=off")
	try.Run(cmd)
	return nil
}

// noVersionYet is what systemd says of a service that starts from a store in which
// nothing is installed yet.
var noVersionYet = regexp.MustCompile(`(?m)^\S+: Command /opt/tope/versions/current/\S+ is not executable: No such file or directory$`)

// harmless reports whether systemd complains of that alone.
func harmless(stderr string) bool {
	rest := noVersionYet.ReplaceAllString(stderr, "")
	return rest != stderr && strings.TrimSpace(rest) == ""
}

// onDevice lets a program of the device look at the block, in a file below /run/docs.
func (r *runner) onDevice(ctx context.Context, b *block, file string, argv ...string) (err error) {
	defer try.End(&err)
	try.Check(r.device.WriteFile(ctx, "/run/docs/"+file, 0o644, []byte(b.text())))
	res, err := r.device.Exec(ctx, argv...)
	if err == nil && !harmless(res.Stderr) && (res.Code != 0 || strings.Contains(res.Stderr, filepath.Base(file))) {
		err = fmt.Errorf("%s: %s", strings.Join(argv, " "), res)
	}
	return err
}

func (r *runner) transcript(ctx context.Context, b *block) (err error) {
	defer try.End(&err)
	steps := try.Get(b.steps())
	for i := range steps {
		s := &steps[i]
		began := time.Now()
		var sh shell = r.work
		if s.device {
			sh = r.device
		}
		out, code, err := sh.run(ctx, s.command)
		r.logf("%6.1f s  %s", time.Since(began).Seconds(), s.command)
		if err == nil && code != 0 {
			err = fmt.Errorf("exit %d (where that is meant, the document shows it: `; echo $?`)", code)
		}
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", s.command, err, out)
		}
		if argv := strings.Fields(s.command); !strings.ContainsAny(s.command, "|&;<>$") {
			try.Check(machine.CheckOutput(argv, machine.Result{Stdout: out}))
		}
		got := outputLines(out)
		differs := r.match.match(s.output, got)
		if differs == nil {
			continue
		}
		if !r.update {
			return fmt.Errorf("line %d: %s\n%w; all that it prints:\n%s", s.first, s.command, differs, out)
		}
		before := len(b.doc.lines)
		b.doc.replaceOutput(s, r.match.rewrite(s.output, got))
		for j := i + 1; j < len(steps); j++ {
			steps[j].first += len(b.doc.lines) - before
		}
	}
	return nil
}

// rewrite writes the document back where something of it changed.
func (d *document) rewrite(file string) error {
	text := []byte(strings.Join(d.lines, "\n"))
	old, err := os.ReadFile(file)
	if err != nil || bytes.Equal(old, text) {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

var _ machine.Machine = deviceShell{}
