package scenario

import (
	"context"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// DiskOfTheStore lets the disk of the store be read-only, and full, when the
// guardian has to decide. It works on a copy of the device's store on a small
// disk of its own.
func DiskOfTheStore(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	url := try.Get(d.Offer(ctx, v12))
	// On trial, with two of three hard ends counted. Installed as without systemd,
	// so that none of the device's services is restarted for it.
	try.Get(d.Must(ctx, "bash", "-e", "-c", `
		mkdir -p /run/small
		mount -t tmpfs -o size=64m tmpfs /run/small
		cp -a `+machine.Store+` /run/small/versions
		cd /run/small
		unshare -m bash -e -c 'mount -t tmpfs tmpfs /run/systemd; ota-apply install --root versions "$0"' "$0"
		ota-guardian boot --root versions --boot-id one --last-boot hard
		ota-guardian boot --root versions --boot-id two --last-boot hard`, url))

	// Read-only: nothing can be counted, and nothing is made worse.
	r := try.Get(d.Exec(ctx, "bash", "-c", `cd /run/small && mount -o remount,ro /run/small && ota-guardian boot --root versions --boot-id three --last-boot hard; code=$?
		mount -o remount,rw /run/small; exit $code`))
	if r.Code != int(bootcheck.ExitFailed) || !strings.Contains(r.Stderr, "read-only file system") || !strings.Contains(r.Stderr, "starting the current version") {
		try.Failf("boot on a read-only disk: %s; want exit %d and the reason", r, bootcheck.ExitFailed)
	}
	smallRuns(ctx, d, "1.2.0")

	// Full to the last byte, by another program, and by what an install left: the
	// bad version is rolled back all the same.
	try.Get(d.Must(ctx, "bash", "-c", `cd /run/small
		mkdir -p versions/.staging/v9 && head -c 200000 /dev/zero >versions/.staging/v9/half
		cat /dev/zero >/run/small/full; [ "$(stat -f -c %a /run/small)" = 0 ]`))
	try.Get(d.Must(ctx, "bash", "-c", `cd /run/small && ota-guardian boot --root versions --boot-id four --last-boot hard`))
	smallRuns(ctx, d, "1.1.0")
}

func smallRuns(ctx context.Context, d *machine.Device, version string) {
	out := try.Get(d.Must(ctx, "readlink", "-f", "/run/small/versions/current"))
	if got := strings.TrimSpace(out); got != "/run/small/versions/v"+version {
		try.Failf("the store on the small disk runs %s, want %s", got, version)
	}
}
