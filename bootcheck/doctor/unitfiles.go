package doctor

import (
	"context"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck/systemd"
)

// unitFiles answers about units from the files below a folder, which is its value:
// an image that does not run. It knows the settings that the doctor asks for.
type unitFiles string

var unitDirs = []string{"usr/lib/systemd", "lib/systemd", "usr/local/lib/systemd", "etc/systemd"} // later ones win

func (root unitFiles) Definition(_ context.Context, name string) (systemd.Definition, error) {
	d := systemd.Definition{Load: "not-found", FileState: "disabled", Restart: "no", StartLimitBurst: 5,
		StartLimitInterval: 10 * time.Second, RestartDelay: 100 * time.Millisecond} // systemd's own
	file, dropIns := "", map[string]string{}
	for _, dir := range unitDirs {
		system := filepath.Join(string(root), dir, "system")
		if target, err := os.Readlink(filepath.Join(system, name)); err == nil && target == "/dev/null" {
			return systemd.Definition{Load: "masked"}, nil
		}
		if _, err := os.Stat(filepath.Join(system, name)); err == nil {
			file = filepath.Join(system, name)
		}
		found, _ := filepath.Glob(filepath.Join(system, name+".d", "*.conf"))
		for _, f := range found {
			dropIns[filepath.Base(f)] = f
		}
		for _, kind := range []string{"wants", "requires"} {
			if links, _ := filepath.Glob(filepath.Join(system, "*."+kind, name)); len(links) > 0 {
				d.FileState = "enabled"
			}
		}
	}
	if file == "" {
		return d, nil
	}
	d.Load = "loaded"
	files := []string{file}
	for _, base := range slices.Sorted(maps.Keys(dropIns)) {
		files = append(files, dropIns[base])
	}
	lists := map[string]*[]string{"After": &d.After, "Before": &d.Before, "Wants": &d.Wants, "OnFailure": &d.OnFailure}
	for _, f := range files {
		for key, value := range settings(f) {
			if list := lists[key]; list != nil {
				*list = append(*list, strings.Fields(value)...)
			}
			switch key {
			case "ConditionPathExists": // an empty one takes the others back
				if d.IfExists = append(d.IfExists, value); value == "" {
					d.IfExists = nil
				}
			case "ExecStart":
				program, _, _ := strings.Cut(strings.TrimLeft(value, "@-:+!"), " ")
				d.Program = program
			case "Restart":
				d.Restart = value
			case "RestartSec":
				d.RestartDelay = timeSpan(value)
			case "StartLimitIntervalSec":
				d.StartLimitInterval = timeSpan(value)
			case "StartLimitBurst":
				n, _ := strconv.ParseUint(value, 10, 32)
				d.StartLimitBurst = uint32(n)
			}
		}
	}
	return d, nil
}

func (root unitFiles) RuntimeWatchdog(context.Context) (asked time.Duration, _ error) {
	byName := map[string]string{}
	for _, dir := range unitDirs {
		found, _ := filepath.Glob(filepath.Join(string(root), dir, "system.conf.d", "*.conf"))
		for _, f := range found {
			byName[filepath.Base(f)] = f
		}
	}
	files := []string{filepath.Join(string(root), "etc/systemd/system.conf")}
	for _, base := range slices.Sorted(maps.Keys(byName)) {
		files = append(files, byName[base])
	}
	for _, f := range files {
		for key, value := range settings(f) {
			if key == "RuntimeWatchdogSec" {
				asked = timeSpan(value)
			}
		}
	}
	return asked, nil
}

// settings are the lines KEY=VALUE of a file of systemd, in their order.
func settings(file string) func(func(key, value string) bool) {
	return func(yield func(key, value string) bool) {
		data, _ := os.ReadFile(file) // one that cannot be read says nothing
		for line := range strings.Lines(string(data)) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(key, "#") && !yield(strings.TrimSpace(key), strings.TrimSpace(value)) {
				return
			}
		}
	}
}

// timeSpan reads a time as systemd writes it, as far as units of ours do: "30s", "10min", "60".
func timeSpan(s string) time.Duration {
	if s == "infinity" {
		return math.MaxInt64
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Duration(n * float64(time.Second))
	}
	t, _ := time.ParseDuration(strings.ReplaceAll(s, "min", "m"))
	return t
}
