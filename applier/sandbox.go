package applier

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// sandbox is what the unit of an install may do: write the store, the spool, the
// run folder and that of the metrics, use the network, and talk to systemd; everything else is
// read-only, or out of sight. reads are the paths besides those of the
// configuration that it has to read.
//
// It is held to an exposure of 1.8 by TestSandboxExposure. A kernel that lacks one
// of these features costs only that feature.
func sandbox(cfg *config.Config, reads []string) []systemd.Property {
	writes := []string{cfg.Root, cfg.Spool, cfg.Run}
	if cfg.Metrics.File != "" {
		writes = append(writes, filepath.Dir(cfg.Metrics.File))
	}
	uses := slices.Concat(reads, cfg.Keys, cfg.CA, []string{cfg.Path}, writes)
	// A bundle may lie in somebody's home or in /tmp, and the store of a test too;
	// normally neither does.
	home := "yes"
	if slices.ContainsFunc(uses, below("/home", "/root", "/run/user")) {
		home = "read-only"
	}
	return slices.Concat(systemd.Confined(append(writes, filepath.Dir(cfg.Root), "/run", "/tmp", "/var/tmp")...), []systemd.Property{
		{Name: "WorkingDirectory", Value: "/"},
		// An install takes 64 MiB at most; the rest is for the cache of what it writes.
		// Where memory is short all the same, it goes before the application does: it is
		// resumed.
		{Name: "MemoryMax", Value: uint64(256 << 20)},
		{Name: "OOMScoreAdjust", Value: int32(500)},
		{Name: "LimitCORE", Value: uint64(0)},
		// For what it starts; its own files are made for the services to read.
		{Name: "UMask", Value: uint32(0o077)},
		// Ends cleanly, with its partial download kept.
		{Name: "TimeoutStopUSec", Value: uint64(10_000_000)},
		{Name: "ProtectHome", Value: home},
		{Name: "PrivateTmp", Value: !slices.ContainsFunc(uses, below("/tmp", "/var/tmp"))},
		{Name: "ProtectProc", Value: "invisible"},
		{Name: "MemoryDenyWriteExecute", Value: true},
		// Old versions are removed and damaged ones replaced, whatever a service
		// made of the owners and modes in its own.
		{Name: "CapabilityBoundingSet", Value: uint64(1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER)},
		{Name: "RestrictAddressFamilies", Value: systemd.Filter{Allow: true, Items: []string{"AF_UNIX", "AF_INET", "AF_INET6"}}},
		{Name: "SystemCallFilter", Value: systemd.Filter{Allow: true, Items: []string{"@system-service"}}},
		{Name: "SystemCallFilter", Value: systemd.Filter{Items: []string{"@privileged", "@resources"}}},
		// The unpacking confines itself. These are in no group of systemd 252.
		{Name: "SystemCallFilter", Value: systemd.Filter{Allow: true, Items: []string{
			"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}}},
	})
}

// below returns whether a path is one of dirs or in it, where its links lead to.
func below(dirs ...string) func(path string) bool {
	return func(path string) bool {
		for _, p := range []string{path, resolve(path)} {
			for _, dir := range dirs {
				if p == dir || strings.HasPrefix(p, dir+"/") {
					return true
				}
			}
		}
		return false
	}
}

// resolve follows the links of path as far as it exists.
func resolve(path string) string {
	rest := ""
	for p := path; ; p = filepath.Dir(p) {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			return filepath.Join(real, rest)
		}
		if p == filepath.Dir(p) {
			return path
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
}
