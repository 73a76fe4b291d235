package guardian_test

import (
	"os/exec"
	"strings"
	"testing"
)

// What ota-guardian must not link, and why. It runs at every boot from flash
// that reads 20 MB/s, where 1 MB of program is 50 ms, and it must continue working
// when a bundle, a server or a parser of either is hostile.
var unwanted = map[string]string{
	"net/http":                             "+3 MB and 12 ms of a cold start; ota-health@.service speaks it",
	"github.com/godbus/":                   "+0.3 MB; bootcheck/systemd speaks as much D-Bus as it needs",
	"vendor/golang.org/x/net/":             "package net, +0.1 MB: sockets of the file system are bootcheck.DialUnix",
	"archive/":                             "only the applier unpacks",
	"compress/":                            "only the applier unpacks",
	"github.com/klauspost/":                "only the applier unpacks",
	"github.com/prometheus/":               "+4.7 MB; the text format is written by hand",
	"regexp":                               "+0.3 MB",
	"github.com/cavaliergopher/":           "only the applier downloads",
	"github.com/tope-ota/ota/applier":      "decision and change are separate programs: no bug of the applier may stop a boot",
	"github.com/tope-ota/ota/integration/": "test machines are not part of the product",
}

func TestGuardianDependencies(t *testing.T) {
	check(t, "github.com/tope-ota/ota/guardian/cmd/ota-guardian", unwanted)
}

// The two programs agree through bootcheck and through nothing else.
func TestApplierDoesNotImportGuardian(t *testing.T) {
	for _, cmd := range []string{"ota-apply", "ota-bundle"} {
		check(t, "github.com/tope-ota/ota/applier/cmd/"+cmd, map[string]string{
			"github.com/tope-ota/ota/guardian": "decision and change are separate programs",
		})
	}
}

func TestBootcheckImportsNeither(t *testing.T) {
	check(t, "github.com/tope-ota/ota/bootcheck/...", map[string]string{
		"github.com/tope-ota/ota/guardian": "bootcheck is the facts: it knows nothing of the programs that use them",
		"github.com/tope-ota/ota/applier":  "bootcheck is the facts: it knows nothing of the programs that use them",
	})
}

// Each of these is linked for a line or two that are as easily written by hand.
func TestApplierDependencies(t *testing.T) {
	check(t, "github.com/tope-ota/ota/applier/cmd/ota-apply", map[string]string{
		"regexp":                     "+0.3 MB",
		"github.com/prometheus/":     "+4.7 MB; the text format is written by hand",
		"google.golang.org/protobuf": "it comes with github.com/prometheus/",
	})
}

func check(t *testing.T, pkg string, unwanted map[string]string) {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", pkg).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		for prefix, why := range unwanted {
			if strings.HasPrefix(dep, prefix) {
				t.Errorf("%s links %s, which it must not: %s", pkg, dep, why)
			}
		}
	}
}
