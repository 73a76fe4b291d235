package metricstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

const alertsFile = "../../docs/alerts.yml"

// promtool runs Prometheus' own tool, that of Debian, without installing it.
func promtool(ctx context.Context, args ...string) (string, error) {
	dir := try.Get(debian.Tools(ctx, "prometheus"))
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "usr/bin/promtool"), args...).CombinedOutput()
	return string(out), err
}

func TestAlerts(t *testing.T) {
	defer try.Fatal(t)
	machine.Require(t, "promtool", debian.Missing())
	ctx := machine.Context(t)
	if out, err := promtool(ctx, "check", "rules", alertsFile); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
	tests, err := filepath.Glob("testdata/*_test.yml")
	if err != nil || len(tests) == 0 {
		t.Fatalf("there are no tests (%v)", err)
	}
	var all strings.Builder
	for _, name := range tests {
		if out, err := promtool(ctx, "test", "rules", name); err != nil {
			t.Errorf("promtool test rules %s: %v\n%s", name, err, out)
		}
		text := try.Get(os.ReadFile(name))
		all.Write(text)
	}
	rules := try.Get(os.ReadFile(alertsFile))
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
