package applier

import (
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

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
