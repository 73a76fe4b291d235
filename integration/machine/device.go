package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// Device is a machine with the product on it.
type Device struct {
	Machine
	Limits Limits
	Arch   debian.Arch // of the versions that are offered to it

	// Runs is the version that a device ran, over factory 1.0.0, when the machine that
	// it continues from was saved; empty: it is a new one.
	Runs string
}

// Limits are the times of the device's configuration and of the waits for it.
type Limits struct {
	Stable   time.Duration // how long a version must be well
	Deadline time.Duration // and by when
	Wait     time.Duration // of the test for one event: 5 to 10 times what it takes on a quiet machine
}

// Quick are limits for a machine whose services start in milliseconds (a
// container), Slow for one that is emulated.
var (
	Quick = Limits{Stable: time.Second, Deadline: 12 * time.Second, Wait: 90 * time.Second}
	Slow  = Limits{Stable: 3 * time.Second, Deadline: 40 * time.Second, Wait: 4 * time.Minute}
)

const config = `model = %q
reserve = "1MiB"
[trial]
stable = "%dms"
deadline = "%dms"
%s
`

// NewDevice writes the configuration and the keys of a device to m, and makes the
// empty store.
func NewDevice(ctx context.Context, m Machine, limits Limits) (_ *Device, err error) {
	defer try.End(&err)
	d := &Device{Machine: m, Limits: limits}
	try.Check(d.Configure(ctx, limits.Stable, limits.Deadline))
	try.Check(m.WriteFile(ctx, Etc+"/keys/test.pub", 0o644, testPub))
	_, err = d.Must(ctx, "mkdir", "-p", Store, deviceapi.State, Bundles)
	return d, err
}

// Configure writes the configuration with these times, and with more lines, of the table
// trial or of others.
func (d *Device) Configure(ctx context.Context, stable, deadline time.Duration, more ...string) error {
	return d.WriteFile(ctx, Etc+"/ota.toml", 0o644,
		fmt.Appendf(nil, config, model, stable.Milliseconds(), deadline.Milliseconds(), strings.Join(more, "\n")))
}

// Must is Exec of a program that has to succeed; it returns its stdout.
func (d *Device) Must(ctx context.Context, argv ...string) (string, error) {
	r, err := d.Exec(ctx, argv...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s: %s", strings.Join(argv, " "), r)
	}
	return r.Stdout, err
}

// Offer puts the bundle of v where the device downloads from and returns its address.
func (d *Device) Offer(ctx context.Context, v Version) (_ string, err error) {
	defer try.End(&err)
	data := try.Get(Bundle(ctx, d.Arch, v))
	name := v.Name + ".ota"
	return BundleAt + "/" + name, d.WriteFile(ctx, path.Join(Bundles, name), 0o644, data)
}

// Install offers v and lets ota-apply install it; flags are those of install.
// It returns how ota-apply ended, which is when the trial has ended.
func (d *Device) Install(ctx context.Context, v Version, flags ...string) (_ Result, err error) {
	defer try.End(&err)
	return d.Exec(ctx, append([]string{"ota-apply", "install", try.Get(d.Offer(ctx, v))}, flags...)...)
}

// Installs is Install, which must end with code.
func (d *Device) Installs(ctx context.Context, v Version, code bootcheck.ExitCode, flags ...string) error {
	r, err := d.Install(ctx, v, flags...)
	if err == nil && r.Code != int(code) {
		err = fmt.Errorf("ota-apply install %s: %s; want exit %d", v.Name, r, code)
	}
	return err
}

// Factory brings a new device to life: v is installed, is confirmed and is
// made the factory version.
func (d *Device) Factory(ctx context.Context, v Version) (err error) {
	defer try.End(&err)
	try.Check(d.Installs(ctx, v, bootcheck.ExitDone))
	_, err = d.Must(ctx, "ota-guardian", "factory", "create")
	return err
}

// Status is what ota-guardian says of the device.
func (d *Device) Status(ctx context.Context) (_ *bootcheck.Status, err error) {
	defer try.End(&err)
	out := try.Get(d.Must(ctx, "ota-guardian", "status", "--json"))
	var s bootcheck.Status
	return &s, json.Unmarshal([]byte(out), &s)
}

// Links are what the links of the store lead to, read from the disk and not
// asked of the product: "current" to "1.2.0". A link that leads nowhere is not in it.
func (d *Device) Links(ctx context.Context) (map[string]string, error) {
	out, err := d.Must(ctx, "sh", "-c", `cd `+Store+` && for l in current previous factory; do
		if [ -d $l/ ]; then echo "$l $(basename "$(readlink -f $l)")"; fi; done`)
	links := map[string]string{}
	for line := range strings.Lines(out) {
		name, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		links[name], _, _ = strings.Cut(strings.TrimPrefix(dir, "v"), "~") // rebuilt or not
	}
	return links, err
}

// Get asks what listens at an address of the device, HOST/PORT, for path; both are empty if
// nothing does. Through bash, as the guest has no HTTP client.
func (d *Device) Get(ctx context.Context, address, path string) (head, body string, err error) {
	r, err := d.Exec(ctx, "bash", "-c", `exec 3<>/dev/tcp/$0 && printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3 && cat <&3`, address, path)
	head, body, _ = strings.Cut(r.Stdout, "\r\n\r\n")
	return head, body, err
}

// Running is the version of the device-api that answers at this moment.
func (d *Device) Running(ctx context.Context) (string, error) {
	_, body, err := d.Get(ctx, "127.0.0.1/9080", "/health")
	if err != nil {
		return "", err
	}
	var health struct{ Version string }
	if json.Unmarshal([]byte(body), &health) != nil || health.Version == "" {
		return "", errors.New("no version answers")
	}
	return health.Version, nil
}

// Reports are what device-api was told, the oldest first.
func (d *Device) Reports(ctx context.Context) (all []deviceapi.Report, err error) {
	defer try.End(&err)
	data := try.Get(d.ReadFile(ctx, deviceapi.State+"/reports.jsonl"))
	for line := range bytes.Lines(data) {
		var r deviceapi.Received
		var report deviceapi.Report
		// The last line may be half: the power was cut while it was written.
		if json.Unmarshal(line, &r) == nil && json.Unmarshal(r.Raw, &report) == nil {
			all = append(all, report)
		}
	}
	return all, nil
}

// Want is what a device must come to.
type Want struct {
	Current, Previous, Factory string // versions, of the links and of the record; empty: none
	Phase                      bootcheck.Phase
	Running                    string // the version that answers; empty: the same as Current
	Told                       string // begins the "error" of a report that device-api got, or is the stage of one; empty: not asked
}

// Reach waits until the device is as want says.
func (d *Device) Reach(ctx context.Context, want Want) error {
	if want.Running == "" {
		want.Running = want.Current
	}
	return d.poll(ctx, fmt.Sprintf("%+v", want), func(ctx context.Context) error {
		got, err := d.now(ctx, want.Told)
		if err == nil && got != want {
			err = fmt.Errorf("the device is %+v", got)
		}
		return err
	})
}

// Wait waits until the status of the device is as yes wants it.
func (d *Device) Wait(ctx context.Context, what string, yes func(*bootcheck.Status) bool) error {
	return d.poll(ctx, what, func(ctx context.Context) error {
		s, err := d.Status(ctx)
		if err == nil && !yes(s) {
			err = fmt.Errorf("%s is %s, trial %+v", s.Current, s.Phase, s.Trial)
		}
		return err
	})
}

// WaitShell waits until a line of shell succeeds.
func (d *Device) WaitShell(ctx context.Context, what, line string) error {
	return d.poll(ctx, what, func(ctx context.Context) error {
		_, err := d.Must(ctx, "bash", "-c", line)
		return err
	})
}

// WaitRunning waits until version answers.
func (d *Device) WaitRunning(ctx context.Context, version string) error {
	return d.poll(ctx, version+" to answer", func(ctx context.Context) error {
		running, err := d.Running(ctx)
		if err == nil && running != version {
			err = fmt.Errorf("%s answers", running)
		}
		return err
	})
}

// poll waits until there is no error, as long as the device's limits allow.
func (d *Device) poll(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.Limits.Wait)
	defer cancel()
	return Poll(ctx, what, ask)
}

// now is the device in Want's terms. That the links and the record say the same
// is part of it: one that do not is an error.
func (d *Device) now(ctx context.Context, told string) (_ Want, err error) {
	defer try.End(&err)
	status := try.Get(d.Status(ctx))
	links := try.Get(d.Links(ctx))
	if links["current"] != status.Current || links["previous"] != status.Previous || links["factory"] != status.Factory {
		return Want{}, fmt.Errorf("the links say %v, the status says %s, %s, %s", links, status.Current, status.Previous, status.Factory)
	}
	if status.Damage != "" {
		return Want{}, fmt.Errorf("the store is damaged: %s", status.Damage)
	}
	w := Want{Current: status.Current, Previous: status.Previous, Factory: status.Factory, Phase: status.Phase}
	if w.Running, err = d.Running(ctx); err != nil {
		w.Running = err.Error()
	}
	if told != "" {
		reports := try.Get(d.Reports(ctx))
		for _, r := range reports {
			if r.Stage == told || strings.HasPrefix(r.Error, told) {
				w.Told = told
			}
		}
	}
	return w, nil
}

// Tree describes every file of a version as it is on the disk: type, mode, link
// and hash. Two trees that are described alike are alike, byte for byte.
func (d *Device) Tree(ctx context.Context, version string) (string, error) {
	return d.Must(ctx, "bash", "-c", `set -e -o pipefail
		cd "$(ls -d `+Store+`/v`+version+`~* `+Store+`/v`+version+` 2>/dev/null | head -n 1)" # rebuilt or not
		find . -printf '%p %y %m %s %l\n' | LC_ALL=C sort
		find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum`)
}
