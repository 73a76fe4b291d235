package journal

import (
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

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

// An entry has its fields, and what comes from outside adds none.
func TestSend(t *testing.T) {
	old := Socket
	t.Cleanup(func() { Socket = old })
	Socket = filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: Socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fields := map[string]string{"OTA_VERSION": "2.0", "OTA_CHECK": "answers\nPRIORITY=7"}
	rollback := Event{"17c4e61a1034011cc15cd6f48676b485", Error}
	if err := send("ota-guardian", rollback, fields, "rolled back:\n3.0 failed\x1b[2J"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, err := l.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"MESSAGE": "rolled back: 3.0 failed [2J", "MESSAGE_ID": rollback.ID, "PRIORITY": "3", "SYSLOG_IDENTIFIER": "ota-guardian",
		"OTA_VERSION": "2.0", "OTA_CHECK": "answers\nPRIORITY=7",
	}
	if diff := cmp.Diff(want, parseEntry(t, buf[:n])); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}

	// A journald that takes nothing does not hold the boot up.
	ended := make(chan error, 1)
	go func() {
		var err error
		for range 10_000 {
			if err = send("ota-guardian", rollback, nil, strings.Repeat("x", 1000)); err != nil {
				break
			}
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("10,000 entries without a reader were taken")
		}
	case <-time.After(time.Minute):
		t.Fatal("waits for a journald that does not read")
	}
}
