package applier

import (
	"os"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// askedBy is the variable of the environment by which a caller says who asks.
const askedBy = "OTA_ASKED_BY"

// asker is who asks for this install, for the record: what the caller says, else the
// service of the configuration that called, without its ".service", else the operator.
func asker(cfg *config.Config) string {
	if name := os.Getenv(askedBy); name != "" {
		return bootcheck.Clip(bootcheck.OneLine(bootcheck.Printable(name)), 32)
	}
	cgroups, _ := os.ReadFile("/proc/self/cgroup")
	if name := serviceOf(string(cgroups), cfg.Services); name != "" {
		return name
	}
	return bootcheck.AskedByOperator
}

// serviceOf is which of services has a process with these lines of /proc/PID/cgroup;
// empty: none. A service is a directory of its own, with version 1 and 2.
func serviceOf(cgroups string, services []string) string {
	for line := range strings.Lines(cgroups) {
		for dir := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			if slices.Contains(services, dir) {
				return strings.TrimSuffix(dir, ".service")
			}
		}
	}
	return ""
}
