package follow_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/guardian"
	"github.com/tope-ota/ota/integration/fleet/fake"
)

// TestMain is the three programs, too: a device here is processes, a store and a server.
func TestMain(m *testing.M) {
	switch ctx := context.Background(); filepath.Base(os.Args[0]) {
	case "ota-apply":
		os.Exit(int(applier.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)))
	case "ota-guardian":
		os.Exit(int(guardian.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)))
	case "ota-bundle":
		os.Exit(int(bundlecmd.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
	}
	code := m.Run()
	if releases != "" {
		os.RemoveAll(releases)
	}
	os.Exit(code)
}

// program runs one of the three, as a process. They lie in one directory, where the guardian
// finds ota-apply.
func program(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(releases, "bin", args[0]), args[1:]...)
}

const dataSize = 2 << 20 // bytes that all versions have

var (
	releases string // a directory of bundles: 1.0.0, 1.1.0, 1.2.0 for x1, 2.0.0 for x9
	prepare  sync.Once
)

// bundles makes the releases once.
func bundles(t *testing.T) string {
	t.Helper()
	prepare.Do(func() {
		dir, err := os.MkdirTemp("", "follow-test")
		if err != nil {
			t.Fatal(err)
		}
		releases = dir
		exe, err := os.Executable()
		if err == nil {
			err = os.Mkdir(filepath.Join(dir, "bin"), 0o755)
		}
		for _, name := range []string{"ota-apply", "ota-guardian", "ota-bundle"} {
			if err == nil {
				err = exec.Command("cp", "-l", exe, filepath.Join(dir, "bin", name)).Run()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		bundle := func(args ...string) {
			if out, err := program(append([]string{"ota-bundle"}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("ota-bundle %q: %v\n%s", args, err, out)
			}
		}
		bundle("keygen", "--no-password", filepath.Join(dir, "k"))
		data := make([]byte, dataSize)
		_, _ = rand.Read(data)
		for version, model := range map[string]string{"1.0.0": "x1", "1.1.0": "x1", "1.2.0": "x1", "2.0.0": "x9"} {
			tree := filepath.Join(dir, "tree")
			if err := errors.Join(os.MkdirAll(tree, 0o755), os.WriteFile(filepath.Join(tree, "app"), []byte("#!/bin/sh\necho "+version+"\n"), 0o755), os.WriteFile(filepath.Join(tree, "data"), data, 0o644)); err != nil {
				t.Fatal(err)
			}
			bundle("create", "--dir", tree, "--version", version, "--model", model, "--key", filepath.Join(dir, "k.key"), "--release", "0", "-o", filepath.Join(dir, version+".ota"))
		}
	})
	return releases
}

const secret = "TargetToken marker-4711"

// A device runs 1.0.0, confirmed, and follows a server.
type device struct {
	*testing.T
	dir    string
	server *fake.Server
	out    bytes.Buffer // of the last command
}

func newDevice(t *testing.T) *device {
	t.Helper()
	t.Parallel()
	d := &device{T: t, dir: t.TempDir(), server: fake.New(bundles(t))}
	t.Cleanup(d.server.Close)
	d.server.Token(secret)
	for _, dir := range []string{"keys", "versions", "run"} {
		d.check(os.Mkdir(d.path(dir), 0o755))
	}
	key, err := os.ReadFile(filepath.Join(releases, "k.pub"))
	d.check(err)
	d.write("keys/k.pub", string(key), 0o644)
	d.write("token", strings.TrimPrefix(secret, "TargetToken ")+"\n", 0o600)
	d.write("check", "#!/bin/sh\ntest ! -e "+d.path("sick")+" || { echo it is sick; exit 1; }\n", 0o755)
	text := fmt.Sprintf(`root = %q
model = "x1"
keys = [%q]
reserve = 0
run = %q
services = []
[report]
url = ""
[trial]
deadline = "1m"
stable = "50ms"
[[check]]
name = "app is well"
script = %q
[follow]
source = "ddi"
url = %q
device_id = "printer 7"
token_file = %q
`, d.path("versions"), d.path("keys"), d.path("run"), d.path("check"), d.server.URL, d.path("token"))
	d.write("ota.toml", text, 0o644)
	d.write("impatient.toml", strings.Replace(text, `"1m"`, `"2s"`, 1), 0o644)
	d.run(0, "ota-apply", "install", filepath.Join(releases, "1.0.0.ota"))
	d.run(0, "ota-guardian", "confirm")
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) check(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *device) write(name, text string, mode os.FileMode) {
	d.Helper()
	d.check(os.WriteFile(d.path(name), []byte(text), mode))
	d.check(os.Chmod(d.path(name), mode))
}

// command is a program. Of a sick version nothing is worth a wait, and with others a slow
// machine is no failure.
func (d *device) command(args ...string) *exec.Cmd {
	config := "ota.toml"
	if _, err := os.Stat(d.path("sick")); err == nil {
		config = "impatient.toml"
	}
	cmd := program(slices.Concat(args[:1], []string{"--config", d.path(config)}, args[1:])...)
	d.out.Reset()
	cmd.Stdout, cmd.Stderr = &d.out, &d.out
	return cmd
}

// run runs a program that must end with code.
func (d *device) run(code int, args ...string) {
	d.Helper()
	cmd := d.command(args...)
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		d.Fatalf("%q ended with %d, want %d\n%s", args, got, code, &d.out)
	}
	if strings.Contains(d.out.String(), "marker-4711") {
		d.Fatalf("%q shows the token:\n%s", args, &d.out)
	}
}

func (d *device) once(code int) { d.Helper(); d.run(code, "ota-apply", "follow", "--once") }

// said is what the server was told of a, in words: "deploymentBase closed/failure 8".
func (d *device) said(a *fake.Action) (all []string) {
	for _, f := range d.server.Said(a) {
		all = append(all, strings.TrimRight(fmt.Sprintf("%s/%s", f.Execution, f.Finished), "/"))
	}
	return all
}

// last fails unless the last that was said of a is want, and was said once.
func (d *device) last(a *fake.Action, want string) {
	d.Helper()
	all := d.said(a)
	n := 0
	for _, s := range all {
		if s == want {
			n++
		}
	}
	if n != 1 || all[len(all)-1] != want {
		d.Fatalf("of action %s the server was told %q, want %q once, at the end\n%s", a.ID, all, want, &d.out)
	}
}

func (d *device) unclosed(a *fake.Action) {
	d.Helper()
	if s := d.said(a); slices.ContainsFunc(s, func(s string) bool { return strings.HasPrefix(s, "closed") }) {
		d.Fatalf("action %s was closed: %q", a.ID, s)
	}
}

func (d *device) current(want string) {
	d.Helper()
	got, err := filepath.EvalSymlinks(d.path("versions/current"))
	if err != nil || filepath.Base(got) != "v"+want {
		d.Fatalf("current is %s (%v), want %s\n%s", got, err, want, &d.out)
	}
}

func (d *device) state() string {
	data, err := os.ReadFile(d.path("versions/.follow.json"))
	d.check(err)
	return string(data)
}

func (d *device) details(a *fake.Action) string {
	log := d.server.Said(a)
	return strings.Join(log[len(log)-1].Details, "\n")
}

// downloads are the requests for a bundle since the last call.
func (d *device) downloads() (n int) {
	for _, r := range d.server.Requests() {
		if strings.Contains(r, "/files/") {
			n++
		}
	}
	return n
}

func (d *device) eventually(is func() bool) {
	d.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			d.Fatalf("not within a minute\n%s", &d.out)
		}
	}
}
