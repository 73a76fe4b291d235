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

const (
	fleetService = "fleet.service"
	fleetAt      = "127.0.0.1:8090"
	fleetDir     = "/run/fleet"
)

// FleetOverlay adds a server with hawkBit's device API to a machine.
func FleetOverlay(ctx context.Context, o debian.Overlay) {
	addService(ctx, o, fleetService, "ota-test-fleet", fleetAt+" "+fleetDir)
}

// fleet starts the server, which d follows from then on, and gives what orders a version of
// it and what waits until the server was told something of an order.
func fleet(ctx context.Context, d *machine.Device) (assign func(id string, v machine.Version, update string), said func(id, text string)) {
	try.Get(d.Must(ctx, "systemctl", "start", fleetService))
	toml := try.Get(d.ReadFile(ctx, machine.Etc+"/ota.toml"))
	try.Check(d.WriteFile(ctx, machine.Etc+"/ota.toml", 0o644, fmt.Appendf(toml, "\n[follow]\nsource = \"ddi\"\nurl = \"http://%s\"\ndevice_id = \"printer-7\"\n", fleetAt)))
	try.Check(d.WriteFile(ctx, machine.Etc+"/follow-token", 0o600, []byte("marker\n")))
	// Or the first poll comes within five minutes.
	try.Check(d.WriteFile(ctx, "/run/ota/follow.json", 0o644, []byte("{}")))
	assigned := ""
	assign = func(id string, v machine.Version, update string) {
		assigned += fmt.Sprintf("%s %s %s %s\n", id, v.Name, update, try.Get(d.Offer(ctx, v)))
		try.Check(d.WriteFile(ctx, fleetDir+"/assign", 0o644, []byte(assigned)))
	}
	said = func(id, text string) {
		try.Check(d.WaitShell(ctx, "the server to hear "+text, fmt.Sprintf("grep '^%s %s' %s/said || { cat %[3]s/said; systemctl status ota-follow.service; exit 1; }", id, text, fleetDir)))
	}
	return assign, said
}

// Follows has ota-follow.service ask a server, in its sandbox: a good version is closed as
// a success, a bad one as a failure with its evidence, and an inhibitor holds one, across a
// restart of the service. The machine has FleetOverlay.
func Follows(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	assign, said := fleet(ctx, d)
	assign("7", v12, "attempt")
	try.Get(d.Must(ctx, "systemctl", "start", "ota-follow.service"))
	said("7", "closed/success version 1.2.0 is confirmed")
	try.Check(d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}))

	try.Check(d.WriteFile(ctx, "/run/ota/inhibit", 0o644, []byte("a print is under way\n")))
	assign("8", v12Fails.As("1.3.0", 4), "attempt")
	try.Check(d.WaitShell(ctx, "the version to wait", `ota status | grep '1.3.0 is staged, waits: inhibited: a print is under way'`))
	try.Get(d.Must(ctx, "systemctl", "restart", "ota-follow.service"))
	try.Get(d.Must(ctx, "rm", "/run/ota/inhibit"))
	said("8", "closed/failure rolled back from 1.3.0 to 1.2.0")
	said("8", "closed/failure check: device-api answers")
	try.Check(d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))

	// It was one process, it is alive for its watchdog, and no other process saw the token.
	show := try.Get(d.Must(ctx, "systemctl", "show", "ota-follow.service", "-P", "NRestarts", "-P", "ActiveState", "-P", "SubState"))
	if strings.Join(strings.Fields(show), " ") != "0 active running" {
		try.Failf("ota-follow.service is %s", show)
	}
	r := try.Get(d.Exec(ctx, "bash", "-c", `! { journalctl -b --no-pager -o export; systemctl show ota-follow.service ota-install.service; cat /run/ota/*.json; } 2>/dev/null | grep -a 'Token marker'`))
	if r.Code != 0 {
		try.Failf("the token is seen: %s", r)
	}
}
