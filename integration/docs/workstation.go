package docs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// A shell runs the commands of one of the two machines, one after the other: the
// directory and the variables of one are those of the next.
type shell interface {
	run(ctx context.Context, command string) (output string, code int, err error)
}

// keep runs command in bash and leaves its directory and variables in the file state.
func keep(state, command string) string {
	return fmt.Sprintf("set -a\n[ ! -e %[1]s ] || . %[1]s\nexec 2>&1\n%[2]s\n__code=$?; { export -p; printf 'cd %%q\\n' \"$PWD\"; } >%[1]s; exit $__code\n", state, command)
}

// A workstation is the machine where releases are made: a directory of the host that
// is home, with the programs of this checkout in its PATH.
type workstation struct {
	home   string
	outbox string // what scp was given
	env    []string
	target machine.Machine
}

// scp leaves what it is given for the test to carry over: outbox/N/to has the
// destination, outbox/N/file the file.
const scp = `#!/bin/bash
set -eu
recursive=
while [ "${1-}" = -r ] || [ "${1-}" = -q ]; do recursive=-r; shift; done
to=${!#}
case $to in *:*) ;; *) echo "scp: $to names no host" >&2; exit 1 ;; esac
while [ $# -gt 1 ]; do
	slot=$(mktemp -d "$OTA_DOCS_OUTBOX/XXXXXXXX")
	cp $recursive "$1" "$slot/"
	printf %s "$to" >"$slot.to"
	shift
done
`

func newWorkstation(ctx context.Context, dir, bin string, m machine.Machine) (_ *workstation, err error) {
	defer try.End(&err)
	w := &workstation{home: filepath.Join(dir, "home"), outbox: filepath.Join(dir, "outbox"), target: m}
	shims := filepath.Join(dir, "shims")
	for _, d := range []string{w.home, w.outbox, shims} {
		try.Check(os.MkdirAll(d, 0o755))
	}
	try.Check(os.WriteFile(filepath.Join(shims, "scp"), []byte(scp), 0o755))
	repo := try.Get(debian.RepoDir())
	w.env = append(os.Environ(),
		"HOME="+w.home, "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TZ=UTC",
		"PATH="+shims+":"+bin+":"+os.Getenv("PATH"),
		"OTA_DOCS_OUTBOX="+w.outbox,
		// A clone of this repository is a clone of this checkout.
		"GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=url."+repo+".insteadOf", "GIT_CONFIG_VALUE_0=https://github.com/tope-ota/ota",
		"GIT_CONFIG_KEY_1=safe.directory", "GIT_CONFIG_VALUE_1=*",
	)
	// Go's caches do not move with HOME.
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOFLAGS", "GOSUMDB"} {
		w.env = append(w.env, name+"="+strings.TrimSpace(try.Output(exec.CommandContext(ctx, "go", "env", name))))
	}
	return w, nil
}

func (w *workstation) run(ctx context.Context, command string) (string, int, error) {
	state := filepath.Join(filepath.Dir(w.home), "state")
	cmd := exec.CommandContext(ctx, "bash", "-c", keep(state, command))
	cmd.Dir, cmd.Env = w.home, w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return "", 0, err
	}
	code := cmd.ProcessState.ExitCode()
	if ctx.Err() != nil {
		return out.String(), code, ctx.Err()
	}
	return out.String(), code, w.deliver(ctx)
}

// deliver carries over what scp was given.
func (w *workstation) deliver(ctx context.Context) (err error) {
	defer try.End(&err)
	slots := try.Get(filepath.Glob(w.outbox + "/*.to"))
	for _, slot := range slots {
		to := try.Get(os.ReadFile(slot))
		host, target, _ := strings.Cut(string(to), ":")
		host = host[strings.LastIndex(host, "@")+1:]
		switch {
		case w.target == nil:
			return fmt.Errorf("scp %s: this document has no device", to)
		case host == "updates.example.com":
			target = machine.Bundles + "/"
		case host != "device":
			return fmt.Errorf("scp: there is no host %q here, only device and updates.example.com", host)
		case !path.IsAbs(target):
			target = "/root/" + target
		}
		dir := strings.TrimSuffix(slot, ".to")
		if err := w.carry(ctx, dir, target); err != nil {
			return fmt.Errorf("scp to %s: %w", to, err)
		}
		try.Check(os.RemoveAll(dir))
		try.Check(os.Remove(slot))
	}
	return nil
}

// carry puts what lies in dir, one file or directory, to the place target of the device,
// as scp would: into it, if it is a directory.
func (w *workstation) carry(ctx context.Context, dir, target string) (err error) {
	defer try.End(&err)
	archive := try.Output(exec.CommandContext(ctx, "tar", "-C", dir, "--owner=0", "--group=0", "-cf", "-", "."))
	try.Check(w.target.WriteFile(ctx, "/data/scp/tar", 0o600, []byte(archive)))
	r, err := w.target.Exec(ctx, "bash", "-euc", `
		cd /data/scp && mkdir files && tar -C files -xf tar
		case $0 in */) mkdir -p "$0" ;; *) mkdir -p "$(dirname "$0")" ;; esac
		cp -rf --preserve=mode,links files/* "$0"
		rm -rf /data/scp`, target)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("cp: %s", r)
	}
	return err
}

// A deviceShell is root's on the device.
type deviceShell struct{ machine.Machine }

func (d deviceShell) run(ctx context.Context, command string) (string, int, error) {
	if d.Machine == nil {
		return "", 0, fmt.Errorf("this document has no device")
	}
	// A reboot takes the shell with it, as it does an operator's.
	switch command {
	case "reboot", "systemctl reboot":
		return "", 0, d.Reboot(ctx)
	}
	r, err := d.Exec(ctx, "bash", "-c", "cd /root\n"+keep("/data/shell-state", command))
	return r.Stdout + r.Stderr, r.Code, err
}
