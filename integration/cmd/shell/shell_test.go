package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
)

// TestShell is an operator who tries what the hint says.
func TestShell(t *testing.T) {
	machine.RequireContainer(t)
	var out bytes.Buffer
	in := strings.Join([]string{
		"ota-guardian status",
		"ota-apply install " + machine.BundleAt + `/1.1.0.ota; echo "exit $?"`,
		"cd /opt/tope; pwd",
		"ota-apply install " + machine.BundleAt + `/1.2.0.ota; echo "exit $?"`,
		"reboot",
		"ota-guardian status",
		"no-such-command",
	}, "\n")
	if err := run(machine.Context(t), strings.NewReader(in), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	// In this order.
	rest := out.String()
	for _, want := range []string{
		`current +1\.0\.0`, `factory +1\.0\.0`, `device:/root# (?s:.*)exit 0\n`, `device:/root# /opt/tope\n`, `device:/opt/tope# (?s:.*)exit 8\n`,
		`current +1\.1\.0`, `previous +1\.0\.0`, `blocked +1\.2\.0`, `no-such-command: (command )?not found`,
	} {
		at := regexp.MustCompile(want).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("%q is not in what comes after it:\n%s\nall of it:\n%s", want, rest, out.String())
		}
		rest = rest[at[1]:]
	}
}
