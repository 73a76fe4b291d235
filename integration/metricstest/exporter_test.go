// Package metricstest tests what becomes of the metrics: a real node_exporter gives
// them to Prometheus, whose own tools read the alerts and the dashboard of docs/.
package metricstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// What docs/METRICS.md recommends: the file is in memory, and the collector's directory
// has a link to it.
const (
	metricsConfig = "[metrics]\nfile = \"/run/ota/ota.prom\"\n"
	collected     = "/etc/exporter" // in Debian /var/lib/prometheus/node-exporter, which the test machine has empty
	exporter      = "prometheus-node-exporter"
	exporterUnit  = `[Service]
ExecStart=/usr/bin/prometheus-node-exporter --collector.disable-defaults --collector.textfile --collector.textfile.directory=` + collected + ` --web.listen-address=127.0.0.1:9100
# As Debian runs it: not as root.
User=nobody
`
)

// The real programs, in the sandboxes of their real units, and a real node_exporter
// that reads what they write: through an install, a trial, its confirmation, a
// reboot, a rollback.
func TestNodeExporter(t *testing.T) {
	defer try.Fatal(t)
	machine.RequireContainer(t)
	ctx, cancel := context.WithTimeout(machine.Context(t), 10*time.Minute)
	defer cancel()
	tools := try.Get(debian.Tools(ctx, exporter))
	program := try.Get(os.ReadFile(filepath.Join(tools, "usr/bin", exporter)))
	overlay := try.Get(machine.DeviceOverlay())
	overlay["/usr/bin/"+exporter] = debian.File{Data: program, Mode: 0o755}
	overlay["/etc/systemd/system/exporter.service"] = debian.Unit(exporterUnit)
	overlay.Enable("exporter.service", "multi-user.target")
	overlay[collected+"/ota.prom"] = debian.File{Link: "/run/ota/ota.prom"}
	c := machine.StartContainer(t, container.Options{Overlay: overlay})
	s := &scraper{machine.NewStory(ctx, t, c, machine.Quick)}
	d := s.Device
	s.configure(d.Limits.Deadline)

	// The first version: on trial, confirmed, made the factory version.
	try.Check(d.Factory(ctx, machine.Version{Name: "1.0.0", Release: 1}))
	s.Out("ota-guardian", "factory", "verify")
	s.want("a new device",
		row{1, "ota_version_info", `role="current" version="1.0.0"`},
		row{1, "ota_version_info", `role="factory" version="1.0.0"`},
		row{1, "ota_phase", `phase="confirmed"`},
		row{1, "ota_release", ``},
		row{1, "ota_factory_verified", ``},
		row{1, "ota_installs_total", `result="success"`},
		row{0, "ota_rollbacks_total", `cause="health" level="previous"`},
	)
	if got := s.value("ota_downloaded_bytes_total", ""); got < 1000 {
		t.Errorf("of a bundle that was downloaded, %v bytes were", got)
	}
	// The services were restarted and watched for as long as they had to be steady.
	if got := s.value("ota_last_install_duration_seconds", `stage="judging"`); got < d.Limits.Stable.Seconds() || got > 3600 {
		t.Errorf("the trial took %v s, want at least %v", got, d.Limits.Stable)
	}
	before := s.value("ota_downloaded_bytes_total", "")

	// A good update is on trial while it is watched, and then confirmed.
	s.configure(10 * d.Limits.Wait)
	sick := machine.Version{Name: "1.1.0", Release: 2, Behave: deviceapi.Config{Behave: deviceapi.Health500}}
	install := d.Begin(ctx, sick)
	s.until("a version on trial", row{1, "ota_phase", `phase="trial"`})
	s.want("a version on trial",
		row{1, "ota_version_info", `role="current" version="1.1.0"`},
		row{1, "ota_version_info", `role="previous" version="1.0.0"`},
		row{2, "ota_release", ``},
	)

	// It fails: a rollback.
	s.Out("ota-guardian", "rollback")
	try.Check(d.Reach(ctx, machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	install.Ends(bootcheck.ExitRolledBack)
	s.until("a version that an operator left",
		row{1, "ota_rollbacks_total", `cause="operator" level="previous"`},
		row{1, "ota_installs_total", `result="ROLLED_BACK_TO_PREVIOUS"`},
		row{8, "ota_last_install_exit_code", ``},
		row{1, "ota_last_install_info", `result="ROLLED_BACK_TO_PREVIOUS" version="1.1.0"`},
		row{1, "ota_blocked_info", `cause="operator" version="1.1.0"`},
		row{1, "ota_phase", `phase="confirmed"`},
	)
	s.configure(4 * time.Second)
	try.Check(d.Installs(ctx, sick.As("1.2.0", 3), bootcheck.ExitRolledBack))
	s.until("a version that failed its check",
		row{1, "ota_rollbacks_total", `cause="health" level="previous"`},
		row{1, "ota_last_rollback_info", `cause="health" check="device-api answers" from="1.2.0" level="previous" to="1.0.0"`},
		row{2, "ota_installs_total", `result="ROLLED_BACK_TO_PREVIOUS"`},
	)
	try.Check(d.Reach(ctx, machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))

	// A reboot empties /run, and nothing that was counted is lost. The store is not
	// written.
	generation := s.Out("readlink", machine.Store+"/.active")
	store := s.Out("find", machine.Store, "-printf", `%p %T@ %C@\n`)
	try.Check(d.Reboot(ctx))
	s.until("after a reboot",
		row{1, "ota_last_boot", `class="unknown"`},
		row{1, "ota_factory_verified", ``}, // ota-factory.service
	)
	s.want("after a reboot",
		row{1, "ota_rollbacks_total", `cause="health" level="previous"`},
		row{1, "ota_rollbacks_total", `cause="operator" level="previous"`},
		row{2, "ota_installs_total", `result="ROLLED_BACK_TO_PREVIOUS"`},
		row{1, "ota_installs_total", `result="success"`},
		row{1, "ota_phase", `phase="confirmed"`},
	)
	if got := s.value("ota_downloaded_bytes_total", ""); got <= before {
		t.Errorf("two more bundles were downloaded, and there are %v bytes instead of %v", got, before)
	}
	if now := s.Out("readlink", machine.Store+"/.active"); now != generation {
		t.Errorf("the boot wrote generation %s, after %s", now, generation)
	}
	if now := s.Out("find", machine.Store, "-printf", `%p %T@ %C@\n`); now != store {
		t.Errorf("the boot of a confirmed version wrote the store:\n%s\nwas\n%s", now, store)
	}

	// And the release file, for programs that read files.
	if out := s.Out("sh", "-c", `. /run/ota/release && echo "$OTA_VERSION $OTA_RELEASE $OTA_PHASE $OTA_MODEL $OTA_FACTORY"`); out != "1.0.0 1 confirmed test-machine 1.0.0\n" {
		t.Errorf("/run/ota/release says %q", out)
	}
}

// A row is a sample: its labels as name="value", by name, a space between.
type row struct {
	value  float64
	name   string
	labels string
}

type scraper struct{ *machine.Story }

// configure switches the metrics on, and gives a trial this long.
func (s *scraper) configure(deadline time.Duration) {
	s.T.Helper()
	defer try.Fatal(s.T)
	try.Check(s.Configure(s.Ctx, s.Limits.Stable, deadline, metricsConfig))
}

// scrape asks the exporter.
func (s *scraper) scrape(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	head, body, err := s.Get(ctx, "127.0.0.1/9100", "/metrics")
	if err != nil || head == "" {
		return nil, fmt.Errorf("the exporter does not answer (%v)", err)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bufio.NewReader(strings.NewReader(body)))
	if err != nil {
		return nil, fmt.Errorf("the exporter says what Prometheus cannot read: %w", err)
	}
	// It says so here of a file that it could not read, and continues without it.
	if got := families["node_textfile_scrape_error"].GetMetric(); len(got) != 1 || got[0].GetGauge().GetValue() != 0 {
		return nil, fmt.Errorf("the exporter cannot read a file: node_textfile_scrape_error is %v", got)
	}
	return families, nil
}

// sample is the value of the sample of name with labels, as text.
func sample(families map[string]*dto.MetricFamily, name, labels string) string {
	for _, m := range families[name].GetMetric() {
		var all []string
		for _, l := range m.GetLabel() {
			all = append(all, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
		}
		slices.Sort(all)
		if strings.Join(all, " ") == labels {
			return fmt.Sprint(m.GetGauge().GetValue() + m.GetCounter().GetValue())
		}
	}
	return "no sample"
}

// missing is the first of rows that is not so; empty: all are.
func missing(families map[string]*dto.MetricFamily, rows []row) string {
	for _, r := range rows {
		if found := sample(families, r.name, r.labels); found != fmt.Sprint(r.value) {
			return fmt.Sprintf("%s{%s} is %s, want %v", r.name, r.labels, found, r.value)
		}
	}
	return ""
}

// until waits for rows.
func (s *scraper) until(what string, rows ...row) {
	s.T.Helper()
	defer try.Fatal(s.T)
	ctx, cancel := context.WithTimeout(s.Ctx, s.Limits.Wait)
	defer cancel()
	try.Check(machine.Poll(ctx, what, func(ctx context.Context) error {
		families, err := s.scrape(ctx)
		if text := missing(families, rows); err == nil && text != "" {
			err = errors.New(text)
		}
		return err
	}))
}

// want is until for what is so at once.
func (s *scraper) want(what string, rows ...row) {
	s.T.Helper()
	families, err := s.scrape(s.Ctx)
	if err != nil {
		s.T.Fatalf("%s: %v", what, err)
	}
	for _, r := range rows {
		if text := missing(families, []row{r}); text != "" {
			s.T.Errorf("%s: %s", what, text)
		}
	}
}

// value is that of the one sample of name with labels.
func (s *scraper) value(name, labels string) float64 {
	s.T.Helper()
	defer try.Fatal(s.T)
	return try.Get(strconv.ParseFloat(sample(try.Get(s.scrape(s.Ctx)), name, labels), 64))
}
