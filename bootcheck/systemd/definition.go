package systemd

import (
	"context"
	"fmt"
	"math"
	"time"

	bus "github.com/coreos/go-systemd/v22/dbus"
)

// Definition is what a unit's file and drop-ins say, as systemd has read them.
type Definition struct {
	Load      string // as of Unit
	FileState string // "enabled", "disabled", "static", "linked" …; empty: it has no file
	Outdated  bool   // a file changed after systemd read it

	After, Before, Wants, OnFailure []string
	IfExists                        []string // ConditionPathExists=: without one of these paths it is not started

	// Of services only.
	Program            string        // the first of ExecStart=; empty: none
	Restart            string        // "no", "always" …
	RestartDelay       time.Duration // RestartSec=
	StartLimitInterval time.Duration // 0: no limit
	StartLimitBurst    uint32
}

// Definition returns what the unit name is made of. A unit that does not exist is
// no error: its Load is "not-found".
func (c *Conn) Definition(ctx context.Context, name string) (Definition, error) {
	var props map[string]any
	err := c.call(ctx, func(b *bus.Conn) (err error) {
		props, err = b.GetAllPropertiesContext(ctx, name)
		return err
	})
	if err != nil {
		return Definition{}, fmt.Errorf("cannot ask systemd about %q: %w", name, err)
	}
	d := Definition{
		Load:               get[string](props, "LoadState"),
		FileState:          get[string](props, "UnitFileState"),
		Outdated:           get[bool](props, "NeedDaemonReload"),
		After:              get[[]string](props, "After"),
		Before:             get[[]string](props, "Before"),
		Wants:              get[[]string](props, "Wants"),
		OnFailure:          get[[]string](props, "OnFailure"),
		Restart:            get[string](props, "Restart"),
		RestartDelay:       span(props, "RestartUSec"),
		StartLimitInterval: span(props, "StartLimitIntervalUSec"),
		StartLimitBurst:    get[uint32](props, "StartLimitBurst"),
	}
	for _, c := range get[[][]any](props, "Conditions") { // a(sbbsi)
		if len(c) == 5 && c[0] == "ConditionPathExists" && c[1] == false && c[2] == false {
			path, _ := c[3].(string)
			d.IfExists = append(d.IfExists, path)
		}
	}
	if lines := get[[][]any](props, "ExecStart"); len(lines) > 0 && len(lines[0]) > 0 { // a(sasbttttuii)
		d.Program, _ = lines[0][0].(string)
	}
	return d, nil
}

// span is a property in microseconds; infinity is the longest there is.
func span(props map[string]any, name string) time.Duration {
	usec := get[uint64](props, name)
	return time.Duration(min(usec, uint64(math.MaxInt64/time.Microsecond))) * time.Microsecond
}
