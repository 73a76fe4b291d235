package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tope-ota/ota/bootcheck/loopback"
)

// settings is every key that means something, and what it may be.
func (c *Config) settings(l *loader) table {
	return table{
		"root": setting(func(v any) error {
			var dir string
			if err := folder(&dir)(v); err != nil {
				return err
			}
			return c.SetRoot(dir)
		}),
		"spool": setting(func(v any) error {
			err := folder(&c.Spool)(v)
			c.spoolSet = c.spoolSet || err == nil
			return err
		}),
		"keys":     list(&c.Keys, absolute),
		"model":    text(&c.Model, oneLine),
		"services": list(&c.Services, unitName),
		"keep":     integer(&c.Keep, 0, 1000),
		"reserve":  size(&c.Reserve),
		"run":      folder(&c.Run),
		"reuse":    text(&c.Reuse, oneOf(ReuseAuto, ReuseCopy)),
		"proxy":    text(&c.Proxy, proxyOrNothing),
		"ca":       list(&c.CA, absolute),
		// At most a week: what is not here by then is slower than the slowest
		// link that a download bears, 1 KiB a second for 600 MB.
		"download_deadline": duration(&c.DownloadDeadline, 7*24*time.Hour),
		"limit_rate":        rate(&c.LimitRate),
		"report":            table{"url": text(&c.Report.URL, urlOrNothing)},
		"trial": table{
			// At most 100: beyond that a counter no longer ends a boot loop
			// within a day.
			"hard":    integer(&c.Trial.Hard, 1, 100),
			"unclean": integer(&c.Trial.Unclean, 1, 100),
			"clean":   integer(&c.Trial.Clean, 1, 100),

			// At most a day: a version that is on trial for longer has no verdict
			// in any boot of a printer.
			"deadline": duration(&c.Trial.Deadline, day),
			"stable":   duration(&c.Trial.Stable, day),
		},
		"check":   checks(&c.Checks, l),
		"metrics": table{"file": text(&c.Metrics.File, promOrNothing)},
	}
}

// A rule returns a string as it is used, or says why it cannot be.
type rule func(string) (string, error)

func text(dst *string, r rule) setting {
	return func(v any) error {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("must be a string, got %s", show(v))
		}
		s, err := r(s)
		if err != nil {
			return err
		}
		*dst = s
		return nil
	}
}

// folder is an absolute path other than "/": no program of ours owns that.
func folder(dst *string) setting {
	return text(dst, func(s string) (string, error) {
		s, err := absolute(s)
		if s == "/" {
			return "", errors.New("cannot be the root of the file system")
		}
		return s, err
	})
}

// list is a list of strings; one string alone is a list of one.
func list(dst *[]string, r rule) setting {
	return func(v any) error {
		if s, ok := v.(string); ok {
			v = []any{s}
		}
		values, ok := v.([]any)
		if !ok {
			return fmt.Errorf("must be a string or a list of strings, got %s", show(v))
		}
		out := make([]string, len(values))
		for i, v := range values {
			if err := text(&out[i], r)(v); err != nil {
				return err
			}
			if slices.Contains(out[:i], out[i]) {
				return fmt.Errorf("names %q twice", out[i])
			}
		}
		*dst = out
		return nil
	}
}

func integer(dst *int, low, high int64) setting {
	return func(v any) error {
		n, ok := v.(int64)
		switch {
		case !ok:
			return fmt.Errorf("must be an integer, got %s", show(v))
		case n < low:
			return fmt.Errorf("must be at least %d, got %d", low, n)
		case n > high:
			return fmt.Errorf("must be at most %d, got %d", high, n)
		}
		*dst = int(n)
		return nil
	}
}

const day = 24 * time.Hour

// duration is "10m" or a number of seconds.
func duration(dst *time.Duration, longest time.Duration) setting {
	most := fmt.Sprintf("%dh", longest/time.Hour)
	return func(v any) error {
		var d time.Duration
		switch v := v.(type) {
		case int64:
			if v > int64(longest/time.Second) {
				return fmt.Errorf("must be at most %s, got %d seconds", most, v)
			}
			d = time.Duration(max(v, 0)) * time.Second
		case string:
			var err error
			if d, err = time.ParseDuration(v); err != nil {
				return fmt.Errorf(`must be a duration such as "60s" or "10m", got %q`, v)
			}
		default:
			return fmt.Errorf(`must be a duration such as "60s" or a number of seconds, got %s`, show(v))
		}
		if d <= 0 || d > longest {
			return fmt.Errorf("must be more than 0 and at most %s, got %s", most, show(v))
		}
		*dst = d
		return nil
	}
}

// Size is a number of bytes.
type Size int64

var units = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, // as in systemd's units
	{"B", 1}, // after those that end in it
}

// size is a number of bytes or a string with a unit, "64MiB". At most 1 TiB.
func size(dst *Size) setting {
	const most = 1 << 40
	return func(v any) error {
		n, ok := v.(int64)
		if s, isText := v.(string); isText {
			n, ok = parseSize(s)
		}
		if !ok {
			return fmt.Errorf(`must be a number of bytes or a size such as "64MiB", got %s`, show(v))
		}
		if n < 0 || n > most {
			return fmt.Errorf("must be at least 0 and at most 1024GiB, got %s", show(v))
		}
		*dst = Size(n)
		return nil
	}
}

func parseSize(s string) (n int64, ok bool) {
	factor := int64(1)
	for _, u := range units {
		if rest, found := strings.CutSuffix(s, u.suffix); found {
			s, factor = strings.TrimRight(rest, " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, false
	}
	return n * factor, true
}

// Rate is a number of bytes a second; 0 is no limit.
type Rate int64

// maxRate is more than any network brings, and far from any overflow.
const maxRate = 1 << 40

// ParseRate reads a rate as curl's --limit-rate does: bytes a second, with the
// suffixes k, m and g (of either case) for 1024 of each other. "64KiB" and "1MB",
// as other sizes are written, are understood too. 0 is no limit.
func ParseRate(s string) (Rate, error) {
	digits, factor := s, int64(1)
	if s != "" {
		if i := strings.IndexByte("kmg", s[len(s)-1]|0x20); i >= 0 {
			digits, factor = s[:len(s)-1], 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	ok := err == nil && n <= maxRate/factor
	if factor == 1 {
		n, ok = parseSize(s)
	}
	if n *= factor; !ok || n < 0 || n > maxRate {
		return 0, fmt.Errorf(`must be bytes a second such as "500k" or "2M", 0 for no limit, got %q`, s)
	}
	return Rate(n), nil
}

func rate(dst *Rate) setting {
	return func(v any) error {
		switch v.(type) {
		case int64, string:
		default:
			return fmt.Errorf(`must be bytes a second such as "500k" or "2M", got %s`, show(v))
		}
		r, err := ParseRate(fmt.Sprint(v))
		if err == nil {
			*dst = r
		}
		return err
	}
}

// checks takes the [[check]] tables. One that is wrong is left out and named by
// its place in the file; the others count. When none is left, the default stays:
// a typing error must not make every version good.
func checks(dst *[]Check, l *loader) setting {
	return func(v any) error {
		var tables []map[string]any
		switch v := v.(type) {
		case []map[string]any: // [[check]]
			tables = v
		case []any: // check = [{…}]
			for _, e := range v {
				t, ok := e.(map[string]any)
				if !ok {
					return fmt.Errorf("must be tables, [[check]], got %s", show(e))
				}
				tables = append(tables, t)
			}
		default:
			return fmt.Errorf("must be tables, [[check]], got %s", show(v))
		}
		var good []Check
		for i, t := range tables {
			c, err := l.check(t)
			if err == nil && slices.ContainsFunc(good, func(o Check) bool { return o.Name == c.Name }) {
				err = fmt.Errorf("there is another check with the name %q", c.Name)
			}
			if err != nil {
				l.bad(fmt.Sprintf("check %d", i+1), 0, err.Error())
				continue
			}
			good = append(good, c)
		}
		if len(good) > 0 {
			*dst = good
		}
		return nil
	}
}

func (l *loader) check(t map[string]any) (Check, error) {
	c := Check{Required: true, Timeout: defaultTimeout}
	known := map[string]setting{
		"name":   text(&c.Name, label),
		"unit":   text(&c.Unit, unitName),
		"http":   text(&c.HTTP, loopbackURL),
		"script": text(&c.Script, absolute),
		"required": func(v any) error {
			b, ok := v.(bool)
			if !ok {
				return fmt.Errorf("must be true or false, got %s", show(v))
			}
			c.Required = b
			return nil
		},
		"timeout": duration(&c.Timeout, day),
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		set, ok := known[name]
		if !ok {
			l.unknown = append(l.unknown, "check."+name)
			continue
		}
		if err := set(t[name]); err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
	}
	kinds := 0
	for _, kind := range []string{c.Unit, c.HTTP, c.Script} {
		if kind != "" {
			kinds++
		}
	}
	switch {
	case c.Name == "":
		return c, errors.New("it has no name")
	case kinds != 1:
		return c, fmt.Errorf("%q must have exactly one of unit, http and script, got %d", c.Name, kinds)
	}
	return c, nil
}

// absolute is a path from the root without "..", whose meaning would depend on
// links. "/x/" is "/x".
func absolute(s string) (string, error) {
	if !filepath.IsAbs(s) || slices.Contains(strings.Split(s, "/"), "..") || strings.ContainsRune(s, 0) {
		return "", fmt.Errorf(`must be an absolute path without "..", got %q`, s)
	}
	return filepath.Clean(s), nil
}

func absoluteOrNothing(s string) (string, error) {
	if s == "" {
		return s, nil
	}
	return absolute(s)
}

// promOrNothing: node_exporter's textfile collector reads *.prom and nothing else,
// and nobody would notice that the figures are missing.
func promOrNothing(s string) (string, error) {
	if s != "" && (!strings.HasSuffix(s, ".prom") || strings.HasSuffix(s, "/.prom")) {
		return s, errors.New("must end in .prom: the collector reads no other file")
	}
	return absoluteOrNothing(s)
}

func loopbackURL(s string) (string, error) { return s, loopback.Check(s) }

func urlOrNothing(s string) (string, error) {
	if s == "" {
		return s, nil
	}
	return loopbackURL(s)
}

// NoProxy is the Proxy that says: through none, whatever the environment says.
const NoProxy = "none"

// CheckProxy reports whether s can be a Proxy. Its error does not show s, which
// may hold a password.
func CheckProxy(s string) error {
	_, err := proxyOrNothing(s)
	return err
}

func proxyOrNothing(s string) (string, error) {
	if s == "" || s == NoProxy {
		return s, nil
	}
	scheme, rest, _ := strings.Cut(s, "://") // its user parses it, see package loopback
	host := rest[strings.LastIndex(rest, "@")+1:]
	if host = strings.TrimSuffix(host, "/"); host == "" || host[0] == ':' || strings.ContainsAny(host, "/?#") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) ||
		!slices.Contains([]string{"http", "https", "socks5", "socks5h"}, scheme) {
		return "", errors.New(`must be the address of a proxy such as "http://proxy.example:3128", or "none"`)
	}
	return s, nil
}

func oneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", fmt.Errorf("must be one of %q, got %q", words, s)
		}
		return s, nil
	}
}

func oneLine(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", fmt.Errorf("must be one line of text, got %q", s)
	}
	return s, nil
}

// label is the name of a check: it stands in tables, in the record and in the
// journal.
func label(s string) (string, error) {
	if s == "" || len(s) > 64 || strings.TrimSpace(s) != s {
		return "", fmt.Errorf("must be 1 to 64 bytes without spaces around them, got %q", s)
	}
	return oneLine(s)
}

// unitName is systemd.unit(5): at most 255 of these characters and a suffix. A
// template without an instance cannot be asked about. A name without a suffix is a
// service, as for systemctl.
func unitName(s string) (string, error) {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@"
	full := s
	if !strings.Contains(s, ".") {
		full += ".service"
	}
	suffix := filepath.Ext(full)
	name := strings.TrimSuffix(full, suffix)
	known := slices.Contains([]string{".service", ".socket", ".target", ".timer", ".mount", ".path"}, suffix)
	if !known || name == "" || len(full) > 255 || strings.Trim(full, allowed) != "" || strings.HasSuffix(name, "@") || name[0] == '-' {
		return "", fmt.Errorf(`must be the name of a unit such as "device-api.service", got %q`, s)
	}
	return full, nil
}

// show prints a TOML value for an error.
func show(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case map[string]any, []map[string]any:
		return "a table"
	case []any:
		return "a list"
	}
	return fmt.Sprint(v)
}
