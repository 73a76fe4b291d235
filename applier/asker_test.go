package applier

import (
	"testing"

	"github.com/tope-ota/ota/bootcheck/config"
)

func TestServiceOf(t *testing.T) {
	services := []string{"device-api.service", "printer.service"}
	for _, tt := range []struct{ name, cgroups, want string }{
		{"a child of a service", "0::/system.slice/device-api.service\n", "device-api"},
		{"version 1", "12:pids:/user.slice\n1:name=systemd:/system.slice/printer.service\n0::/\n", "printer"},
		{"in a directory that the service made", "0::/system.slice/device-api.service/install", "device-api"},
		{"a service of another name", "0::/system.slice/not-device-api.service\n", ""},
		{"a session", "0::/user.slice/user-0.slice/session-3.scope\n", ""},
		{"no cgroups", "", ""},
	} {
		if got := serviceOf(tt.cgroups, services); got != tt.want {
			t.Errorf("%s: serviceOf(%q) = %q, want %q", tt.name, tt.cgroups, got, tt.want)
		}
	}
}

func TestAsker(t *testing.T) {
	for said, want := range map[string]string{"": "operator", "follower": "follower", "a\nb\x1b[1m": "a b [1m", "0123456789012345678901234567890123456789": "01234567890123456789012345678…"} {
		t.Setenv(askedBy, said)
		if got := asker(config.Default("")); got != want {
			t.Errorf("%s=%q: asker = %q, want %q", askedBy, said, got, want)
		}
	}
}
