// Package journal writes entries that a program can find in systemd's journal: by
// their MESSAGE_ID, and by their fields. What to do about one stands in the
// journal's catalog, units/ota.catalog.
package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// An Event is something that an operator may have to know about a device.
type Event struct {
	ID       string // MESSAGE_ID, 32 hex digits, random; none ever changes
	Priority int
}

// Priorities of syslog(3).
const (
	Alert   = 1
	Crit    = 2
	Error   = 3
	Warning = 4
	Notice  = 5
	Info    = 6
)

// Socket takes entries in journald's native protocol. A variable for the tests.
var Socket = "/run/systemd/journal/socket"

// Announce writes an entry of the program prog with fields. It reports whether it
// did: not where stderr is no journal, as for a program that is started by hand.
// It never waits.
func Announce(prog string, e Event, fields map[string]string, text string) bool {
	return IsStderr() && send(prog, e, fields, text) == nil
}

// IsStderr reports whether stderr is the journal: systemd says which file it gave
// us, and a program that redirects it gets plain lines.
func IsStderr() bool {
	var st unix.Stat_t
	if unix.Fstat(2, &st) != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// send sends one datagram. By hand, since a library that waits until journald takes
// it would hang the boot together with journald.
func send(prog string, e Event, fields map[string]string, text string) error {
	var b bytes.Buffer
	field := func(name, value string) {
		if !strings.Contains(value, "\n") {
			fmt.Fprintf(&b, "%s=%s\n", name, value)
			return
		}
		// What comes from outside must not be able to add fields: name, length, bytes.
		fmt.Fprintf(&b, "%s\n", name)
		binary.Write(&b, binary.LittleEndian, uint64(len(value)))
		fmt.Fprintf(&b, "%s\n", value)
	}
	field("MESSAGE", bootcheck.OneLine(text)) // journalctl shows none of a text with an escape in it
	field("MESSAGE_ID", e.ID)
	field("PRIORITY", strconv.Itoa(e.Priority))
	field("SYSLOG_IDENTIFIER", prog)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		field(name, fields[name])
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for try := 0; ; try++ {
		err = unix.Sendto(fd, b.Bytes(), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: Socket})
		if err != unix.EAGAIN || try == 10 {
			return err
		}
		time.Sleep(10 * time.Millisecond) // a journald that is behind; not for long
	}
}
