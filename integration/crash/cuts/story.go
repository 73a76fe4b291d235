package cuts

import (
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/deviceapi"
)

// A Story is an install that the power is cut in.
type Story struct {
	Name    string
	Version device.Version
	Exit    int // of ota-apply, when nothing interrupts it
	// Stages must each be met by a cut.
	Stages []Stage
	// States is what the device is, in the order in which it becomes so. The first is
	// that before the install.
	States []invariants.State
	// Left: the rollback is on record from this one of States on; 0: there is none.
	Left int
	// Switched and Done are the first of States that may be found after device-api
	// was told that the services are restarted, and after it was told how it ended.
	Switched, Done int
}

// A Stage is how far a device had come. The words of reports are those of the
// reports: it is the last that device-api had been told.
type Stage string

const (
	Nothing     Stage = "nothing" // nobody was told anything
	Downloading Stage = "downloading"
	Verifying   Stage = "verifying"
	ToInstall   Stage = "toInstall"
	Installing  Stage = "installing"
	Switching   Stage = "switching"  // the generation with the new version is being written
	Rebooting   Stage = "rebooting"  // the new version is current, and does not answer yet
	Trial       Stage = "trial"      // it has been started
	Leaving     Stage = "leaving"    // the generation without it is being written
	Fallback    Stage = "fallback"   // previous is current again, on trial
	Confirming  Stage = "confirming" // the generation that confirms is being written
	Confirmed   Stage = "confirmed"  // nobody was told yet
	Success     Stage = "success"
	Failed      Stage = "failed"
)

// The stories. Both begin where the World was prepared.
var (
	Update = &Story{
		Name: "update", Version: good,
		Stages: []Stage{Downloading, Verifying, ToInstall, Installing, Switching, Rebooting, Trial, Confirming, Confirmed, Success},
		States: []invariants.State{
			before,
			{Phase: "trial", Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0"},
			{Phase: "confirmed", Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0"},
		},
		Switched: 1, Done: 2,
	}
	TakenBack = &Story{
		Name: "fallback", Version: bad, Exit: 8,
		Stages: []Stage{Downloading, Verifying, ToInstall, Installing, Switching, Rebooting, Trial, Leaving, Fallback, Confirming, Failed},
		States: []invariants.State{
			before,
			{Phase: "trial", Current: "1.3.0", Previous: "1.1.0", Factory: "1.0.0"},
			{Phase: "fallback", Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0"},
			before, // but for the evidence
		},
		Left: 2, Switched: 1, Done: 2,
	}
)

// nowhere is the index of a state that is none of a story's.
const nowhere = -1

// meaning is the index in s.States of what is on the disk.
func (s *Story) meaning(d *Disk) int {
	left := d.Left == s.Version.Name && slices.Contains(d.Blocked, s.Version.Name)
	for i, state := range s.States {
		if d.Found.State == state && left == (s.Left > 0 && i >= s.Left) {
			return i
		}
	}
	return nowhere
}

// said is the index of the first of s.States that may be found after told, and
// after ota-apply ended with exit.
func (s *Story) said(told []deviceapi.Report, exit int) int {
	first := 0
	for _, r := range told {
		switch {
		case r.Stage == "rebooting":
			first = max(first, s.Switched)
		case r.Stage == "success" && s.Exit == 0, r.Stage == "failed" && s.Exit != 0 && strings.HasPrefix(r.Error, "ROLLED_BACK_TO_PREVIOUS"):
			first = max(first, s.Done)
		case r.Stage == "success", r.Stage == "failed":
			first = len(s.States) // nobody may say that
		}
	}
	switch exit {
	case running:
	case s.Exit:
		first = max(first, s.Done)
	default:
		first = len(s.States)
	}
	return first
}

// running is the exit code of a program that has not ended.
const running = -1

// stage says what a cut met: from the disk alone, but for whether the new version
// had been started, which its own words on the console tell.
func (s *Story) stage(d *Disk, told []deviceapi.Report, started bool) Stage {
	last := Nothing
	if len(told) > 0 {
		last = Stage(told[len(told)-1].Stage)
	}
	at := s.meaning(d)
	if at == nowhere {
		return "nowhere"
	}
	switch state := s.States[at]; {
	case at == 0 && d.Committing:
		return Switching
	case at == 0:
		return last
	case state.Phase == "trial" && d.Committing && s.Left > 0:
		return Leaving
	case state.Phase != "confirmed" && d.Committing:
		return Confirming
	case state.Phase == "trial" && !started:
		return Rebooting
	case state.Phase == "trial":
		return Trial
	case state.Phase == "fallback": // of which device-api may have been told
		return Fallback
	case last == Success || last == Failed:
		return last
	}
	return Confirmed
}
