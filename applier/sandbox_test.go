package applier

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

var capabilities = map[int]string{
	unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_FOWNER: "CAP_FOWNER",
}

// unitFile writes the properties of a transient unit as the lines of a unit file.
// What it does not know is an error: a property must not be judged by leaving it out.
func unitFile(t *testing.T, properties []systemd.Property) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("[Unit]\nDescription=x\n[Service]\nType=oneshot\nExecStart=/bin/true\n")
	for _, p := range properties {
		name, value := p.Name, ""
		switch v := p.Value.(type) {
		case bool:
			value = map[bool]string{true: "yes", false: "no"}[v]
		case string:
			value = v
		case []string:
			value = strings.Join(v, " ")
		case systemd.Filter:
			value = strings.Join(v.Items, " ")
			if !v.Allow {
				value = "~" + value
			}
		case uint32:
			if name != "UMask" {
				t.Fatalf("property %s = %v: how is that written?", name, v)
			}
			value = fmt.Sprintf("%04o", v)
		case int32:
			switch {
			case name == "SystemCallErrorNumber" && v == int32(unix.EPERM):
				value = "EPERM"
			case name == "OOMScoreAdjust":
				value = fmt.Sprint(v)
			default:
				t.Fatalf("property %s = %v: how is that written?", name, v)
			}
		case uint64:
			switch {
			case name == "CapabilityBoundingSet":
				var names []string
				for i := range 64 {
					if v&(1<<i) == 0 {
						continue
					}
					if capabilities[i] == "" {
						t.Fatalf("capability %d has no name here", i)
					}
					names = append(names, capabilities[i])
				}
				value = strings.Join(names, " ")
			case name == "RestrictNamespaces" && v == 0:
				value = "yes"
			case name == "LimitCORE", name == "MemoryMax":
				value = fmt.Sprint(v)
			case strings.HasSuffix(name, "USec"):
				name, value = strings.TrimSuffix(name, "USec")+"Sec", fmt.Sprint(v/1_000_000)
			default:
				t.Fatalf("property %s = %v: how is that written?", name, v)
			}
		default:
			t.Fatalf("property %s is a %T: how is that written?", name, v)
		}
		fmt.Fprintf(&b, "%s=%s\n", name, value)
	}
	return b.String()
}

// What the units of an install may do at most, as systemd-analyze counts it: 0 is
// nothing, 10 everything.
func TestSandboxExposure(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is missing")
		}
		t.Skip("SKIPPED: systemd-analyze is missing")
	}
	cfg := config.Default(config.DefaultPath)
	for _, row := range []struct {
		name       string
		properties []systemd.Property
		most       int // tenths
	}{
		{"an install from an address, or from a file on a stick", sandbox(cfg, []string{"/usr/bin/ota-apply", "/media/stick/1.0.0.ota"}), 18},
		{"an install of a file in /tmp", sandbox(cfg, []string{"/tmp/1.0.0.ota"}), 20},
		{"an install of a file in somebody's home", sandbox(cfg, []string{"/home/user/1.0.0.ota"}), 19},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			units := filepath.Join(dir, "usr/lib/systemd/system")
			if err := os.MkdirAll(units, 0o755); err != nil {
				t.Fatal(err)
			}
			text := unitFile(t, row.properties)
			if err := os.WriteFile(filepath.Join(units, "x.service"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(analyze, "security", "--no-pager", "--offline=yes", fmt.Sprintf("--threshold=%d", row.most), "--root="+dir, "x.service").CombinedOutput()
			figure := regexp.MustCompile(`exposure level for x.service: ([0-9.]+)`).FindSubmatch(out)
			if figure == nil {
				t.Fatalf("%v\n%s\n%s", err, out, text)
			}
			t.Logf("exposure %s", figure[1])
			if err != nil {
				t.Errorf("exposure %s, want at most %d.%d\n%s", figure[1], row.most/10, row.most%10, out)
			}
			// A line that systemd does not know is a warning, and no wall.
			if strings.Contains(string(out), "ignoring") {
				t.Errorf("systemd does not take every line:\n%s", out)
			}
		})
	}
}

// What an install has to read is not hidden from it, by links neither.
func TestSandboxSees(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/root", link); err != nil {
		t.Fatal(err)
	}
	value := func(properties []systemd.Property, name string) any {
		i := slices.IndexFunc(properties, func(p systemd.Property) bool { return p.Name == name })
		if i < 0 {
			t.Fatalf("there is no property %s", name)
		}
		return properties[i].Value
	}
	for _, row := range []struct {
		path string
		home string
		tmp  bool
	}{
		{"/media/stick/x.ota", "yes", true},
		{"/homeless/x.ota", "yes", true},
		{"/home/user/x.ota", "read-only", true},
		{"/root/x.ota", "read-only", true},
		{"/tmp/x.ota", "yes", false},
		{"/var/tmp/a/b/x.ota", "yes", false},
	} {
		p := sandbox(config.Default(config.DefaultPath), []string{row.path})
		if home, tmp := value(p, "ProtectHome"), value(p, "PrivateTmp"); home != row.home || tmp != row.tmp {
			t.Errorf("%s: ProtectHome=%v PrivateTmp=%v, want %v, %v", row.path, home, tmp, row.home, row.tmp)
		}
	}
	if got := value(sandbox(config.Default(config.DefaultPath), []string{filepath.Join(link, "x.ota")}), "ProtectHome"); got != "read-only" {
		t.Errorf("a link into a home: ProtectHome=%v, want read-only", got)
	}
	cfg := config.Default(config.DefaultPath)
	// Without figures that somebody asked for, their folder is nobody's business.
	const figures = "-/var/lib/prometheus/node-exporter"
	if got := value(sandbox(cfg, nil), "ReadWritePaths").([]string); slices.Contains(got, figures) {
		t.Errorf("without metrics: ReadWritePaths=%v", got)
	}
	cfg.Metrics.File = "/var/lib/prometheus/node-exporter/ota.prom"
	if got := value(sandbox(cfg, nil), "ReadWritePaths").([]string); !slices.Contains(got, figures) || !slices.Contains(got, "-"+cfg.Spool) {
		t.Errorf("with metrics in another folder: ReadWritePaths=%v, want that and the spool", got)
	}
	cfg.CA = []string{"/root/ca.pem"}
	if got := value(sandbox(cfg, nil), "ProtectHome"); got != "read-only" {
		t.Errorf("an authority in a home: ProtectHome=%v, want read-only", got)
	}
}
