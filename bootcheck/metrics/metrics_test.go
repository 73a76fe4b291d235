package metrics

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// newPublisher is a device with a store, a run directory and a directory for the collector.
func newPublisher(t *testing.T) *Publisher {
	t.Helper()
	dir := t.TempDir()
	cfg := config.Default(filepath.Join(dir, "ota.toml"))
	cfg.Root, cfg.Run = filepath.Join(dir, "versions"), filepath.Join(dir, "run")
	cfg.Metrics.File = filepath.Join(dir, "collector", "ota.prom")
	cfg.Model = "x1"
	for _, d := range []string{cfg.Root, cfg.Run} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	store, err := bootcheck.Create(cfg.Root)
	if err != nil {
		t.Fatal(err)
	}
	return New(cfg, store)
}

// commit makes r what the device runs. Of its versions only the manifests are there,
// as far as Release reads them.
func commit(t *testing.T, d *Publisher, r *bootcheck.Record) {
	t.Helper()
	for i, ref := range []*bootcheck.Ref{r.Current, r.Previous, r.Factory} {
		if ref == nil {
			continue
		}
		dir := filepath.Join(d.store.VersionDir(ref.Version), bootcheck.ManifestDir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		manifest := fmt.Sprintf(`{"format":1,"models":["x1"],"version":%q,"release":%d,"size":0,"entries":[`, ref.Version, 30-i)
		if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(manifest), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.store.Commit(r); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, d *Publisher) string {
	t.Helper()
	if err := d.Publish(); err != nil {
		t.Fatal(err)
	}
	return read(t, d.cfg.Metrics.File)
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// parse reads text as Prometheus does.
func parse(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("Prometheus cannot read this: %v\n%s", err, text)
	}
	return families
}

// sample is the value of the sample of name that has these labels, names and values
// in turn; NaN: there is none.
func sample(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	for _, m := range families[name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		match := len(has) == len(labels)/2
		for i := 0; i+1 < len(labels); i += 2 {
			match = match && has[labels[i]] == labels[i+1]
		}
		if match && m.Gauge != nil {
			return m.GetGauge().GetValue()
		} else if match {
			return m.GetCounter().GetValue()
		}
	}
	return math.NaN()
}

// busy is a record and a device in which every metric has a sample.
func busy(t *testing.T) *Publisher {
	d := newPublisher(t)
	r := &bootcheck.Record{
		Schema: 1, Phase: bootcheck.PhaseTrial, Floor: 29,
		Current: &bootcheck.Ref{Version: "1.3.0", Digest: "sha256:abc"}, Previous: &bootcheck.Ref{Version: "1.2.0"}, Factory: &bootcheck.Ref{Version: "1.0.0"},
		Trial:   &bootcheck.Trial{BootID: "b", Hard: 1, Unclean: 2, Clean: 3},
		Next:    &bootcheck.Next{Ref: bootcheck.Ref{Version: "1.4.0"}},
		Blocked: []bootcheck.Blocked{{Ref: bootcheck.Ref{Version: "1.2.5"}, Reason: "health", Check: "x"}},
	}
	r.RolledBack(&bootcheck.Rollback{From: "1.2.4", To: "1.2.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseBoots})
	r.RolledBack(&bootcheck.Rollback{From: "1.2.5", To: "1.2.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseHealth, Check: "say \"hi\"\\\nto \xff all"})
	commit(t, d, r)
	asked := time.Unix(1790000200, 0).UTC()
	_, followErr := (&bootcheck.Following{Action: "7", Version: "1.4.0", Since: &asked, Undelivered: 2, Error: "503", UnchangedDays: new(31)}).Keep(d.cfg.Run)
	for _, err := range []error{
		followErr,
		bootcheck.Boot{ID: "this", Last: "hard"}.Keep(d.cfg.Run),
		bootcheck.FactoryCheck{Version: "1.0.0"}.Keep(d.cfg.Run),
		d.Ended(Install{Version: "1.2.5", Result: bootcheck.CodeRolledToPrevious, Exit: 8, Ended: 1790000000, Downloaded: 1000}),
		d.Ended(Install{Version: "1.3.0", Result: Success, Ended: 1790000100, Downloaded: 5_000_000_000, Resumes: 2,
			Seconds: map[string]float64{"downloading": 12.25, StageTrial: 61}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestWhatIsSaid(t *testing.T) {
	families := parse(t, publish(t, busy(t)))
	for _, row := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, "ota_version_info", []string{"role", "current", "version", "1.3.0"}},
		{1, "ota_version_info", []string{"role", "previous", "version", "1.2.0"}},
		{1, "ota_version_info", []string{"role", "factory", "version", "1.0.0"}},
		{1, "ota_version_info", []string{"role", "next", "version", "1.4.0"}},
		{30, "ota_release", nil},
		{1, "ota_phase", []string{"phase", "trial"}},
		{0, "ota_phase", []string{"phase", "confirmed"}},
		{0, "ota_hold", []string{"reason", "exhausted"}},
		{0, "ota_hard_boots", nil},
		{1, "ota_last_boot", []string{"class", "hard"}},
		{0, "ota_last_boot", []string{"class", "unknown"}},
		{1, "ota_rollbacks_total", []string{"cause", "boots", "level", "previous"}},
		{1, "ota_rollbacks_total", []string{"cause", "health", "level", "previous"}},
		{0, "ota_rollbacks_total", []string{"cause", "health", "level", "factory"}},
		{1, "ota_last_rollback_info", []string{"from", "1.2.5", "to", "1.2.0", "cause", "health", "level", "previous", "check", "say \"hi\"\\\nto \uFFFD all"}},
		{1, "ota_blocked_info", []string{"version", "1.2.5", "cause", "health"}},
		{0, "ota_record_damaged", nil},
		{1, "ota_factory_verified", nil},
		{64 << 20, "ota_store_reserve_bytes", nil},
		{1, "ota_installs_total", []string{"result", "success"}},
		{1, "ota_installs_total", []string{"result", "ROLLED_BACK_TO_PREVIOUS"}},
		{0, "ota_installs_total", []string{"result", "DISK_FULL"}},
		{5_000_001_000, "ota_downloaded_bytes_total", nil},
		{1, "ota_last_install_info", []string{"version", "1.3.0", "result", "success"}},
		{0, "ota_last_install_exit_code", nil},
		{1790000100, "ota_last_install_timestamp_seconds", nil},
		{12.25, "ota_last_install_duration_seconds", []string{"stage", "downloading"}},
		{61, "ota_last_install_duration_seconds", []string{"stage", "judging"}},
		{0, "ota_last_install_duration_seconds", []string{"stage", "rebooting"}},
		{2, "ota_last_install_resumes", nil},
		{1, "ota_follow_failed", nil},
		{2, "ota_follow_undelivered", nil},
		{1790000200, "ota_follow_asked_timestamp_seconds", nil},
		{31, "ota_follow_unchanged_days", nil},
	} {
		if got := sample(families, row.name, row.labels...); got != row.want {
			t.Errorf("%s %q is %v, want %v", row.name, row.labels, got, row.want)
		}
	}
	for _, name := range []string{"ota_store_free_bytes"} {
		if got := sample(families, name); !(got > 0) {
			t.Errorf("%s is %v, want more than 0", name, got)
		}
	}
	// A metric that no row above looks at may say anything.
	for _, m := range table {
		if families[m.name] == nil && m.name != "ota_store_free_inodes" {
			t.Errorf("%s has no sample on a device on which everything happened", m.name)
		}
	}
}

// Prometheus' own conventions, and ours.
func TestConventions(t *testing.T) {
	families := parse(t, publish(t, busy(t)))
	name := regexp.MustCompile(`^ota_[a-z]+(_[a-z]+)*$`)
	seen := map[string]bool{}
	for _, m := range table {
		if !name.MatchString(m.name) || seen[m.name] {
			t.Errorf("%q is no name, or there twice", m.name)
		}
		seen[m.name] = true
		if strings.HasSuffix(m.name, "_total") != (m.kind == counter) {
			t.Errorf("%s is a %s: only counters end in _total, and all do", m.name, m.kind)
		}
		if len(m.help) < 20 || !strings.HasSuffix(m.help, ".") || strings.ContainsAny(m.help, "\n|") {
			t.Errorf("%s: the help is %q", m.name, m.help)
		}
		f := families[m.name]
		if f == nil {
			continue
		}
		if f.GetHelp() != m.help || !strings.EqualFold(f.GetType().String(), m.kind) {
			t.Errorf("%s is a %s, %q, want a %s, %q", m.name, f.GetType(), f.GetHelp(), m.kind, m.help)
		}
		if !strings.HasSuffix(m.name, "_info") {
			for _, s := range f.GetMetric() {
				for _, l := range s.GetLabel() {
					if l.GetName() == "version" || l.GetName() == "check" {
						t.Errorf("%s has the label %s, whose values are not known before", m.name, l.GetName())
					}
				}
			}
		}
	}
	for name := range families {
		if !seen[name] {
			t.Errorf("%s is not in the table", name)
		}
	}
}

// On a device on which nothing was ever installed, and on one whose only record is
// lost, there is a file, and it says so.
func TestNothingIsThere(t *testing.T) {
	d := newPublisher(t)
	families := parse(t, publish(t, d))
	for _, phase := range []string{"confirmed", "trial", "hold"} {
		if got := sample(families, "ota_phase", "phase", phase); got != 0 {
			t.Errorf("nothing is installed, and ota_phase %s is %v", phase, got)
		}
	}
	for _, name := range []string{"ota_version_info", "ota_last_install_info", "ota_last_rollback_info", "ota_factory_verified", "ota_last_boot"} {
		if families[name] != nil {
			t.Errorf("nothing is installed, and there is %v", families[name])
		}
	}
	commit(t, d, &bootcheck.Record{Schema: 1, Phase: bootcheck.PhaseConfirmed, Current: &bootcheck.Ref{Version: "1.0.0"}})
	if err := os.WriteFile(filepath.Join(d.cfg.Root, ".generations/1/record.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sample(parse(t, publish(t, d)), "ota_record_damaged"); got != 1 {
		t.Errorf("the record is half a file, and ota_record_damaged is %v", got)
	}
}

// What a newer program wrote into the record is shown, and nothing is lost for it.
func TestAPhaseOfANewerProgram(t *testing.T) {
	d := newPublisher(t)
	commit(t, d, &bootcheck.Record{Schema: 2, Phase: "resting", Current: &bootcheck.Ref{Version: "1.0.0"}})
	families := parse(t, publish(t, d))
	if got := sample(families, "ota_phase", "phase", "resting"); got != 1 {
		t.Errorf("ota_phase resting is %v, want 1", got)
	}
	if got := sample(families, "ota_phase", "phase", "confirmed"); got != 0 {
		t.Errorf("ota_phase confirmed is %v, want 0", got)
	}
}

// The history holds 32 generations; the counters hold everything, also over the
// loss of the run directory and of the file itself, which a reboot takes.
func TestCountersNeverGoBack(t *testing.T) {
	d := newPublisher(t)
	r := &bootcheck.Record{Schema: 1, Phase: bootcheck.PhaseConfirmed, Current: &bootcheck.Ref{Version: "1.0.0"}}
	for i := range 40 {
		r = r.Clone()
		r.RolledBack(&bootcheck.Rollback{From: "1.1.0", To: "1.0.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseHealth})
		commit(t, d, r)
		if err := d.Ended(Install{Result: bootcheck.CodeRolledToPrevious, Exit: 8, Downloaded: 10}); err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 {
			for _, dir := range []string{d.cfg.Run, filepath.Dir(d.cfg.Metrics.File)} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			d = New(d.cfg, d.store)
		}
	}
	families := parse(t, publish(t, d))
	for _, row := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{40, "ota_rollbacks_total", []string{"cause", "health", "level", "previous"}},
		{40, "ota_installs_total", []string{"result", "ROLLED_BACK_TO_PREVIOUS"}},
		{400, "ota_downloaded_bytes_total", nil},
	} {
		if got := sample(families, row.name, row.labels...); got != row.want {
			t.Errorf("%s is %v, want %v", row.name, got, row.want)
		}
	}
}

// What an older or a damaged file says of installs must not keep the rest from being
// told.
func TestInstallsThatCannotBeRead(t *testing.T) {
	d := busy(t)
	for _, text := range []string{"", "{", "null", `{"results":null}`, `{"results":{"success":-1}}`, strings.Repeat(" ", 100<<10), "[]"} {
		if err := os.WriteFile(d.installsFile(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := sample(parse(t, publish(t, d)), "ota_installs_total", "result", Success); got != 0 {
			t.Errorf("of %.20q %v installs are known", text, got)
		}
		if err := d.Ended(Install{Result: Success}); err != nil {
			t.Fatal(err)
		}
		if got := sample(parse(t, publish(t, d)), "ota_installs_total", "result", Success); got != 1 {
			t.Errorf("after %.20q and an install, %v installs are known, want 1", text, got)
		}
	}
}

func TestFactoryIsWholeOrNot(t *testing.T) {
	d := newPublisher(t)
	r := &bootcheck.Record{Schema: 1, Phase: bootcheck.PhaseConfirmed, Current: &bootcheck.Ref{Version: "1.1.0"}, Factory: &bootcheck.Ref{Version: "1.0.0"}}
	commit(t, d, r)
	is := func(what string, want float64) {
		t.Helper()
		got := sample(parse(t, publish(t, d)), "ota_factory_verified")
		if got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("%s: ota_factory_verified is %v, want %v", what, got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	is("not read", math.NaN())
	must(bootcheck.FactoryCheck{Version: "0.9.0"}.Keep(d.cfg.Run))
	is("another version was intact", math.NaN())
	must(bootcheck.FactoryCheck{Version: "1.0.0"}.Keep(d.cfg.Run))
	is("it was intact", 1)
	must(bootcheck.FactoryCheck{Version: "1.0.0", Damage: "oh"}.Keep(d.cfg.Run))
	is("it is damaged now", 0)
}

// The collector reads every *.prom of its directory, at any moment, as any user.
func TestTheFileIsWholeAtAnyMoment(t *testing.T) {
	d := busy(t)
	dir := filepath.Dir(d.cfg.Metrics.File)
	want := len(parse(t, publish(t, d)))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if err := New(d.cfg, d.store).Publish(); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	end := time.Now().Add(300 * time.Millisecond)
	reads := 0
	for ; time.Now().Before(end) || reads < 20; reads++ {
		names, err := filepath.Glob(filepath.Join(dir, "*.prom"))
		if err != nil || len(names) != 1 {
			t.Errorf("the collector sees %v (%v)", names, err)
			break
		}
		if got := len(parse(t, read(t, names[0]))); got != want {
			t.Errorf("the collector sees %d metrics, want %d", got, want)
			break
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d reads", reads)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("in the collector's directory are %v (%v), want the file", left, err)
	}
	if info, err := os.Stat(d.cfg.Metrics.File); err != nil || info.Mode() != 0o644 {
		t.Errorf("the file has the mode %v (%v), want 0644", info.Mode(), err)
	}
}

// Off is the default, and means that nothing is written but the release file.
func TestOff(t *testing.T) {
	d := newPublisher(t)
	d.cfg.Metrics.File = ""
	commit(t, d, &bootcheck.Record{Schema: 1, Phase: bootcheck.PhaseConfirmed, Current: &bootcheck.Ref{Version: "1.0.0"}})
	before := list(t, filepath.Dir(d.cfg.Root))
	for _, err := range []error{d.Publish(), d.Ended(Install{Result: Success})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, filepath.Dir(d.cfg.Root)); got != before+" run/release" {
		t.Errorf("there is now %s, want %s and run/release", got, before)
	}
	// Without a run directory no service of the updater runs, and none is made for this.
	if err := os.RemoveAll(d.cfg.Run); err != nil {
		t.Fatal(err)
	}
	if err := d.Publish(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.cfg.Run); !os.IsNotExist(err) {
		t.Errorf("a run directory was made (%v)", err)
	}
}

// list is all files below dir, sorted.
func list(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// The run directory is the first of them, and its files come last here.
	var run, rest []string
	for _, n := range names {
		if strings.HasPrefix(n, "run/") {
			run = append(run, n)
		} else {
			rest = append(rest, n)
		}
	}
	return strings.Join(append(rest, run...), " ")
}

// What cannot be written is an error that says what, and the other file is written.
func TestWhatCannotBeWritten(t *testing.T) {
	d := busy(t)
	d.cfg.Metrics.File = filepath.Join(d.cfg.Root, "no", "such", "ota.prom")
	if err := os.Remove(filepath.Join(d.cfg.Run, releaseFile)); err != nil {
		t.Fatal(err)
	}
	err := d.Publish()
	if err == nil || !strings.Contains(err.Error(), "cannot write the metrics: mkdir "+d.cfg.Root+"/no/such: no such file or directory") {
		t.Errorf("Publish() = %v", err)
	}
	if got := read(t, filepath.Join(d.cfg.Run, releaseFile)); !strings.Contains(got, `OTA_VERSION="1.3.0"`) {
		t.Errorf("the release file says %q", got)
	}
}

// FuzzEscape: with any name of a check or a version the file can be read and says
// just that.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", `"`, `\`, "\n", `\n`, "a{b}", "ü", "\xff\xfe", "} 1\nota_phase 9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fx := &facts{cfg: config.Default("x"), record: &bootcheck.Record{LastRollback: &bootcheck.Rollback{Check: s}}, installs: &installs{}}
		families := parse(t, string(fx.text()))
		want := strings.ToValidUTF8(s, "\uFFFD")
		got := sample(families, "ota_last_rollback_info", "from", "", "to", "", "cause", "", "level", "", "check", want)
		if got != 1 || len(families["ota_last_rollback_info"].GetMetric()) != 1 {
			t.Errorf("of the check %q comes %v", s, families["ota_last_rollback_info"])
		}
	})
}

func TestRelease(t *testing.T) {
	d := busy(t)
	d.cfg.Model = "the \"X\" $HOME `id` \\"
	text, err := d.Release()
	if err != nil {
		t.Fatal(err)
	}
	want := `OTA_VERSION="1.3.0"
OTA_RELEASE="30"
OTA_DIGEST="sha256:abc"
OTA_PHASE="trial"
OTA_MODEL="the \"X\" \$HOME \` + "`id\\`" + ` \\"
OTA_PREVIOUS="1.2.0"
OTA_FACTORY="1.0.0"
`
	if string(text) != want {
		t.Errorf("Release() is\n%s, want\n%s", text, want)
	}
	// It is written again only if it says something else: what watches it is not woken.
	name := filepath.Join(d.cfg.Run, releaseFile)
	publish(t, d)
	before, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, d)
	if after, err := os.Stat(name); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced by the same (%v)", err)
	}
	if !bytes.Equal([]byte(read(t, name)), text) {
		t.Errorf("the file says\n%s", read(t, name))
	}
}
