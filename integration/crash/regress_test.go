package crash

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// A regress is a line of regress.txt.
type regress struct {
	point        // but for its number
	line  int    // of the file
	call  string // as described
	which int    // of the calls like it: from 1, or from the end, from -1
}

var regressLine = regexp.MustCompile(`^([a-z-]+): (read:)?([a-z]+ [^ ]+)(?: #(-?[0-9]+))?: (?:kill(?:, (boot|again) ([0-9]+))?|([A-Z]+)(\+)?)$`)

// regresses reads regress.txt.
func regresses(t *testing.T) (all []regress) {
	t.Helper()
	file, err := os.Open("regress.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		m := regressLine.FindStringSubmatch(line)
		if m == nil || flows.Find(m[1]) == nil {
			t.Fatalf("regress.txt:%d: it is no point of a flow: %s", n, line)
		}
		r := regress{line: n, call: m[3], which: 1}
		r.flow, r.read, r.procs, r.by, r.on = flows.Find(m[1]), m[2] != "", 1, m[5], m[8] != ""
		if m[4] != "" {
			r.which, _ = strconv.Atoi(m[4])
		}
		r.second, _ = strconv.Atoi(m[6])
		if m[7] != "" {
			r.errno = errnoNamed(t, m[7])
		}
		all = append(all, r)
	}
	return all
}

var number = regexp.MustCompile(`[0-9]+(\.[0-9]+)*`)

// find is the number of the point among calls of a run at site; 0: there is none.
func (r *regress) find(calls []crashpoint.Call, site string) int {
	var found []int
	for i := range calls {
		path := inSite(site, calls[i].File.Path)
		if calls[i].Name+" "+number.ReplaceAllString(path, "N") == r.call {
			found = append(found, calls[i].Point)
		}
	}
	switch {
	case r.which > 0 && r.which <= len(found):
		return found[r.which-1]
	case r.which < 0 && -r.which <= len(found):
		return found[len(found)+r.which]
	}
	return 0
}

// regress finds the point r in a run, and makes it in another one; nil: it is not there.
func (l *Lab) regress(ctx context.Context, r *regress) (_ *outcome, err error) {
	defer try.End(&err)
	calls, site, err := l.measure(ctx, r.point)
	try.Check(err)
	if r.n = r.find(calls, site); r.n == 0 {
		return nil, nil
	}
	if r.by != "" {
		n, err := l.length(ctx, r.point)
		if err != nil || n < r.second {
			return nil, fmt.Errorf("regress.txt:%d: what is killed then makes %d calls (%v)", r.line, n, err)
		}
	}
	return l.try(ctx, r.point)
}

// TestRegress makes the points that once failed.
func TestRegress(t *testing.T) {
	if *pointFlag != 0 {
		t.Skip("one point is asked for: TestPoint")
	}
	began := time.Now()
	work := regresses(t)
	chosen := flows.Chosen(t)
	work = slices.DeleteFunc(work, func(r regress) bool { return !slices.Contains(chosen, r.flow) })
	l := theLab(t)
	var counts tier.Tally
	inParallel(t, perCore, work, func(ctx context.Context, r regress) error {
		// What the network brings at once differs, and with it how many writes a download
		// makes: the point may be another call in the run that counts.
		var o *outcome
		var err error
		for try := 0; try < 5 && err == nil && (o == nil || !o.reached); try++ {
			o, err = l.regress(ctx, &r)
		}
		if err != nil {
			return err
		}
		if o == nil || !o.reached {
			return fmt.Errorf("regress.txt:%d: flow %s makes no call %q (which: %d): say what took its place", r.line, r.flow.Name, r.call, r.which)
		}
		if len(o.problems) > 0 {
			t.Errorf("regress.txt:%d fails again", r.line)
		}
		o.tell(t, &counts)
		return nil
	})
	tier.Sum("regress", counts.All("killed", "failed", "twice"), len(regresses(t)), counts.All("bad killed", "bad failed", "bad twice"), began)
}

// TestUnsureSwitchIsWatched: after a switch, or a removal behind it, that may not be durable
// the version runs, so its trial begins; what is not known is said at its end.
func TestUnsureSwitchIsWatched(t *testing.T) {
	activate, pruning := flows.Find("activate"), flows.Find("install-pruning")
	l := theLab(t)
	for _, row := range []struct {
		name string
		flow *flows.Flow
		to   string // the sync of a rename to here fails, from the switch on
	}{
		{"the switch", activate, "versions/.active"},
		{"a removal", pruning, "versions/.trash/"},
	} {
		t.Run(row.name, func(t *testing.T) {
			defer try.Fatal(t)
			site := try.Get(l.Site(t.Context(), row.flow))
			defer func() { _ = site.Remove() }()
			switched, renamed, failed := false, false, false
			said, _, err := site.Interrupt(t.Context(), site.Args(), 1, func(c *crashpoint.Call) (a crashpoint.Action) {
				switch to := inSite(site.Dir, c.To.Path); {
				case c.Name == "rename":
					switched = switched || to == "versions/.active"
					renamed = renamed || switched && strings.HasPrefix(to, row.to)
				case c.Name == "fsync" && renamed && !failed && c.File.Path == site.Root:
					failed, a.Errno = true, unix.EIO
				}
				return a
			})
			try.Check(err)
			if !failed || said.Exit != 10 || !strings.Contains(said.Stdout, "on trial; no systemd runs here") {
				t.Errorf("a sync failed: %v; exit %d, %q, %q", failed, said.Exit, said.Stdout, said.Stderr)
			}
		})
	}
}
