package docs

import (
	"cmp"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
)

var update = flag.Bool("update", false, "write into the documents what their commands print")

// TestDocuments runs every block of every document in a container, and nightly
// those of DEPLOYMENT.md in a virtual machine, too.
func TestDocuments(t *testing.T) {
	files := documents(t)
	machine.RequireContainer(t)
	bin := programs(t)
	t.Run("documents", func(t *testing.T) {
		for _, file := range files {
			t.Run(filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				d := read(t, file)
				if !slices.ContainsFunc(d.blocks, func(b *block) bool { return b.kind != "text" && b.kind != "mermaid" }) {
					return // nothing for a machine
				}
				var m machine.Machine
				if d.machine != "none" {
					m = machine.StartContainer(t, container.Options{Overlay: overlay(t, d), Variant: variant})
				}
				if *update {
					defer func() { // also what came before a failure
						if err := d.rewrite(file); err != nil {
							t.Error(err)
						}
					}()
				}
				runs(t, d, bin, m)
			})
		}
	})
	if tier.Nightly {
		t.Run("DEPLOYMENT.md in a virtual machine", deploymentInVM)
	}
}

// deploymentInVM is DEPLOYMENT.md by copy and paste on a device with a kernel of
// its own, which takes minutes.
func deploymentInVM(t *testing.T) {
	machine.RequireVM(t, debian.AMD64)
	d := read(t, filepath.Join(root(t), "docs", "DEPLOYMENT.md"))
	began := time.Now()
	runs(t, d, programs(t), machine.StartVM(t, vm.Options{Overlay: overlay(t, d), Variant: variant, Cold: true}))
	t.Logf("DEPLOYMENT.md, from the first boot of the device to its last command: %.1f minutes", time.Since(began).Minutes())
}

func runs(t *testing.T, d *document, bin string, m machine.Machine) {
	t.Helper()
	defer try.Fatal(t)
	ctx := machine.Context(t)
	work := try.Get(newWorkstation(ctx, t.TempDir(), bin, m))
	try.Check(prepare(ctx, m, work, d.machine))
	r := &runner{work: work, device: deviceShell{m}, match: matcher{is: map[string]string{}}, update: *update, logf: t.Logf}
	for _, b := range d.blocks {
		if err := r.run(ctx, b); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
	}
}

func root(t *testing.T) string {
	t.Helper()
	defer try.Fatal(t)
	return try.Get(debian.RepoDir())
}

func documents(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	recipes, _ := filepath.Glob(filepath.Join(root(t), "docs", "recipes", "*.md"))
	if err != nil || len(files) == 0 || len(recipes) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	files = append(files, recipes...)
	return append(files, filepath.Join(root(t), "README.md"))
}

func read(t *testing.T, file string) *document {
	t.Helper()
	defer try.Fatal(t)
	text := try.Get(os.ReadFile(file))
	d := try.Get(parse(filepath.Base(file), string(text)))
	return d
}

// programs is a directory with what `make build` makes for this machine.
func programs(t *testing.T) string {
	t.Helper()
	defer try.Fatal(t)
	bin := t.TempDir()
	cmd := exec.Command("make", "-s", "build-amd64", "BIN="+bin)
	cmd.Dir = root(t)
	try.Run(cmd)
	return filepath.Join(bin, "amd64")
}

// overlay is what the document's machine begins with.
func overlay(t *testing.T, d *document) debian.Overlay {
	t.Helper()
	defer try.Fatal(t)
	o := try.Get(bare(machine.Context(t)))
	if d.machine == "device" {
		o.Add(try.Get(machine.DeviceOverlay()))
	}
	return o
}

// TestLinks finds every file that a document links to.
func TestLinks(t *testing.T) {
	defer try.Fatal(t)
	for _, file := range documents(t) {
		text := try.Get(os.ReadFile(file))
		for _, l := range links(string(text)) {
			to, anchor, _ := strings.Cut(l, "#")
			target := file
			if to != "" {
				target = filepath.Join(filepath.Dir(file), to)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link to %q: %v", filepath.Base(file), l, err)
				continue
			}
			if anchor == "" || !strings.HasSuffix(target, ".md") {
				continue
			}
			other := try.Get(os.ReadFile(target))
			if !slices.Contains(anchors(string(other)), anchor) {
				t.Errorf("%s: link to %q: there is no such heading", filepath.Base(file), l)
			}
		}
	}
	// Documentation= of a unit is a document here.
	units := try.Get(filepath.Glob(filepath.Join(root(t), "units", "*.*")))
	for _, unit := range units {
		if info, err := os.Stat(unit); err != nil || info.IsDir() {
			continue
		}
		for line := range strings.Lines(string(try.Get(os.ReadFile(unit)))) {
			rest, ok := strings.CutPrefix(strings.TrimSpace(line), "Documentation=https://github.com/tope-ota/ota")
			if !ok {
				continue
			}
			to, anchor, _ := strings.Cut(rest, "#")
			document := try.Get(os.ReadFile(filepath.Join(root(t), cmp.Or(strings.TrimPrefix(to, "/blob/main"), "README.md"))))
			if anchor != "" && anchor != "readme" && !slices.Contains(anchors(string(document)), anchor) {
				t.Errorf("%s: Documentation= has %q: there is no such heading", filepath.Base(unit), rest)
			}
		}
	}
	// README.md leads to each of them.
	text := try.Get(os.ReadFile(filepath.Join(root(t), "README.md")))
	for _, file := range documents(t) {
		name := try.Get(filepath.Rel(root(t), file))
		if name != "README.md" && !strings.Contains(string(text), "("+name) {
			t.Errorf("README.md has no link to %s", name)
		}
	}
}
