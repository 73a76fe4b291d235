package applier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// baselineUnit runs the checks before a switch where scripts are among them.
const baselineUnit = "ota-baseline.service"

// baselineCommand is what runs in baselineUnit. It is for this program only, and
// not in the usage.
const baselineCommand = "baseline"

// checkBefore runs the health checks on version, which is left.
//
// Scripts must find what they will find after the switch, in ota-health.service: a
// script that fails only because of the sandbox would be excused for ever. That
// unit gives them other rights than an install has, so from the unit of an install
// they are run in one of their own, see systemd.CheckSandbox.
func (a *applier) checkBefore(ctx context.Context, version string) ([]health.Result, error) {
	if os.Getenv(inUnit) != "" && systemd.Running() && hasScripts(a.cfg) {
		return a.checkInUnit(ctx, version)
	}
	return a.checkHere(ctx, version), nil
}

func (a *applier) checkHere(ctx context.Context, version string) []health.Result {
	env := health.Env{Version: version}
	if systemd.Running() {
		if conn, err := systemd.Dial(ctx); err == nil {
			defer conn.Close()
			env.Units = conn
		}
	}
	return health.Run(ctx, health.All(a.cfg, env))
}

// hasScripts reports whether a check may be a script.
func hasScripts(cfg *config.Config) bool {
	for _, c := range cfg.Checks {
		if c.Script != "" {
			return true
		}
	}
	names, _ := filepath.Glob(filepath.Join(cfg.ChecksDir, "*", "*"))
	return len(names) > 0
}

// printBaseline is the program of baselineUnit.
func (a *applier) printBaseline(ctx context.Context, version string) error {
	// Not below the process of the install: who calls it runs the checks as they are.
	return json.NewEncoder(a.out).Encode(a.checkHere(ctx, version))
}

func (a *applier) checkInUnit(ctx context.Context, version string) ([]health.Result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	argv := []string{self, baselineCommand, "--config", a.cfg.Path, "--root", a.cfg.Root, "--", version}
	if _, err := os.Stat(a.cfg.Path); err != nil {
		argv = []string{self, baselineCommand, "--root", a.cfg.Root, "--", version} // the default file need not exist
	}
	unit := systemd.Transient{
		Description: "Check the version of the application that is left",
		Env:         []string{inUnit + "=1"},
		Stdout:      w,
		Properties:  append(systemd.CheckSandbox(), systemd.Property{Name: "TimeoutStopUSec", Value: uint64(10_000_000)}),
	}
	err = conn.RunTransient(ctx, baselineUnit, argv, unit)
	if errors.Is(err, systemd.ErrExists) {
		// Of an install that was killed: there is only one at a time.
		if err := conn.Stop(ctx, baselineUnit); err != nil {
			return nil, err
		}
		err = conn.RunTransient(ctx, baselineUnit, argv, unit)
	}
	w.Close()
	if err != nil {
		return nil, err
	}
	code, err := conn.WaitUnit(ctx, baselineUnit)
	if ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), conn.Stop(context.WithoutCancel(ctx), baselineUnit))
	}
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, fmt.Errorf("%s ended with exit code %d", baselineUnit, code)
	}
	var results []health.Result
	// A check's output is at most 4 KiB, and a pipe holds 64: all of it is there,
	// or the unit would not have ended.
	if err := json.NewDecoder(io.LimitReader(r, 64<<10)).Decode(&results); err != nil {
		return nil, bootcheck.Errorf(bootcheck.ExitFailed, "", "cannot read what the checks say: %w", err)
	}
	return results, nil
}
