package flows

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// Remember notes the versions of the site that nothing may change from now on, and their
// fingerprints: factory, and all of a device that its flow adopts.
func (s *Site) Remember() error {
	found := s.Look()
	var versions []string
	switch {
	case s.Flow.Adopts:
		versions = slices.Collect(maps.Keys(found.Versions))
	case found.State.Factory != "":
		versions = []string{found.State.Factory}
	}
	s.Kept = make(map[string]string)
	for _, version := range append(versions, s.Flow.Spares...) {
		sum, err := invariants.Fingerprint(filepath.Join(s.Root, "v"+version))
		if err != nil {
			return err
		}
		s.Kept[version] = sum
	}
	return nil
}

// Look is invariants.Look of the site, as it may be before, in and after its flow.
func (s *Site) Look() *invariants.Found {
	if s.Flow.Adopts {
		return invariants.LookAdopted(s.Root)
	}
	return invariants.Look(s.Root)
}

// Check looks at the disk and compares it with what was said; nil: nothing that counts. It
// changes nothing.
func (s *Site) Check(said *invariants.Said) (*invariants.Found, []invariants.Problem) {
	f := s.Flow
	found := s.Look()
	done := said != nil && !said.Killed && said.Exit == f.Exit
	if _, err := os.Lstat(s.Root); errors.Is(err, os.ErrNotExist) && f.Before == (State{}) && !done {
		found.Problems = nil // a store that was not begun
	}
	problems := slices.DeleteFunc(slices.Clone(found.Problems), func(p invariants.Problem) bool {
		return f.Ruined != "" && p.Version == f.Ruined && (!done || f.Before.Current != f.After.Current)
	})
	problems = append(problems, s.kept(found.State, f.Adopts)...)
	if found.Spent && f.After.Phase != "fallback" && f.After.Phase != "factory" {
		problems = append(problems, invariants.Torn.Of("what was prepared to roll back has lost its link"))
	}
	if said != nil {
		problems = append(problems, invariants.Honest(said, found.State, f.Before, f.After, f.Between)...)
		if done && found.State != f.After {
			problems = append(problems, invariants.Lie.Of("exit %d, and there is %v, want %v", f.Exit, found.State, f.After))
		}
	}
	stray, err := invariants.Stray(s.Dir, "versions", "run", "ota.toml", "check", "sick")
	if err != nil || len(stray) > 0 {
		problems = append(problems, invariants.Torn.Of("outside the store: %v (%v)", stray, err))
	}
	return found, problems
}

// kept: not a byte changed of what nothing may change, as long as a link leads to it;
// all: anyhow, and the links lead to the versions that ran before.
func (s *Site) kept(now State, all bool) (problems []invariants.Problem) {
	for _, version := range slices.Sorted(maps.Keys(s.Kept)) {
		led := slices.Contains(s.Flow.Spares, version) || now.Factory == version || s.Flow.Adopts && (now.Current == version || now.Previous == version)
		if !led && !all {
			continue
		}
		if got, err := invariants.Fingerprint(filepath.Join(s.Root, "v"+version)); err != nil || got != s.Kept[version] {
			problems = append(problems, invariants.Torn.Of("version %s was touched (%v)", version, err))
		}
	}
	was := s.Flow.Before
	if now.Phase = was.Phase; all && now != was {
		problems = append(problems, invariants.Torn.Of("what ran before is not what comes up: %v, want %v", now, was))
	}
	return problems
}

// Aftermath is what happens next, by itself: the device boots (reboot) or an operator
// just tries again, it comes up with an intact version and confirms it; and then a
// good version can be installed, and is confirmed. Everything that does not go so
// is a problem; Stuck, but for what Look finds.
func (s *Site) Aftermath(ctx context.Context, reboot bool) (_ []invariants.Problem, err error) {
	defer try.End(&err)
	a := &aftermath{Site: s, ctx: ctx}
	try.Check(s.MakeHealthy())
	empty := s.Look().Generation == 0
	if reboot {
		try.Check(s.Reboot())
		if !empty || s.Flow.Before.Current != "" {
			a.run([]int{0}, "ota-guardian", "boot", "--boot-id", "aftermath", "--last-boot", "unclean")
			a.look("the boot", "")
		}
	}
	if s.repairs() {
		// A boot reads what is started first, and no more; this is what reads the rest.
		a.run([]int{0}, s.Args()...)
		a.repaired = true
		a.look("the repair", "")
	}
	if s.Flow.Adopts {
		// Another one finishes what was broken off.
		a.run([]int{0}, s.Args()...)
		if found := a.look("another adoption", ""); found != nil && found.State != s.Flow.After {
			a.stuck("after another adoption: %v, want %v", found.State, s.Flow.After)
		}
		empty = s.Flow.After.Current == ""
	}
	if !empty {
		if !reboot && s.Flow.Ruined != "" && !s.repairs() {
			// No boot has left what is damaged: confirm does, if it runs.
			a.run([]int{0, 8}, "ota-guardian", "confirm")
			a.look("a confirm without a boot", "")
		}
		a.run([]int{0}, "ota-guardian", "confirm")
		a.look("confirm", "confirmed")
	}
	a.installs = true
	a.run([]int{0}, "ota-apply", "install", s.url(Next))
	a.look("the install of a good version", "trial")
	a.run([]int{0}, "ota-guardian", "confirm")
	if found := a.look("its confirm", "confirmed"); found != nil && found.State.Current != Next {
		a.stuck("%s runs in the end, want %s", found.State.Current, Next)
	}
	return a.problems, a.err
}

// repairs: the flow's command repairs the current version before and after it.
func (s *Site) repairs() bool {
	f := s.Flow
	return f.Ruined != "" && f.Before.Current == f.Ruined && f.After.Current == f.Ruined
}

type aftermath struct {
	*Site
	repaired bool
	installs bool // so that versions may be removed
	ctx      context.Context
	problems []invariants.Problem
	err      error
}

func (a *aftermath) stuck(format string, args ...any) {
	a.problems = append(a.problems, invariants.Stuck.Of(format, args...))
}

func (a *aftermath) run(exits []int, args ...string) {
	if a.err != nil {
		return
	}
	said, err := a.Site.Run(a.ctx, args)
	switch {
	case err == ErrHangs:
		a.stuck("%s: %v", strings.Join(args, " "), err)
	case err != nil:
		a.err = err
	case !slices.Contains(exits, said.Exit):
		a.stuck("%s: exit %d: %s", strings.Join(args, " "), said.Exit, strings.TrimSpace(said.Stdout+said.Stderr))
	}
}

// look is after a command that got on; phase is what it leads to, empty: any.
func (a *aftermath) look(after, phase string) *invariants.Found {
	if a.err != nil || len(a.problems) > 0 {
		return nil
	}
	found := a.Look()
	for _, p := range found.Problems {
		if p.Version != "" && p.Version == a.Flow.Ruined && (found.State.Current != p.Version || a.repairs() && !a.repaired) {
			continue // it is not current, or it was not yet repaired
		}
		p.Text = "after " + after + ": " + p.Text
		a.problems = append(a.problems, p)
	}
	a.problems = append(a.problems, a.kept(found.State, a.Flow.Adopts && !a.installs)...)
	if phase != "" && found.State.Phase != phase {
		a.stuck("after %s: %v, want phase %s", after, found.State, phase)
	}
	return found
}
