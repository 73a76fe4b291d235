package guardian

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

// An event is something that a person may have to know about a device, as an
// entry of the journal that a program can find: by its ID, and by its fields.
// What to do about it stands in the journal's catalog (units/ota.catalog).
type event struct {
	id       string // MESSAGE_ID, 32 hex digits, random
	priority int    // of syslog(3)
}

// Priorities of syslog(3).
const (
	alert   = 1
	crit    = 2
	failure = 3
	warning = 4
	notice  = 5
	info    = 6
)

// Every event. Programs in the field look for these IDs: none ever changes.
var (
	eventRollback      = event{"17c4e61a1034011cc15cd6f48676b485", failure} // another version runs now
	eventHold          = event{"423c40152a60204512d8c76bb8265da7", crit}    // a person is needed
	eventConfirmed     = event{"bc55efeee72f7af3c1176a67582733cc", notice}  // a version proved itself
	eventActivated     = event{"b1dcc3cb5a0696019c1f822c9771628c", notice}  // a version was put on trial, as was asked for at this boot
	eventCounted       = event{"c853f736f117dd62f7e389542236c82b", info}    // a boot was counted
	eventDamaged       = event{"c4c9e4cf3f5e5f9a2b498f6dfffd27f9", failure} // files of a version are not what they should be
	eventRepaired      = event{"8aa00be5ac0e7495d57822a858f03547", warning} // and now they are
	eventFactoryLost   = event{"53268ef762ca0e9ec99f0733be2c4d69", crit}    // factory is damaged for good
	eventRecordDamaged = event{"7c1f99aa290c0ac6f58957e8e4b88bec", warning} // the store was put together again
	eventHardEnd       = event{"3eba5c33cb8df597b566f91a8243b2ba", warning} // watchdog or panic ended the last boot
	eventWatchdog      = event{"b0c7c6d4e92e3f5edff822e4f095a81f", warning} // the hardware watchdog is not what was asked for
	eventReset         = event{"8bbabc9e8aaae91dc68fb30a51670e29", alert}   // the guardian resets the machine
)

// journalSocket takes entries in journald's native protocol. A variable for the tests.
var journalSocket = "/run/systemd/journal/socket"

// announce writes an entry of the journal, or, where the program's output does
// not go there, a line like any other. It waits for nobody and cannot fail.
func (g *guardian) announce(e event, fields map[string]string, format string, args ...any) {
	text := bootcheck.OneLine(fmt.Sprintf(format, args...)) // journalctl shows none of a text with an escape in it
	if journalled() && sendEntry(e, fields, text) == nil {
		return
	}
	g.logf("%s", text)
}

// fieldsOf says of which record an event is: OTA_VERSION, OTA_PHASE and
// OTA_GENERATION, and, when the last rollback is why the record is as it is,
// OTA_FROM, OTA_TO, OTA_LEVEL, OTA_CAUSE, OTA_CHECK and OTA_ATTEMPTS.
func fieldsOf(r *bootcheck.Record) map[string]string {
	fields := map[string]string{
		"OTA_VERSION":    r.Current.String(),
		"OTA_PHASE":      string(r.Phase),
		"OTA_GENERATION": strconv.FormatUint(r.Generation, 10),
	}
	if r.HoldReason != "" {
		fields["OTA_HOLD"] = r.HoldReason
	}
	if l := r.LastRollback; l != nil && r.Phase != bootcheck.PhaseConfirmed && r.Phase != bootcheck.PhaseTrial {
		fields["OTA_FROM"], fields["OTA_TO"], fields["OTA_LEVEL"] = l.From, l.To, l.Level
		fields["OTA_CAUSE"], fields["OTA_CHECK"] = string(l.Cause), l.Check
		fields["OTA_ATTEMPTS"] = strconv.Itoa(l.Attempts)
	}
	return fields
}

// journalled reports whether stderr is the journal: systemd says which file it
// gave us, and a program that redirects it gets plain lines.
func journalled() bool {
	var st unix.Stat_t
	if unix.Fstat(2, &st) != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// sendEntry sends one datagram. By hand, since a library that waits until
// journald takes it would hang the boot together with journald.
func sendEntry(e event, fields map[string]string, text string) error {
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
	field("MESSAGE", text)
	field("MESSAGE_ID", e.id)
	field("PRIORITY", strconv.Itoa(e.priority))
	field("SYSLOG_IDENTIFIER", "ota-guardian")
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		field(name, fields[name])
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for try := 0; ; try++ {
		err = unix.Sendto(fd, b.Bytes(), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: journalSocket})
		if err != unix.EAGAIN || try == 10 {
			return err
		}
		time.Sleep(10 * time.Millisecond) // a journald that is behind; not for long
	}
}
