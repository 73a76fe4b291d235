package flows

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

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
	case "rootless":
		return os.Remove(s.Root)
	case "remove":
		return os.RemoveAll(filepath.Join(s.Root, st[1]))
	case "mode":
		return os.Chmod(filepath.Join(s.Root, st[1]), 0o600)
	case "plant": // what another updater installed
		for _, version := range st[1:] {
			if err := plant(filepath.Join(s.Root, "v"+version), version); err != nil {
				return err
			}
		}
		return nil
	case "links": // of another updater: current, previous and factory, as far as they are given
		for i, version := range st[1:] {
			link := filepath.Join(s.Root, []string{"current", "previous", "factory"}[i])
			if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			if err := os.Symlink("v"+version, link); err != nil {
				return err
			}
		}
		return nil
	case "reserve":
		s.Reserve = "1099511627776" // the most that it may be
		return s.Configure()
	case "spoil":
		notes, err := filepath.Glob(filepath.Join(s.Root, ".spool", "*.json"))
		if err == nil && len(notes) == 0 {
			err = errors.New("there is no note of a download")
		}
		for _, name := range notes {
			err = errors.Join(err, os.WriteFile(name, []byte("{"), 0o600))
		}
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
