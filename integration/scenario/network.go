package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// uplink is where a server is while uplinkService runs; otherwise there is no way to it.
// TEST-NET-1 of RFC 5737, which no host has.
const (
	uplink        = "192.0.2.1:80"
	uplinkService = "uplink.service"
)

// UplinkOverlay adds the network to a machine, down.
func UplinkOverlay(ctx context.Context, o debian.Overlay) {
	addService(ctx, o, uplinkService, "ota-test-uplink", uplink)
}

// addService adds a service that is a program below cmd, with arguments.
func addService(ctx context.Context, o debian.Overlay, unit, program, args string) {
	file := "/usr/lib/ota-test/" + program
	o[file] = debian.File{Mode: 0o755, Data: try.Get(debian.Program(ctx, "./integration/scenario/cmd/"+program))}
	o["/etc/systemd/system/"+unit] = debian.Unit("[Service]\nType=exec\nRuntimeDirectory=%p\nExecStart=" + file + " " + args + "\n")
}

// WithoutNetwork takes the network away while a good version is on trial, and
// leaves it away: the check that asks a server was good before the switch and is
// bad from then on, in this boot and the next, and nothing is rolled back. A bad
// version is rolled back without a network as it is with one. The machine has
// UplinkOverlay.
func WithoutNetwork(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	host, port, _ := strings.Cut(uplink, ":")
	try.Check(d.WriteFile(ctx, machine.Etc+"/checks.d/wanted/server", 0o755,
		[]byte("#!/bin/bash\nexec 3<>/dev/tcp/"+host+"/"+port+"\n")))
	const server = `ota-guardian check | grep -E '^server +wanted +%s'`
	try.Get(d.Must(ctx, "systemctl", "start", uplinkService))
	try.Check(d.WaitShell(ctx, "the server to answer", fmt.Sprintf(server, "good")))
	// Long enough to look at the server with and without it.
	try.Check(d.Configure(ctx, 3*d.Limits.Stable, d.Limits.Deadline))
	install := d.Begin(ctx, v12)
	// It is watched, and the server was good.
	try.Check(d.WaitShell(ctx, "1.2.0 to be watched", `journalctl -b -o cat --no-pager -u ota-confirm.service | sed -n '/watching version 1.2.0/,$p' | grep 'check "server" good'`))
	try.Get(d.Must(ctx, "systemctl", "stop", uplinkService))
	install.Ends(bootcheck.ExitDone)
	good := machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}
	try.Check(d.Reach(ctx, good))
	try.Check(d.WaitShell(ctx, "the server to be out of reach", fmt.Sprintf(server, "BAD")))

	// The whole life of a version without it, with a power cut in the trial.
	cutAfterSwitch(ctx, d, v12.As("1.3.0", 4))
	now := oneOf(ctx, d, "1.2.0", "1.3.0")
	try.Check(d.Installs(ctx, v12Fails.As("1.4.0", 5), bootcheck.ExitRolledBack))
	try.Check(d.Wait(ctx, now+" to be confirmed again", func(s *bootcheck.Status) bool {
		return s.Current == now && s.Phase == bootcheck.PhaseConfirmed
	}))
	blames(ctx, d, bootcheck.Rollback{From: "1.4.0", To: now, Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseHealth, Check: "device-api answers"})
}
