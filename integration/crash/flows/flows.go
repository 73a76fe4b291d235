// Package flows is what the crash tests interrupt: each flow is one command of a
// device, run on a store that was prepared for it, with what may be found on the
// disk whenever it is broken off, and what must be there once it said that it is
// done. Aftermath is what a device does then by itself, and must be able to do.
package flows

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
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

// A Start is what a flow begins with.
type Start struct {
	// Prepare makes it. Nothing interrupts that, and all of it is durable then.
	Prepare []step
	// Before is the state that Prepare leaves.
	Before State
}

// A step is one command of a Prepare, or what Site.do does by that name. A first word "!N" is
// the exit code.
type step []string

// with is b after more steps, which leave its state.
func (b Start) with(more ...step) Start {
	b.Prepare = slices.Concat(b.Prepare, more)
	return b
}

// in is b, in another state.
func (b Start) in(state State) Start {
	b.Before = state
	return b
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

// installed is a device with its first version, confirmed.
var installed = Start{[]step{{"ota-apply", "install", "{url}/1.0.0.ota"}, {"ota-guardian", "confirm"}}, first}

// factory is a device that runs 1.0.0, which is its factory version, too.
var factory = installed.with(step{"ota-guardian", "factory", "create"}).in(confirmed("1.0.0", ""))

// updated is factory and then versions, each confirmed.
func updated(versions ...string) Start {
	b := factory
	for _, v := range versions {
		b = b.with(step{"ota-apply", "install", "{url}/" + v + ".ota"}, step{"ota-guardian", "confirm"}).in(confirmed(v, b.Before.Current))
	}
	return b
}

// tried is b and then version on trial.
func (b Start) tried(version string) Start {
	return b.with(step{"ota-apply", "install", "{url}/" + version + ".ota"}).in(trial(version, b.Before.Current))
}

// onTrial is factory, 1.1.0, and 1.2.0 on trial.
var onTrial = updated("1.1.0").tried("1.2.0")

// foreign is a device of another updater, whose links current, previous and factory lead to
// versions, as far as they are given.
func foreign(versions ...string) Start {
	links := append(slices.Clone(versions), "", "")
	return Start{
		[]step{append(step{"plant"}, versions...), append(step{"links"}, versions...)},
		state(invariants.Plain, links[0], links[1], links[2]),
	}
}

func (s *Site) do(ctx context.Context, st step) error {
	switch st[0] {
	case "sick":
		return os.WriteFile(s.sick(), nil, 0o644)
	case "well":
		return s.MakeHealthy()
	case "inhibit":
		return os.WriteFile(filepath.Join(s.run(), "inhibit"), []byte("a print is under way\n"), 0o644)
	case "channel":
		s.Channel = true
		return s.Configure()
	case "half":
		return s.half(ctx, st[1])
	case "keep":
		s.Keep = st[1]
		return s.Configure()
	case "copies":
		// What two versions share is one file: damage would be in both.
		return s.unshare()
	case "ruin":
		return s.ruin(st[1])
	case "litter":
		return s.litter()
	}
	if done, err := s.odd(st); done {
		return err
	}
	want := 0
	if st[0][0] == '!' {
		want = int(st[0][1] - '0')
		st = st[1:]
	}
	said, err := s.Run(ctx, s.expand(st))
	if err != nil {
		return err
	}
	if said.Exit != want {
		return fmt.Errorf("exit %d, want %d: %s%s", said.Exit, want, said.Stdout, said.Stderr)
	}
	return nil
}

// half downloads a half of version, and sees that it is there to continue from.
func (s *Site) half(ctx context.Context, version string) error {
	s.World.half.Add(1)
	defer s.World.half.Add(-1)
	if err := s.do(ctx, step{"!6", "ota-apply", "install", s.url("half/" + version)}); err != nil {
		return err
	}
	parts, err := filepath.Glob(filepath.Join(s.Root, ".spool", "*.part"))
	if err == nil && len(parts) != 1 {
		err = fmt.Errorf("a download that was broken off left %d parts, want one", len(parts))
	}
	return err
}

// ruin flips a bit of a file of the store.
func (s *Site) ruin(name string) (err error) {
	defer try.End(&err)
	name = filepath.Join(s.Root, name)
	info := try.Get(os.Stat(name))
	data := try.Get(os.ReadFile(name))
	data[0] ^= 1
	f := try.Get(os.OpenFile(name, os.O_WRONLY, 0))
	defer f.Close()
	try.Get(f.Write(data))
	return os.Chtimes(name, info.ModTime(), info.ModTime())
}

// litter is what crashes leave: halves that were unpacked or deleted, a temporary
// link, a generation that was never switched to.
func (s *Site) litter() (err error) {
	defer try.End(&err)
	for _, dir := range []string{".staging/v9.0.0/bin", ".trash/v0.9.0-0/bin", ".trash/v0.9.0-0/share", "..active1234", ".generations/99"} {
		try.Check(os.MkdirAll(filepath.Join(s.Root, dir), 0o755))
	}
	for _, file := range []string{".staging/v9.0.0/bin/app", ".trash/v0.9.0-0/bin/app", ".trash/v0.9.0-0/share/data"} {
		try.Check(os.WriteFile(filepath.Join(s.Root, file), []byte("half"), 0o644))
	}
	return os.Symlink(".generations/98", filepath.Join(s.Root, "..active1234", "tmp"))
}

// unshare gives every file of the versions an inode of its own.
func (s *Site) unshare() error {
	return filepath.WalkDir(s.Root, func(name string, d os.DirEntry, failed error) (err error) {
		defer try.End(&err)
		if failed != nil || !d.Type().IsRegular() {
			return failed
		}
		info := try.Get(d.Info())
		data := try.Get(os.ReadFile(name))
		try.Check(os.WriteFile(name+".copy", data, 0o644))
		try.Check(os.Chmod(name+".copy", info.Mode()))
		try.Check(os.Chtimes(name+".copy", info.ModTime(), info.ModTime()))
		return os.Rename(name+".copy", name)
	})
}
