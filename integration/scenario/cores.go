package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// dumpIn is a drop-in of a unit whose program then leaves a core in /run/ota when it is
// aborted, if it may; more says whether.
func dumpIn(ctx context.Context, d *machine.Device, unit, more string) {
	text := "[Service]\nEnvironment=GOTRACEBACK=crash\nWorkingDirectory=/run/ota\nRestart=no\nMemoryMax=infinity\n" + more + "\n"
	try.Check(d.WriteFile(ctx, "/run/systemd/system/"+unit+".d/99-cores.conf", 0o644, []byte(text)))
	try.Get(d.Must(ctx, "systemctl", "daemon-reload"))
}

// abort aborts the process of the unit $1 and prints what systemd says of its end, then "seen" if a core has the text $2.
const abort = `
pid=$(systemctl show -P MainPID "$1")
[ "$pid" -gt 0 ] || { systemctl status --no-pager "$1"; exit 90; }
rm -f /run/ota/core*
kill -ABRT "$pid"
for try in $(seq 600); do
	[ "$(systemctl show -P MainPID "$1")" = 0 ] && break
	sleep 0.1
done
journalctl --sync
journalctl -b --no-pager -o cat -u "$1" | grep -o 'Main process exited, code=[a-z]*, status=6' | tail -1
cat /run/ota/core* 2>/run/none | grep -qa "$2" && echo seen
journalctl -b --no-pager -o export | grep -a "$2" && exit 91
rm -f /run/ota/core*
`

// Cores aborts the follower, which knows the token of its server, and an install that knows
// an address with a secret: no core is written. That one would be, and would hold the secret,
// is seen first, without the limit of the units. The machine has FleetOverlay.
func Cores(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	assign, _ := fleet(ctx, d)
	try.Check(d.WriteFile(ctx, "/run/ota/inhibit", 0o644, []byte("a print is under way\n")))
	assign("7", v12, "attempt")
	try.Check(d.WriteFile(ctx, "/run/address", 0o600, []byte(try.Get(d.Offer(ctx, v12Fails))+"?sig="+marker+"\n")))
	begin := map[string]func(){
		"ota-follow.service": func() {
			try.Get(d.Must(ctx, "systemctl", "start", "ota-follow.service"))
			try.Check(d.WaitShell(ctx, "the version to wait", "ota status | grep 'is staged, waits: inhibited'"))
		},
		"ota-install.service": func() {
			try.Get(d.Must(ctx, "systemd-run", "--collect", "--unit=asks", "ota-apply", "install", "--limit-rate", "1KiB", "--url-from", "cat /run/address"))
			try.Check(d.WaitShell(ctx, "the download", fmt.Sprintf("systemctl show -P ActiveState ota-install.service | grep activating && ls %s/.spool/*.json", machine.Store)))
		},
	}
	ended := func(how string) string { return "Main process exited, code=" + how + ", status=6\n" }
	pattern := try.Get(d.ReadFile(ctx, "/proc/sys/kernel/core_pattern"))
	for _, unit := range []string{"ota-follow.service", "ota-install.service"} {
		secret := map[string]string{"ota-follow.service": "Token marker", "ota-install.service": marker}[unit]
		if limit := strings.TrimSpace(try.Get(d.Must(ctx, "systemctl", "show", "-P", "LimitCORE", unit))); limit != "0" {
			try.Failf("%s: LimitCORE is %s, want 0", unit, limit)
		}
		if strings.HasPrefix(string(pattern), "|") || strings.Contains(string(pattern), "/") {
			continue // the kernel is another system's, too, which takes the cores
		}
		for _, tt := range []struct{ more, want string }{{"LimitCORE=infinity", ended("dumped") + "seen\n"}, {"", ended("killed")}} {
			dumpIn(ctx, d, unit, tt.more)
			begin[unit]()
			r := try.Get(d.Exec(ctx, "bash", "-c", abort, "abort", unit, secret))
			if r.Code != 0 || r.Stdout != tt.want {
				try.Failf("%s with %q is aborted: %s, want %q", unit, tt.more, r, tt.want)
			}
		}
		try.Get(d.Must(ctx, "rm", "-r", "/run/systemd/system/"+unit+".d"))
		try.Get(d.Must(ctx, "systemctl", "daemon-reload"))
	}
}
