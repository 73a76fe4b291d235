package scenario

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// Files that say how the next boots of a machine with CostOverlay run
// ota-guardian.service.
const (
	costStub = "/data/cost-stub" // with /bin/true for its program
	costIO   = "/data/cost-io"   // with an account of what it writes
)

// CostOverlay adds to a device what BootCost and WritesNothing need: a generator
// that changes ota-guardian.service for one boot and nothing else, so that all
// boots are of the same machine with the same image.
func CostOverlay(o debian.Overlay) {
	o["/etc/systemd/system-generators/ota-cost"] = debian.File{Mode: 0o755, Data: []byte(`#!/bin/sh
mkdir -p "$1/ota-guardian.service.d"
exec >"$1/ota-guardian.service.d/99-cost.conf"
echo '[Service]'
if [ -e ` + costStub + ` ]; then
	echo ExecStart=
	echo ExecStart=/bin/true
fi
if [ -e ` + costIO + ` ]; then
	# "+": outside of the sandbox.
	echo 'ExecStartPre=+/bin/sh /etc/ota-cost-disk /run/cost-before'
	echo ExecStart=
	# A shell's account has what those wrote that it waited for.
	echo 'ExecStart=/bin/sh -c "/usr/bin/ota-guardian boot; cat /proc/$$$$/io"'
	echo 'ExecStartPost=+/bin/sh /etc/ota-cost-disk /run/cost-after'
fi
`)}
	o["/etc/ota-cost-disk"] = debian.File{Data: []byte(`# The first program to open a file of an ext4 has the kernel note in it where it
# is mounted (s_last_mounted). What is dirty before is written before.
cat ` + costIO + `
sync
for disk in /sys/block/vd*; do
	if [ "$(cat $disk/serial)" = ` + agent.DataSerial + ` ]; then cat $disk/stat >"$1"; fi
done
`)}
}

// confirmed brings a new device to one version that was confirmed.
func confirmed(ctx context.Context, d *machine.Device) {
	try.Check(d.Factory(ctx, v10))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}))
}

// WritesNothing shows that an ordinary boot, after a shutdown or a power cut,
// writes nothing to the disk of the store: no byte by the guardian, no sector of
// the disk while it runs. A boot that has something to repair does write, by the
// same account.
func WritesNothing(ctx context.Context, d *machine.Device) {
	confirmed(ctx, d)
	try.Check(d.WriteFile(ctx, costIO, 0o644, nil))
	for _, row := range []struct {
		name   string
		next   func(context.Context) error
		writes bool
	}{
		{"a reboot", d.Reboot, false},
		{"a power cut", d.PowerCut, false},
		{"a reboot with a damaged record", func(ctx context.Context) error {
			try.Get(d.Must(ctx, "sh", "-c", "cd "+machine.Store+" && : >.active/record.json && sync"))
			return d.Reboot(ctx)
		}, true},
	} {
		try.Check(row.next(ctx))
		try.Check(d.WaitRunning(ctx, "1.0.0"))
		out := try.Get(d.Must(ctx, "sh", "-c", `cat /run/cost-before /run/cost-after &&
			journalctl --sync && journalctl -b -o cat --no-pager -u ota-guardian.service | grep '^write_bytes: '`))
		// Sectors written are the seventh field, Documentation/block/stat.rst.
		f := strings.Fields(out)
		if len(f) < 4 || f[len(f)-2] != "write_bytes:" || len(f)%2 != 0 {
			try.Failf("the account of the boot is %q", out)
		}
		half := (len(f) - 2) / 2
		sectors := try.Get(strconv.Atoi(f[half+6])) - try.Get(strconv.Atoi(f[6]))
		bytes := f[len(f)-1]
		if wrote := bytes != "0" && sectors > 0; wrote != row.writes || !row.writes && (bytes != "0" || sectors != 0) {
			try.Failf("after %s: the guardian wrote %s bytes and the disk %d sectors, want some: %v", row.name, bytes, sectors, row.writes)
		}
	}
}

// A Cost is how long things took in one boot.
type Cost struct {
	Unit    time.Duration // ota-guardian.service, from its start until it let the services start
	Execute time.Duration // from the start of systemd until device-api was executed
	Ready   time.Duration // and until it was ready
}

// BootCost reboots a device that has a confirmed version 2n times, each second
// time with /bin/true in the place of `ota-guardian boot`, and returns what both
// kinds of boots took. each is called after each boot.
func BootCost(ctx context.Context, d *machine.Device, n int, each func(stub bool, c Cost)) (guardian, stub []Cost) {
	confirmed(ctx, d)
	for i := range 2 * n {
		stubbed := i%2 == 1
		toggle := []string{"rm", "-f", costStub}
		if stubbed {
			toggle = []string{"touch", costStub}
		}
		try.Get(d.Must(ctx, toggle...))
		try.Check(d.Reboot(ctx))
		try.Check(d.WaitRunning(ctx, "1.0.0"))
		c := costOf(ctx, d, stubbed)
		each(stubbed, c)
		if stubbed {
			stub = append(stub, c)
		} else {
			guardian = append(guardian, c)
		}
	}
	return guardian, stub
}

// costOf reads what the boot that runs took, and that it ran what it should.
func costOf(ctx context.Context, d *machine.Device, stubbed bool) Cost {
	program := "/usr/bin/ota-guardian"
	if stubbed {
		program = "/bin/true"
	}
	out := try.Get(d.Must(ctx, "bash", "-e", "-c", `
		systemctl show -P ExecStart ota-guardian.service | grep -q "path=$0 "
		for p in InactiveExit ActiveEnter; do systemctl show -P ${p}TimestampMonotonic ota-guardian.service; done
		for p in ExecMainStart ActiveEnter; do systemctl show -P ${p}TimestampMonotonic device-api.service; done
		systemctl show -P UserspaceTimestampMonotonic`, program))
	var at []time.Duration // in microseconds of CLOCK_MONOTONIC
	for _, text := range strings.Fields(out) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n == 0 {
			try.Failf("the times of the boot are %q", out)
		}
		at = append(at, time.Duration(n)*time.Microsecond)
	}
	if len(at) != 5 {
		try.Failf("the times of the boot are %q", out)
	}
	return Cost{Unit: at[1] - at[0], Execute: at[2] - at[4], Ready: at[3] - at[4]}
}

// Median is the median of what f says of each.
func Median[T any](all []T, f func(T) time.Duration) time.Duration {
	ds := make([]time.Duration, len(all))
	for i, v := range all {
		ds[i] = f(v)
	}
	slices.Sort(ds)
	return (ds[(len(ds)-1)/2] + ds[len(ds)/2]) / 2
}
