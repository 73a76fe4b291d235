package filesystems

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

var update = flag.Bool("update", false, "write the table of "+treesDoc)

const treesDoc = "../../docs/recipes/trees.md"

// TestTrees packs trees that people have, as this machine has them, and takes each through
// a device's life: install, verify, `diff -r`, factory, an update, the rollback to factory.
// It logs what of each create refused at first; with -update that is the table of
// docs/recipes/trees.md.
func TestTrees(t *testing.T) {
	defer try.Fatal(t)
	needsRoot(t)
	const large = 150 << 20     // bytes; larger ones are for the night
	trees := map[string]string{ // what makes the tree in the current directory; empty: it is there
		"a venv, as python3 -m venv makes it": "python3 -m venv .",
		"a venv of copies":                    "python3 -m venv --copies .",
		"a Node app with a native module": "mkdir -p node_modules/.bin node_modules/addon/build/Release && echo 'int x;' | cc -shared -fPIC -x c - -o node_modules/addon/build/Release/addon.node && " +
			"echo 'require(\"addon\")' >index.js && echo '{}' >node_modules/addon/package.json && ln -s ../addon/package.json node_modules/.bin/addon",
		"workspaces of npm":          "mkdir -p packages/a packages/b node_modules/@x && for p in a b; do echo '{}' >packages/$p/package.json; ln -s ../../packages/$p node_modules/@x/$p; done",
		"a Rust app with its target": "command -v cargo >/dev/null && cargo init -q --vcs none --name app . && cargo build -q --offline",
	}
	for _, pattern := range []string{
		"/usr/lib/python3.*", "/usr/lib/python3", "/usr/share/perl", "/usr/share/perl5", "/usr/lib/*/perl", "/usr/share/doc", "/usr/include", "/lib/terminfo", "/usr/share/terminfo",
		"/usr/lib/systemd", "/usr/share/zoneinfo", "/usr/local/go", "/usr/lib/go-1*", "/usr/lib/node_modules", "/usr/lib/git-core", "/usr/lib/gcc", "/usr/share/vim", "/usr/share/mime",
		"/usr/share/man", "/usr/share/locale", "/usr/lib/ssl", "/etc/ssl", "/usr/lib/udev", "/usr/lib/*/qt5", "/usr/lib/*/qt6", "/usr/lib/jvm", "/usr/lib/modules/*", "/usr/lib/*/perl-base",
	} {
		found := try.Get(filepath.Glob(pattern))
		for _, dir := range found {
			trees[dir] = ""
		}
	}
	var log, table strings.Builder
	w := tabwriter.NewWriter(&log, 0, 0, 2, ' ', 0)
	done := 0
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		make := trees[name]
		t.Run(strings.TrimPrefix(name, "/"), func(t *testing.T) {
			defer try.Fatal(t)
			dir := name
			if make != "" {
				dir = t.TempDir()
				cmd := exec.Command("sh", "-c", make)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Skipf("cannot be made here: %v\n%s", err, out)
				}
			}
			entries, size := measure(dir)
			if size > large && !tier.Nightly || entries < 3 {
				t.Skipf("%d entries, %d MB", entries, size>>20)
			}
			needed := life(t, dir)
			fmt.Fprintf(w, "%s\t%d entries\t%.1f MB\t%s\n", name, entries, float64(size)/1e6, needed)
			fmt.Fprintf(&table, "| %s | %d | %.1f MB | %s |\n", name, entries, float64(size)/1e6, needed)
			done++
		})
	}
	w.Flush()
	t.Logf("packed, installed, verified, equal, factory, rolled back: %d trees\n%s", done, &log)
	if *update && !t.Failed() {
		const begin = "| tree | entries | size | refused at first |\n|---|---|---|---|\n"
		text := try.Get(os.ReadFile(treesDoc))
		head, _, found := strings.Cut(string(text), begin)
		if !found {
			t.Fatalf("%s has no table", treesDoc)
		}
		try.Check(os.WriteFile(treesDoc, []byte(head+begin+table.String()), 0o644))
	}
	if done < 15 && os.Getenv("CI") != "true" {
		t.Errorf("%d trees of this machine, want 15", done)
	}
}

// measure counts what is in dir.
func measure(dir string) (entries int, size int64) {
	try.Check(filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		try.Check(err)
		if info := try.Get(d.Info()); info.Mode().IsRegular() {
			size += info.Size()
		}
		entries++
		return nil
	}))
	return entries - 1, size
}

var kindLine = regexp.MustCompile(`(?m)^(refused|warning): (.*)$`)

// life takes the tree dir through a device's life, and returns what create said of it.
func life(t *testing.T, dir string) string {
	d := newDevice(t, t.TempDir())
	said := "nothing"
	if _, err := d.run("ota-bundle", "create", "--check", "--dir", dir); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 4 {
			t.Fatal(err)
		}
		var kinds []string
		for _, m := range kindLine.FindAllStringSubmatch(err.Error(), -1) {
			if m[1] == "refused" {
				kinds = append(kinds, m[2])
			}
		}
		said = strings.Join(kinds, ", ")
	}
	d.must("ota-bundle", "create", "--dir", dir, "--version", "1.0.0", "--model", "x1", "--release", "1",
		"--key", d.dir+"/k.key", "--level", "fastest", "-o", d.dir+"/1.0.0.ota", "--allow-link", "*", "--allow", "*")
	same := func(version string) {
		t.Helper()
		d.must("ota-apply", "verify", version)
		d.must("diff", "-r", "--no-dereference", "--exclude=.ota", dir, d.store+"/v"+version)
	}
	d.must("ota-apply", "install", d.dir+"/1.0.0.ota")
	same("1.0.0")
	d.must("ota-guardian", "boot")
	d.must("ota-guardian", "confirm")
	d.must("ota-guardian", "factory", "create")
	d.must("ota-apply", "install", d.bundle("1.1.0", 2, 0, 1))
	d.must("ota-guardian", "boot")
	d.must("ota-guardian", "confirm")
	d.must("ota-guardian", "rollback", "factory")
	d.must("ota-guardian", "factory", "verify")
	same("1.0.0")
	if current, err := os.Readlink(d.store + "/.active/current"); err != nil || filepath.Base(current) != "v1.0.0" {
		t.Errorf("current is %s, %v", current, err)
	}
	return said
}
