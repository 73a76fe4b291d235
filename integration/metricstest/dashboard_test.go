package metricstest

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/integration/dashboard"
	"github.com/tope-ota/ota/integration/fleet"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/prometheus"
)

var update = flag.Bool("update", false, "write docs/dashboard.svg")

const dashboardFile, pictureFile = "../../docs/dashboard.json", "../../docs/dashboard.svg"

// A real Prometheus answers what the dashboard asks, over a day of a fleet that is made
// up (package fleet has the story), and each panel tells what happened. The picture in
// docs/ is drawn from these answers.
func TestDashboardPicture(t *testing.T) {
	machine.Require(t, "prometheus", debian.Missing())
	ctx := machine.Context(t)
	began := time.Now()
	devices, err := fleet.Day(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := prometheus.Start(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const part = 30 * time.Minute
	samples := 0
	for at := fleet.Begin; at.Before(fleet.End); at = at.Add(part) {
		series, err := fleet.Scraped(devices, at, at.Add(part))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range series {
			samples += len(s.Samples)
		}
		if err := s.Write(ctx, series); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d samples of %d devices: %s", samples, len(devices), time.Since(began))

	d, err := dashboard.Load(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	if d.Time.From != "now-24h" || d.Time.To != "now" {
		t.Errorf("the dashboard shows %q to %q: the picture is of 24 hours", d.Time.From, d.Time.To)
	}
	// As Grafana asks for a panel of 700 pixels.
	w := dashboard.Window{From: fleet.End.Add(-24 * time.Hour), To: fleet.End, Step: 2 * time.Minute, ScrapeInterval: fleet.Interval}
	var answers [][]dashboard.Answer
	for _, p := range d.Panels {
		a, err := p.Ask(ctx, s, w)
		if err != nil {
			t.Error(err)
			continue
		} else if len(a) == 0 {
			t.Errorf("the panel %q shows nothing of a day in which everything happened", p.Title)
		}
		answers = append(answers, a)
		got := map[string]string{}
		for _, x := range a {
			name, values, err := p.Reads(x)
			if err != nil {
				t.Errorf("the panel %q: %v", p.Title, err)
			}
			got[name] = values
		}
		if diff := cmp.Diff(shows[p.Title], got); diff != "" {
			t.Errorf("the panel %q does not show what happened (-want +got):\n%s", p.Title, diff)
		}
	}
	if len(answers) != len(shows) {
		t.Errorf("%d panels, and the story of %d", len(answers), len(shows))
	}
	if t.Failed() {
		return
	}
	picture, err := d.Draw(answers, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all of it: %s", time.Since(began))
	is, err := os.ReadFile(pictureFile)
	switch {
	case err == nil && bytes.Equal(is, picture):
	case *update:
		if err := os.WriteFile(pictureFile, picture, 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what docs/dashboard.json shows now: go test ./integration/metricstest -run DashboardPicture -update", pictureFile)
	}
}

// shows is what a reader of each panel has to find: the story of package fleet. A row is
// a line or a bar with the values of its legend, or the cells of a table.
var shows = map[string]map[string]string{
	"Devices":         {"": "60"},
	"On hold":         {"": "1"},
	"On trial":        {"": "1"},
	"Rolled back":     {"": "6"}, // four crashed, one was power-cycled, one went on hold
	"Factory damaged": {"": "1"},
	"No factory":      {"": "1"},

	// The one on hold and the one without room are on 2.3.1, and three missed even that.
	"Devices by version": {"2.0.0": "0", "2.2.0": "3", "2.3.1": "2", "2.4.0": "0", "2.4.1": "55"},
	// 5 of 19, when the fifth left it; not what the 18 others did when 2.4.1 came.
	"Versions that roll back": {"2.4.0": "26.3%"},

	// Now, and at most. The one that fell back to factory was good again between two scrapes.
	"Devices that are not confirmed, by phase": {"factory": "0, 0", "fallback": "0, 1", "hold": "1, 1", "trial": "1, 2"},
	"Rollbacks in an hour, by cause":           {"boots to previous": "1", "crash-loop to factory": "1", "crash-loop to previous": "3", "health to previous": "1"},
	"Installs in an hour, by result": {"success": "24", "ROLLED_BACK_TO_PREVIOUS": "3", "ROLLED_BACK_TO_FACTORY": "1",
		"ROLLBACK_FAILED": "1", "DISK_FULL": "1", "DOWNLOAD_FAILED": "1"},
	"Downloaded in an hour": {"all devices": "1.1 GiB"}, // 24 times 45 MB: three quarters are reused

	// Without the ten minutes, twice, of the one that went on hold.
	"How long the last installs took, by stage": {"downloading": "38.6 s", "installing": "6.9 s", "judging": "1.2 mins", "rebooting": "3.0 s", "verifying": "0.0 s"},
	"How the last boots ended":                  {"clean": "0", "hard": "1", "unclean": "1"},

	"Why versions were left": {
		"crash-loop | device-api.service | 2.4.0 | previous": "3",
		"crash-loop | device-api.service | 2.4.0 | factory":  "1",
		"boots | 2.4.0 | previous":                           "1",
		"health | print server answers | 2.4.0 | previous":   "1",
	},
	"Devices that need somebody": {
		"printer-15:9100 | node | on hold: environment":    "1",
		"printer-27:9100 | node | 3 hard boots in a row":   "1",
		"printer-36:9100 | node | factory version damaged": "1",
		"printer-41:9100 | node | disk full":               "1",
		"printer-49:9100 | node | record damaged":          "1",
		"printer-57:9100 | node | no factory version":      "1",
	},

	// Five, although each device was among the five at some time.
	"Least room":        {"printer-06:9100": "332 MiB", "printer-15:9100": "316 MiB", "printer-41:9100": "48 MiB", "printer-56:9100": "344 MiB", "printer-60:9100": "226 MiB"},
	"Resumed downloads": {"once or more": "9", "three times or more": "3"},
}
