package guardian

import (
	"fmt"
	"strconv"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/journal"
)

// Every event. Programs in the field look for these IDs: none ever changes.
var (
	eventRollback      = journal.Event{ID: "17c4e61a1034011cc15cd6f48676b485", Priority: journal.Error}   // another version runs now
	eventHold          = journal.Event{ID: "423c40152a60204512d8c76bb8265da7", Priority: journal.Crit}    // an operator is needed
	eventConfirmed     = journal.Event{ID: "bc55efeee72f7af3c1176a67582733cc", Priority: journal.Notice}  // a version was confirmed
	eventActivated     = journal.Event{ID: "b1dcc3cb5a0696019c1f822c9771628c", Priority: journal.Notice}  // a version was put on trial, as was asked for at this boot
	eventCounted       = journal.Event{ID: "c853f736f117dd62f7e389542236c82b", Priority: journal.Info}    // a boot was counted
	eventDamaged       = journal.Event{ID: "c4c9e4cf3f5e5f9a2b498f6dfffd27f9", Priority: journal.Error}   // files of a version are not what they should be
	eventRepaired      = journal.Event{ID: "8aa00be5ac0e7495d57822a858f03547", Priority: journal.Warning} // and now they are
	eventFactoryLost   = journal.Event{ID: "53268ef762ca0e9ec99f0733be2c4d69", Priority: journal.Crit}    // factory is damaged for good
	eventRecordDamaged = journal.Event{ID: "7c1f99aa290c0ac6f58957e8e4b88bec", Priority: journal.Warning} // the store was put together again
	eventHardEnd       = journal.Event{ID: "3eba5c33cb8df597b566f91a8243b2ba", Priority: journal.Warning} // watchdog or panic ended the last boot
	eventWatchdog      = journal.Event{ID: "b0c7c6d4e92e3f5edff822e4f095a81f", Priority: journal.Warning} // the hardware watchdog is not what was asked for
	eventReset         = journal.Event{ID: "8bbabc9e8aaae91dc68fb30a51670e29", Priority: journal.Alert}   // the guardian resets the machine
)

// announce writes an entry of the journal, or, where the program's output does
// not go there, a line like any other. It never waits and cannot fail.
func (g *guardian) announce(e journal.Event, fields map[string]string, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !journal.Announce("ota-guardian", e, fields, text) {
		g.logf("%s", text)
	}
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
