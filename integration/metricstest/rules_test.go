package metricstest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/debian"
	"github.com/tope-ota/ota/integration/machine/machinetest"
)

const alertsFile, dashboardFile = "../../docs/alerts.yml", "../../docs/dashboard.json"

// promtool runs Prometheus' own tool, that of Debian, without installing it.
func promtool(t *testing.T, ctx context.Context, args ...string) (string, error) {
	t.Helper()
	dir, err := debian.Tools(ctx, "prometheus")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "usr/bin/promtool"), args...).CombinedOutput()
	return string(out), err
}

func TestAlerts(t *testing.T) {
	machinetest.Require(t, "promtool", debian.Missing())
	ctx := machinetest.Context(t)
	if out, err := promtool(t, ctx, "check", "rules", alertsFile); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
	tests, err := filepath.Glob("testdata/*_test.yml")
	if err != nil || len(tests) == 0 {
		t.Fatalf("there are no tests (%v)", err)
	}
	var all strings.Builder
	for _, name := range tests {
		if out, err := promtool(t, ctx, "test", "rules", name); err != nil {
			t.Errorf("promtool test rules %s: %v\n%s", name, err, out)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	rules, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(rules), "- alert: ")[1:]
	for _, block := range blocks {
		name, _, _ := strings.Cut(block, "\n")
		// A test that says when it fires, not only when it does not.
		if !strings.Contains(all.String(), fmt.Sprintf(`'ALERTS{alertname="%s",alertstate="firing"`, name)) {
			t.Errorf("no test lets %s fire", name)
		}
		if !severity.MatchString(block) {
			t.Errorf("%s says neither page nor ticket", name)
		}
		for _, key := range []string{"summary: '", "description: '", "todo: '"} {
			if !strings.Contains(block, key) {
				t.Errorf("%s has no %s", name, key)
			}
		}
	}
	t.Logf("%d alerts", len(blocks))
}

var severity = regexp.MustCompile(`labels: \{severity: (page|ticket)\}`)

// A panel of docs/dashboard.json, as far as it matters here.
type panel struct {
	Type    string
	Title   string
	Targets []struct{ Expr, LegendFormat string }
	Panels  []panel
}

func dashboard(t *testing.T) []panel {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ Panels []panel }
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d.Panels
}

// variables are what Grafana puts into a query.
var variables = regexp.MustCompile(`\$\$?_*[a-z_]+`)

// Every query of the dashboard is one that Prometheus' own parser takes. Which
// metrics it names is held by bootcheck/metrics.
func TestDashboard(t *testing.T) {
	machinetest.Require(t, "promtool", debian.Missing())
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	n := 0
	for _, p := range dashboard(t) {
		if p.Type != "row" && p.Type != "text" && len(p.Targets) == 0 {
			t.Errorf("the panel %q asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			n++
			expr := variables.ReplaceAllStringFunc(target.Expr, func(v string) string {
				known := map[string]string{"$job": ".*", "$__rate_interval": "5m", "$__range": "1d"}
				if known[v] == "" {
					t.Errorf("the panel %q has the variable %s", p.Title, v)
				}
				return known[v]
			})
			quoted, err := json.Marshal(expr) // is YAML, too
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&rules, "  - {record: panel_%d, expr: %s}\n", n, quoted)
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := promtool(t, machinetest.Context(t), "check", "rules", file)
	if err != nil || !strings.Contains(out, fmt.Sprintf("%d rules found", n)) {
		t.Errorf("of %d queries: %v\n%s", n, err, out)
	}
	t.Logf("%d queries", n)
}
