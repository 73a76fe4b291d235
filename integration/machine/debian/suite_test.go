package debian

import (
	"slices"
	"strings"
	"testing"
)

func TestSuites(t *testing.T) {
	for _, row := range []struct {
		names string
		want  []Suite
	}{
		{"", []Suite{Bookworm}},
		{"all", AllSuites},
		{"trixie", []Suite{Trixie}},
		{"bookworm,trixie", []Suite{Bookworm, Trixie}},
	} {
		t.Setenv("OTA_SUITES", row.names)
		if got, err := Suites(); err != nil || !slices.Equal(got, row.want) {
			t.Errorf("OTA_SUITES=%q: Suites() = %v, %v, want %v", row.names, got, err, row.want)
		}
	}
	for _, names := range []string{"trixi", "bookworm,", "Bookworm", " trixie", "13"} {
		t.Setenv("OTA_SUITES", names)
		if got, err := Suites(); err == nil || !strings.Contains(err.Error(), "want one of bullseye, bookworm, trixie, forky") {
			t.Errorf("OTA_SUITES=%q: Suites() = %v, %v, want an error with the names", names, got, err)
		}
	}
	seen := map[int]bool{}
	for _, s := range AllSuites {
		seen[s.Systemd()] = true
	}
	if len(seen) != len(suites) {
		t.Errorf("AllSuites is %v, which are not all of the %d suites", AllSuites, len(suites))
	}
}
