package fleet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// A release is a directory with the programs as they are shipped, in bin, a key, k.key, and
// what devices trust, in keys.
type release string

func newRelease(t *testing.T) release {
	r := release(t.TempDir())
	for _, dir := range []string{"bin", "keys"} {
		try.Check(os.Mkdir(r.path(dir), 0o755))
	}
	for name, pkg := range map[string]string{"ota-apply": "applier", "ota-bundle": "applier", "ota-guardian": "guardian"} {
		try.Check(os.WriteFile(r.path("bin/"+name), try.Get(debian.Program(t.Context(), "./"+pkg+"/cmd/"+name)), 0o755))
	}
	r.must("ota-bundle", "keygen", "--no-password", "k")
	try.Check(os.Rename(r.path("k.pub"), r.path("keys/k.pub")))
	return r
}

func (r release) path(name string) string { return filepath.Join(string(r), name) }

// command is one of the programs; names of files are those of the release.
func (r release) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(r.path("bin/"+name), args...)
	cmd.Dir = string(r)
	return cmd
}

func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%q: %w\n%s", cmd.Args, err, out)
	}
	return nil
}

// must runs a program, which has to succeed.
func (r release) must(name string, args ...string) { try.Check(run(r.command(name, args...))) }

// exit is the exit code of a run that ended with err; -1: it did not run.
func exit(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return -1
}

// bundle makes that of a version in a directory. What it holds is a file: "bad", or any other.
func (r release) bundle(dir, version string, number int, file string) {
	tree := "tree-" + version
	try.Check(os.Mkdir(r.path(tree), 0o755))
	try.Check(os.WriteFile(filepath.Join(r.path(tree), file), []byte(version), 0o644))
	r.must("ota-bundle", "create", "--dir", tree, "--version", version, "--model", "x1", "--key", "k.key", "--release", fmt.Sprint(number), "-o", dir+"/"+version+".ota")
}

// A device is a directory: a store and a configuration.
type device struct {
	release
	name, dir string
	sick      bool // a bad version is bad on it
}

// newDevice makes one that follows the source at url. It runs no version.
func newDevice(r release, name, dir, source, url string, sick bool) *device {
	d := &device{r, name, dir, sick}
	try.Check(os.MkdirAll(d.path("run"), 0o755))
	check := "#!/bin/sh\n"
	if sick {
		check += fmt.Sprintf("test ! -e %s/current/bad || { echo it is bad; exit 1; }\n", d.path("versions"))
	}
	try.Check(os.WriteFile(d.path("check"), []byte(check), 0o755))
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
source = %q
url = %q
device_id = %q
`, d.path("versions"), r.path("keys"), d.path("run"), d.path("check"), source, url, name)
	d.configure(text)
	return d
}

// configure writes the configuration, and one for a trial that is lost.
func (d *device) configure(text string) {
	for name, deadline := range map[string]string{"ota.toml": "1m", "impatient.toml": "300ms"} {
		try.Check(os.WriteFile(d.path(name), []byte(strings.Replace(text, `"1m"`, `"`+deadline+`"`, 1)), 0o644))
	}
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

// begin brings the device to the version of a bundle.
func (d *device) begin(bundle string) {
	try.Check(d.ota("ota-apply", "install", bundle))
	try.Check(d.ota("ota-guardian", "confirm"))
}

// like makes d run what other does.
func (d *device) like(other *device) {
	try.Check(run(exec.Command("cp", "-a", other.path("versions"), d.path("versions"))))
}

// command is a program for the device. With a bad version nothing is worth a wait, and with
// others a slow machine is no failure.
func (d *device) command(name string, args ...string) *exec.Cmd {
	config := "ota.toml"
	if _, err := os.Stat(d.path("versions/current/bad")); d.sick && err == nil {
		config = "impatient.toml"
	}
	return d.release.command(name, append([]string{"--config", d.path(config)}, args...)...)
}

func (d *device) ota(name string, args ...string) error { return run(d.command(name, args...)) }

func (d *device) current() string {
	target, err := filepath.EvalSymlinks(d.path("versions/current"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimPrefix(filepath.Base(target), "v")
}

// each does something on every device, some at once.
func each(devices []*device, do func(*device) error) error {
	errs := make([]error, len(devices))
	var wg sync.WaitGroup
	free := make(chan bool, 2*runtime.NumCPU())
	for i, d := range devices {
		free <- true
		wg.Go(func() {
			if err := do(d); err != nil {
				errs[i] = fmt.Errorf("%s: %w", d.name, err)
			}
			<-free
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
