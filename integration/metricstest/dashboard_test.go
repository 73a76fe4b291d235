package metricstest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tope-ota/ota/integration/fleet"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
)

const dashboardFile = "../../docs/dashboard.json"

// The schema has what Grafana needs of a file that is imported, and no more types of
// panels, units and calculations than those whose queries are tested below.
func TestDashboardSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("testdata/dashboard.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	// Each edit makes a dashboard that Grafana shows wrong or not at all.
	for _, tt := range []struct{ name, old, new string }{
		{"as it is", "", ""},
		{"a data source of one's own", `"uid": "${datasource}"`, `"uid": "P1809F7CD0C75ACF3"`},
		{"no query", `"expr"`, `"query"`},
		{"an unknown type of panel", `"type": "stat"`, `"type": "graph"`},
		{"an unknown unit", `"unit": "bytes"`, `"unit": "byte"`},
		{"a panel wider than the page", `"w": 12`, `"w": 25`},
		{"another time than a day", "now-24h", "now-6h"},
	} {
		edited := strings.Replace(string(text), tt.old, tt.new, 1)
		if tt.old != "" && edited == string(text) {
			t.Errorf("%s: %s is not in the dashboard", tt.name, tt.old)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(edited))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err == nil) != (tt.old == "") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A panel is as much of one as its queries need.
type panel struct {
	Title   string
	Targets []struct {
		Expr, LegendFormat string
		Instant            bool
	}
	Options struct{ Legend struct{ Calcs []string } }
}

// A real Prometheus answers what the dashboard asks, over a day of a fleet that is made
// up (package fleet has the story), and each panel tells what happened.
func TestDashboard(t *testing.T) {
	machine.Require(t, "prometheus", debian.Missing())
	ctx := machine.Context(t)
	s := watched(t, ctx)
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ Panels []panel }
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	got := map[string]map[string]string{}
	for _, p := range d.Panels {
		if got[p.Title], err = p.ask(ctx, s); err != nil {
			t.Errorf("the panel %q: %v", p.Title, err)
		}
	}
	if diff := gocmp.Diff(shows, got); diff != "" {
		t.Errorf("the panels do not show what happened (-want +got):\n%s", diff)
	}
}

// watched is a Prometheus that has watched the fleet.
func watched(t *testing.T, ctx context.Context) *server {
	t.Helper()
	devices, err := fleet.Day(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := startPrometheus(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	const part = 30 * time.Minute
	for at := fleet.Begin; at.Before(fleet.End); at = at.Add(part) {
		series, err := fleet.Scraped(devices, at, at.Add(part))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.write(ctx, series); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// variables are what Grafana puts into a query for all jobs, a day in a panel of 700
// pixels, and a data source that is scraped every fleet.Interval. $1 of label_replace
// is no variable.
var variables = strings.NewReplacer("$job", ".*", "$__range", "86400s")

var variable = regexp.MustCompile(`\$\{?[A-Za-z_]+`)

// ask puts the queries of a panel. What it returns is, for each line, bar or row by its
// name in the legend (or its labels), the last value, or those that the legend shows.
func (p panel) ask(ctx context.Context, s *server) (map[string]string, error) {
	shown := map[string]string{}
	for _, target := range p.Targets {
		expr := variables.Replace(target.Expr)
		if v := variable.FindString(expr); v != "" {
			return nil, fmt.Errorf("nobody knows the variable %s", v)
		}
		var results []result
		var err error
		if target.Instant {
			results, err = s.query(ctx, expr, fleet.End)
		} else {
			results, err = s.queryRange(ctx, expr, fleet.End.Add(-24*time.Hour), fleet.End, 2*time.Minute)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", expr, err)
		}
		for _, r := range results {
			var labels []string
			name := target.LegendFormat
			for _, l := range slices.Sorted(maps.Keys(r.Labels)) {
				labels = append(labels, r.Labels[l])
				name = strings.ReplaceAll(name, "{{"+l+"}}", r.Labels[l])
			}
			if name == "" {
				name = strings.Join(labels, " | ")
			}
			last := r.Points[len(r.Points)-1].Value
			most := slices.MaxFunc(r.Points, func(a, b point) int { return cmp.Compare(a.Value, b.Value) }).Value
			values := []string{short(last)}
			if calcs := p.Options.Legend.Calcs; slices.Equal(calcs, []string{"max"}) {
				values = []string{short(most)}
			} else if slices.Contains(calcs, "max") {
				values = append(values, short(most))
			}
			shown[name] = strings.Join(values, ", ")
		}
	}
	return shown, nil
}

// short is a value as a reader takes it: increase() extrapolates, so that 1.03 is one.
func short(v float64) string {
	if v < 1 || v >= 1e6 {
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// shows is what a reader of each panel has to find: the story of package fleet. A row is
// a line or a bar with the values of its legend, in the units of the metrics, or the
// cells of a table.
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
	"Versions that roll back": {"2.4.0": "0.263"},

	// Now, and at most. The one that fell back to factory was good again between two scrapes.
	"Devices that are not confirmed, by phase": {"factory": "0, 0", "fallback": "0, 1", "hold": "1, 1", "trial": "1, 2"},
	"Rollbacks in an hour, by cause":           {"boots to previous": "1", "crash-loop to factory": "1", "crash-loop to previous": "3", "health to previous": "1"},
	"Installs in an hour, by result": {"success": "24", "ROLLED_BACK_TO_PREVIOUS": "3", "ROLLED_BACK_TO_FACTORY": "1",
		"ROLLBACK_FAILED": "1", "DISK_FULL": "1", "DOWNLOAD_FAILED": "1"},
	"Downloaded in an hour": {"all devices": "1.17e+09"}, // 24 times 45 MB: three quarters are reused

	// Without the ten minutes, twice, of the one that went on hold.
	"How long the last installs took, by stage": {"downloading": "39", "installing": "7", "judging": "74", "rebooting": "3", "verifying": "0"},
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
	"Least room":        {"printer-06:9100": "3.48e+08", "printer-15:9100": "3.31e+08", "printer-41:9100": "5.03e+07", "printer-56:9100": "3.61e+08", "printer-60:9100": "2.37e+08"},
	"Resumed downloads": {"once or more": "9", "three times or more": "3"},
}
