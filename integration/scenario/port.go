package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// WithoutPort is an application that is not called device-api and has no address for its
// health: that its unit runs decides, and is said before. A version that crashes is
// rolled back. Once a version listens at the default address, the next one has to.
func WithoutPort(ctx context.Context, d *machine.Device) {
	try.Check(d.WriteFile(ctx, "/run/systemd/system/sensor.service", 0o644, []byte("[Service]\nExecStart=/opt/tope/versions/current/bin/device-api\n")))
	try.Get(d.Must(ctx, "sh", "-ec", `
		mkdir /run/systemd/system/sensor.service.d
		cp $(systemctl show -P DropInPaths device-api.service | grep -o '[^ ]*/50-ota.conf') /run/systemd/system/sensor.service.d/
		sed -i '1i services = ["sensor.service"]' `+machine.Etc+`/ota.toml
		systemctl mask --runtime --now device-api.service
		systemctl daemon-reload`))
	runs := func(version string, release int64, script string) machine.Version {
		return machine.Version{Name: version, Release: release, Script: "#!/bin/bash\n" + script + "\n"}
	}
	said := func(wants ...string) func(text string, err error) {
		return func(text string, err error) {
			try.Check(err)
			for _, want := range wants {
				if !strings.Contains(text, want) {
					try.Check(fmt.Errorf("it says\n%swant %q", text, want))
				}
			}
		}
	}
	const unset = "not set up: nothing listens on 127.0.0.1:9080; the other checks decide"

	url := try.Get(d.Offer(ctx, runs("1.0.0", 1, "exec sleep infinity")))
	said("checks    sensor runs\n", "          device-api answers "+unset)(d.Must(ctx, "ota-apply", "install", "--dry-run", url))
	try.Check(d.Factory(ctx, runs("1.0.0", 1, "exec sleep infinity")))
	try.Check(d.Wait(ctx, "1.0.0 to be confirmed", func(s *bootcheck.Status) bool { return s.Current == "1.0.0" && s.Phase == bootcheck.PhaseConfirmed }))
	said(unset)(d.Must(ctx, "journalctl", "-u", "ota-confirm.service", "-o", "cat"))
	said("not set up", "sensor runs", "good")(d.Must(ctx, "ota-guardian", "check"))
	said("not set up", "sensor runs", "good")(d.Must(ctx, "ota-apply", "check"))
	said("sensor runs; each must be good", `"device-api answers" is not set up`)(d.Must(ctx, "sh", "-c", "ota-apply doctor || true"))

	// Nothing is removed from a version that a service runs from.
	for _, verify := range []string{"ota-apply verify --prune current", "ota-guardian verify --prune current"} {
		try.Get(d.Must(ctx, "sh", "-ec", `
			touch `+machine.Store+`/current/bin/cache
			code=0; `+verify+` >/run/said 2>&1 || code=$?
			[ $code = 3 ] && grep -q 'sensor.service runs from it' /run/said && [ -e `+machine.Store+`/current/bin/cache ] || { cat /run/said >&2; exit 1; }
			systemctl stop sensor.service
			`+verify+`
			systemctl start sensor.service
			[ ! -e `+machine.Store+`/current/bin/cache ]`))
	}

	try.Check(d.Installs(ctx, runs("1.1.0", 2, "echo 'no sensor is there'; exit 1"), bootcheck.ExitRolledBack))
	try.Check(d.Wait(ctx, "1.0.0 to be confirmed", func(s *bootcheck.Status) bool { return s.Current == "1.0.0" && s.Phase == bootcheck.PhaseConfirmed }))
	blames(ctx, d, bootcheck.Rollback{From: "1.1.0", To: "1.0.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseCrash, Check: "sensor runs"})

	// One that answers, then one that does not any more, though it runs.
	try.Check(d.Installs(ctx, machine.Version{Name: "1.2.0", Release: 3}, bootcheck.ExitDone))
	try.Check(d.Installs(ctx, runs("1.3.0", 4, "exec sleep infinity"), bootcheck.ExitRolledBack))
	blames(ctx, d, bootcheck.Rollback{From: "1.3.0", To: "1.2.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseHealth, Check: "device-api answers"})
}
