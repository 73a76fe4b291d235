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

// LogindOverlay gives a machine its systemd-logind back.
func LogindOverlay(o debian.Overlay) {
	for _, name := range []string{"systemd-logind.service", "dbus-org.freedesktop.login1.service"} {
		o["/etc/systemd/system/"+name] = debian.File{Link: "/usr/lib/systemd/system/systemd-logind.service"}
	}
}

// Inhibited has a program under systemd-inhibit(1) hold an update, as a real logind knows it:
// the follower in its sandbox waits, and so does `ota follow --once`; released, they continue.
// A lock that only delays a shutdown, and one on something else, hold nothing. The machine has
// FleetOverlay and LogindOverlay.
func Inhibited(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	assign, said := fleet(ctx, d)
	try.Get(d.Must(ctx, "systemctl", "start", "systemd-logind.service"))
	lock := func(unit, what, mode, why string) {
		try.Get(d.Must(ctx, "systemd-run", "--unit="+unit, "systemd-inhibit", "--what="+what, "--mode="+mode, "--who=printer", "--why="+why, "sleep", "infinity"))
		try.Check(d.WaitShell(ctx, "the lock "+unit, fmt.Sprintf("systemd-inhibit --list --no-pager | grep '%s' || { systemctl status %s systemd-logind; exit 1; }", why, unit)))
	}
	lock("delays", "shutdown", "delay", "saves a page")
	lock("idles", "idle", "block", "plays a film")
	lock("prints", "sleep:shutdown", "block", "a print is under way")

	const waits = "1.2.0 is staged, waits: inhibited by printer: a print is under way"
	assign("7", v12, "attempt")
	try.Get(d.Must(ctx, "systemctl", "start", "ota-follow.service"))
	try.Check(d.WaitShell(ctx, "the version to wait", "ota status | grep '"+waits+"' || { ota status; exit 1; }"))
	said("7", "proceeding/none downloaded, waits: inhibited by printer: a print is under way")
	try.Get(d.Must(ctx, "systemctl", "stop", "ota-follow.service"))
	r := try.Get(d.Exec(ctx, "ota-apply", "follow", "--once"))
	if r.Code != 0 || !strings.Contains(r.Stderr, "waits: inhibited by printer") {
		try.Failf("follow --once under an inhibitor: %s", r)
	}
	if err := d.Reach(ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}); err != nil {
		try.Failf("under an inhibitor: %w", err)
	}

	try.Get(d.Must(ctx, "systemctl", "start", "ota-follow.service"))
	try.Check(d.WaitShell(ctx, "the version to wait again", "ota status | grep '"+waits+"'"))
	try.Get(d.Must(ctx, "systemctl", "stop", "prints.service"))
	said("7", "closed/success version 1.2.0 is confirmed")

	// By hand, and one that is forced.
	try.Get(d.Must(ctx, "systemctl", "stop", "ota-follow.service"))
	lock("films", "shutdown", "block", "a film is under way")
	assign("8", v12.As("1.3.0", 4), "forced")
	try.Get(d.Must(ctx, "ota-apply", "follow", "--once"))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.3.0", Previous: "1.2.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
}
