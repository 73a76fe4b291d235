package scenario

import (
	"context"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// marker is a secret in an address and in that of a proxy.
const marker = "m4rker-of-a-secret"

// watchFor looks for the marker wherever another user can, while an install runs, and
// afterwards. Its own text does not match: the shell joins the pattern.
const watchFor = `
cd /
pattern=m4rker-of; pattern="$pattern-a-secret"
export no_proxy="127.0.0.1,${pattern}.example"
look() {
	for p in /proc/[0-9]*; do
		tr '\0' ' ' <$p/cmdline 2>/dev/null | sed "s,^,$p: ,"
	done
	systemctl show ota-install.service
	systemctl status --no-pager ota-install.service
	find /run/ota %[1]s/.spool
	cat /run/ota/progress.json %[1]s/.spool/*.json
}
ota-apply install --url-from "cat /run/address" >/run/said 2>&1 &
install=$!
units=0
while kill -0 $install 2>/dev/null; do
	look >/run/seen 2>/dev/null
	grep -q '^ActiveState=activating' /run/seen && units=$((units+1))
	grep "$pattern" /run/seen && exit 90
done
wait $install || { cat /run/said; exit 91; }
(look; cat /run/said; journalctl -b --no-pager -o export) >/run/seen 2>/dev/null
grep -a "$pattern" /run/seen && exit 92
[ $units -gt 0 ] || { echo "the unit was never seen"; exit 93; }
rm /run/seen /run/said
`

// secretAddress installs from an address that holds a secret: no other user of the
// device sees it, on a command line, in a property of a unit, in the journal or in a
// file.
func secretAddress(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	url := try.Get(d.Offer(ctx, v12))
	try.Check(d.WriteFile(ctx, "/run/address", 0o600, []byte(url+"?sig="+marker+"\n")))
	r := try.Get(d.Exec(ctx, "bash", "-c", fmt.Sprintf(watchFor, machine.Store)))
	if r.Code != 0 {
		try.Failf("an install from an address with a secret: %s", r)
	}
	try.Check(d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}))
}
