package scenario

import (
	"context"
	"regexp"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// Apart shows that ota-guardian has no network and cannot start what
// others wrote with its own rights, and that the process which runs the checks can change
// neither the versions nor the system, before a switch and after it. It says how
// exposed systemd finds the second one. That one is killed in the middle: nothing is
// decided for it.
func Apart(ctx context.Context, d *machine.Device) (exposure string) {
	start(ctx, d, v11)
	const said, slow, waits = "/run/check-said", "/run/check-slow", "/run/check-waits"
	// It is good if it reaches device-api.
	try.Check(d.WriteFile(ctx, machine.Etc+"/checks.d/required/looks", 0o755, []byte(`#!/bin/bash
if [ -e `+slow+` ]; then
	touch `+waits+`
	sleep 1000
fi
{
	touch `+machine.Store+`/written && echo "wrote the versions"
	touch /usr/written && echo "wrote the system"
	unshare -m true && echo "made a namespace"
	chroot / true && echo "changed its root"
	grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
	grep ^0:: /proc/self/cgroup
	echo "net $(readlink /proc/self/ns/net)"
} >`+said+`.new 2>/dev/null
mv `+said+`.new `+said+`-$OTA_VERSION
exec 3<>/dev/tcp/127.0.0.1/9080
`)))
	// Long enough to look at both while they are there.
	try.Check(d.Configure(ctx, 5*d.Limits.Stable, d.Limits.Deadline))
	install := d.Begin(ctx, v12)
	install.Switched(ctx)
	looked := try.Get(d.Must(ctx, "bash", "-c", `
		until [ -e `+said+`-1.2.0 ]; do sleep 0.05; done
		cat `+said+`-1.2.0
		for f in `+said+`-1.1.0 `+said+`-1.2.0; do
			grep -q '^0::.*/ota-health@.*\.service$' $f || echo "$f: made in another unit"
		done
		[ "$(grep -v ^0:: `+said+`-1.1.0)" = "$(grep -v ^0:: `+said+`-1.2.0)" ] || echo "made a difference"
		echo "host $(readlink /proc/1/ns/net)"
		confirm=$(systemctl show -P MainPID ota-confirm.service)
		echo "confirm $(readlink /proc/$confirm/ns/net) $(grep ^CapBnd /proc/$confirm/status)"
		systemd-analyze security --no-pager ota-health@1.service | tail -n 1
		touch `+slow+`
		until [ -e `+waits+` ]; do sleep 0.05; done
		rm `+slow+`
		systemctl kill --kill-who=main --signal=KILL 'ota-health@*.service'`))
	install.Ends(bootcheck.ExitDone)
	net := func(who string) string {
		if m := regexp.MustCompile(`(?m)^` + who + ` (net:\[\d+\])`).FindStringSubmatch(looked); m != nil {
			return m[1]
		}
		return ""
	}
	if net("net") == "" || net("net") != net("host") || net("confirm") == "" || net("confirm") == net("host") {
		try.Failf("the networks are\n%swant the machine's for the checks, and another for ota-confirm", looked)
	}
	for _, no := range []string{"wrote", "made", "changed"} {
		if strings.Contains(looked, no) {
			try.Failf("a check did what it must not:\n%s", looked)
		}
	}
	// CAP_NET_RAW and CAP_DAC_READ_SEARCH; CAP_SYS_BOOT.
	for _, want := range []string{"\nNoNewPrivs:\t1\n", "\nSeccomp:\t2\n", "CapBnd:\t0000000000002004\n", "] CapBnd:\t0000000000400000\n"} {
		if !strings.Contains("\n"+looked, want) {
			try.Failf("not %q in\n%s", want, looked)
		}
	}
	try.Check(d.WaitShell(ctx, "the checks to begin again", `journalctl -o cat --no-pager -u ota-confirm.service | grep 'cannot run the health checks.*starting the trial again'`))
	// Nothing of it is left, neither a unit nor the script.
	try.Check(d.WaitShell(ctx, "no check to be left",
		`[ -z "$(systemctl list-units --all --plain --no-legend 'ota-health@*.service')" ]`))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}))
	lines := strings.Split(strings.TrimSpace(looked), "\n")
	return lines[len(lines)-1]
}
