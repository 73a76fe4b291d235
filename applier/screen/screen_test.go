package screen

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/docs/schema"
)

// TestWords holds that every text is there in both languages, with the same places to fill
// in, and that none is missing and none is too many.
func TestWords(t *testing.T) {
	var all map[string][]string
	if err := json.Unmarshal([]byte(words), &all); err != nil {
		t.Fatal(err)
	}
	fill, han := regexp.MustCompile(`{\w+}`), regexp.MustCompile(`\p{Han}`)
	places := func(text string) []string {
		found := fill.FindAllString(text, -1)
		slices.Sort(found)
		return found
	}
	for key, row := range all {
		if len(row) != 2 || row[0] == "" || row[1] == "" {
			t.Errorf("%s is %q, want English and Chinese", key, row)
			continue
		}
		if en, zh := places(row[0]), places(row[1]); !slices.Equal(en, zh) {
			t.Errorf("%s has the places %q in English and %q in Chinese", key, en, zh)
		}
		if han.MatchString(row[0]) || han.MatchString(row[1]) && strings.ContainsAny(row[1], ",:()") {
			t.Errorf("%s is %q: Chinese has its own punctuation", key, row)
		}
	}
	// Those that the page names, and those that it makes of what the programs say.
	used := map[string]bool{"runs": true, "testing": true, "rollback": true, "rollback.none": true}
	named := func(file, pattern, prefix string) {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1)
		if len(found) < 2 {
			t.Fatalf("%s: %d of %s: the code has moved, and this test looks at nothing", file, len(found), pattern)
		}
		for _, m := range found {
			used[prefix+m[1]] = true
		}
	}
	named("page.html", `say\('([\w.]+[^.'])'`, "")
	named("../../bootcheck/record.go", `Phase\w+ +Phase = "(\w+)"`, "phase.")
	used["phase."] = true
	named("../../bootcheck/record.go", `Cause\w+ +Cause = "([\w-]+)"`, "cause.")
	named("../../bootcheck/record.go", `Hold\w+ += "(\w+)"`, "")
	named("../report/report.go", `Stage\w+ += "(downloading|verifying|toInstall|installing|rebooting)"`, "")
	named("../../bootcheck/errors.go", `Code\w+ += "([^R]\w+)"`, "code.") // those of a rollback are that of the record
	for key := range used {
		if all[key] == nil {
			t.Errorf("%q has no text", key)
		}
	}
	for key := range all {
		if !used[key] {
			t.Errorf("nothing says %q", key)
		}
	}
}

// TestPage holds what a browser is told besides the page, and that the page needs nothing else.
func TestPage(t *testing.T) {
	w := httptest.NewRecorder()
	ServePage(w, httptest.NewRequest("GET", "/", nil))
	text := w.Body.String()
	for header, want := range map[string]string{
		"Content-Type":    "text/html; charset=utf-8",
		"Referrer-Policy": "no-referrer",
		"Vary":            "Accept-Language",
		"Content-Security-Policy": "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src 'sha256-" +
			digest(between(text, "<script>", "</script>")) + "'; style-src 'sha256-" + digest(between(text, "<style>", "</style>")) + "'",
	} {
		if got := w.Header().Get(header); got != want {
			t.Errorf("%s: %s, want %s", header, got, want)
		}
	}
	for _, bad := range []string{"{{", "http:", "https:", "src=", "<link", "innerHTML", "eval(", "style=", "onload=\""} {
		if strings.Contains(text, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	if strings.Count(text, "<script>") != 1 || strings.Count(text, "<style>") != 1 {
		t.Error("the policy is of one script and one style")
	}
	if len(text) > 16<<10 {
		t.Errorf("the page has %d bytes, want at most 16 KiB", len(text))
	}
}

// TestLanguage holds which request gets which language.
func TestLanguage(t *testing.T) {
	for _, row := range []struct{ url, accept, want string }{
		{"/", "", "en"},
		{"/", "zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"},
		{"/", "en-US,en;q=0.9,zh;q=0.8", "en"},
		{"/", "de, zh-TW;q=0.5, en;q=0.4", "zh-Hans"},
		{"/", "de,fr;q=0.9", "en"},
		{"/", "ZH", "zh-Hans"},
		{"/", "en;q=0, zh ; q=0.1", "zh-Hans"},
		{"/", "zh;q=0", "en"},
		{"/", "zh;q=x,en;q=nan", "en"},
		{"/", "zha, zh_CN", "en"},
		{"/?lang=zh", "en", "zh-Hans"},
		{"/?lang=zh-Hans-CN", "", "zh-Hans"},
		{"/?lang=en", "zh", "en"},
		{"/?lang=%22%3E%3Cscript%3E", "zh", "zh-Hans"},
		{"/?lang=%zz", "", "en"},
	} {
		req := httptest.NewRequest("GET", row.url, nil)
		req.Header.Set("Accept-Language", row.accept)
		w := httptest.NewRecorder()
		ServePage(w, req)
		if want := `<html lang="` + row.want + `">`; !strings.Contains(w.Body.String(), want) || strings.Contains(w.Body.String(), "{{") {
			t.Errorf("%s for %q is not %s", row.url, row.accept, want)
		}
	}
}

// TestState holds what is served of a device, from a new one to one that is damaged.
func TestState(t *testing.T) {
	dir := t.TempDir()
	d := &Device{Root: filepath.Join(dir, "versions"), Run: filepath.Join(dir, "run")}
	state := func(what string) *State {
		t.Helper()
		s := d.State()
		data, err := json.Marshal(s)
		if err == nil {
			err = schema.Check("screen", data)
		}
		if err != nil || s.Page == "" {
			t.Errorf("%s: %v: %+v", what, err, s)
		}
		return s
	}
	if s := state("no store"); !strings.Contains(string(s.Error), "cannot open the version store") || s.Operation.Stage != bootcheck.StageIdle {
		t.Errorf("no store: %+v", s)
	}
	store, err := bootcheck.Create(d.Root)
	if err != nil {
		t.Fatal(err)
	}
	if s := state("an empty store"); s.Error != "" || s.Phase != "" {
		t.Errorf("an empty store: %+v", s)
	}
	if err := os.Mkdir(filepath.Join(d.Root, "v1.2.0"), 0o755); err != nil {
		t.Fatal(err)
	}
	commit := func(r *bootcheck.Record) {
		t.Helper()
		r.Current = &bootcheck.Ref{Version: "1.2.0"}
		if err := store.Commit(r); err != nil {
			t.Fatal(err)
		}
	}
	trial := &bootcheck.Record{Phase: bootcheck.PhaseTrial, Trial: &bootcheck.Trial{}, Next: &bootcheck.Next{Ref: bootcheck.Ref{Version: "1.3.0"}}}
	commit(trial)
	w := &bootcheck.Watching{Version: "1.2.0", Healthy: 7, Stable: 60, Check: "c", Why: "w"}
	if err := w.Keep(d.Run); err != nil {
		t.Fatal(err)
	}
	r := report.New("", filepath.Join(d.Run, "progress.json"))
	r.Version("1.2.0")
	r.Fail(bootcheck.Errorf(bootcheck.ExitDownloadFailed, bootcheck.CodeDownloadFailed, "x"))
	r.Close(t.Context())
	s := state("a trial")
	if s.Phase != "trial" || s.Current != "1.2.0" || s.Next != "1.3.0" || s.Watching == nil || *s.Watching != *w || s.LastRollback != nil || s.Operation.Error != "DOWNLOAD_FAILED: x" || s.Operation.Version != "1.2.0" {
		t.Errorf("a trial: %+v", s)
	}

	const evil = "\x1b[2J<script>\u202e\n"
	rolled := func(output string) {
		hold := trial.Clone()
		hold.Phase, hold.HoldReason, hold.Trial = bootcheck.PhaseHold, bootcheck.HoldExhausted, nil
		hold.RolledBack(&bootcheck.Rollback{From: "1.2.0", Level: bootcheck.LevelNone, Cause: bootcheck.CauseHealth, Check: evil + "c", Output: output, Attempts: 2, Journal: []string{"secret"}})
		commit(hold)
	}
	rolled(evil + strings.Repeat("é", maxLine))
	s = state("hold")
	l := s.LastRollback
	if s.Hold != bootcheck.HoldExhausted || s.Watching != nil || s.LastRollbackAt == nil || l == nil || l.Check != "[2J<script> c" || len(l.Output) > maxLine || !strings.HasPrefix(l.Output, "[2J<script> é") || !strings.HasSuffix(l.Output, "é…") || l.Attempts != 2 {
		t.Errorf("hold: %+v, %+v", s, l)
	}
	// The time of the next rollback is another one.
	past := s.LastRollbackAt.Add(-1000)
	if d.rolledBackAt = &past; state("a second request").LastRollbackAt != &past {
		t.Error("the history is read for every answer")
	}
	trial.LastRollback, trial.Rollbacks = nil, nil
	rolled("again")
	if at := state("rolled back again").LastRollbackAt; at == nil || at.Equal(past) {
		t.Errorf("rolled back again: %v", at)
	}
	data, err := json.Marshal(s)
	if err != nil || strings.Contains(string(data), "secret") {
		t.Errorf("the journal of the failed version is served: %s, %v", data, err)
	}
	// Another update is confirmed: the rollback explains nothing any more.
	later := trial.Clone()
	later.Phase, later.Trial, later.LastRollback = bootcheck.PhaseConfirmed, nil, &bootcheck.Rollback{From: "1.2.0", To: "1.1.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseHealth}
	commit(later)
	if s := state("confirmed since"); s.LastRollback != nil || s.LastRollbackAt != nil || s.Phase != bootcheck.PhaseConfirmed {
		t.Errorf("confirmed since: %+v", s)
	}

	// Damage.
	records, err := filepath.Glob(filepath.Join(d.Root, ".active", "record*"))
	if err != nil || len(records) == 0 {
		t.Fatalf("no records: %v", err)
	}
	if err := os.WriteFile(records[0], []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s := state("a damaged record"); s.Phase != bootcheck.PhaseConfirmed || s.Damage == "" {
		t.Errorf("a damaged record: %+v", s)
	}
	if err := os.RemoveAll(filepath.Join(d.Root, ".generations")); err != nil {
		t.Fatal(err)
	}
	if s := state("no record"); s.Error == "" || s.Phase != "" {
		t.Errorf("no record: %+v", s)
	}
}
