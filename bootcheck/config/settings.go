package config

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A setting takes the value of one key. It changes the Config only when it
// returns nil. As an Unmarshaler of the toml package it gets the line into its error.
type setting func(value any) error

// UnmarshalTOML calls s.
func (s setting) UnmarshalTOML(value any) error { return s(value) }

// A key of the file, by its full name.
type key struct {
	name  string
	set   setting
	value any // a pointer to what set sets
}

// keys are all of them, but for the [[check]] tables.
func (c *Config) keys() []key {
	return []key{
		{"root", text(&c.Root, directory), &c.Root},
		{"spool", text(&c.Spool, directory), &c.Spool},
		{"keys", list(&c.Keys, absolute), &c.Keys},
		{"model", text(&c.Model, oneLine), &c.Model},
		{"services", list(&c.Services, unitName), &c.Services},
		{"keep", integer(&c.Keep, 0, 1000), &c.Keep},
		{"reserve", size(&c.Reserve, `a number of bytes or a size such as "64MiB"`), &c.Reserve},
		{"run", text(&c.Run, directory), &c.Run},
		{"reuse", text(&c.Reuse, oneOf(ReuseAuto, ReuseCopy)), &c.Reuse},
		{"proxy", text(&c.Proxy, optional(proxy)), &c.Proxy},
		{"ca", list(&c.CA, absolute), &c.CA},
		{"client_certificate", text(&c.ClientCertificate, optional(absolute)), &c.ClientCertificate},
		{"limit_rate", size(&c.LimitRate, rateIs), &c.LimitRate},
		{"download_deadline", duration(&c.DownloadDeadline, 7*day), &c.DownloadDeadline}, // 600 MB at 1 KiB/s, the slowest that a download bears
		{"report.url", text(&c.Report.URL, optional(loopbackURL)), &c.Report.URL},
		// Beyond 100 a counter no longer ends a boot loop within a day, and a trial of
		// more than a day ends in no boot of a printer.
		{"trial.hard", integer(&c.Trial.Hard, 1, 100), &c.Trial.Hard},
		{"trial.unclean", integer(&c.Trial.Unclean, 1, 100), &c.Trial.Unclean},
		{"trial.clean", integer(&c.Trial.Clean, 1, 100), &c.Trial.Clean},
		{"trial.deadline", duration(&c.Trial.Deadline, day), &c.Trial.Deadline},
		{"trial.stable", duration(&c.Trial.Stable, day), &c.Trial.Stable},
		{"metrics.file", text(&c.Metrics.File, optional(promFile)), &c.Metrics.File},

		{"follow.source", text(&c.Follow.Source, optional(oneOf(FollowDDI, FollowChannel))), &c.Follow.Source},
		{"follow.url", text(&c.Follow.URL, optional(serverURL)), &c.Follow.URL},
		{"follow.tenant", text(&c.Follow.Tenant, pathElement), &c.Follow.Tenant},
		{"follow.device_id", text(&c.Follow.DeviceID, optional(pathElement)), &c.Follow.DeviceID},
		{"follow.token_file", text(&c.Follow.TokenFile, absolute), &c.Follow.TokenFile},
		{"follow.parts", list(&c.Follow.Parts, label), &c.Follow.Parts},
	}
}

func (c *Check) settings() map[string]setting {
	return map[string]setting{
		"name":   text(&c.Name, label),
		"unit":   text(&c.Unit, unitName),
		"http":   text(&c.HTTP, loopbackURL),
		"script": text(&c.Script, absolute),
		"required": func(v any) (err error) {
			var ok bool
			if c.Required, ok = v.(bool); !ok {
				err = fmt.Errorf("must be true or false, got %s", show(v))
			}
			return err
		},
		"timeout": duration(&c.Timeout, day),
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
		if err == nil {
			*dst = s
		}
		return err
	}
}

// list is a list of strings; one string alone is a list of one.
func list(dst *[]string, r rule) setting {
	return func(v any) error {
		values, ok := v.([]any)
		if s, one := v.(string); one {
			values, ok = []any{s}, true
		}
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

// Size is a number of bytes; of a rate, in a second, and 0 is no limit.
type Size int64

const (
	maxSize = 1 << 40 // more than any device has, and far from any overflow
	rateIs  = `bytes a second such as "500k" or "2M"`
)

// units are tried in this order. A letter alone is a power of 1024, of either case,
// as in curl's --limit-rate and in systemd's units.
var units = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"B", 1},
}

// parseSize reads "4096" and "64 MiB". Not ok: it is neither.
func parseSize(s string) (n int64, ok bool) {
	factor := int64(1)
	for _, u := range units {
		if rest, found := strings.CutSuffix(s, u.suffix); found {
			s, factor = strings.TrimRight(rest, " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n * factor, err == nil && n <= math.MaxInt64/factor && n >= math.MinInt64/factor
}

// ParseRate reads bytes a second: "500k", "2M"; 0 is no limit.
func ParseRate(s string) (rate Size, err error) {
	n, ok := parseSize(s)
	if !ok || n < 0 || n > maxSize {
		return 0, fmt.Errorf(`must be %s, 0 for no limit, got %q`, rateIs, s)
	}
	return Size(n), nil
}

func size(dst *Size, what string) setting {
	return func(v any) error {
		n, ok := v.(int64)
		if s, isText := v.(string); isText {
			n, ok = parseSize(s)
		}
		inRange := n >= 0 && n <= maxSize
		if !ok || what == rateIs && !inRange {
			return fmt.Errorf("must be %s, got %s", what, show(v))
		}
		if !inRange {
			return fmt.Errorf("must be at least 0 and at most 1024GiB, got %s", show(v))
		}
		*dst = Size(n)
		return nil
	}
}

// absolute is a path from the root without "..", whose meaning would depend on
// links. "/x/" is "/x".
func absolute(s string) (string, error) {
	if !filepath.IsAbs(s) || slices.Contains(strings.Split(s, "/"), "..") || strings.ContainsRune(s, 0) {
		return "", fmt.Errorf(`must be an absolute path without "..", got %q`, s)
	}
	return filepath.Clean(s), nil
}

// directory is an absolute path other than "/", which no program of this package owns.
func directory(s string) (string, error) {
	s, err := absolute(s)
	if s == "/" {
		return "", errors.New("cannot be the root of the file system")
	}
	return s, err
}

// optional takes the empty string, too.
func optional(r rule) rule {
	return func(s string) (string, error) {
		if s == "" {
			return s, nil
		}
		return r(s)
	}
}

// promFile: node_exporter's textfile collector reads *.prom and nothing else, and says
// nothing of other files.
func promFile(s string) (string, error) {
	if !strings.HasSuffix(s, ".prom") || strings.HasSuffix(s, "/.prom") {
		return s, errors.New("must end in .prom: the collector reads no other file")
	}
	return absolute(s)
}

func loopbackURL(s string) (string, error) {
	_, err := Loopback(s)
	return s, err
}

// NoProxy is the Proxy that says: through none, also if the environment names one.
const NoProxy = "none"

// CheckProxy reports whether s can be a Proxy. Its error does not show s, which
// may hold a password.
func CheckProxy(s string) error {
	_, err := optional(proxy)(s)
	return err
}

func proxy(s string) (string, error) {
	scheme, rest, _ := strings.Cut(s, "://")
	host := strings.TrimSuffix(rest[strings.LastIndex(rest, "@")+1:], "/")
	if s != NoProxy && (host == "" || host[0] == ':' || strings.ContainsAny(host, "/?#") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) ||
		!slices.Contains([]string{"http", "https", "socks5", "socks5h"}, scheme)) {
		return "", errors.New(`must be the address of a proxy such as "http://proxy.example:3128", or "none"`)
	}
	return s, nil
}

func oneOf(words ...string) rule {
	return func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", fmt.Errorf("must be one of %q, got %q", words, s)
		}
		return s, nil
	}
}

// serverURL: a token is sent there, so it holds none itself.
func serverURL(s string) (string, error) {
	scheme, rest, _ := strings.Cut(s, "://")
	if scheme != "http" && scheme != "https" || rest == "" || rest[0] == '/' || rest[0] == ':' ||
		strings.ContainsAny(rest, "@?#%") || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New(`must be the address of a server such as "https://updates.example.com", without a user, a query or escapes`)
	}
	return strings.TrimRight(s, "/"), nil
}

// pathElement is the name of a tenant or a device, one element of a path.
func pathElement(s string) (string, error) {
	if s == "." || s == ".." || strings.Contains(s, "/") {
		return "", fmt.Errorf("must be a name without a slash, got %q", s)
	}
	return label(s)
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

// unitName is systemd.unit(5): at most 255 of these characters and a suffix; without
// one it is a service, as for systemctl. A template cannot be asked about.
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
