package metricstest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

const dashboardFile = "../../docs/dashboard.json"

// The schema has what Grafana needs of a file that is imported, and no more types of
// panels, units and calculations than those whose queries are tested below.
func TestDashboardSchema(t *testing.T) {
	defer try.Fatal(t)
	var source jsonschema.Schema
	try.Check(json.Unmarshal(try.Get(os.ReadFile("testdata/dashboard.schema.json")), &source))
	schema := try.Get(source.Resolve(nil))
	text := try.Get(os.ReadFile(dashboardFile))
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
		var value any
		try.Check(json.Unmarshal([]byte(edited), &value))
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

// variables are what Grafana puts into a query for all jobs and a day. $1 of label_replace
// is no variable.
var variables = strings.NewReplacer("$job", ".*", "$__range", "86400s")

var variable = regexp.MustCompile(`\$\{?[A-Za-z_]+`)

// promtool answers what the dashboard asks, over a day of the devices of dashboard.yml, and
// each panel tells what happened.
func TestDashboard(t *testing.T) {
	defer try.Fatal(t)
	machine.Require(t, "promtool", debian.Missing())
	text := try.Get(os.ReadFile(dashboardFile))
	var d struct{ Panels []panel }
	try.Check(json.Unmarshal(text, &d))
	tests := try.Get(os.ReadFile("testdata/dashboard.yml"))
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			expr := variables.Replace(target.Expr)
			if v := variable.FindString(expr); v != "" {
				t.Errorf("%s: there is no variable %s", p.Title, v)
			}
			name := p.Title
			if !strings.Contains(target.LegendFormat, "{{") {
				name = strings.TrimSpace(name + " " + target.LegendFormat)
			}
			for calc, expr := range p.asks(expr, target.Instant) {
				name := strings.TrimSpace(calc + " " + name)
				want, ok := shows[name]
				if !ok {
					t.Errorf("it is not known what the panel %q shows", name)
				}
				row := try.Get(json.Marshal(map[string]any{"expr": expr, "eval_time": "24h", "exp_samples": samples(want)}))
				tests = fmt.Appendf(tests, "      - %s\n", row) // JSON is YAML
			}
		}
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	try.Check(os.WriteFile(file, tests, 0o644))
	if out, err := promtool(machine.Context(t), "test", "rules", file); err != nil {
		t.Errorf("the panels do not show what happened: %v\n%s", err, out)
	}
}

// asks is expr as it becomes the last value of each line of a panel, or the greatest, by
// what its legend shows. increase() extrapolates: it is rounded.
func (p panel) asks(expr string, instant bool) map[string]string {
	if instant {
		return map[string]string{"": fmt.Sprintf("round((%s), 0.001)", expr)}
	}
	all := make(map[string]string)
	for _, calc := range p.Options.Legend.Calcs {
		switch calc {
		case "lastNotNull": // fewer steps: promtool gives a query 10,000 samples
			all["last"] = fmt.Sprintf("round(last_over_time((%s)[24h:10m]), 0.001)", expr)
		case "max":
			all["max"] = fmt.Sprintf("round(max_over_time((%s)[24h:2m]), 0.001)", expr)
		}
	}
	return all
}

func samples(of map[string]float64) []any {
	all := []any{}
	for labels, value := range of {
		all = append(all, map[string]any{"labels": "{" + labels + "}", "value": value})
	}
	return all
}

// shows is what a reader of each panel has to find, by its lines, bars or rows.
var shows = map[string]map[string]float64{
	"Devices":         {"": 10},
	"On hold":         {"": 1},
	"On trial":        {"": 1},
	"Rolled back":     {"": 4}, // not the one that an operator rolled back
	"Factory damaged": {"": 1},
	"No factory":      {"": 1},

	"last Devices by version": {`version="2.0.0"`: 1, `version="2.3.1"`: 4, `version="2.4.0"`: 0, `version="2.4.1"`: 2},
	// 4 of 6, when the fourth left it; not what the two others did when 2.4.1 came.
	"max Versions that roll back": {`version="2.4.0"`: 0.667},

	"last Devices that are not confirmed, by phase": {`phase="fallback"`: 0, `phase="hold"`: 1, `phase="trial"`: 1},
	"max Devices that are not confirmed, by phase":  {`phase="fallback"`: 1, `phase="hold"`: 1, `phase="trial"`: 1},
	"max Rollbacks in an hour, by cause": {
		`cause="boots",level="previous"`: 1, `cause="crash-loop",level="factory"`: 1, `cause="crash-loop",level="previous"`: 1,
		`cause="health",level="previous"`: 1, `cause="operator",level="previous"`: 1,
	},
	"max Installs in an hour, by result":    {`result="success"`: 2, `result="ROLLED_BACK_TO_PREVIOUS"`: 1},
	"max Downloaded in an hour all devices": {"": 2e6},

	// Without the quarter of an hour of the one on hold.
	"How long the last installs took, by stage": {`stage="downloading"`: 30},
	"last How the last boots ended":             {`class="hard"`: 1, `class="unclean"`: 1},

	"Why versions were left": {
		`from="2.4.0",cause="crash-loop",level="previous",check="device-api.service"`: 1,
		`from="2.4.0",cause="crash-loop",level="factory",check="device-api.service"`:  1,
		`from="2.4.0",cause="boots",level="previous"`:                                 1,
		`from="2.4.0",cause="health",level="previous",check="print server answers"`:   1,
	},
	"Devices that need an operator": {
		`job="node",instance="f",what="on hold: environment"`:      1,
		`job="node",instance="g",what="factory version damaged"`:   1,
		`job="node",instance="h",what="no factory version"`:        1,
		`job="node",instance="i",what="disk full"`:                 1,
		`job="node",instance="b",what="update server not reached"`: 1,
		`job="node",instance="j",what="3 hard boots in a row"`:     1,
		`job="node",instance="j",what="record damaged"`:            1,
	},

	// Five, although e was among the five at some time.
	"last Least room": {
		`job="node",instance="a"`: 500, `job="node",instance="b"`: 600, `job="node",instance="c"`: 700, `job="node",instance="d"`: 800,
		`job="node",instance="i"`: 40,
	},
	"last Resumed downloads once or more":        {"": 2},
	"last Resumed downloads three times or more": {"": 1},
}
