package systemdtest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// What the releases of systemd do otherwise, and the units rely on: the table in
// docs/CONTRIBUTING.md. A fact that is no longer one fails here, not in a story.
var facts = []struct {
	name  string
	since int    // the first version of systemd that has it
	ask   string // prints yes or no when it is over; systemd is asked once more until then
}{
	{"OnFailure= starts its unit at each failure before the last, too", 254,
		`journalctl -b -q -o cat -u t-fails.service | grep -q 'repeated too quickly' && ! systemctl is-active -q t-on-failure.service &&
		if [ "$(wc -l </run/on-failure)" -gt 1 ]; then echo yes; else echo no; fi`},
	{"a unit restarts without having failed: RestartMode=direct", 254,
		`if journalctl -b -q -o cat -u t-direct.service | grep -q RestartMode || [ -z "$(systemctl show -P RestartMode t-direct.service)" ]; then echo no; else echo yes; fi`},
	{"a unit gets credentials by a pattern: ImportCredential=", 254,
		`if [ -z "$(systemctl show -P ImportCredential t-direct.service)" ]; then echo no; else echo yes; fi`},
	{"a program is told that systemd started it: SYSTEMD_EXEC_PID", 248,
		`systemctl is-active -q t-environment.service && if grep -q ^SYSTEMD_EXEC_PID= /run/environment; then echo yes; else echo no; fi`},
	{"systemctl soft-reboot", 254,
		`if systemctl --help | grep -q soft-reboot; then echo yes; else echo no; fi`},
}

var factUnits = map[string]string{
	"t-fails.service": "[Unit]\nOnFailure=t-on-failure.service\nStartLimitBurst=3\nStartLimitIntervalSec=1h\n" +
		"[Service]\nRestart=on-failure\nRestartSec=500ms\nExecStart=/bin/false\n",
	"t-on-failure.service":  "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo >>/run/on-failure'\n",
	"t-direct.service":      "[Service]\nRestartMode=direct\nImportCredential=ota.*\nExecStart=/bin/sleep infinity\n",
	"t-environment.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'env >/run/environment'\n",
}

func TestFacts(t *testing.T) {
	files := debian.Overlay{}
	for name, text := range factUnits {
		files["/etc/systemd/system/"+name] = debian.Unit(text)
	}
	onDevices(t, files, func(s *served, suite debian.Suite) {
		for name := range factUnits {
			if name != "t-on-failure.service" {
				// t-fails fails at once, which is what it is for.
				try.Get(s.Exec(s.Ctx, "systemctl", "start", name))
			}
		}
		for _, f := range facts {
			var got string
			err := machine.Poll(s.Ctx, f.name, func(ctx context.Context) error {
				r, err := s.Exec(ctx, "sh", "-c", f.ask)
				if got = strings.TrimSpace(r.Stdout); err == nil && got == "" {
					err = errors.New("it is not over")
				}
				return err
			})
			want := map[bool]string{true: "yes", false: "no"}[suite.Systemd() >= f.since]
			if err != nil || got != want {
				s.T.Errorf("%s: %s on systemd %d, want %s (%v)", f.name, got, suite.Systemd(), want, err)
			}
		}
		// The units as they are installed are understood: what an old systemd does not know, it
		// says so of, and runs the unit without.
		for line := range strings.Lines(s.Out("journalctl", "-b", "-q", "-o", "cat", "--no-pager", "_PID=1")) {
			if strings.Contains(line, "/ota-") && strings.Contains(line, "nknown") || strings.Contains(line, "Failed to parse") {
				s.T.Errorf("systemd %d says %s", suite.Systemd(), line)
			}
		}
	})
}
