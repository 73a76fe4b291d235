package bootcheck

import (
	"bytes"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 21: "21 B", 1023: "1023 B", 1024: "1 KiB", 1946: "1.9 KiB", 1<<20 - 1: "1 MiB", 64 << 20: "64 MiB",
		1000 << 20: "1000 MiB", 75 << 30: "75 GiB", 75270000000: "70.1 GiB", 1<<63 - 1: "8 EiB",
	} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		before time.Duration
		want   string
	}{
		{0, "0 s ago"}, {59 * time.Second, "59 s ago"}, {time.Minute, "1 min ago"}, {59 * time.Minute, "59 min ago"},
		{2*time.Hour + 59*time.Minute, "2 h ago"}, {4 * 24 * time.Hour, "4 d ago"}, {30 * 24 * time.Hour, "2026-10-02"},
		{-time.Second, "2026-11-01"}, // this machine's clock was set back, or is not set yet
	} {
		if got := Ago(now.Add(-row.before), now); got != row.want {
			t.Errorf("Ago, %v before = %q, want %q", row.before, got, row.want)
		}
	}
	if got := Ago(time.Time{}, now); got != "-" {
		t.Errorf("Ago of no time = %q, want -", got)
	}
}

// TestScreens: status and list as WORDS has them, on 80 columns.
func TestScreens(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	version := func(version string, release, size int64) VersionInfo {
		return VersionInfo{Version: version, Release: &release, Size: &size}
	}
	versions := []VersionStatus{
		{VersionInfo: version("1.0.0", 1, 32926000), States: []string{"previous", "factory"}, InstalledAt: ago(4 * 24 * time.Hour)},
		{VersionInfo: version("1.1.0", 2, 2202010), States: []string{"current"}, Own: new(uint64(8192)), InstalledAt: ago(40 * time.Second)},
		{VersionInfo: VersionInfo{Version: "9"}, States: []string{"damaged"}},
	}
	trial := &Status{Phase: PhaseTrial, Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Versions: versions, ActivatedAt: ago(40 * time.Second),
		Trial: &Trial{Unclean: 1}, Operation: Operation{Stage: "rebooting", Progress: 100, Message: "waiting for version 1.1.0 to be confirmed"}, FreeBytes: 75270000000,
		Blocked:        []Blocked{{Ref: Ref{Version: "1.2.0"}, Reason: string(CauseCrash), Check: "device-api runs"}},
		LastRollback:   &Rollback{From: "1.2.0", To: "1.0.0", Level: LevelPrevious, Cause: CauseCrash, Check: "device-api runs", Output: "device-api.service crashed 5 times: failed (failed)\nx"},
		LastRollbackAt: ago(2 * time.Hour)}
	hold := &Status{Phase: PhaseHold, Hold: HoldExhausted, Current: "1.0.0", Operation: Operation{Stage: StageIdle}, FreeBytes: 64 << 20,
		LastRollback: &Rollback{From: "1.0.0", Level: LevelNone, Cause: CauseDamaged}}
	later := &Status{Phase: PhaseConfirmed, Current: "1.3.0", Operation: Operation{Stage: StageSuccess}, LastRollback: trial.LastRollback, outdated: true}
	long := "ROLLED_BACK_TO_PREVIOUS: rolled back from 1.2.0 to 1.0.0 (previous): device-api.service crashed 5 times in 5 s"
	rolled := &Status{Phase: PhaseFallback, Current: "1.0.0", Operation: Operation{Stage: "failed", Error: long},
		LastRollback: trial.LastRollback, LastRollbackAt: ago(time.Second)}
	failed := &Status{Phase: PhaseConfirmed, Current: "1.0.0",
		Operation: Operation{Stage: "failed", Error: "DOWNLOAD_FAILED: cannot download \"http://updates.example.com:8000/9.ota\": server answered 404 Not Found"}}
	for name, row := range map[string]struct {
		st   *Status
		want string
	}{
		"rolled back just now, which the install says too": {rolled, `phase     fallback
current   1.0.0
previous  none
factory   none
rollback  1 s ago, 1.2.0 to 1.0.0 (previous): service crash
          hint: ` + "`ota-guardian why`" + ` shows the evidence
free      0 B
`},
		"an install failed, with a long text": {failed, `phase     confirmed
current   1.0.0
previous  none
factory   none
install   failed: DOWNLOAD_FAILED: cannot download
          "http://updates.example.com:8000/9.ota": server answered 404 Not Found
free      0 B
`},
		"trial": {trial, `phase     trial
current   1.1.0  release 2, activated 40 s ago
previous  1.0.0  release 1
factory   1.0.0  release 1
trial     boots: 0 of 3 crashes, 1 of 6 power cuts, 0 of 10 reboots
rollback  2 h ago, 1.2.0 to 1.0.0 (previous): service crash
          hint: ` + "`ota-guardian why`" + ` shows the evidence
blocked   1.2.0  crash-loop, check "device-api runs"
install   rebooting 100 %: waiting for version 1.1.0 to be confirmed
free      70.1 GiB
`},
		"hold": {hold, `phase     hold: no version left to roll back to (exhausted)
current   1.0.0
previous  none
factory   none
rollback  none, 1.0.0 failed: damaged
          hint: ` + "`ota-guardian why`" + ` shows the evidence
free      64 MiB
`},
		"an update was confirmed since": {later, `phase     confirmed
current   1.3.0
previous  none
factory   none
free      0 B
`},
	} {
		var b bytes.Buffer
		if row.st.Print(&b, BootLimits{3, 6, 10}, now); b.String() != row.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, &b, row.want)
		}
	}
	var b bytes.Buffer
	trial.PrintList(&b, now)
	if want := `VERSION  RELEASE  STATE             SIZE      OWN    INSTALLED
9        -        damaged           -         -      -
1.1.0    2        current           2.1 MiB   8 KiB  40 s ago
1.0.0    1        previous,factory  31.4 MiB  -      4 d ago
`; b.String() != want {
		t.Errorf("list:\n%s\nwant:\n%s", &b, want)
	}
}

// TestRollbackDetail holds that a crash is told with what the service wrote last, and not
// with what systemd wrote about it.
func TestRollbackDetail(t *testing.T) {
	l := &Rollback{From: "1.2.0", To: "1.1.0", Level: LevelPrevious, Cause: CauseCrash, Check: "device-api runs",
		Output: "device-api.service crashed 5 times: failed (failed)",
		Journal: []string{
			"[57385.540369] systemd[1]: Started device-api.service.",
			"[57386.495329] device-api[93]: cannot open [config]: no such file",
			"[57388.257631] systemd[1]: device-api.service: Failed with result 'exit-code'.",
		}}
	const crash = "rolled back from 1.2.0 to 1.1.0 (previous): device-api.service crashed 5 times"
	want := crash + "; its last line: cannot open [config]: no such file"
	if got := l.Detail(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	l.Seconds = 7
	if got, want := l.Summary(), crash+" in 7 s"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	l.Seconds = 0
	for what, journal := range map[string][]string{"only systemd": l.Journal[:1], "none": nil, "odd": {"x", "[1] y", "[2] z: "}} {
		l.Journal = journal
		if got := l.Detail(); got != crash {
			t.Errorf("%s: %q", what, got)
		}
	}
}
