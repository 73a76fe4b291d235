package watchdog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWarning(t *testing.T) {
	for _, row := range []struct {
		name  string
		asked time.Duration
		files map[string]string // nil: no device
		want  string            // in the warning; empty: none
	}{
		{"none was asked for", 0, nil, ""},
		{"there is none", 30 * time.Second, nil, "there is none"},
		{"it is as asked", 30 * time.Second, map[string]string{"state": "active", "timeout": "30"}, ""},
		{"it gives more, as hardware rounds up", 30 * time.Second, map[string]string{"state": "active", "timeout": "32"}, ""},
		{"it gives less", 30 * time.Second, map[string]string{"state": "active", "timeout": "16"}, "gives 16s, systemd was asked for 30s"},
		{"it has a name", 30 * time.Second, map[string]string{"identity": "i6300ESB timer", "timeout": "16"}, "the hardware watchdog (i6300ESB timer) gives 16s"},
		{"it is not armed", 30 * time.Second, map[string]string{"state": "inactive", "timeout": "60"}, "is inactive"},
		{"it says nothing", 30 * time.Second, map[string]string{"identity": "x"}, ""},
		{"it says nonsense", 30 * time.Second, map[string]string{"state": "active", "timeout": "many"}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			device := filepath.Join(t.TempDir(), "watchdog0")
			if row.files != nil {
				if err := os.Mkdir(device, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for name, text := range row.files {
				if err := os.WriteFile(filepath.Join(device, name), []byte(text+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got := Warning(device, row.asked)
			if (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
				t.Errorf("Warning(%s) = %q, want %q", row.asked, got, row.want)
			}
		})
	}
}

func TestWords(t *testing.T) {
	for _, row := range []struct {
		name   string
		status uint64
		want   string
	}{
		{"nothing is known", 0, ""},
		{"a reset by the watchdog", 0x20, "the watchdog reset the machine"},
		{"a reset, since it was too hot", 0x21, "the watchdog reset the machine, it was too hot"},
		{"a supply that broke down", 0x10, "the supply voltage was too low"},
		{"what a device can do says nothing", 0x8180, ""}, // keep-alive, magic close, set time-out
		{"everything", 0x7f, "the watchdog reset the machine, it was too hot, a fan failed, external relay 1, external relay 2, " +
			"the supply voltage was too low, the supply voltage was too high"},
	} {
		if got := Words(row.status); got != row.want {
			t.Errorf("%s: Words(%#x) = %q, want %q", row.name, row.status, got, row.want)
		}
	}
}
