package flows

import "github.com/tope-ota/ota/integration/crash/invariants"

// Odd are flows that are too special for every matrix: each is there for calls that
// no other one makes.
var Odd = append([]*Flow{
	{
		Name:  "new-device", // the store's directory itself is made
		Start: Start{Prepare: []step{{"rootless"}}},
		Args:  installs("1.0.0"),
		After: State{Phase: "trial", Current: "1.0.0"},
	},
	{
		Name: "activate-emptied", // an operator deleted every generation
		Start: factory.with(step{"ota-apply", "install", "--no-activate", "{url}/1.1.0.ota"},
			step{"remove", ".generations"}, step{"remove", ".active"}).in(State{}),
		Args:  runs("ota-apply", "activate", "1.1.0"),
		After: State{Phase: "trial", Current: "1.1.0"},
	},
	{
		Name:  "install-again", // of the current version already
		Start: updated("1.1.0"),
		Args:  installs("1.1.0"),
		After: confirmed("1.1.0", "1.0.0"),
	},
	{
		Name:   "install-repairing", // of the current version, which is damaged
		Start:  updated("1.1.0").with(step{"ruin", "v1.1.0/bin/app"}),
		Args:   installs("1.1.0"),
		Ruined: "1.1.0",
		After:  trial("1.1.0", "1.0.0"),
	},
	{
		Name:   "repair-mode",
		Start:  updated("1.1.0").with(step{"mode", "v1.1.0/share/1.1.0"}),
		Args:   runs("ota-guardian", "verify", "--repair"),
		Ruined: "1.1.0",
		After:  confirmed("1.1.0", "1.0.0"),
	},
	{
		Name:  "shutdown",
		Start: factory.tried("1.1.0"),
		Args:  runs("ota-guardian", "shutdown"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:  "revoke-without-space", // on a new device: no record remembers it, and nothing can be installed
		Start: Start{Prepare: []step{{"reserve"}}},
		Args:  func(s *Site) []string { return []string{"ota-apply", "install", s.World.bundle("1.5.0")} },
		Exit:  7,
	},
	{
		Name:  "install-broken", // the connection is lost half-way
		Start: factory,
		Args:  installs("broken/1.1.0"),
		Exit:  6,
		After: confirmed("1.0.0", ""),
	},
	{
		Name:  "install-restarted", // what an earlier call left is of no use
		Start: factory.with(step{"half", "1.1.0"}, step{"spoil"}),
		Args:  installs("half/1.1.0"),
		After: trial("1.1.0", "1.0.0"),
	},
	{
		Name:    "adopt-current", // and nothing is behind it
		Start:   foreign("1.0.0"),
		Args:    adopts,
		Adopts:  true,
		After:   first,
		Between: []State{{Phase: invariants.Adopting, Current: "1.0.0"}},
	},
	{
		Name:   "adopt-unlinked", // which version ran is unknown
		Start:  Start{Prepare: []step{{"plant", "1.0.0", "1.1.0"}}},
		Args:   adopts,
		Adopts: true,
	},
	{
		Name: "adopt-again", // an adoption was broken off between the switch and the links
		Start: foreign("1.1.0", "1.0.0", "0.9.0").with(step{"ota-guardian", "adopt"}, step{"links", "1.1.0", "1.0.0", "0.9.0"}).
			in(state(invariants.Adopting, "1.1.0", "1.0.0", "0.9.0")),
		Args:   adopts,
		Adopts: true,
		After:  state("confirmed", "1.1.0", "1.0.0", "0.9.0"),
	},
	{
		Name: "adopt-returned", // versions with manifests, which went back to another updater, and come again
		Start: updated("1.1.0").with(step{"links", "1.1.0", "1.0.0", "1.0.0"},
			step{"remove", ".active"}, step{"remove", ".generations"}).in(state(invariants.Plain, "1.1.0", "1.0.0", "1.0.0")),
		Args:    adopts,
		Adopts:  true,
		After:   confirmed("1.1.0", "1.0.0"),
		Between: []State{state(invariants.Adopting, "1.1.0", "1.0.0", "1.0.0")},
	},
	{
		Name: "adopt-left", // as before, but a power cut left a part of what we remember
		Start: updated("1.1.0", "1.2.0").with(step{"links", "1.2.0", "1.1.0", "1.0.0"},
			step{"remove", ".active"}, step{"remove", ".generations/5"}).in(state(invariants.Plain, "1.2.0", "1.1.0", "1.0.0")),
		Args:    adopts,
		Adopts:  true,
		After:   confirmed("1.2.0", "1.1.0"),
		Between: []State{state(invariants.Adopting, "1.2.0", "1.1.0", "1.0.0")},
	},
}, uncountedBoots...)

var adopts = runs("ota-guardian", "adopt")
