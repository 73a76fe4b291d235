package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tope-ota/ota/bootcheck"
)

var noPrivate = cmpopts.IgnoreUnexported(Config{})

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ota.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDefaults holds the defaults that the documentation and other programs
// rely on.
func TestDefaults(t *testing.T) {
	want := &Config{
		Root:      "/opt/tope/versions",
		Spool:     "/opt/tope/versions/.spool",
		Keys:      []string{"/etc/ota/keys"},
		Services:  []string{"device-api.service"},
		Keep:      2,
		Reserve:   67108864,
		Run:       "/run/ota",
		Report:    Report{"http://127.0.0.1:9080/api/v1.0/ota/report"},
		Trial:     Trial{bootcheck.BootLimits{Hard: 3, Unclean: 6, Clean: 10}, 600 * time.Second, 60 * time.Second},
		Checks:    []Check{{Name: "device-api answers", HTTP: "http://127.0.0.1:9080/health", Required: true, Timeout: 10 * time.Second}},
		ChecksDir: "/etc/ota/checks.d",
		Path:      "/etc/ota/ota.toml",

		CA: []string{}, DownloadDeadline: 24 * time.Hour, Reuse: "auto",
		Follow: Follow{Tenant: "DEFAULT", TokenFile: "/etc/ota/follow-token", Parts: []string{"bApp"}},
	}
	if diff := cmp.Diff(want, Default(DefaultPath), noPrivate); diff != "" {
		t.Errorf("Default (-want +got):\n%s", diff)
	}
	if !want.IsDefault(want.Checks[0]) {
		t.Error("the default check is not taken for it")
	}
	path := write(t, "# nothing\n")
	got, err := Load(path)
	if err != nil {
		t.Errorf("an empty file: %v", err)
	}
	want = Default(path)
	if want.Keys[0] != filepath.Join(filepath.Dir(path), "keys") || want.ChecksDir != filepath.Join(filepath.Dir(path), "checks.d") {
		t.Errorf("keys %q and checks %q are not beside %q", want.Keys, want.ChecksDir, path)
	}
	if diff := cmp.Diff(want, got, noPrivate); diff != "" {
		t.Errorf("an empty file (-want +got):\n%s", diff)
	}
}

func TestEveryKey(t *testing.T) {
	path := write(t, `
root = "/data/versions/"
spool = "/data/spool"
keys = ["/etc/keys", "/usr/share/ota/maker.pub"]
model = "tope-x1"
services = ["device-api.service", "ui@left.service"]
keep = 0
reserve = "100MB"
run = "/run/other"
reuse = "copy"
proxy = "http://joe:pw@proxy.example:3128"
ca = "/etc/ota/ca.pem"
limit_rate = "500k"
download_deadline = "168h"
[report]
url = ""
[trial]
hard = 1
unclean = 2
clean = 3
deadline = "90s"
stable = 5
[[check]]
name = "screen lives"
unit = "ui@left.service"
required = false
timeout = "500ms"
[[check]]
name = "answers"
http = "http://localhost:9080/health"
[[check]]
name = "calibrated"
script = "/usr/lib/tope/calibrated"
[metrics]
file = "/var/lib/node_exporter/ota.prom"
[follow]
source = "ddi"
url = "https://updates.example.com/base/"
tenant = "TOPE"
device_id = "SN-0042"
token_file = "/etc/token"
parts = ["bApp", "firmware"]
`)
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Root:     "/data/versions",
		Spool:    "/data/spool",
		Keys:     []string{"/etc/keys", "/usr/share/ota/maker.pub"},
		Model:    "tope-x1",
		Services: []string{"device-api.service", "ui@left.service"},
		Keep:     0,
		Reserve:  100_000_000,
		Run:      "/run/other",
		Trial:    Trial{bootcheck.BootLimits{Hard: 1, Unclean: 2, Clean: 3}, 90 * time.Second, 5 * time.Second},
		Checks: []Check{
			{Name: "screen lives", Unit: "ui@left.service", Timeout: 500 * time.Millisecond},
			{Name: "answers", HTTP: "http://localhost:9080/health", Required: true, Timeout: 10 * time.Second},
			{Name: "calibrated", Script: "/usr/lib/tope/calibrated", Required: true, Timeout: 10 * time.Second},
		},
		ChecksDir: filepath.Join(filepath.Dir(path), "checks.d"),
		Metrics:   Metrics{"/var/lib/node_exporter/ota.prom"},
		Path:      path,

		Proxy: "http://joe:pw@proxy.example:3128", CA: []string{"/etc/ota/ca.pem"},
		LimitRate: 512000, DownloadDeadline: 168 * time.Hour, Reuse: "copy",
		Follow: Follow{"ddi", "https://updates.example.com/base", "TOPE", "SN-0042", "/etc/token", []string{"bApp", "firmware"}},
	}
	if diff := cmp.Diff(want, got, noPrivate); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheDocumentedExampleIsTheDefault(t *testing.T) {
	src, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	var example strings.Builder
	for line := range strings.Lines(string(src)) {
		if strings.HasPrefix(line, "package") {
			break
		}
		if text, ok := strings.CutPrefix(line, "//\t"); ok {
			example.WriteString(text)
		}
	}
	got, err := Load(write(t, example.String()))
	if err != nil {
		t.Fatal(err)
	}
	want := Default(got.Path)
	want.Keys, want.Model, want.Metrics.File = got.Keys, "tope-x1", "/run/ota/ota.prom"
	want.Follow.TokenFile = "/etc/ota/follow-token"
	if got.IsDefault(got.Checks[0]) {
		t.Error("a check that the file names is taken for the default one")
	}
	if diff := cmp.Diff(want, got, noPrivate); diff != "" {
		t.Errorf("the example in the package comment against the defaults (-default +example):\n%s", diff)
	}
}

// TestWrongValues: each is named with its key and line, has its default, and
// does not stop the key after it.
func TestWrongValues(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`root = "versions"`, `line 2: root: must be an absolute path`},
		{`root = "/opt/../etc"`, `line 2: root: must be an absolute path`},
		{`root = "/"`, `line 2: root: cannot be the root`},
		{`root = "//"`, `line 2: root: cannot be the root`},
		{`root = ""`, `line 2: root: must be an absolute path`},
		{`root = 3`, `line 2: root: must be a string, got 3`},
		{`root = ["/a"]`, `line 2: root: must be a string, got a list`},
		{`spool = "x"`, `line 2: spool: must be an absolute path`},
		{`run = "x"`, `line 2: run: must be an absolute path`},
		{`keys = ["/a", "b"]`, `line 2: keys: must be an absolute path`},
		{`keys = [1]`, `line 2: keys: must be a string, got 1`},
		{`keys = 1`, `line 2: keys: must be a string or a list of strings`},
		{`keys = ["/a", "/a/"]`, `line 2: keys: names "/a" twice`},
		{`model = "a\nb"`, `line 2: model: must be one line`},
		{`services = ["device-api.slice"]`, `line 2: services: must be the name of a unit`},
		{`services = ["device api"]`, `line 2: services: must be the name of a unit`},
		{`services = ["../x"]`, `line 2: services: must be the name of a unit`},
		{`services = ["-H"]`, `line 2: services: must be the name of a unit`},
		{`services = ["getty@"]`, `line 2: services: must be the name of a unit`},
		{`services = [""]`, `line 2: services: must be the name of a unit`},
		{`services = ["a", "a.service"]`, `line 2: services: names "a.service" twice`},
		{`services = ["x.service\nExecStart=/bin/sh.service"]`, `line 2: services: must be the name of a unit`},
		{`services = ["../x.service"]`, `line 2: services: must be the name of a unit`},
		{`services = ["-H.service"]`, `line 2: services: must be the name of a unit`},
		{`services = ["getty@.service"]`, `line 2: services: must be the name of a unit`},
		{`services = [".service"]`, `line 2: services: must be the name of a unit`},
		{`services = ["` + strings.Repeat("x", 250) + `.service"]`, `line 2: services: must be the name of a unit`},
		{`keep = -1`, `line 2: keep: must be at least 0, got -1`},
		{`keep = 1001`, `line 2: keep: must be at most 1000, got 1001`},
		{`keep = 2.5`, `line 2: keep: must be an integer, got 2.5`},
		{`keep = "2"`, `line 2: keep: must be an integer, got "2"`},
		{`reserve = -1`, `line 2: reserve: must be at least 0`},
		{`reserve = "64 apples"`, `line 2: reserve: must be a number of bytes or a size`},
		{`reserve = "9223372036854775807GiB"`, `line 2: reserve: must be a number of bytes or a size`},
		{`reserve = "2000GiB"`, `line 2: reserve: must be at least 0 and at most 1024GiB`},
		{`reserve = "M"`, `line 2: reserve: must be a number of bytes or a size`},
		{`reserve = "64MM"`, `line 2: reserve: must be a number of bytes or a size`},
		{`reserve = "9223372036854775807G"`, `line 2: reserve: must be a number of bytes or a size`},
		{`reserve = ""`, `line 2: reserve: must be a number of bytes or a size`},
		{`report.url = "http://example.com/"`, `line 2: report.url: cannot use "http://example.com/"`},
		{`report = "x"`, `report: must be a table, [report]`},
		{`trial = 3`, `trial: must be a table, [trial]`},
		{`trial = []`, `trial: must be a table, [trial]`},
		{`follow.source = "omaha"`, `line 2: follow.source: must be one of ["ddi" "channel"], got "omaha"`},
		{`follow.url = "ftp://example.com"`, `line 2: follow.url: must be the address of a server`},
		{`follow.url = "https://joe:pw@example.com"`, `line 2: follow.url: must be the address of a server`},
		{`follow.url = "https:///x"`, `line 2: follow.url: must be the address of a server`},
		{`follow.url = "https://example.com/?a=b"`, `line 2: follow.url: must be the address of a server`},
		{`follow.tenant = ""`, `line 2: follow.tenant: must be 1 to 64 bytes`},
		{`follow.device_id = "../other"`, `line 2: follow.device_id: must be a name without a slash`},
		{`client_certificate = "device.pem"`, `line 2: client_certificate: must be an absolute path`},
		{`follow.token_file = "token"`, `line 2: follow.token_file: must be an absolute path`},
		{`follow.token = "x"`, `unknown key "follow.token"`},
		{`stable = "1m"`, `unknown key "stable", did you mean "trial.stable"?`},
		{`trial.hard = 0`, `line 2: trial.hard: must be at least 1, got 0`},
		{`trial.hard = 9223372036854775807`, `line 2: trial.hard: must be at most 100`},
		{`trial.unclean = -1`, `line 2: trial.unclean: must be at least 1, got -1`},
		{`trial.clean = 0`, `line 2: trial.clean: must be at least 1, got 0`},
		{`trial.deadline = "soon"`, `line 2: trial.deadline: must be a duration such as`},
		{`trial.deadline = 0`, `line 2: trial.deadline: must be more than 0`},
		{`trial.deadline = "-1s"`, `line 2: trial.deadline: must be more than 0`},
		{`trial.deadline = "25h"`, `line 2: trial.deadline: must be more than 0 and at most 24h`},
		{`trial.deadline = 9223372036854775807`, `line 2: trial.deadline: must be at most 24h`},
		{`trial.stable = true`, `line 2: trial.stable: must be a duration such as`},
		{`trial.stable = 1.5`, `line 2: trial.stable: must be a duration such as`},
		{`trial = {deadline = "30s", stable = "31s"}`, `trial.stable: 31s is longer than the deadline of 30s`},
		{`trial.stable = "11m"`, `trial.stable: 11m0s is longer than the deadline of 10m0s`},
		{`proxy = "proxy.example:3128"`, `line 2: proxy: must be the address of a proxy`},
		{`proxy = "ftp://proxy.example"`, `line 2: proxy: must be the address of a proxy`},
		{`proxy = "http://"`, `line 2: proxy: must be the address of a proxy`},
		{`proxy = "http://proxy.example/path"`, `line 2: proxy: must be the address of a proxy`},
		{`proxy = "http://pro\nxy"`, `line 2: proxy: must be the address of a proxy`},
		{`proxy = 3128`, `line 2: proxy: must be a string, got 3128`},
		{`reuse = "link"`, `line 2: reuse: must be one of ["auto" "copy"], got "link"`},
		{`reuse = true`, `line 2: reuse: must be a string, got true`},
		{`ca = "ca.pem"`, `line 2: ca: must be an absolute path`},
		{`ca = ["/a.pem", "/a.pem"]`, `line 2: ca: names "/a.pem" twice`},
		{`limit_rate = "fast"`, `line 2: limit_rate: must be bytes a second`},
		{`limit_rate = -1`, `line 2: limit_rate: must be bytes a second`},
		{`limit_rate = 1.5`, `line 2: limit_rate: must be bytes a second`},
		{`limit_rate = "9000000000g"`, `line 2: limit_rate: must be bytes a second`},
		{`download_deadline = "169h"`, `line 2: download_deadline: must be more than 0 and at most 168h`},
		{`download_deadline = 700000`, `line 2: download_deadline: must be at most 168h`},
		{`download_deadline = 0`, `line 2: download_deadline: must be more than 0`},
		{`check = 3`, `line 2: check: must be tables, [[check]], got 3`},
		{`check = [3]`, `line 2: check: must be tables, [[check]], got 3`},
		{`check = {}`, `line 2: check: must be tables, [[check]], got a table`},
		{`check = [{unit = "a.service"}]`, `check 1: it has no name`},
		{`check = [{name = "a"}]`, `check 1: "a" must have exactly one of unit, http and script, got 0`},
		{`check = [{name = "a", unit = "a.service", script = "/a"}]`, `check 1: "a" must have exactly one of unit, http and script, got 2`},
		{`check = [{name = "a\nb", unit = "a.service"}]`, `check 1: name: must be one line`},
		{`check = [{name = " ", unit = "a.service"}]`, `check 1: name: must be 1 to 64 bytes`},
		{`check = [{name = "a", http = "http://10.0.0.1/"}]`, `check 1: http: cannot use "http://10.0.0.1/"`},
		{`check = [{name = "a", script = "a"}]`, `check 1: script: must be an absolute path`},
		{`check = [{name = "a", unit = "a b"}]`, `check 1: unit: must be the name of a unit`},
		{`check = [{name = "a", unit = "a.service", required = "yes"}]`, `check 1: required: must be true or false, got "yes"`},
		{`check = [{name = "a", unit = "a.service", timeout = 0}]`, `check 1: timeout: must be more than 0`},
		{`metrics.file = "x.prom"`, `line 2: metrics.file: must be an absolute path`},
		{`metrics.file = "/run/ota/metrics"`, `line 2: metrics.file: must end in .prom: the collector reads no other file`},
	} {
		t.Run(tt.text, func(t *testing.T) {
			path := write(t, "#\n"+tt.text+"\n[zz]\n")
			c, err := Load(path)
			if err == nil {
				t.Fatalf("no error, want %s…", tt.want)
			}
			bad, named := strings.CutPrefix(err.Error(), fmt.Sprintf("configuration %q: ", path))
			if !strings.HasPrefix(bad, tt.want) {
				t.Errorf("got  %v\nwant %s…", bad, tt.want)
			}
			if strings.Contains(bad, "\n") || !named {
				t.Errorf("not one line that names the file: %q", err)
			}
			if diff := cmp.Diff(Default(path), c, noPrivate); diff != "" {
				t.Errorf("the value was used (-default +got):\n%s", diff)
			}
			if !strings.HasSuffix(bad, `; unknown key "zz"`) {
				t.Errorf("error %v, want the unknown key after the wrong value as well", err)
			}
		})
	}
}

// TestOtherWaysToSayIt: what people write who know other programs' ways.
func TestOtherWaysToSayIt(t *testing.T) {
	for _, tt := range []struct {
		text string
		want func(c *Config)
	}{
		{`services = ["device-api", "ui@left", "net.socket"]`, func(c *Config) {
			c.Services = []string{"device-api.service", "ui@left.service", "net.socket"}
		}},
		{`check = [{name = "a", unit = "ui"}]`, func(c *Config) {
			c.Checks = []Check{{Name: "a", Unit: "ui.service", Required: true, Timeout: 10 * time.Second}}
		}},
		{`reserve = "64M"`, func(c *Config) { c.Reserve = 64 << 20 }},
		{`reserve = "100 K"`, func(c *Config) { c.Reserve = 100 << 10 }},
		{`reserve = "1G"`, func(c *Config) { c.Reserve = 1 << 30 }},
		// The default of stable must not make a deadline unusable that was asked for.
		{`trial.deadline = "5s"`, func(c *Config) { c.Trial.Deadline, c.Trial.Stable = 5*time.Second, 5*time.Second }},
		{`trial.deadline = "61s"`, func(c *Config) { c.Trial.Deadline = 61 * time.Second }},
	} {
		path := write(t, tt.text)
		got, err := Load(path)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
		want := Default(path)
		tt.want(want)
		if diff := cmp.Diff(want, got, noPrivate); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.text, diff)
		}
	}
}

func TestTheRestOfAWrongFileCounts(t *testing.T) {
	c, err := Load(write(t, `
keep = -1
model = "tope-x1"
[trial]
hard = 0
clean = 4
[[check]]
name = "broken"
[[check]]
name = "good"
unit = "a.service"
[[check]]
name = "good"
unit = "b.service"
`))
	if c.Keep != 2 || c.Model != "tope-x1" || c.Trial.Hard != 3 || c.Trial.Clean != 4 {
		t.Errorf("got %+v", c)
	}
	if len(c.Checks) != 1 || c.Checks[0].Unit != "a.service" {
		t.Errorf("checks %+v, want only the first good one", c.Checks)
	}
	const want = `check 1: "broken" must have exactly one of unit, http and script, got 0; ` +
		`check 3: there is another check with the name "good"; ` +
		`line 2: keep: must be at least 0, got -1; line 5: trial.hard: must be at least 1, got 0`
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error %v\nwant %s", err, want)
	}
}

func TestUnknownKeys(t *testing.T) {
	c, err := Load(write(t, `
kepe = 1
keep = 7
[trial]
soft = 3
[[check]]
name = "a"
unit = "a.service"
retries = 3
[telemetry]
url = "x"
`))
	const want = `: unknown key "check.retries"; unknown key "kepe", did you mean "keep"?; unknown key "telemetry"; unknown key "trial.soft"`
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Fatalf("error %v, want %s", err, want)
	}
	if c.Keep != 7 || len(c.Checks) != 1 || c.Checks[0].Name != "a" {
		t.Errorf("what is known was not used: %+v", c)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, want string }{
		{"a FIFO", fifo, "not a regular file"},
		{"a directory", dir, "not a regular file"},
		{"a link to itself", loop, "too many levels"},
		{"a file of 2 MiB", write(t, strings.Repeat("# x\n", 512<<10)), "larger than 64 KiB"},
		{"brackets in one another", write(t, "x = "+strings.Repeat("[", 60<<10)), "nested too deep"},
		{"tables in one another", write(t, "x = "+strings.Repeat("{x=", 20<<10)), "nested too deep"},
		{"a key of many parts", write(t, "x"+strings.Repeat(".x", 30<<10)+" = 1"), "too many dots"},
		{"not TOML", write(t, "keep = 1\nhello world\n"), "line 2: "},
		{"a key twice", write(t, "keep = 1\nkeep = 2\n"), "line 2: "},
		{"zeros", write(t, strings.Repeat("\x00", 4096)), "line 1: "},
		{"not UTF-8", write(t, "model = \"\xff\"\n"), "line 1: "},
		{"UTF-16", write(t, "\xff\xfek\x00e\x00e\x00p\x00"), "line 1: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Load(tt.path)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tt.want)
			}
			if diff := cmp.Diff(Default(tt.path), c, noPrivate); diff != "" {
				t.Errorf("not the defaults:\n%s", diff)
			}
		})
	}
}

func TestFind(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.toml")
	flag, env := write(t, "keep = 5\n"), write(t, "keep = 6\n")

	t.Setenv("OTA_CONFIG", env)
	if c, err := Find(flag); c.Keep != 5 || err != nil {
		t.Errorf("--config: keep %d, %v; it must win over $OTA_CONFIG", c.Keep, err)
	}
	if c, err := Find(""); c.Keep != 6 || err != nil {
		t.Errorf("$OTA_CONFIG: keep %d, %v", c.Keep, err)
	}
	t.Setenv("OTA_CONFIG", missing)
	if c, err := Find(""); !errors.Is(err, fs.ErrNotExist) || c == nil {
		t.Errorf("$OTA_CONFIG names no file: %v, want %v", err, fs.ErrNotExist)
	}
	t.Setenv("OTA_CONFIG", "")
	if c, err := Find(missing); !errors.Is(err, fs.ErrNotExist) || c == nil || c.Path != missing {
		t.Errorf("--config names no file: %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := os.Stat(DefaultPath); errors.Is(err, fs.ErrNotExist) {
		if c, err := Find(""); err != nil || c.Path != DefaultPath {
			t.Errorf("no file at the default path: %v, want the defaults", err)
		}
	}
}

func TestSetRoot(t *testing.T) {
	c := Default(DefaultPath)
	if err := c.SetRoot("/data/v"); err != nil || c.Root != "/data/v" || c.Spool != "/data/v/.spool" {
		t.Errorf("root %q, spool %q, %v: the spool must go with the root", c.Root, c.Spool, err)
	}
	c, err := Load(write(t, "spool = \"/data/spool\"\nroot = \"/data/x\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetRoot("/data/v"); err != nil || c.Spool != "/data/spool" {
		t.Errorf("spool %q, %v: the file says where it is", c.Spool, err)
	}
	if c, _ := Load(write(t, "root = \"/data/x\"\n")); c.Spool != "/data/x/.spool" {
		t.Errorf("spool %q: it must follow the root of the file", c.Spool)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		`0`: 0, `4096`: 4096, `"4096"`: 4096, `"10B"`: 10, `"1KiB"`: 1024, `"64 MiB"`: 64 << 20, `"2GiB"`: 2 << 30, `"1kB"`: 1000, `"3GB"`: 3e9,
	} {
		if c, err := Load(write(t, "reserve = "+text)); c.Reserve != want || err != nil {
			t.Errorf("reserve = %s: %d, %v, want %d", text, c.Reserve, err, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("keep = 1\n[trial]\nhard=3\n[[check]]\nname='a'\nunit='a.service'\n")
	f.Add("check = [{name='a', http='http://localhost/'}]\nreserve='1MiB'\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(DefaultPath, text)
		if c == nil {
			t.Fatal("no Config")
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("the error is not one line: %q", err)
		}
		tr := c.Trial
		if tr.Hard < 1 || tr.Unclean < 1 || tr.Clean < 1 || tr.Stable <= 0 || tr.Deadline < tr.Stable || c.Keep < 0 || c.Reserve < 0 ||
			!filepath.IsAbs(c.Root) || !filepath.IsAbs(c.Spool) || len(c.Checks) == 0 {
			t.Errorf("not usable: %+v", c)
		}
	})
}

func TestParseRate(t *testing.T) {
	for s, want := range map[string]Size{
		"0": 0, "1": 1, "500000": 500_000, "500k": 512_000, "500K": 512_000, "2M": 2 << 20, "2m": 2 << 20, "1g": 1 << 30,
		"64KiB": 64 << 10, "1MB": 1_000_000, "1024g": 1 << 40,
	} {
		if got, err := ParseRate(s); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "k", "-1", "-1k", "1.5M", "1t", "5 apples", "1025g", "9223372036854775807m", "0x10"} {
		if got, err := ParseRate(s); err == nil {
			t.Errorf("ParseRate(%q) = %d, want an error", s, got)
		}
	}
}

// TestProxyPassword holds that a wrong proxy is not shown: it may hold a password.
func TestProxyPassword(t *testing.T) {
	_, err := Load(write(t, `proxy = "joe:secret@proxy.example"`))
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("Load = %v, want an error without the password", err)
	}
}
