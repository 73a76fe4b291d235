// Package flows is what the crash tests interrupt: each flow is one command of a
// device, run on a store that was prepared for it, with what may be found on the
// disk whenever it is broken off, and what must be there once it said that it is
// done. Aftermath is what a device does then by itself, and must be able to do.
package flows

import (
	"slices"

	"github.com/tope-ota/ota/integration/crash/invariants"
)

// A State is what a store says.
type State = invariants.State

// A Flow is one command.
type Flow struct {
	Name string // for FLOW= and the list
	Start
	// Args is the command: a program of the world, and its arguments.
	Args func(s *Site) []string
	// Exit is the code that it ends with when nothing interrupts it.
	Exit int
	// After is the state that must be found, in every case, once the command has ended
	// with Exit. Between are states in which it may be broken off beside Before and After.
	After   State
	Between []State
	// Ruined is a version that Prepare damaged, and that may be found so until the
	// command ended with Exit, or, if Before does not run it, for ever; empty: none.
	Ruined string
	// Spares are versions, beside factory, of which nothing may be touched.
	Spares []string
	// Full: the disk has no room while Args runs. What is removed makes none.
	Full bool
	// Adopts: the device had another updater, and Args takes over what that left.
	Adopts bool
}

func state(phase, current, previous, factory string) State {
	return State{Phase: phase, Current: current, Previous: previous, Factory: factory}
}

// The states of a device whose factory is 1.0.0.
func confirmed(current, previous string) State { return state("confirmed", current, previous, "1.0.0") }
func trial(current, previous string) State     { return state("trial", current, previous, "1.0.0") }

var first = State{Phase: "confirmed", Current: "1.0.0"}

// All are the flows.
var All = append([]*Flow{
	{
		Name:  "install-first",
		Args:  installs("1.0.0"),
		After: State{Phase: "trial", Current: "1.0.0"},
	},
	{
		Name:  "install-update", // with what is the same taken from other versions: linked or cloned
		Start: updated("1.1.0"),
		Args:  installs("1.2.0"),
		After: trial("1.2.0", "1.1.0"),
	},
	{
		Name:  "install-beside-factory", // which shares nothing: all of it is decoded or copied
		Start: factory,
		Args:  installs("1.1.0"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "install-pruning", // 1.1.0 and 1.2.0 are kept no longer
		Start: updated("1.1.0", "1.2.0", "1.3.0").with(step{"keep", "0"}),
		Args:  installs("1.4.0"),
		After: trial("1.4.0", "1.3.0"),
	},
	{
		Name:  "install-resumed", // half of it was downloaded by an earlier call
		Start: factory.with(step{"half", "1.1.0"}),
		Args:  installs("half/1.1.0"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "install-patch", // the patch beside the bundle; the bundle where that fails
		Start: updated("1.1.0"),
		Args:  installs("patched/1.2.0"),
		After: trial("1.2.0", "1.1.0"),
	},
	{
		Name:  "install-file", // from a file, which is not spooled
		Start: factory,
		Args:  func(s *Site) []string { return []string{"ota-apply", "install", s.World.bundle("1.1.0")} },
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "install-replacing", // a version of the same name that was staged with other content
		Start: factory.with(step{"ota-apply", "install", "--no-activate", "{url}/other/1.1.0.ota"}),
		Args:  installs("1.1.0"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "install-revoking", // its manifest revokes a key, which is remembered
		Start: factory,
		Args:  installs("1.5.0"),
		After: trial("1.5.0", "1.0.0"),
	},
	{
		Name:  "follow-stages", // a server asks for it, and an inhibitor holds it; each call of ota-apply is killed, too
		Start: factory.with(step{"inhibit"}),
		Args:  runs("ota-apply", "follow", "--once"),
		After: confirmed("1.0.0", ""),
	},
	{
		Name:  "follow-activates",
		Start: factory.with(step{"ota-apply", "install", "--no-activate", "{url}/1.1.0.ota"}),
		Args:  runs("ota-apply", "follow", "--once"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "follow-channel", // a signed file wants it
		Start: factory.with(step{"ota-apply", "install", "--no-activate", "{url}/1.1.0.ota"}, step{"channel"}),
		Args:  runs("ota-apply", "follow", "--once"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "stage",
		Start: factory,
		Args:  func(s *Site) []string { return []string{"ota-apply", "install", "--no-activate", s.url("1.1.0")} },
		After: confirmed("1.0.0", ""),
	},
	{
		Name:  "activate",
		Start: factory.with(step{"ota-apply", "install", "--no-activate", "{url}/1.1.0.ota"}),
		Args:  runs("ota-apply", "activate", "1.1.0"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "activate-at-reboot",
		Start: factory.with(step{"ota-apply", "install", "--no-activate", "{url}/1.1.0.ota"}),
		Args:  runs("ota-apply", "activate", "--at-reboot", "1.1.0"),
		After: confirmed("1.0.0", ""),
	},
	{
		Name:  "boot-activates",
		Start: factory.with(step{"ota-apply", "install", "--at-reboot", "{url}/1.1.0.ota"}),
		Args:  boots("clean"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "boot-counts",
		Start: factory.tried("1.1.0"),
		Args:  boots("unclean"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "confirm",
		Start: factory.tried("1.1.0"),
		Args:  runs("ota-guardian", "confirm"),
		After: confirmed("1.1.0", "1.0.0"),
	},
	{
		Name: "fallback", // at the third boot that ended hard
		Start: onTrial.with(step{"ota-guardian", "boot", "--boot-id", "h1", "--last-boot", "hard"},
			step{"ota-guardian", "boot", "--boot-id", "h2", "--last-boot", "hard"}),
		Args:  boots("hard"),
		After: state("fallback", "1.1.0", "1.0.0", "1.0.0"),
	},
	{
		Name:  "fallback-health", // in the boot in which its health was bad
		Start: onTrial.with(step{"sick"}),
		Args:  runs("ota-guardian", "confirm"),
		Exit:  8,
		After: state("fallback", "1.1.0", "1.0.0", "1.0.0"),
	},
	{
		Name:   "fallback-damaged", // a file of the version on trial was lost
		Start:  onTrial.with(step{"ruin", "v1.2.0/bin/app"}),
		Args:   boots("clean"),
		Ruined: "1.2.0",
		After:  state("fallback", "1.1.0", "1.0.0", "1.0.0"),
	},
	{
		Name: "fallback-factory", // and nothing but factory is left
		Start: onTrial.with(step{"sick"}, step{"!8", "ota-guardian", "confirm"}, step{"well"},
			step{"ota-guardian", "boot", "--boot-id", "h1", "--last-boot", "hard"},
			step{"ota-guardian", "boot", "--boot-id", "h2", "--last-boot", "hard"}).in(state("fallback", "1.1.0", "1.0.0", "1.0.0")),
		Args:  boots("hard"),
		After: state("factory", "1.0.0", "", "1.0.0"),
	},
	{
		Name:  "rollback",
		Start: updated("1.1.0"),
		Args:  runs("ota-guardian", "rollback"),
		After: state("fallback", "1.0.0", "", "1.0.0"),
	},
	{
		Name:  "factory-create-first",
		Start: installed,
		Args:  runs("ota-guardian", "factory", "create"),
		After: confirmed("1.0.0", ""),
	},
	{
		Name:   "factory-create", // from a version that shares files with another one
		Start:  updated("1.1.0", "1.2.0"),
		Args:   runs("ota-guardian", "factory", "create"),
		Spares: []string{"1.1.0"},
		After:  state("confirmed", "1.2.0", "1.1.0", "1.2.0"),
	},
	{
		Name: "cleanup", // of versions beyond `keep`, and of what a crash left
		Start: updated("1.1.0", "1.2.0").with(step{"ota-apply", "install", "--no-activate", "{url}/1.3.0.ota"},
			step{"ota-apply", "install", "--no-activate", "{url}/1.4.0.ota"}, step{"litter"}, step{"keep", "0"}),
		Args:  runs("ota-apply", "cleanup"),
		After: confirmed("1.2.0", "1.1.0"),
	},
	{
		Name:  "install-after-crash", // what a crash left is swept first
		Start: updated("1.1.0").with(step{"litter"}),
		Args:  installs("1.2.0"),
		After: trial("1.2.0", "1.1.0"),
	},
	{
		Name: "unblock",
		Start: factory.tried("1.1.0").with(step{"sick"}, step{"!8", "ota-guardian", "confirm"}, step{"well"},
			step{"ota-guardian", "confirm"}).in(confirmed("1.0.0", "")),
		Args:  runs("ota-apply", "unblock", "1.1.0"),
		After: confirmed("1.0.0", ""),
	},
	{
		Name: "repair", // a file of the current version, from another that has it
		Start: updated("1.1.0").with(step{"ota-apply", "install", "--no-activate", "{url}/1.2.0.ota"},
			step{"copies"}, step{"ruin", "v1.1.0/share/same"}),
		Args:   runs("ota-guardian", "verify", "--repair"),
		Ruined: "1.1.0",
		After:  confirmed("1.1.0", "1.0.0"),
	},
	{
		Name:    "adopt", // the plain links of another updater, and directories without a manifest
		Start:   foreign("1.1.0", "1.0.0", "0.9.0"),
		Args:    adopts,
		Adopts:  true,
		After:   state("confirmed", "1.1.0", "1.0.0", "0.9.0"),
		Between: []State{state(invariants.Adopting, "1.1.0", "1.0.0", "0.9.0")},
	},
}, fullDisk...)

// Find returns the flow of that name; nil: there is none.
func Find(name string) *Flow {
	all := slices.Concat(All, Odd)
	if i := slices.IndexFunc(all, func(f *Flow) bool { return f.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

func installs(version string) func(*Site) []string {
	return func(s *Site) []string { return []string{"ota-apply", "install", s.url(version)} }
}

func runs(args ...string) func(*Site) []string { return func(*Site) []string { return args } }

func boots(last string) func(*Site) []string {
	return runs("ota-guardian", "boot", "--boot-id", "flow", "--last-boot", last)
}
