package guardian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/journal"
)

var everyEvent = []journal.Event{eventRollback, eventHold, eventConfirmed, eventActivated, eventCounted, eventDamaged, eventRepaired,
	eventFactoryLost, eventRecordDamaged, eventHardEnd, eventWatchdog, eventReset}

// An operator who looks an event up finds one explanation of it, and every
// explanation is of an event.
func TestCatalog(t *testing.T) {
	data, err := os.ReadFile("../units/ota.catalog")
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^-- (.*)\nSubject: .*\nDefined-By: ota-guardian$`).FindAllStringSubmatch(string(data), -1) {
		ids[m[1]]++
	}
	for _, e := range everyEvent {
		if ids[e.ID] != 1 {
			t.Errorf("event %s has %d entries in the catalog, want 1", e.ID, ids[e.ID])
		}
		delete(ids, e.ID)
	}
	if len(ids) > 0 {
		t.Errorf("the catalog explains what is no event of ota-guardian: %v", ids)
	}
}

func TestFieldsOf(t *testing.T) {
	r := &bootcheck.Record{Generation: 42, Phase: bootcheck.PhaseFallback, Current: ref("2.0"), LastRollback: &bootcheck.Rollback{
		From: "3.0", To: "2.0", Level: "previous", Cause: bootcheck.CauseHealth, Check: "answers\nPRIORITY=7", Attempts: 3}}
	want := map[string]string{
		"OTA_VERSION": "2.0", "OTA_PHASE": "fallback", "OTA_GENERATION": "42", "OTA_FROM": "3.0", "OTA_TO": "2.0", "OTA_LEVEL": "previous",
		"OTA_CAUSE": "health", "OTA_CHECK": "answers\nPRIORITY=7", "OTA_ATTEMPTS": "3",
	}
	if diff := cmp.Diff(want, fieldsOf(r)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

func TestAnnounceWithoutJournal(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:2") // of another process
	var log bytes.Buffer
	g := &guardian{log: &log}
	g.announce(eventHold, nil, "on hold\nwith %s", "1.0\x1b[2J")
	if got, want := log.String(), "ota-guardian: on hold with 1.0 [2J\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
}

func TestTail(t *testing.T) {
	var many strings.Builder
	for i := range 80 {
		fmt.Fprintf(&many, "line %d\n", i)
	}
	if got := tail([]byte(many.String())); len(got) != journalLines || got[0] != "line 30" || got[49] != "line 79" {
		t.Errorf("tail of 80 lines = %d lines from %q to %q, want the last 50", len(got), got[0], got[len(got)-1])
	}
	for _, row := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"only line ends", "\n\n", nil},
		{"control characters and bytes that are no text", "a\x1b[31mb\x00c\xffd\n", []string{"a [31mb c\uFFFDd"}},
		{"a long line", strings.Repeat("x", 1000), []string{strings.Repeat("x", journalLine-len("…")) + "…"}},
	} {
		if diff := cmp.Diff(row.want, tail([]byte(row.text))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
	}
	size := 0
	for _, line := range tail(bytes.Repeat([]byte(strings.Repeat("y", 2000)+"\n"), 200)) {
		size += len(line)
	}
	if size == 0 || size > journalBytes {
		t.Errorf("tail of long lines keeps %d bytes, want at most %d", size, journalBytes)
	}
}

// A program that never ends is killed, with what it started.
func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := run(ctx, "sh", "-c", "sleep 1000 & sleep 1000")
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "did not end within") {
			t.Errorf("run = %v, want that it took too long", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("run did not end with its context")
	}
	if _, err := run(t.Context(), "/no/such/journalctl"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("run of what is not there = %v", err)
	}
	if _, err := run(t.Context(), "sh", "-c", "echo no journal >&2; exit 1"); err == nil || err.Error() != "sh: exit status 1: no journal" {
		t.Errorf("run = %v, want what it complained about", err)
	}
}

// A version that writes gigabytes does not fill the guardian's memory.
func TestLastBytes(t *testing.T) {
	l := lastBytes{limit: 1000}
	var all []byte
	for i := range 5000 {
		p := fmt.Appendf(nil, "%d.", i)
		all = append(all, p...)
		if n, err := l.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		if want := all[max(0, len(all)-1000):]; !bytes.Equal(l.bytes(), want) {
			t.Fatalf("after %d bytes: %q, want %q", len(all), l.bytes(), want)
		}
	}
	if cap(l.b) > 4*l.limit {
		t.Errorf("holds %d bytes to keep %d", cap(l.b), l.limit)
	}
}

// fakeJournal makes script the journalctl of the test and its stderr the journal.
func fakeJournal(t *testing.T, script string) (*guardian, *bytes.Buffer) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "journalctl")
	if script == "" {
		t.Setenv("PATH", filepath.Dir(name))
	} else {
		t.Setenv("PATH", filepath.Dir(name)+":/usr/bin:/bin")
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(2, &st); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", st.Dev, st.Ino))
	var log bytes.Buffer
	return &guardian{log: &log}, &log
}

func TestJournalTail(t *testing.T) {
	for _, row := range []struct {
		name, script string
		boot         string
		want         []string
		log          string // in the log; empty: nothing is said
	}{
		{"the unit wrote something", `[ "$1" = --sync ] || echo "$*"`, "",
			[]string{"--unit=x.service --lines=50 --no-pager --quiet --output=short-monotonic --no-hostname --boot"}, ""},
		{"in a boot before this one", `[ "$1" != --sync ] || touch "$0.synced"; ls "$0.synced" 2>&-; echo "$7"`, "01234567-89ab-cdef-0123-456789abcdef",
			[]string{"--boot=0123456789abcdef0123456789abcdef"}, ""},
		{"the unit wrote nothing", "", "", nil, ""},
		{"no journal of that boot is kept", "echo no such boot >&2; exit 1", "01234567-89ab-cdef-0123-456789abcdef", nil,
			"cannot read the journal of x.service: "},
		{"journald is too busy to sync", `if [ "$1" = --sync ]; then exec sleep 1000; fi; echo old`, "", []string{"old"},
			"the journal of x.service may lack its last lines: "},
		{"it ends after some lines", `[ "$1" = --sync ] || { echo one; echo two; exit 3; }`, "", []string{"one", "two"}, "exit status 3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			script := row.script
			if script == "" {
				script = "exit 0"
			}
			g, log := fakeJournal(t, script)
			if diff := cmp.Diff(row.want, g.journalTail(t.Context(), "x.service", row.boot)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := log.String(); !strings.Contains(got, row.log) || row.log == "" && got != "" {
				t.Errorf("log = %q, want %q", got, row.log)
			}
		})
	}
}

// How long a crash loop took is what systemd's first restart of it says.
func TestCrashSeconds(t *testing.T) {
	tail := []string{"[57385.5] systemd[1]: Started x.service.", "[57392.257631] systemd[1]: x.service: Failed with result 'exit-code'."}
	for _, row := range []struct {
		name, script string
		tail         []string
		want         int
	}{
		{"a crash loop", `[ "$5 $6 $7" = "_PID=1 UNIT=x.service N_RESTARTS=1" ] && echo "[57385.740369] host systemd[1]: x.service: Scheduled restart job"`, tail, 7},
		{"early in the boot", `echo "[    7.540369] systemd[1]: x.service: Scheduled restart job"`, []string{"[    7.540370] x[9]: y"}, 1},
		{"no restart is kept", "exit 0", tail, 0},
		{"no journal is kept", "exit 1", nil, 0},
		{"it cannot be read", "echo no >&2; exit 1", tail, 0},
		{"what the journal says is odd", "echo Hint: x", tail, 0},
		{"the tail is odd", `echo "[1.5] x"`, []string{"…"}, 0},
		{"the restart is later", `echo "[99999.5] x"`, tail, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			g, _ := fakeJournal(t, row.script)
			if got := g.crashSeconds(t.Context(), "x.service", row.tail); got != row.want {
				t.Errorf("crashSeconds = %d, want %d", got, row.want)
			}
		})
	}
}

// A system without journalctl is told once, and a program whose output goes
// elsewhere asks none.
func TestJournalTailWithoutJournal(t *testing.T) {
	g, log := fakeJournal(t, "")
	if got := g.journalTail(t.Context(), "x.service", ""); got != nil {
		t.Errorf("journalTail = %q", got)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "cannot read the journal of x.service: ") {
		t.Errorf("log = %q, want one line", got)
	}
	g, log = fakeJournal(t, "echo never asked")
	t.Setenv("JOURNAL_STREAM", "1:2")
	if got := g.journalTail(t.Context(), "x.service", ""); got != nil || log.Len() != 0 {
		t.Errorf("journalTail = %q, log %q", got, log)
	}
}
