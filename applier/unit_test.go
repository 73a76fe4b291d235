package applier

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// What installUnit is asked for is the command line as it was checked: the address
// that was read from elsewhere, full paths, the proxies, and nothing else of the
// environment.
func TestRequest(t *testing.T) {
	for _, name := range append(slices.Clone(requestVariables), "OTA_CONFIG") {
		t.Setenv(name, "")
	}
	t.Setenv("https_proxy", "http://joe:secret@proxy.example:3128")
	t.Setenv("TOKEN", "x")
	c, err := parse([]string{"install", "--json", "--url-file", "address", "--limit-rate", "1M"}, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	c.arg = "https://joe:secret@host.example/x?sig=a+b%20c"
	r := c.asRequest(config.Default(config.DefaultPath))
	if r.Target != c.arg || r.Config != "" || r.Root != "/opt/tope/versions" ||
		!slices.Equal(r.Args, c.args) || !slices.Equal(r.Environment, []string{"https_proxy=http://joe:secret@proxy.example:3128"}) {
		t.Errorf("the request is %+v", r)
	}
	again, err := r.command()
	if err != nil || again.name != "install" || !again.json || again.arg != c.arg || again.urlFile != "" ||
		again.root != r.Root || *again.limitRate != *c.limitRate {
		t.Errorf("the command in the unit is %+v, %v", again, err)
	}
	t.Setenv("OTA_CONFIG", "/etc/other.toml")
	if r := c.asRequest(config.Default("/etc/other.toml")); r.Config != "/etc/other.toml" {
		t.Errorf("the request names the configuration %q", r.Config)
	}
}

type panics struct{}

func (panics) Write([]byte) (int, error) { panic("here") }

// A panic of the install in the unit must not look like an exit code: Go's own is that of a
// command line that is wrong, of which nothing is reported and nothing was changed.
func TestPanicInTheUnit(t *testing.T) {
	const inside = "OTA_TEST_PANIC"
	if os.Getenv(inside) != "" {
		Main(t.Context(), []string{serveInstall}, io.Discard, panics{}) // it was not asked for anything, and says so
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Dir = t.TempDir() // for a core
	err := cmd.Run()
	if is := cmd.ProcessState.Sys().(syscall.WaitStatus); !is.Signaled() || is.Signal() != syscall.SIGABRT {
		t.Errorf("it ended with %v, want SIGABRT", err)
	}
}

// The unit has no more of the environment than it needs.
func TestRequestEnvironment(t *testing.T) {
	t.Setenv("NO_PROXY", "")
	t.Setenv("LD_PRELOAD", "")
	r := &request{Args: []string{"activate", "1.0.0"}, Target: "1.0.0", Environment: []string{"NO_PROXY=host.example", "LD_PRELOAD=/x", "broken"}}
	if _, err := r.command(); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("NO_PROXY") != "host.example" || os.Getenv("LD_PRELOAD") != "" {
		t.Errorf("NO_PROXY=%q LD_PRELOAD=%q", os.Getenv("NO_PROXY"), os.Getenv("LD_PRELOAD"))
	}
}

// An operator who looks an event up finds one explanation of it, and every
// explanation is of an event.
func TestCatalog(t *testing.T) {
	data, err := os.ReadFile("../units/ota.catalog")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range regexp.MustCompile(`(?m)^-- (.*)\nSubject: .*\nDefined-By: ota-apply$`).FindAllStringSubmatch(string(data), -1) {
		ids = append(ids, m[1])
	}
	if want := []string{eventBegun.ID, eventEnded.ID}; !slices.Equal(ids, want) {
		t.Errorf("the catalog explains %s, want %s", strings.Join(ids, " "), strings.Join(want, " "))
	}
}

// What the install in the unit asks for when its address expires, the command that follows
// answers, as often as it is asked; when that is gone, or has none, the address has expired.
func TestFreshAddresses(t *testing.T) {
	var log bytes.Buffer
	answers := []string{"https://host.example/x?sig=1", "", "https://host.example/x?sig=2"}
	a := &applier{log: &log, fresh: func(context.Context) (string, error) {
		next := answers[0]
		if answers = answers[1:]; next == "" {
			return "", errors.New("the command fails")
		}
		return next, nil
	}}
	follower, asks, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		a.giveAddresses(t.Context(), follower)
	}()
	ask := askFor(asks)
	for _, want := range slices.Clone(answers) {
		got, err := ask(t.Context())
		if got != want || (err == nil) != (want != "") {
			t.Errorf("asked for an address, got %q (%v), want %q", got, err, want)
		}
		if err != nil && bootcheck.ReportCode(err) != bootcheck.CodeAddressExpired {
			t.Errorf("%v: code %s", err, bootcheck.ReportCode(err))
		}
	}
	if !strings.Contains(log.String(), "the command fails") {
		t.Errorf("the log says %q", &log)
	}
	follower.Close()
	<-gone
	if got, err := ask(t.Context()); err == nil {
		t.Errorf("got %q without an install", got)
	}

	silent, asks, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := askFor(asks)(ctx); err == nil {
		t.Errorf("got %q though the install was interrupted", got)
	}
}

// The command of --url-from is not run in the unit.
func TestURLFromInTheUnit(t *testing.T) {
	c, err := parse([]string{"install", "--url-from", "exit 1"}, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	c.arg = "https://host.example/x?sig=1"
	again, err := c.asRequest(config.Default(config.DefaultPath)).command()
	if err != nil || again.arg != c.arg || again.urlFrom == "" {
		t.Errorf("the command in the unit is %+v, %v", again, err)
	}
}
