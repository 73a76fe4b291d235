package mutants_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/crash/blocks"
	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/mutants"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// Every mutant still is one: its edits fit, and what comes out compiles.
func TestMutantsFit(t *testing.T) {
	defer try.Fatal(t)
	repo := try.Get(debian.RepoDir())
	packages := try.Get(listPackages(repo))
	imports := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(packages[path].Export)
	})
	for _, m := range mutants.All {
		if err := fits(&m, repo, t.TempDir(), packages, imports); err != nil {
			t.Errorf("mutant %q: %v", m.Name, err)
		}
	}
}

// A goPackage is what `go list` says of one.
type goPackage struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// listPackages are those of the product, and what they import, by path.
func listPackages(repo string) (map[string]goPackage, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles", "./applier/...", "./bootcheck/...", "./guardian/...")
	cmd.Dir, cmd.Stderr = repo, os.Stderr
	out, err := cmd.Output()
	packages := make(map[string]goPackage)
	for d := json.NewDecoder(bytes.NewReader(out)); err == nil && d.More(); {
		var p goPackage
		err = d.Decode(&p)
		packages[p.ImportPath] = p
	}
	return packages, err
}

// fits checks the types of the packages that m changes, as a compiler does.
func fits(m *mutants.Mutant, repo, dir string, packages map[string]goPackage, imports types.Importer) (err error) {
	defer try.End(&err)
	var overlay struct{ Replace map[string]string }
	try.Check(json.Unmarshal(try.Get(os.ReadFile(try.Get(m.Overlay(repo, dir)))), &overlay))
	for _, p := range packages {
		if !slices.ContainsFunc(p.GoFiles, func(f string) bool { return overlay.Replace[filepath.Join(p.Dir, f)] != "" }) {
			continue
		}
		fset := token.NewFileSet()
		var files []*ast.File
		for _, f := range p.GoFiles {
			name := filepath.Join(p.Dir, f)
			files = append(files, try.Get(parser.ParseFile(fset, cmp.Or(overlay.Replace[name], name), nil, parser.SkipObjectResolution)))
		}
		config := types.Config{Importer: imports}
		try.Get(config.Check(p.ImportPath, fset, files, nil))
	}
	return nil
}

// newBench is one in memory, in whose directory the mutants are, too.
func newBench(t *testing.T) *mutants.Bench {
	machine.Require(t, "supervisor", append(crashpoint.Missing(), blocks.Missing()...))
	dir := try.Get(os.MkdirTemp("/dev/shm", "ota-mutants-"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := try.Get(flows.NewWorld(machine.Context(t), dir))
	t.Cleanup(w.Close)
	b := mutants.NewBench(w)
	b.Syncs = true
	return b
}

// Each mutant is seen. MUTANT chooses by name, a regular expression; MUTANTS names a
// file for the table.
func TestMutants(t *testing.T) {
	defer try.Fatal(t)
	if tier.Check && os.Getenv("MUTANT") == "" {
		t.Skip("a check only looks whether they fit")
	}
	b := newBench(t)
	repo, dir := try.Get(debian.RepoDir()), b.World.Dir
	if tier.Nightly {
		b.Filesystems = len(blocks.Filesystems)
	}
	chosen := try.Get(regexp.Compile(os.Getenv("MUTANT")))
	var work []mutants.Mutant
	controls := make(map[mutants.Catcher]bool)
	for _, m := range mutants.All {
		name := os.Getenv("MUTANT")
		if !chosen.MatchString(m.Name) || name == "" && !tier.Nightly && !m.Quick {
			continue
		}
		work = append(work, m)
		// The programs as they are are seen by no engine, or a mutant would be seen for nothing.
		// A test of a package is run by itself.
		if _, isCrash := m.By.(mutants.Crash); isCrash && !controls[m.By] {
			controls[m.By] = true
			work = append(work, mutants.Mutant{Name: "none, " + m.By.Name(), By: m.By})
		}
	}
	began := time.Now()
	var mu sync.Mutex
	lines := make([]string, len(work))
	made, seen := len(work)-len(controls), 0
	t.Run("all", func(t *testing.T) {
		for i, m := range work {
			t.Run(m.Name, func(t *testing.T) {
				defer try.Fatal(t)
				t.Parallel()
				own := try.Get(os.MkdirTemp(dir, "mutant-"))
				defer os.RemoveAll(own)
				overlay := try.Get(m.Overlay(repo, own))
				found, err := m.By.Catch(t.Context(), b, repo, overlay, own)
				if err != nil {
					t.Fatalf("%s: %v", m.By.Name(), err)
				}
				if len(m.Edits) == 0 {
					if found != "" {
						t.Errorf("%s of the programs as they are: %q", m.By.Name(), found)
					}
					return
				}
				if found == "" {
					t.Fatalf("it lives: %s does not see it; again: MUTANT=%q go test ./integration/crash/mutants -run TestMutants -v", m.By.Name(), "^"+m.Name+"$")
				}
				found = short(strings.ReplaceAll(found, own, ""))
				t.Logf("seen by %s: %s", m.By.Name(), found)
				mu.Lock()
				defer mu.Unlock()
				seen++
				lines[i] = fmt.Sprintf("| %s | %s | %s |\n", m.Name, m.By.Name(), strings.ReplaceAll(found, "|", "\\|"))
			})
		}
	})
	table := "| what is gone | seen by | what it saw |\n|---|---|---|\n" + strings.Join(lines, "")
	t.Logf("%d of %d mutants seen (there are %d), and none of %d controls\n%s", seen, made, len(mutants.All), len(controls), table)
	tier.Sum("mutants", made, len(mutants.All), made-seen, began)
	if name := os.Getenv("MUTANTS"); name != "" {
		if err := os.WriteFile(name, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// short is one line of at most 160 characters.
func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 160 {
		text = strings.ToValidUTF8(text[:160], "") + " …"
	}
	return text
}
