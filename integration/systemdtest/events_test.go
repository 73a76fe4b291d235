package systemdtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// MESSAGE_IDs, as programs in the field look for them.
const (
	begun      = "b4951af9a7764bff8c185f8e278c407b"
	ended      = "45f03b600a2e4ddb9f8e6ee001a20b0c"
	rolledBack = "17c4e61a1034011cc15cd6f48676b485"
	confirmed  = "bc55efeee72f7af3c1176a67582733cc"
)

// mustHave compares fields of an entry of the journal. Which unit wrote it journald asks the
// kernel when it reads the entry: a program that has ended by then has none.
func mustHave(t *testing.T, e map[string]any, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if ended := name == "_SYSTEMD_UNIT" && e[name] == nil; !ended && e[name] != value {
			t.Errorf("%s=%v, want %s", name, e[name], value)
		}
	}
}

// What the journal and the record hold after a version was rolled back: one entry
// that a program finds, a text for an operator, and what the unit said last. All of
// it is written and read in the sandboxes of the units as they are installed.
func TestEvents(t *testing.T) {
	defer try.Fatal(t)
	const catalog = "/usr/lib/systemd/catalog/ota.catalog"
	text := try.Get(os.ReadFile("../../units/ota.catalog"))
	more := debian.Overlay{
		catalog: {Data: text},
		// A device that keeps its journal, on a disk that is there when the guardian starts.
		"/etc/systemd/journald.conf.d/95-kept.conf": debian.Unit("[Journal]\nStorage=persistent\n"),
		"/etc/systemd/system/journal-disk.service":  debian.Unit(journalDisk),
	}
	more.Enable("journal-disk.service", "sysinit.target")
	onDevices(t, more, func(s *served, _ debian.Suite) { events(s, string(text)) })
}

func events(s *served, catalog string) {
	d, ctx := s.Device, s.Ctx
	try.Check(d.Factory(ctx, machine.Version{Name: "1.0.0", Release: 1}))
	back := machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}
	try.Check(s.Reach(s.Ctx, back))
	s.Run("a crash loop", func(t *testing.T) {
		// Only ota-recover may decide, and not whichever of the two is faster.
		s.confirms(false)
		bad := machine.Version{Name: "1.1.0", Release: 2, Behave: deviceapi.Config{Behave: deviceapi.Exit}}
		try.Check(d.Installs(ctx, bad, bootcheck.ExitRolledBack))
		e := s.onlyRollback("1.1.0")
		mustHave(t, e, map[string]string{
			"OTA_VERSION": "1.0.0", "OTA_PHASE": "fallback", "OTA_FROM": "1.1.0", "OTA_TO": "1.0.0", "OTA_LEVEL": "previous",
			"OTA_CAUSE": "crash-loop", "OTA_CHECK": "device-api runs", "OTA_ATTEMPTS": "0",
			"PRIORITY": "3", "SYSLOG_IDENTIFIER": "ota-guardian", "_SYSTEMD_UNIT": "ota-recover.service",
		})
		s.remembers("device-api: exits because it is meant to", "device-api.service: Start request repeated too quickly.")
		s.confirms(true)
		try.Check(s.Reach(s.Ctx, back))
	})

	s.Run("a health check that fails", func(t *testing.T) {
		try.Check(d.Configure(ctx, d.Limits.Stable, 4*time.Second))
		bad := machine.Version{Name: "1.2.0", Release: 3, Behave: deviceapi.Config{Behave: deviceapi.Health500}}
		try.Check(d.Installs(ctx, bad, bootcheck.ExitRolledBack))
		e := s.onlyRollback("1.2.0")
		mustHave(t, e, map[string]string{
			"OTA_TO": "1.0.0", "OTA_CAUSE": "health", "OTA_CHECK": "device-api answers", "_SYSTEMD_UNIT": "ota-confirm.service",
		})
		s.remembers("device-api 1.2.0 answers on 127.0.0.1:9080")
		try.Check(s.Reach(s.Ctx, back))
	})

	s.Run("a boot that ends unconfirmed", func(t *testing.T) {
		// One power cut is too many, and no boot is long enough for the deadline.
		try.Check(d.Configure(ctx, d.Limits.Stable, 10*d.Limits.Wait, "unclean = 1"))
		bad := machine.Version{Name: "1.3.0", Release: 4, Behave: deviceapi.Config{Behave: deviceapi.Health500}}
		beside, cancel := context.WithCancel(ctx)
		install := d.Begin(beside, bad)
		defer func() { cancel(); <-install.Ended }()
		// It said what it has to say, and journald wrote that to the disk.
		try.Check(s.WaitShell(ctx, "the trial to be watched", "journalctl -b -u ota-confirm.service | grep 'watching version 1.3.0'"))
		s.Out("journalctl", "--sync")
		try.Check(d.PowerCut(ctx))
		try.Check(s.Reach(s.Ctx, back))
		e := s.onlyRollback("1.3.0")
		mustHave(t, e, map[string]string{
			"OTA_TO": "1.0.0", "OTA_CAUSE": "boots", "OTA_CHECK": "", "OTA_ATTEMPTS": "1", "_SYSTEMD_UNIT": "ota-guardian.service",
		})
		s.remembers("device-api 1.3.0 answers on 127.0.0.1:9080")
	})

	s.Run("the catalog", func(t *testing.T) {
		s.Out("journalctl", "--update-catalog")
		// Without an ID it lists all of them, those of systemd too.
		list := s.Out("journalctl", "--list-catalog")
		for line := range strings.Lines(catalog) {
			if id, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && !strings.Contains(list, id+" ota-guardian: ") && !strings.Contains(list, id+" ota-apply: ") {
				t.Errorf("systemd does not list %s:\n%s", id, list)
			}
		}
		out := s.Out("journalctl", "-x", "--no-pager", "MESSAGE_ID="+rolledBack)
		for _, want := range []string{
			"Subject: Rolled back from version 1.1.0 to 1.0.0",
			"failed (health device-api answers)",
			"`ota-apply unblock 1.2.0`",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		out = s.Out("journalctl", "-x", "--no-pager")
		if i := strings.Index(out, "@OTA_"); i >= 0 {
			t.Errorf("a text names a field that its entry does not have:\n%s", out[max(0, i-500):min(len(out), i+100)])
		}
	})

	s.Run("installs", func(t *testing.T) {
		// The last one was cut off by the power.
		var got []string
		for _, id := range []string{begun, ended} {
			for _, e := range s.entries("MESSAGE_ID="+id, "_SYSTEMD_UNIT=ota-install.service") {
				address, _ := e["OTA_ADDRESS"].(string)
				line := address[strings.LastIndex(address, "/")+1:]
				if id == ended {
					line = fmt.Sprintf("%s %v %v %v", line, e["OTA_VERSION"], e["OTA_RESULT"], e["OTA_EXIT"])
				}
				got = append(got, line)
			}
		}
		want := []string{"1.0.0.ota", "1.1.0.ota", "1.2.0.ota", "1.3.0.ota",
			"1.0.0.ota 1.0.0 success 0", "1.1.0.ota 1.1.0 ROLLED_BACK_TO_PREVIOUS 8", "1.2.0.ota 1.2.0 ROLLED_BACK_TO_PREVIOUS 8"}
		if !slices.Equal(got, want) {
			t.Errorf("the entries are %q, want %q", got, want)
		}
	})

	// Each version that was confirmed says so once, and nothing is said twice: as
	// an entry and as a line.
	if got := s.entries("MESSAGE_ID=" + confirmed); len(got) != 4 {
		s.T.Errorf("%d versions were confirmed, want 1.0.0 four times: %v", len(got), got)
	}
	for _, e := range s.entries("SYSLOG_IDENTIFIER=ota-guardian") {
		message := fmt.Sprint(e["MESSAGE"])
		if id, _ := e["MESSAGE_ID"].(string); id == "" && strings.HasPrefix(message, "rolled back from ") {
			s.T.Errorf("a line that is an entry too: %q", message)
		}
	}
}

const journalDisk = `
[Unit]
DefaultDependencies=no
After=systemd-journald.service
Before=ota-guardian.service
[Service]
Type=oneshot
ExecStart=mkdir -p /data/journal /var/log
ExecStart=ln -s /data/journal /var/log/journal
ExecStart=journalctl --flush
`

// confirms lets ota-confirm decide, or not.
func (s *served) confirms(decides bool) {
	const dropIn = "/run/systemd/system/ota-confirm.service.d/99-test.conf"
	if !decides {
		try.Check(s.WriteFile(s.Ctx, dropIn, 0o644, []byte("[Service]\nExecStart=\nExecStart=sleep infinity\n")))
		s.Out("systemctl", "daemon-reload")
		return
	}
	// Not stopped and started: the start of device-api pulls it in, and a start that is
	// queued cancels a stop.
	s.Sh("rm " + dropIn + "; systemctl daemon-reload; systemctl restart ota-confirm.service")
}

// entries are what journalctl finds, the oldest first.
func (s *served) entries(match ...string) []map[string]any {
	s.T.Helper()
	s.Out("journalctl", "--sync")
	out := s.Out(append([]string{"journalctl", "--output=json", "--no-pager", "--all"}, match...)...)
	var all []map[string]any
	for line := range strings.Lines(out) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			s.T.Fatalf("%v: %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// onlyRollback is the one entry that says that version was rolled back.
func (s *served) onlyRollback(version string) map[string]any {
	s.T.Helper()
	all := s.entries("MESSAGE_ID="+rolledBack, "OTA_FROM="+version)
	if len(all) != 1 {
		s.T.Fatalf("%d entries say that %s was left, want 1: %v", len(all), version, all)
	}
	return all[0]
}

// remembers expects lines in what the record keeps of the unit's journal.
func (s *served) remembers(lines ...string) {
	s.T.Helper()
	kept := try.Get(s.Status(s.Ctx)).LastRollback.Journal
	for _, want := range lines {
		if !slices.ContainsFunc(kept, func(line string) bool { return strings.HasSuffix(line, ": "+want) }) {
			s.T.Errorf("the record does not keep %q:\n%s", want, strings.Join(kept, "\n"))
		}
	}
}
