package flows

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A Case is a site on which a flow was interrupted, or not.
type Case struct {
	Flow *Flow
	Site *Site
	Said *invariants.Said
	// Kept is KeptOf the site when the flow began.
	Kept map[string]string
}

// KeptOf are the versions of the site that nothing may change, and their
// fingerprints: factory, and all of a device that f adopts.
func (f *Flow) KeptOf(s *Site) (map[string]string, error) {
	found := f.Look(s)
	var versions []string
	switch {
	case f.Adopts:
		versions = slices.Collect(maps.Keys(found.Versions))
	case found.State.Factory != "":
		versions = []string{found.State.Factory}
	}
	versions = append(versions, f.Spares...)
	kept := make(map[string]string)
	for _, version := range versions {
		sum, err := invariants.Fingerprint(filepath.Join(s.Root, "v"+version))
		if err != nil {
			return nil, err
		}
		kept[version] = sum
	}
	return kept, nil
}

// Look is invariants.Look of the site, as it may be before, in and after f.
func (f *Flow) Look(s *Site) *invariants.Found {
	if f.Adopts {
		return invariants.LookAdopted(s.Root)
	}
	return invariants.Look(s.Root)
}

// Check looks at the disk and compares it with what was said. It changes nothing.
func (c *Case) Check() (*invariants.Found, []invariants.Problem) {
	f := c.Flow
	found := f.Look(c.Site)
	done := c.Said != nil && !c.Said.Killed && c.Said.Exit == f.Exit
	if _, err := os.Lstat(c.Site.Root); errors.Is(err, os.ErrNotExist) && f.Before == (State{}) && !done {
		found.Problems = nil // a store that was not begun
	}
	problems := slices.DeleteFunc(slices.Clone(found.Problems), func(p invariants.Problem) bool {
		return f.Ruined != "" && p.Version == f.Ruined && (!done || f.Before.Current != f.After.Current)
	})
	problems = append(problems, c.kept(found.State, f.Adopts)...)
	if found.Spent && f.After.Phase != "fallback" && f.After.Phase != "factory" {
		problems = append(problems, invariants.Problem{Kind: invariants.Torn, Text: "what was prepared to roll back has lost its link"})
	}
	if c.Said != nil {
		problems = append(problems, invariants.Honest(c.Said, found.State, f.Before, f.After, f.Between)...)
		if done && found.State != f.After {
			problems = append(problems, invariants.Problem{Kind: invariants.Lie,
				Text: fmt.Sprintf("exit %d, and there is %v, want %v", f.Exit, found.State, f.After)})
		}
	}
	stray, err := invariants.Stray(c.Site.Dir, "versions", "run", "ota.toml", "check", "sick")
	if err != nil || len(stray) > 0 {
		problems = append(problems, invariants.Problem{Kind: invariants.Torn, Text: fmt.Sprintf("outside the store: %v (%v)", stray, err)})
	}
	return found, problems
}

// kept: not a byte changed of what nothing may change, as long as a link leads to it;
// all: anyhow, and the links lead to the versions that ran before.
func (c *Case) kept(now State, all bool) (problems []invariants.Problem) {
	for _, version := range slices.Sorted(maps.Keys(c.Kept)) {
		led := slices.Contains(c.Flow.Spares, version) || now.Factory == version || c.Flow.Adopts && (now.Current == version || now.Previous == version)
		if !led && !all {
			continue
		}
		if got, err := invariants.Fingerprint(filepath.Join(c.Site.Root, "v"+version)); err != nil || got != c.Kept[version] {
			problems = append(problems, invariants.Problem{Kind: invariants.Torn, Text: fmt.Sprintf("version %s was touched (%v)", version, err)})
		}
	}
	was := c.Flow.Before
	if now.Phase = was.Phase; all && now != was {
		problems = append(problems, invariants.Problem{Kind: invariants.Torn, Text: fmt.Sprintf("what ran before is not what comes up: %v, want %v", now, was)})
	}
	return problems
}

// Aftermath is what happens next, by itself: the device boots (reboot) or an operator
// just tries again, it comes up with an intact version and confirms it; and then a
// good version can be installed, and is confirmed. Everything that does not go so
// is a problem; Stuck, but for what Look finds.
func (c *Case) Aftermath(ctx context.Context, reboot bool) (_ []invariants.Problem, err error) {
	defer try.End(&err)
	a := &aftermath{Case: c, ctx: ctx}
	s := c.Site
	try.Check(s.MakeHealthy())
	empty := c.Flow.Look(s).Generation == 0
	if reboot {
		try.Check(s.Reboot())
		if !empty || c.Flow.Before.Current != "" {
			a.run([]int{0}, "ota-guardian", "boot", "--boot-id", "aftermath", "--last-boot", "unclean")
			a.look("the boot", "")
		}
	}
	if c.repairs() {
		// A boot reads what is started first, and no more; this is what reads the rest.
		a.run([]int{0}, c.Flow.Args(s)...)
		a.repaired = true
		a.look("the repair", "")
	}
	if c.Flow.Adopts {
		// Another one finishes what was broken off.
		a.run([]int{0}, c.Flow.Args(s)...)
		if found := a.look("another adoption", ""); found != nil && found.State != c.Flow.After {
			a.stuck("after another adoption: %v, want %v", found.State, c.Flow.After)
		}
		empty = c.Flow.After.Current == ""
	}
	if !empty {
		if !reboot && c.Flow.Ruined != "" && !c.repairs() {
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
func (c *Case) repairs() bool {
	f := c.Flow
	return f.Ruined != "" && f.Before.Current == f.Ruined && f.After.Current == f.Ruined
}

type aftermath struct {
	*Case
	repaired bool
	installs bool // so that versions may be removed
	ctx      context.Context
	problems []invariants.Problem
	err      error
}

func (a *aftermath) stuck(format string, args ...any) {
	a.problems = append(a.problems, invariants.Problem{Kind: invariants.Stuck, Text: fmt.Sprintf(format, args...)})
}

func (a *aftermath) run(exits []int, args ...string) {
	if a.err != nil {
		return
	}
	said, err := a.Site.Run(a.ctx, args)
	if err != nil {
		a.err = err
		return
	}
	if !slices.Contains(exits, said.Exit) {
		a.stuck("%s: exit %d: %s", strings.Join(args, " "), said.Exit, strings.TrimSpace(said.Stdout+said.Stderr))
	}
}

// look is after a command that got on; phase is what it leads to, empty: any.
func (a *aftermath) look(after, phase string) *invariants.Found {
	if a.err != nil || len(a.problems) > 0 {
		return nil
	}
	found := a.Flow.Look(a.Site)
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
