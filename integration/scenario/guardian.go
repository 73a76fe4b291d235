package scenario

import (
	"context"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// guardianAt is where GuardianOverlay puts the program, on the disk that a test
// can write.
const guardianAt = "/data/ota-guardian"

// GuardianOverlay makes a device whose guardian can be taken away: /usr/bin has a
// link to it. It returns the program. The unit is as it is installed, but that its
// time is up after two seconds and not after three minutes.
func GuardianOverlay(o debian.Overlay) (program []byte) {
	const installed = "/usr/bin/ota-guardian"
	program = o[installed].Data
	if len(program) == 0 {
		try.Failf("the overlay has no %s", installed)
	}
	o[installed] = debian.File{Link: guardianAt}
	o["/etc/systemd/system/ota-guardian.service.d/99-soon.conf"] = debian.Unit("[Service]\nTimeoutStartSec=2s\nTimeoutStopSec=1s\n")
	return program
}

// WithoutGuardian boots a device whose guardian is missing, damaged, crashes or
// hangs: the boot continues, and the current version is what the links say. Then it is there
// again, and finds nothing to complain about. The machine has GuardianOverlay,
// which returned program.
func WithoutGuardian(ctx context.Context, d *machine.Device, program []byte) {
	try.Check(d.WriteFile(ctx, guardianAt, 0o755, program))
	start(ctx, d, v11)
	foreign := append([]byte(nil), program...)
	foreign[18], foreign[19] = 183, 0 // e_machine, elf(5): EM_AARCH64
	for _, row := range []struct {
		name string
		data []byte // nil: missing
		next func(context.Context) error
	}{
		{"is missing", nil, d.Reboot},
		{"is empty", []byte{}, d.PowerCut},
		{"is no program", []byte("\x00\x01 no program"), d.Reboot},
		{"is half there", program[:len(program)/2], d.PowerCut},
		{"is for another processor", foreign, d.PowerCut},
		{"crashes", []byte("#!/bin/bash\nkill -SEGV $$\n"), d.Reboot},
		{"hangs and does not stop when it is told to", []byte("#!/bin/bash\ntrap '' TERM\nwhile :; do sleep 1; done\n"), d.PowerCut},
	} {
		boots(ctx, d, row.name, row.data, row.next)
	}
	try.Check(d.WriteFile(ctx, guardianAt, 0o755, program))
	try.Check(d.PowerCut(ctx))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	s := try.Get(d.Status(ctx))
	if s.LastRollback != nil || len(s.Blocked) > 0 {
		try.Failf("a rollback is recorded (%+v) or a version blocked (%v), want neither", s.LastRollback, s.Blocked)
	}
	try.Check(d.Installs(ctx, v12, bootcheck.ExitDone))
}

// boots boots d with that in the place of its guardian, which fails; nil: with none.
func boots(ctx context.Context, d *machine.Device, what string, guardian []byte, next func(context.Context) error) {
	defer try.Say("a guardian that %s", what)
	if guardian == nil {
		try.Get(d.Must(ctx, "rm", guardianAt))
	} else {
		try.Check(d.WriteFile(ctx, guardianAt, 0o755, guardian))
	}
	try.Check(next(ctx))
	try.Check(d.WaitRunning(ctx, "1.1.0"))
	// The unit failed: what is shown here is not an ordinary boot.
	try.Check(d.WaitShell(ctx, "the end of the boot, and a guardian that failed in it",
		`systemctl is-active multi-user.target device-api.service && systemctl is-failed ota-guardian.service`))
}

// RecoverOverlay starts ota-recover.service at each failure of device-api, as
// OnFailure= does from systemd 254 on. Before, only the last one does.
func RecoverOverlay(o debian.Overlay) {
	o["/etc/systemd/system/device-api.service.d/99-each.conf"] = debian.Unit(`[Service]
ExecStopPost=/bin/sh -c 'test "$$SERVICE_RESULT" = success || systemctl start --no-block ota-recover.service'
`)
}

// RecoversAtEachFailure lets ota-recover.service be started at each failure of a
// service: a version that dies twice and is well then is confirmed; one that dies
// for good is rolled back once, and once only. The machine has RecoverOverlay.
func RecoversAtEachFailure(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	twice := wrapped("1.2.0", 3, `echo >>/run/deaths; [ "$(wc -l </run/deaths)" -gt 2 ] || exit 1`)
	try.Check(d.Installs(ctx, twice, bootcheck.ExitDone))
	well := machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}
	try.Check(d.Reach(ctx, well))
	try.Check(d.WaitShell(ctx, "ota-recover.service to have seen a death that was not the last",
		`journalctl -b -o cat --no-pager -u ota-recover.service | grep 'systemd still restarts'`))

	try.Check(d.Installs(ctx, v12Exits.As("1.3.0", 4), bootcheck.ExitRolledBack))
	well.Told = "ROLLED_BACK_TO_PREVIOUS"
	try.Check(d.Reach(ctx, well))
	generations := func() string { return try.Get(d.Must(ctx, "ota-guardian", "history", "--json")) }
	before := generations()
	if n := strings.Count(before, `"phase": "fallback"`); n != 1 {
		try.Failf("%d generations rolled back, want 1:\n%s", n, before)
	}
	// By hand, on a device that is well: nothing.
	for range 3 {
		try.Get(d.Must(ctx, "systemctl", "start", "ota-recover.service"))
	}
	try.Get(d.Must(ctx, "ota-guardian", "recover", "device-api.service"))
	after := generations()
	if after != before {
		try.Failf("recovering what is well changed the history from\n%s\nto\n%s", before, after)
	}
	try.Check(d.Reach(ctx, well))
}

// NothingInstalled boots a new device: as long as there is no version, its service
// is not started, does not fail, and is not restarted. The first install
// starts it, and each boot from then on.
func NothingInstalled(ctx context.Context, d *machine.Device) {
	for range 2 {
		try.Check(d.WaitShell(ctx, "the end of the boot", "systemctl is-active multi-user.target"))
		// A restart is a second away.
		state := try.Get(d.Must(ctx, "sh", "-c", "sleep 3; for p in ActiveState NRestarts ConditionResult; do systemctl show -P $p device-api.service; done"))
		if got := strings.Join(strings.Fields(state), " "); got != "inactive 0 no" {
			try.Failf("device-api.service without a version: %q, want it inactive, never restarted, its condition not met", got)
		}
		if _, err := d.Must(ctx, "sh", "-c", `! journalctl -b -q --no-pager -u ota-recover.service | grep .`); err != nil {
			try.Failf("ota-recover.service ran without a version: %w", err)
		}
		try.Check(d.Reboot(ctx))
	}
	want := machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}
	try.Check(d.Factory(ctx, v10))
	try.Check(d.Reach(ctx, want))
	try.Check(d.Reboot(ctx))
	try.Check(d.Reach(ctx, want))
}
