package bootcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWatching holds what is shown of a trial, where it is read, and that a file that
// cannot be used shows nothing.
func TestWatching(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run") // made by Keep
	for _, row := range []struct {
		w              Watching
		percent        int
		steady, result string
	}{
		{Watching{"1.1.0", 23, 60, "device-api answers", true, ""}, 38, "healthy for 23 of 60 s", `"device-api answers" good`},
		{Watching{"1.1.0", 0, 60, "device-api answers", false, "nothing listens on 127.0.0.1:9080"}, 0, "healthy for 0 of 60 s", `"device-api answers" bad: nothing listens on 127.0.0.1:9080`},
		{Watching{"1.1.0", 0, 60, "device-api answers", false, NoAnswerYet}, 0, "healthy for 0 of 60 s", `"device-api answers" has no answer yet`},
		{Watching{"1.1.0", 61, 60, "", false, ""}, 100, "healthy for 60 of 60 s", "no check is required"},
		{Watching{"1.1.0", 5, 0, "", false, ""}, 0, "healthy for 0 of 0 s", "no check is required"},
	} {
		if err := row.w.Keep(run); err != nil {
			t.Fatal(err)
		}
		got := ReadWatching(run, "1.1.0")
		if got == nil || *got != row.w {
			t.Fatalf("kept %+v, read %+v", row.w, got)
		}
		if got.Percent() != row.percent || got.Steady() != row.steady || got.CheckResult() != row.result {
			t.Errorf("%+v is %d %%, %q, %q", row.w, got.Percent(), got.Steady(), got.CheckResult())
		}
	}
	if got := ReadWatching(run, "1.2.0"); got != nil {
		t.Errorf("the trial of another version is %+v", got)
	}
	for what, text := range map[string]string{"no JSON": "x", "empty": "", "too long": strings.Repeat(" ", 5<<10)} {
		if err := os.WriteFile(filepath.Join(run, watchingFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := ReadWatching(run, "1.1.0"); got != nil {
			t.Errorf("%s: %+v", what, got)
		}
	}
	for range 2 { // the second finds nothing
		if err := EndWatching(run); err != nil {
			t.Error(err)
		}
	}
	if got := ReadWatching(run, "1.1.0"); got != nil {
		t.Errorf("after the end: %+v", got)
	}
}

// TestStatusOfTrial holds that status shows the trial of the current version only, and why it does not continue.
func TestStatusOfTrial(t *testing.T) {
	st := &Status{Phase: PhaseTrial, Watching: &Watching{"1.1.0", 23, 60, "device-api answers", true, ""}}
	shows := func(want string) {
		t.Helper()
		var b strings.Builder
		st.Print(&b, BootLimits{3, 6, 10}, time.Now())
		if got, _, _ := strings.Cut(b.String(), "\n"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	shows("phase     trial, healthy for 23 of 60 s")
	st.Watching.Healthy, st.Watching.OK, st.Watching.Why = 0, false, "nothing listens on 127.0.0.1:9080"
	shows(`phase     trial, healthy for 0 of 60 s, "device-api answers" bad: nothing listens on 127.0.0.1:9080`)
	st.Watching = nil
	shows("phase     trial")
}
