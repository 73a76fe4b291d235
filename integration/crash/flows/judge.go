package flows

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/crash/invariants"
)

// A Case is a site on which a flow was interrupted, or not.
type Case struct {
	Flow *Flow
	Site *Site
	Said *invariants.Said
	// Factory is invariants.Fingerprint of the factory version when the flow began;
	// empty: there was none. See FactoryOf.
	Factory string
}

// FactoryOf is the fingerprint of the factory version of the site; empty: none.
func FactoryOf(s *Site) (string, error) {
	state := invariants.Look(s.Root).State
	if state.Factory == "" {
		return "", nil
	}
	return invariants.Fingerprint(filepath.Join(s.Root, "v"+state.Factory))
}

// Judge looks at the disk and compares it with what was said. It changes nothing.
func (c *Case) Judge() (*invariants.Found, []invariants.Problem) {
	found := invariants.Look(c.Site.Root)
	f := c.Flow
	done := c.Said != nil && !c.Said.Killed && c.Said.Exit == f.Exit
	if _, err := os.Lstat(c.Site.Root); errors.Is(err, os.ErrNotExist) && f.Before == (State{}) && !done {
		found.Problems = nil // a store that was not begun
	}
	problems := slices.DeleteFunc(slices.Clone(found.Problems), func(p invariants.Problem) bool {
		return f.Ruined != "" && p.Version == f.Ruined && (!done || f.Before.Current != f.After.Current)
	})
	problems = append(problems, c.factory(found.State)...)
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

// factory: not a byte of it changed, as long as it is the same version.
func (c *Case) factory(now State) []invariants.Problem {
	before := c.Flow.Before.Factory
	if before == "" || c.Factory == "" {
		return nil
	}
	if got, err := invariants.Fingerprint(filepath.Join(c.Site.Root, "v"+before)); now.Factory == before && (err != nil || got != c.Factory) {
		return []invariants.Problem{{Kind: invariants.Torn, Text: fmt.Sprintf("factory %s was touched (%v)", before, err)}}
	}
	return nil
}

// Aftermath is what happens next, by itself: the device boots (reboot) or somebody
// just tries again, it comes up with a whole version and confirms it; and then a
// good version can be installed, and is confirmed. Everything that does not go so
// is a problem; Stuck, but for what Look finds.
func (c *Case) Aftermath(ctx context.Context, reboot bool) ([]invariants.Problem, error) {
	a := &aftermath{Case: c, ctx: ctx}
	s := c.Site
	if err := s.Cure(); err != nil {
		return nil, err
	}
	empty := invariants.Look(s.Root).Generation == 0
	if reboot {
		if err := s.Reboot(); err != nil {
			return nil, err
		}
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
	if !empty {
		if !reboot && c.Flow.Ruined != "" && !c.repairs() {
			// No boot has left what is damaged: confirm does, if it runs.
			a.run([]int{0, 8}, "ota-guardian", "confirm")
			a.look("a confirm without a boot", "")
		}
		a.run([]int{0}, "ota-guardian", "confirm")
		a.look("confirm", "confirmed")
	}
	a.run([]int{0}, "ota-apply", "install", s.url(Next))
	a.look("the install of a good version", "trial")
	a.run([]int{0}, "ota-guardian", "confirm")
	if found := a.look("its confirm", "confirmed"); found != nil && found.State.Current != Next {
		a.stuck("%s runs in the end, want %s", found.State.Current, Next)
	}
	return a.problems, a.err
}

// repairs: the flow's command repairs the version that runs before and after it.
func (c *Case) repairs() bool {
	f := c.Flow
	return f.Ruined != "" && f.Before.Current == f.Ruined && f.After.Current == f.Ruined
}

type aftermath struct {
	*Case
	repaired bool
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
	found := invariants.Look(a.Site.Root)
	for _, p := range found.Problems {
		if p.Version != "" && p.Version == a.Flow.Ruined && (found.State.Current != p.Version || a.repairs() && !a.repaired) {
			continue // nobody runs it, or it was not yet repaired
		}
		p.Text = "after " + after + ": " + p.Text
		a.problems = append(a.problems, p)
	}
	a.problems = append(a.problems, a.factory(found.State)...)
	if phase != "" && found.State.Phase != phase {
		a.stuck("after %s: %v, want phase %s", after, found.State, phase)
	}
	return found
}
