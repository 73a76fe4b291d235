package health

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// Env is what differs from one trial to the next.
type Env struct {
	// Version is the one that should be running. What answers with another is
	// not good: the old process may still be there. Empty: any will do.
	Version string

	// Units tells the state of units. nil: no systemd runs, and the checks of
	// units are left out.
	Units Units

	// Ask carries out a Request; nil: the function Ask.
	Ask func(context.Context, Request) (Answer, error)
}

// Units tells the state of a unit. *systemd.Manager is one.
type Units interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
}

// All is the list of everything that is checked on this device, in the order in
// which it is reported. To add a check for every device, add it here; for one
// device, a [[check]] table of the configuration or a script in
// /etc/ota/checks.d/{required,wanted} does it.
//
// The directories are read when All is called. Call it again for each trial.
func All(cfg *config.Config, env Env) []Check {
	var checks []Check
	if env.Ask == nil {
		env.Ask = Ask
	}

	// What the configuration names; without a [[check]]: "device-api answers", which
	// counts only where something listens at its address.
	for _, c := range cfg.Checks {
		check := Check{Name: c.Name, Required: c.Required, Timeout: c.Timeout}
		switch {
		case c.HTTP != "" || c.Script != "":
			check.run = env.asked(Request{HTTP: c.HTTP, Script: c.Script, Timeout: c.Timeout})
			check.every = askEvery
			// Without a unit to look at, nothing else would decide.
			check.optional = cfg.IsDefault(c) && env.Units != nil && len(cfg.Services) > 0
		case env.Units != nil:
			check.run = limited(c.Timeout, unit(env.Units, c.Unit, cfg.Trial.Stable))
		default:
			continue
		}
		checks = append(checks, check)
	}

	// Every service that starts from the store runs.
	if env.Units != nil {
		for _, s := range cfg.Services {
			checks = append(checks, Check{
				Name:     UnitCheck(s),
				Required: true,
				Timeout:  unitTimeout,
				run:      limited(unitTimeout, unit(env.Units, s, cfg.Trial.Stable)),
			})
		}
	}

	// Scripts. A script must not say in its own name whether it may roll back.
	checks = append(checks, scripts(cfg.ChecksDir, "required", env)...)
	checks = append(checks, scripts(cfg.ChecksDir, "wanted", env)...)

	return distinct(checks)
}

// UnitCheck is the name of the check that a service runs: "device-api runs".
func UnitCheck(service string) string { return strings.TrimSuffix(service, ".service") + " runs" }

// unitTimeout is for one question to systemd. PID 1 answers in milliseconds; it
// may be busy for seconds when many units start on a slow device.
const unitTimeout = 10 * time.Second

const (
	scriptTimeout = 10 * time.Second // for the scripts of checks.d, as for a [[check]]
	askEvery      = 5 * time.Second  // a new process each second is too much for a small device that is also starting
)

// scripts are the programs in a directory of checks.d, by name. What editors and
// package managers leave behind is no check.
func scripts(dir, kind string, env Env) []Check {
	dir = filepath.Join(dir, kind)
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return []Check{NewCheck(kind+" scripts", false, time.Second, func(context.Context) error {
			return fmt.Errorf("%w: %v", errCannotRun, err)
		})}
	}
	var checks []Check
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || name[0] == '.' || strings.HasSuffix(name, "~") || strings.Contains(name, ".dpkg-") || strings.Contains(name, ".rpm") {
			continue
		}
		checks = append(checks, Check{
			Name:     OneLine(name),
			Required: kind == "required",
			Timeout:  scriptTimeout,
			every:    askEvery,
			run:      env.asked(Request{Script: filepath.Join(dir, name), Timeout: scriptTimeout}),
		})
	}
	return checks
}

// distinct gives checks of the same name different ones: the baseline and the
// record know a check by its name.
func distinct(checks []Check) []Check {
	seen := make(map[string]bool)
	for i := range checks {
		name := checks[i].Name
		for n := 2; seen[checks[i].Name]; n++ {
			checks[i].Name = fmt.Sprintf("%s (%d)", name, n)
		}
		seen[checks[i].Name] = true
	}
	return checks
}
