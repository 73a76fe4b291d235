package guardian

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// columnOfSource is the last one in which the source of a value begins, unless the value is longer.
const columnOfSource = 54

// printConfig prints the configuration as it counts: of one key its values, one a line,
// which is what scripts read; of all keys lines KEY=VALUE, a list has one for each value,
// with where the value comes from behind them.
func (c *command) printConfig(key string, asJSON bool) error {
	all := c.cfg.Settings()
	if key != "" {
		var keys []string
		for _, s := range all {
			keys = append(keys, s.Key)
		}
		if !slices.Contains(keys, key) {
			return bootcheck.Errorf(bootcheck.ExitUsage, "", "the configuration has no key %q", key).WithAdvice("it has %s", strings.Join(slices.Compact(keys), ", "))
		}
		all = slices.DeleteFunc(all, func(s config.Setting) bool { return s.Key != key })
	}
	if asJSON {
		return bootcheck.WriteJSON(c.out, map[string]any{
			"schema": bootcheck.OutputSchema, "file": c.cfg.Path, "error": bootcheck.OrNull(c.cfgErr), "settings": all,
		})
	}
	var rows [][]string
	for _, s := range all {
		lines := s.Lines()
		if key != "" {
			for _, l := range lines {
				fmt.Fprintln(c.out, l)
			}
			continue
		}
		if len(lines) == 0 {
			lines = []string{""}
		}
		for _, l := range lines {
			rows = append(rows, []string{s.Key + "=" + l, "# " + s.From})
		}
	}
	width := 0
	for _, row := range rows {
		if n := len(row[0]); n <= columnOfSource {
			width = max(width, n)
		}
	}
	for _, row := range rows {
		fmt.Fprintf(c.out, "%-*s  %s\n", width, row[0], row[1])
	}
	return nil
}
