package debian

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Suite is a release of Debian, and with it of systemd and of the kernel. The zero
// value is Debian 12, which everything runs on that does not say otherwise.
//
//	           Debian  systemd  Linux  Release file
//	bullseye   11      247      5.10
//	bookworm   12      252      6.1
//	trixie     13      257      6.12
//	forky      next    260      7      may be past its Valid-Until, where a mirror stops
type Suite int

// The suites.
const (
	Bookworm Suite = iota
	Bullseye
	Trixie
	Forky
)

// AllSuites is all of them, the oldest first.
var AllSuites = []Suite{Bullseye, Bookworm, Trixie, Forky}

var suites = [...]struct {
	name    string
	systemd int    // the least version that it has; the kernel's has no meaning for tests
	options string // of its sources: see sources.list(5)

	// usrIsMerged is a package that stands in for usrmerge, which would bring Perl:
	// systemd depends on one of them where files of packages are still in /bin.
	usrIsMerged bool
}{
	Bookworm: {name: "bookworm", systemd: 252, usrIsMerged: true},
	Bullseye: {name: "bullseye", systemd: 247},
	Trixie:   {name: "trixie", systemd: 257},
	Forky:    {name: "forky", systemd: 260, options: "check-valid-until=no"},
}

// String is the name as Debian writes it.
func (s Suite) String() string { return suites[s].name }

// Systemd is the least version of systemd in s: 252. Only forky's grows.
func (s Suite) Systemd() int { return suites[s].systemd }

// Suites are those that $OTA_SUITES names ("bookworm,trixie", or "all"); bookworm, if
// it is empty. A name that is none is an error: a typing mistake tests nothing.
func Suites() ([]Suite, error) {
	names := os.Getenv("OTA_SUITES")
	switch names {
	case "":
		return []Suite{Bookworm}, nil
	case "all":
		return AllSuites, nil
	}
	var all []Suite
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(AllSuites, func(s Suite) bool { return s.String() == name })
		if i < 0 {
			return nil, fmt.Errorf("OTA_SUITES=%s: no suite is called %q, want some of %v", names, name, AllSuites)
		}
		all = append(all, AllSuites[i])
	}
	return all, nil
}
