package guardian

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/bootcheck"
)

var everyEvent = []event{eventRollback, eventHold, eventConfirmed, eventCounted, eventDamaged, eventRepaired,
	eventFactoryLost, eventRecordDamaged, eventHardEnd, eventWatchdog, eventReset}

// A person who looks an event up finds one explanation of it, and every
// explanation is of an event.
func TestCatalog(t *testing.T) {
	data, err := os.ReadFile("../units/ota.catalog")
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^-- (.*)$`).FindAllStringSubmatch(string(data), -1) {
		ids[m[1]]++
	}
	for _, e := range everyEvent {
		if ids[e.id] != 1 {
			t.Errorf("event %s has %d entries in the catalog, want 1", e.id, ids[e.id])
		}
		delete(ids, e.id)
	}
	if len(ids) > 0 {
		t.Errorf("the catalog explains what is no event: %v", ids)
	}
}

// parseEntry reads journald's native protocol.
func parseEntry(t *testing.T, b []byte) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			t.Fatalf("the entry ends in the middle of a line: %q", b)
		}
		if name, value, plain := bytes.Cut(line, []byte("=")); plain {
			fields[string(name)], b = string(value), rest
			continue
		}
		n := binary.LittleEndian.Uint64(rest)
		fields[string(line)], b = string(rest[8:8+n]), rest[8+n+1:]
	}
	return fields
}

func TestSendEntry(t *testing.T) {
	old := journalSocket
	t.Cleanup(func() { journalSocket = old })
	journalSocket = filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journalSocket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := &bootcheck.Record{Generation: 42, Phase: bootcheck.PhaseFallback, Current: ref("2.0"), LastRollback: &bootcheck.Rollback{
		From: "3.0", To: "2.0", Level: "previous", Cause: bootcheck.CauseHealth, Check: "answers\nPRIORITY=7", Attempts: 3}}
	if err := sendEntry(eventRollback, fieldsOf(r), "fall-back: 3.0 failed"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, err := l.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"MESSAGE": "fall-back: 3.0 failed", "MESSAGE_ID": eventRollback.id, "PRIORITY": "3", "SYSLOG_IDENTIFIER": "ota-guardian",
		"OTA_VERSION": "2.0", "OTA_PHASE": "fallback", "OTA_GENERATION": "42", "OTA_FROM": "3.0", "OTA_TO": "2.0", "OTA_LEVEL": "previous",
		"OTA_CAUSE": "health", "OTA_CHECK": "answers\nPRIORITY=7", "OTA_ATTEMPTS": "3",
	}
	if diff := cmp.Diff(want, parseEntry(t, buf[:n])); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}

	// A journald that takes nothing does not hold the boot up.
	ended := make(chan error, 1)
	go func() {
		var err error
		for range 10_000 {
			if err = sendEntry(eventCounted, nil, strings.Repeat("x", 1000)); err != nil {
				break
			}
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("10,000 entries that nobody reads were taken")
		}
	case <-time.After(time.Minute):
		t.Fatal("waits for a journald that does not read")
	}
}

func TestAnnounceWithoutJournal(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:2") // somebody's else
	var log bytes.Buffer
	g := &guardian{log: &log}
	g.announce(eventHold, nil, "on hold\nwith %s", "1.0")
	if got, want := log.String(), "guardian: on hold with 1.0\n"; got != want {
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
		{"a long line", strings.Repeat("x", 1000), []string{strings.Repeat("x", journalLine) + "…"}},
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

// A journalctl that never ends is killed, with what it started.
func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, io.Discard, "sh", "-c", "sleep 1000 & sleep 1000") }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "no answer within") {
			t.Errorf("run = %v, want that it took too long", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("run did not end with its context")
	}
	if err := run(t.Context(), io.Discard, "/no/such/journalctl"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("run of what is not there = %v", err)
	}
}
