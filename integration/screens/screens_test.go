// Package screens writes docs/SCREENS.md: what the programs print to people, by the real
// main of each, on 80 columns.
package screens

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/cmdtest"
	"github.com/tope-ota/ota/integration/try"
)

var update = flag.Bool("update", false, "write docs/SCREENS.md")

const columns = 80

func TestMain(m *testing.M) { cmdtest.Main(m, nil) }

const intro = `# Screens

What the programs print to people, on 80 columns. ` + "`go test ./integration/screens -update`" + ` writes this page; without the flag the test
fails for a screen that changed, or that is wider. Free space, times and paths are made the same on every machine. On a terminal the
phase, and ok, warn and fail, are in colour.
`

func TestScreens(t *testing.T) {
	defer try.Fatal(t)
	page := bytes.NewBufferString(intro)
	screen := func(title, command, output string) {
		fmt.Fprintf(page, "\n## %s\n\n```text\n# %s\n%s```\n", title, command, output)
		for line := range strings.Lines(output) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > columns {
				t.Errorf("%s: %d columns, want at most %d: %s", title, n, columns, line)
			}
		}
	}

	d := newDevice(t)
	d.install("1.0.0", 1)
	d.guardian(0, "confirm")
	d.guardian(0, "factory", "create")
	d.install("1.1.0", 2)
	d.guardian(0, "confirm")
	screen("Confirmed", "ota status", d.guardian(0, "status"))
	d.install("1.2.0", 3)
	screen("A trial", "ota status", d.guardian(0, "status"))
	d.sick(true)
	d.guardian(8, "confirm")
	d.sick(false)
	d.guardian(0, "confirm")
	screen("Rolled back", "ota status", d.guardian(0, "status"))
	screen("Why it rolled back", "ota why", d.guardian(0, "why"))
	screen("The history", "ota history", d.guardian(0, "history"))
	screen("The versions", "ota list", d.apply(0, "list"))
	d.install("1.3.0", 4)
	d.sick(true)
	d.guardian(8, "confirm")
	d.guardian(9, "confirm")
	screen("On hold", "ota status", d.guardian(0, "status"))
	screen("The setup of a device", "ota-bundle doctor --sysroot image", rewrap(d.doctor()))
	screen("A tree with ten problems", "ota-bundle create --check --dir bad", d.badTree())

	name := filepath.Join("..", "..", "docs", "SCREENS.md")
	if *update {
		try.Check(os.WriteFile(name, page.Bytes(), 0o644))
	}
	if is := try.Get(os.ReadFile(name)); !bytes.Equal(is, page.Bytes()) {
		t.Errorf("%s is not what the programs print; `go test ./integration/screens -update` writes it. They print:\n%s", name, page)
	}
}

// A device is a store without systemd.
type device struct {
	t        *testing.T
	dir, cfg string
}

func newDevice(t *testing.T) *device {
	d := &device{t: t, dir: t.TempDir()}
	d.cfg = d.path("etc/ota/ota.toml")
	for _, dir := range []string{"etc/ota/keys", "versions", "run"} {
		try.Check(os.MkdirAll(d.path(dir), 0o755))
	}
	d.write("check", "#!/bin/sh\n[ ! -e "+d.path("sick")+" ] || { echo 'GET /health: 500'; exit 1; }\n", 0o755)
	d.write("etc/ota/ota.toml", fmt.Sprintf("root = %q\nmodel = \"x1\"\nrun = %q\nreserve = 0\n[report]\nurl = \"\"\n"+
		"[trial]\ndeadline = \"1s\"\nstable = \"10ms\"\n[[check]]\nname = \"app answers\"\nscript = %q\n", d.path("versions"), d.path("run"), d.path("check")), 0o644)
	d.bundle(0, "keygen", "--no-password", d.path("k"))
	try.Check(os.Rename(d.path("k.pub"), d.path("etc/ota/keys/k.pub")))
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) write(name, text string, mode os.FileMode) {
	try.Check(os.MkdirAll(filepath.Dir(d.path(name)), 0o755))
	try.Check(os.WriteFile(d.path(name), []byte(text), mode))
	try.Check(os.Chmod(d.path(name), mode))
}

func (d *device) sick(yes bool) {
	if yes {
		d.write("sick", "", 0o644)
	} else {
		try.Check(os.Remove(d.path("sick")))
	}
}

func (d *device) install(version string, release int) {
	d.write("tree/app", version+strings.Repeat(" ", 300<<10), 0o755)
	d.write("tree/data", strings.Repeat("x", 3<<20), 0o644)
	out := d.path(version + ".ota")
	d.bundle(0, "create", "--dir", d.path("tree"), "--version", version, "--release", fmt.Sprint(release), "--model", "x1", "--key", d.path("k.key"), "-o", out)
	d.apply(0, "install", out)
}

func (d *device) guardian(exit int, args ...string) string {
	return d.run(exit, "ota-guardian", slices.Concat([]string{"--config", d.cfg}, args)...)
}

func (d *device) apply(exit int, args ...string) string {
	return d.run(exit, "ota-apply", slices.Concat([]string{"--config", d.cfg}, args)...)
}

func (d *device) bundle(exit int, args ...string) string { return d.run(exit, "ota-bundle", args...) }

var differs = []struct {
	is *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`(?m)^free      .*$`), "free      1.2 GiB"},
	{regexp.MustCompile(`3\d\d KiB`), "320 KiB"}, // directories take blocks on some file systems
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "2026-11-29T08:00:00Z"},
	{regexp.MustCompile(`(?m)^(ok    free space +)\S+ [KMGT]iB free`), "${1}1.2 GiB free"},
	{regexp.MustCompile(`(?m)^(ok    inodes +).*$`), "${1}64000 free, a version needs 3"},
	{regexp.MustCompile(`(?m)^(ok    clock +).*$`), "${1}2026-11-29"},
}

// run is what program prints, on both outputs, with what differs from run to run made
// the same. It must end with exit.
func (d *device) run(exit int, program string, args ...string) string {
	d.t.Helper()
	d.age()
	cmd := exec.Command(program, args...)
	cmd.Dir = d.dir // a path that is given from here is as long on every machine
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != exit {
		d.t.Fatalf("%s %q: exit code %d, want %d:\n%s", program, args, got, exit, out)
	}
	text := strings.NewReplacer(d.path("image"), "", d.dir, "").Replace(string(out))
	for _, r := range differs {
		text = r.is.ReplaceAllString(text, r.as)
	}
	return text
}

// age gives each generation the next hour, the last was written 20 minutes ago, and each
// version a day.
func (d *device) age() {
	for pattern, step := range map[string]time.Duration{
		"versions/.generations/*/record.json": time.Hour, "versions/v*/.ota/manifest.json": 24 * time.Hour,
	} {
		names := try.Get(filepath.Glob(d.path(pattern)))
		slices.SortFunc(names, func(a, b string) int { return bootcheck.CompareVersions(b, a) })
		at := time.Now().Add(-20 * time.Minute)
		for _, name := range names {
			try.Check(os.Chtimes(name, at, at))
			at = at.Add(-step)
		}
	}
}

// doctor looks at an image that lacks three things.
func (d *device) doctor() string {
	d.write("image/etc/ota/ota.toml", "model = \"x1\"\n", 0o644)
	try.Check(os.CopyFS(d.path("image/etc/ota/keys"), os.DirFS(d.path("etc/ota/keys"))))
	try.Check(os.MkdirAll(d.path("image/opt/tope"), 0o755))
	try.Check(os.CopyFS(d.path("image/etc/systemd/system"), os.DirFS("../../units")))
	for _, name := range []string{"ota-guardian", "ota-apply"} {
		d.write("image/usr/bin/"+name, "#!/bin/sh\n", 0o755)
	}
	try.Check(os.Rename(d.path("image/etc/systemd/system/device-api.service.example"), d.path("image/etc/systemd/system/device-api.service")))
	wants := regexp.MustCompile(`(?m)^(?:WantedBy|RequiredBy)=(.*)$`)
	for _, unit := range try.Get(filepath.Glob(d.path("image/etc/systemd/system/*.*"))) {
		text, _ := os.ReadFile(unit) // of a directory: none
		if m := wants.FindSubmatch(text); m != nil && filepath.Base(unit) != "ota-verify.timer" {
			dir := filepath.Join(filepath.Dir(unit), string(m[1])+".wants")
			try.Check(os.MkdirAll(dir, 0o755))
			try.Check(os.Symlink("../"+filepath.Base(unit), filepath.Join(dir, filepath.Base(unit))))
		}
	}
	d.guardian(0, "adopt", "--root", d.path("image/opt/tope/versions"))
	return d.bundle(1, "doctor", "--sysroot", d.path("image"))
}

// rewrap wraps the lines of doctor as it does on a terminal; to a pipe it writes one a
// finding.
func rewrap(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		indent := 34
		if strings.HasPrefix(line[min(len(line), indent):], "-> ") {
			indent += 3
		}
		if len(line) <= indent || len(line) <= columns {
			b.WriteString(line)
			continue
		}
		b.WriteString(line[:indent] + bootcheck.Wrap(indent, line[indent:]) + "\n")
	}
	return b.String()
}

// badTree has ten problems.
func (d *device) badTree() string {
	d.write("bad/app", "x", 0o666)
	d.write("bad/setuid", "x", 0o755)
	try.Check(os.Chmod(d.path("bad/setuid"), 0o755|os.ModeSetuid))
	d.write("bad/key.pem", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n", 0o644)
	d.write("bad/.env", "SECRET=1", 0o644)
	d.write("bad/lib/a", "x", 0o644)
	try.Check(os.Link(d.path("bad/lib/a"), d.path("bad/lib/b")))
	try.Check(os.Symlink("/usr/bin/python3", d.path("bad/python")))
	try.Check(os.Symlink("../out", d.path("bad/out")))
	try.Check(os.Symlink("missing", d.path("bad/lost")))
	try.Check(syscall.Mkfifo(d.path("bad/fifo"), 0o644))
	try.Check(os.MkdirAll(d.path("bad/.git"), 0o755))
	try.Check(os.Mkdir(d.path("bad/log"), 0o755))
	try.Check(os.Chmod(d.path("bad/log"), 0o777))
	return d.bundle(4, "create", "--check", "--dir", "bad")
}
