package systemd

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Unit is the state of a unit at one moment: systemd answers for all of it at
// once.
type Unit struct {
	Load   string // "loaded", "not-found", "masked", "bad-setting", "error"
	Active string // "active", "reloading", "inactive", "failed", "activating", "deactivating"
	Sub    string // finer, by type of unit: "running", "exited", "auto-restart", "dead" …
	Job    uint32 // the job that waits or runs for the unit; 0: none
	Wants  []string

	// When it last became active, in CLOCK_MONOTONIC; 0: never since it was
	// loaded. A reload does not change it, a restart does.
	ActiveEnter time.Duration

	// Of services only.
	Writes         []string // ReadWritePaths=, without their prefixes
	Result         string   // of the last run: "success", "exit-code", "signal", "timeout", "watchdog", "start-limit-hit" …
	NRestarts      uint32   // restarts that Restart= made since a job last started it
	MainPID        uint32   // 0: none
	ExecMainCode   int32    // how the main process ended: 0 it did not, else CLD_EXITED, CLD_KILLED, CLD_DUMPED of waitid(2)
	ExecMainStatus int32    // its exit code, or the signal

	InvocationID string // 32 hex digits, new at each start; empty: never started
}

// Loaded reports whether systemd found the unit's file and could read it.
func (u Unit) Loaded() bool { return u.Load == "loaded" }

// Up reports whether the unit is active; one that reloads is.
func (u Unit) Up() bool { return u.Active == "active" || u.Active == "reloading" }

// CanWrite reports whether the service may write below the absolute path, as far as
// ReadWritePaths= says.
func (u Unit) CanWrite(path string) bool {
	return slices.ContainsFunc(u.Writes, func(dir string) bool {
		return strings.HasPrefix(path+"/", strings.TrimSuffix(dir, "/")+"/")
	})
}

func (u Unit) String() string {
	if !u.Loaded() {
		return u.Load
	}
	s := fmt.Sprintf("%s (%s)", u.Active, u.Sub)
	if u.Result != "" && u.Result != "success" {
		s += ", result " + u.Result
	}
	return s
}

// Unit returns the state of the unit name. A unit that does not exist is no
// error: its Load is "not-found".
func (m *Manager) Unit(ctx context.Context, name string) (Unit, error) {
	props := map[string]any{}
	err := m.call(ctx, func(b *bus) error {
		// All properties in one answer: between two questions a unit that ends can
		// be forgotten.
		answer, err := b.call(unitPath(name), properties, "GetAll", "")
		if err != nil || len(answer) == 0 {
			return err
		}
		entries, _ := answer[0].([]any) // a{sv}
		for _, e := range entries {
			if pair, _ := e.([]any); len(pair) == 2 {
				props[str(pair, 0)] = pair[1]
			}
		}
		return nil
	})
	if err != nil {
		return Unit{}, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
	}
	return unitOf(props), nil
}

// unitPath is the object of the unit name, whether it is loaded or not: each byte that is
// no letter or digit, and a digit at the beginning, is written as "_" and two hex digits.
func unitPath(name string) string {
	path := objectPath + "/unit/"
	for i, c := range []byte(name) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' && i > 0 {
			path += string(c)
		} else {
			path += fmt.Sprintf("_%02x", c)
		}
	}
	return path
}

// unitOf takes what it knows. A property that a type of unit, or this systemd,
// does not have is zero.
func unitOf(props map[string]any) Unit {
	u := Unit{
		Load:           get[string](props, "LoadState"),
		Active:         get[string](props, "ActiveState"),
		Sub:            get[string](props, "SubState"),
		Wants:          get[[]string](props, "Wants"),
		Result:         get[string](props, "Result"),
		NRestarts:      get[uint32](props, "NRestarts"),
		MainPID:        get[uint32](props, "MainPID"),
		ExecMainCode:   get[int32](props, "ExecMainCode"),
		ExecMainStatus: get[int32](props, "ExecMainStatus"),
		InvocationID:   hex.EncodeToString(get[[]byte](props, "InvocationID")),
		ActiveEnter:    time.Duration(get[uint64](props, "ActiveEnterTimestampMonotonic")) * time.Microsecond,
	}
	for _, path := range get[[]string](props, "ReadWritePaths") {
		u.Writes = append(u.Writes, strings.TrimLeft(path, "+-"))
	}
	if job := get[[]any](props, "Job"); len(job) > 0 { // (uo): number, object
		u.Job, _ = job[0].(uint32)
	}
	return u
}

func get[T any](props map[string]any, name string) T {
	v, _ := props[name].(T)
	return v
}

// waitid(2), si_code.
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// exitCode is how the unit's main process ended, as a shell says it: the exit
// code, or 128 and the signal. Not ok: no main process ended.
func (u Unit) exitCode() (code int, ok bool) {
	switch u.ExecMainCode {
	case cldExited:
		return int(u.ExecMainStatus), true
	case cldKilled, cldDumped:
		return 128 + int(syscall.Signal(u.ExecMainStatus)), true
	}
	return 0, false
}

// RuntimeWatchdog is the time-out of the hardware watchdog that PID 1 was asked to
// feed (RuntimeWatchdogSec=); 0: none. What the device gives is another matter.
func (m *Manager) RuntimeWatchdog(ctx context.Context) (time.Duration, error) {
	var answer []any
	err := m.call(ctx, func(b *bus) (err error) {
		answer, err = b.call(objectPath, properties, "Get", manager, "RuntimeWatchdogUSec")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("cannot ask systemd about its watchdog: %w", err)
	}
	if len(answer) != 1 {
		answer = []any{nil}
	}
	n, ok := answer[0].(uint64)
	switch {
	case !ok:
		return 0, fmt.Errorf("cannot ask systemd about its watchdog: it answers %v", answer)
	case n > uint64(math.MaxInt64/time.Microsecond):
		return 0, nil // RuntimeWatchdogSec=default is 1<<64-1: what the device does anyway is right
	}
	return time.Duration(n) * time.Microsecond, nil
}
