package mutants_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/crash/blocks"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/mutants"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

func TestMain(m *testing.M) {
	if len(blocks.Missing()) == 0 {
		if code, ended := blocks.Isolate(); ended {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

// Each mutant is shown to each engine alone: which one sees it, and which engine is the
// only one that sees some. MUTANT chooses by name, MATRIX names a file for the table.
func TestMatrix(t *testing.T) {
	defer try.Fatal(t)
	if !tier.Nightly && os.Getenv("MUTANT") == "" {
		t.Skip("it takes an hour: OTA_TESTS=nightly, or MUTANT=a regular expression")
	}
	b := newBench(t)
	chosen := regexp.MustCompile(os.Getenv("MUTANT"))
	rows := make([]string, len(mutants.All))
	alone := make([]string, len(mutants.All))
	work := make(chan int)
	var wg sync.WaitGroup
	for range 4 * runtime.NumCPU() { // most of it waits for a lock or a server
		wg.Go(func() {
			for i := range work {
				m := &mutants.All[i]
				began := time.Now()
				seen, err := row(t, b, m, filepath.Join(b.World.Dir, fmt.Sprint("mutant-", i)))
				if err != nil {
					t.Errorf("%s: %v", m.Name, err)
					continue
				}
				cells := fmt.Sprintf("| %s | %s |", m.Name, m.Flow())
				var by []string
				for _, e := range mutants.Engines {
					cell := " "
					if seen[e] != "" {
						cell = " x "
						by = append(by, string(e))
						t.Logf("%s: %s: %s", m.Name, e, short(seen[e]))
					}
					cells += cell + "|"
				}
				rows[i] = cells + "\n"
				if len(by) == 1 {
					alone[i] = fmt.Sprintf("only %s: %s\n", by[0], m.Name)
				}
				t.Logf("%s (%v)", cells, time.Since(began).Round(time.Second))
			}
		})
	}
	for _, units := range []bool{false, true} { // what a unit sees is seen by few engines, which take their time
		for i, m := range mutants.All {
			if _, unit := m.By.(mutants.Unit); unit == units && chosen.MatchString(m.Name) {
				work <- i
			}
		}
	}
	close(work)
	wg.Wait()
	head := "| what is gone | flow |"
	for _, e := range mutants.Engines {
		head += " " + string(e) + " |"
	}
	table := head + "\n" + strings.Repeat("|---", len(mutants.Engines)+2) + "|\n" + strings.Join(rows, "") + "\n" + strings.Join(alone, "")
	t.Logf("mutants and engines:\n%s", table)
	if name := os.Getenv("MATRIX"); name != "" {
		if err := os.WriteFile(name, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}

func row(t *testing.T, b *mutants.Bench, m *mutants.Mutant, dir string) (_ map[mutants.Engine]string, err error) {
	defer try.End(&err)
	ctx := machine.Context(t)
	try.Check(os.Mkdir(dir, 0o755))
	defer os.RemoveAll(dir)
	overlay := try.Get(m.Overlay(try.Get(debian.RepoDir()), dir))
	trial := try.Get(b.Try(ctx, flows.Find(m.Flow()), overlay, dir))
	seen := make(map[mutants.Engine]string)
	for _, e := range mutants.Engines {
		if seen[e], err = trial.Find(ctx, e); err != nil {
			return nil, fmt.Errorf("%s: %w", e, err)
		}
		if e == mutants.Runs && seen[e] != "" {
			break // it does not do its work: no engine can begin with it
		}
	}
	return seen, nil
}
