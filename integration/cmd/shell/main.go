// Command shell gives a prompt on a test device: a Debian with a real systemd in a
// container, on which the package is installed and a first version is confirmed.
// `make shell` runs it, as root. Each line is a command line of the device; the end of
// the input stops the device and removes it.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	// For the command that runs on the device, not for the device.
	signal.Ignore(os.Interrupt)
	if err := run(ctx, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "shell:", err)
		os.Exit(1)
	}
}

// The versions that the device can download.
var versions = []machine.Version{
	{Name: "1.1.0", Release: 2},
	{Name: "1.2.0", Release: 3, Behave: deviceapi.Config{Behave: deviceapi.Exit}},
	{Name: "1.3.0", Release: 4, Behave: deviceapi.Config{Behave: deviceapi.Health500}},
}

const hint = `
This device runs 1.0.0, its factory version. At %[1]s wait
1.1.0 (good), 1.2.0 (exits at its start) and 1.3.0 (answers 500). Try, in any order:
  ota status      ota history      ota why      ota doctor      journalctl -t ota-guardian
  ota install --dry-run %[1]s/1.1.0.ota
  ota install %[1]s/1.2.0.ota; echo "exit $?"
  power-cut and reboot do what they say; exit ends it, and nothing of it is left.
`

func run(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	defer try.End(&err)
	if missing := container.Missing(); len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, "; "))
	}
	fmt.Fprintln(out, "a device with Debian 12 is made, and the package is built (the first time: a minute or two)")
	dir := try.Get(os.MkdirTemp("", "ota-shell-"))
	defer os.RemoveAll(dir)
	pkg := try.Get(os.ReadFile(try.Get(machine.Deb(ctx, dir, "0.0.1"))))
	m := try.Get(container.Start(ctx, container.Options{Overlay: machine.ServiceOverlay(), Variant: debian.Variant{Dpkg: true}, Writable: true}))
	defer m.Stop()
	d := try.Get(machine.NewDevice(ctx, m, machine.Quick))
	fmt.Fprintln(out, "the package is installed, then the first version")
	try.Check(m.WriteFile(ctx, "/data/ota.deb", 0o644, pkg))
	try.Get(d.Must(ctx, "dpkg", "-i", "/data/ota.deb"))
	try.Check(d.Factory(ctx, machine.Version{Name: "1.0.0", Release: 1}))
	for _, v := range versions {
		try.Get(d.Offer(ctx, v))
	}
	fmt.Fprintf(out, hint, machine.BundleAt)
	return prompt(ctx, d, in, out)
}

// line runs $2 in the directory $1, and leaves in $3 where it ended.
const line = `cd "$1" 2>/dev/null; eval "$2"; code=$?; pwd >"$3"; exit $code`

func prompt(ctx context.Context, d *machine.Device, in io.Reader, out io.Writer) error {
	const at = "/run/ota-shell"
	dir := "/root"
	lines := bufio.NewScanner(in)
	for {
		fmt.Fprintf(out, "device:%s# ", dir)
		if !lines.Scan() {
			fmt.Fprintln(out)
			return lines.Err()
		}
		var err error
		switch text := strings.TrimSpace(lines.Text()); text {
		case "":
			continue
		case "exit", "logout":
			return nil
		case "power-cut":
			err = d.PowerCut(ctx)
		case "reboot":
			err = d.Reboot(ctx)
		default:
			var r machine.Result
			if r, err = d.Exec(ctx, "sh", "-c", line, "sh", dir, text, at); err == nil {
				fmt.Fprint(out, r.Stdout, r.Stderr)
				if now, err := d.ReadFile(ctx, at); err == nil {
					dir = strings.TrimSpace(string(now))
				}
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Fprintln(out, err) // the device may be off, or on its way up again
		}
	}
}
