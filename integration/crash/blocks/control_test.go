package blocks

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/debian"
	"github.com/tope-ota/ota/integration/machine/machinetest"
)

// A control is a mistake that others made, put into our programs: whoever does not
// find that one would not find another.
type control struct {
	name string
	flow string // in which it shows
	file string // of the repository
	from string // that file has this once
	to   string // and this instead; only while bootcheck.Mistake says so, they differ
}

var controls = []control{
	{
		"root-not-synced", "confirm", "bootcheck/store.go",
		"\tif err := syncDir(s.dir); err != nil {\n\t\treturn Errorf(ExitUnknown, \"\", \"switched",
		"\tif Mistake(\"root-not-synced\") {\n\t} else if err := syncDir(s.dir); err != nil {\n\t\treturn Errorf(ExitUnknown, \"\", \"switched",
	},
	{
		"renameio-alone", "activate", "bootcheck/files.go",
		"func syncDir(dir string) error {\n",
		"func syncDir(dir string) error {\n\tif Mistake(\"renameio-alone\") {\n\t\treturn nil\n\t}\n",
	},
	{
		"record-not-synced", "confirm", "bootcheck/files.go",
		"\t_, err = f.Write(content)\n\tif err == nil {\n",
		"\t_, err = f.Write(content)\n\tif err == nil && !Mistake(\"record-not-synced\") {\n",
	},
	{
		"stage-not-synced", "install-beside-factory", "applier/bundle/unpack.go",
		"\tif err := unix.Syncfs(int(u.disk.Fd())); err != nil {\n",
		"\tif bootcheck.Mistake(\"stage-not-synced\") {\n\t} else if err := unix.Syncfs(int(u.disk.Fd())); err != nil {\n",
	},
}

// mistake is the function that the programs ask which mistake to make: the file
// says. It is read before the program gives up its rights.
const mistake = `package bootcheck

import "os"

var mistakes, _ = os.ReadFile(%q)

func Mistake(name string) bool { return string(mistakes) == name }
`

// overlay writes the files that go build -overlay wants below dir, and returns its
// flag and the file that says which mistake is made.
func overlay(dir string) (flag, which string, err error) {
	repo, err := debian.RepoDir()
	if err != nil {
		return "", "", err
	}
	which = filepath.Join(dir, "mistake")
	sources := map[string]string{"bootcheck/mistake.go": fmt.Sprintf(mistake, which)}
	for _, c := range controls {
		if sources[c.file] == "" {
			source, err := os.ReadFile(filepath.Join(repo, c.file))
			if err != nil {
				return "", "", err
			}
			sources[c.file] = string(source)
		}
		if n := strings.Count(sources[c.file], c.from); n != 1 {
			return "", "", fmt.Errorf("control %s: %s has %d times what is to be changed, want 1:\n%s", c.name, c.file, n, c.from)
		}
		sources[c.file] = strings.Replace(sources[c.file], c.from, c.to, 1)
	}
	var files struct{ Replace map[string]string }
	files.Replace = make(map[string]string)
	for name, source := range sources {
		to := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		files.Replace[filepath.Join(repo, name)] = to
		if err := os.WriteFile(to, []byte(source), 0o644); err != nil {
			return "", "", err
		}
	}
	text, err := json.Marshal(files)
	list := filepath.Join(dir, "overlay.json")
	return "-overlay=" + list, which, errors.Join(err, os.WriteFile(list, text, 0o644), os.WriteFile(which, nil, 0o644))
}

// Each mistake is found on each file system, in no more states than a flow without
// one gets here; and the same programs without a mistake are found innocent.
func TestControls(t *testing.T) {
	require(t)
	if *onlyFlow != "" || *recording != "" {
		t.Skip("it is about one flow")
	}
	dir := t.TempDir()
	flag, which, err := overlay(dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := flows.NewWorld(t.Context(), dir, flag)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	seed := theSeed(t)
	for _, c := range append(controls, control{name: "none", flow: "confirm"}) {
		if err := os.WriteFile(which, []byte(c.name), 0o644); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, fs := range filesystems() {
			wg.Go(func() {
				t.Run(c.name+"/"+fs.Name, func(t *testing.T) {
					r, err := RecordFlow(machinetest.Context(t), w, flows.Find(c.flow), fs.Name, fs.Size, filepath.Join(t.TempDir(), "run"))
					if err != nil {
						t.Fatal(err)
					}
					defer r.Close()
					var bad *Finding
					tally, err := r.Judge(machinetest.Context(t), r.Plan(statesCI, seed), 0, func(f *Finding) bool {
						if f.Err == nil {
							bad = f
						}
						return bad == nil
					})
					switch {
					case err != nil:
						t.Fatal(err)
					case c.from == "" && bad != nil:
						t.Errorf("without a mistake: %s %v", bad.Line(r), bad.Problems)
					case c.from == "":
					case bad == nil:
						t.Errorf("not found: %v", tally)
					default:
						t.Logf("found in %d states: %s %v", tally.States, bad.Line(r), bad.Problems)
						again(t, w, r, bad)
					}
				})
			})
		}
		wg.Wait()
	}
}

// again: what was found is found once more in the recording that a failure leaves.
func again(t *testing.T, w *flows.World, r *Run, bad *Finding) {
	t.Helper()
	dir := t.TempDir()
	name, err := r.Save(dir)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadRun(w, name, filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Close()
	var found []*Finding
	_, err = loaded.Judge(machinetest.Context(t), []State{bad.State}, 0, func(f *Finding) bool {
		found = append(found, f)
		return true
	})
	if err != nil || len(found) != 1 || found[0].Line(loaded) != bad.Line(r) {
		t.Errorf("the recording has %d findings (%v), want the one", len(found), err)
	}
}
