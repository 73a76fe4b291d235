package metrics

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/METRICS.md")

const (
	docs  = "../../docs/METRICS.md"
	begin = "<!-- made of bootcheck/metrics/table.go: go test ./bootcheck/metrics -run Docs -update -->\n"
	end   = "<!-- end -->\n"
)

// The table that people read is that of the code.
func TestDocsListEveryMetric(t *testing.T) {
	families := parse(t, publish(t, busy(t)))
	var want strings.Builder
	want.WriteString(begin + "| metric | labels | |\n|---|---|---|\n")
	for _, m := range table {
		labels := ""
		if f := families[m.name]; f != nil {
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels += " `" + l.GetName() + "`"
			}
		}
		fmt.Fprintf(&want, "| `%s` |%s | %s |\n", m.name, labels, m.help)
	}
	want.WriteString(end)
	text := read(t, docs)
	before, rest, ok1 := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table", docs)
	}
	whole := before + want.String() + after
	if *update {
		if err := os.WriteFile(docs, []byte(whole), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != whole {
		t.Errorf("the table of %s is not that of table.go: go test ./bootcheck/metrics -run Docs -update", docs)
	}

	// The values of labels are not left to the reader's luck.
	values := regexp.MustCompile("`([A-Za-z_-]+)`")
	listed := map[string]map[string]bool{}
	_, labels, _ := strings.Cut(after, "The values of labels:")
	labels, _, _ = strings.Cut(labels, "\n\nA device")
	for line := range strings.Lines(labels) {
		names := values.FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			continue
		}
		listed[names[0][1]] = map[string]bool{}
		for _, n := range names[1:] {
			listed[names[0][1]][n[1]] = true
		}
	}
	series := 0
	for _, f := range families {
		series += len(f.GetMetric())
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				is, enum := listed[l.GetName()]
				if enum && !is[l.GetValue()] {
					t.Errorf("%s: %s=%q is not in the docs", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	if len(listed) != 7 || !strings.Contains(text, "about 65 series") || series < 60 || series > 75 {
		t.Errorf("a device has %d series and %d labels with known values; do the docs say so?", series, len(listed))
	}
}

// Alerts and dashboard name no metric that there is not, of this project or of the collector,
// and no value of a label that never comes.
func TestAlertsAndDashboardNameWhatThereIs(t *testing.T) {
	known := map[string]bool{"node_exporter": true, "node_textfile_mtime_seconds": true, "node_textfile_scrape_error": true, "node_filesystem_avail_bytes": true}
	for _, m := range table {
		known[m.name] = true
	}
	name := regexp.MustCompile(`\b(ota|node)_[a-z_]+\b`)
	matcher := regexp.MustCompile(`\b(phase|cause|level|class|result|stage|role)=(~?)\\?"([^"\\]+)`)
	values := map[string]bool{"success": true, "current": true, "previous": true, "factory": true, "next": true}
	families := parse(t, publish(t, busy(t)))
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				values[l.GetValue()] = true
			}
		}
	}
	for _, file := range []string{"../../docs/alerts.yml", "../../docs/dashboard.json", "../../docs/METRICS.md"} {
		text := read(t, file)
		found := 0
		for _, n := range name.FindAllString(text, -1) {
			if n == "ota_last_install_" || n == "ota_follow_" { // "ota_last_install_…", in prose
				continue
			}
			if found++; !known[n] {
				t.Errorf("%s names %s, which there is not", file, n)
			}
		}
		for _, m := range matcher.FindAllStringSubmatch(text, -1) {
			for _, v := range strings.Split(m[3], "|") {
				if !values[v] {
					t.Errorf("%s asks for %s=%q, which never comes", file, m[1], v)
				}
			}
		}
		if found < 10 {
			t.Errorf("%s names only %d metrics: this test no longer finds them", file, found)
		}
	}
}

// A phase, cause, level or code that is new in package bootcheck has a sample from the
// first day on, or an alert would never see its first event.
func TestEveryValueIsThere(t *testing.T) {
	values := map[string]bool{}
	for _, f := range parse(t, publish(t, busy(t))) {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				values[l.GetValue()] = true
			}
		}
	}
	constant := regexp.MustCompile(`(?m)^\t(?:Phase\w+ +Phase|Cause\w+ +Cause|Level\w+|Code\w+|Hold\w+) += "([^"]+)"`)
	n := 0
	for _, file := range []string{"../record.go", "../errors.go"} {
		for _, m := range constant.FindAllStringSubmatch(read(t, file), -1) {
			if n++; !values[m[1]] {
				t.Errorf("%s has %q, and no metric says it", file, m[1])
			}
		}
	}
	if n != 5+8+3+11+2 {
		t.Errorf("found %d constants: does this test still find them all?", n)
	}
}
