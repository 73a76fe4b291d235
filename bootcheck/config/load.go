package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/tope-ota/ota/bootcheck"
)

// maxFile is the largest configuration that is read, in bytes. A real one is
// under 4 KiB; the limit keeps a mistake from eating the memory of a boot.
const maxFile = 64 << 10

// Find loads the configuration that a program was told to use: named is the
// value of --config, or empty for $OTA_CONFIG and then DefaultPath. That there
// is no file at DefaultPath is no error; a file that the caller named must be
// there. Otherwise Find is Load.
func Find(named string) (*Config, error) {
	path := named
	if path == "" {
		path = os.Getenv("OTA_CONFIG")
	}
	if path == "" {
		c, err := Load(DefaultPath)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return c, err
	}
	return Load(path)
}

// Load reads the file at path. The Config is never nil and always usable: what
// is wrong in the file has its default, everything else counts; a file that is
// not there, cannot be read, is not TOML, or that others than root can change
// (bootcheck.CheckOwner) leaves the defaults.
//
// The error says everything that was wrong, in one line; it is fs.ErrNotExist when
// there is no file.
func Load(path string) (*Config, error) {
	text, err := bootcheck.ReadLinked(path, maxFile)
	if err == nil {
		err = bootcheck.CheckOwner(path)
	}
	if err != nil {
		return Default(path), fmt.Errorf("cannot read the configuration: %w", err)
	}
	return parse(path, string(text))
}

func parse(path, text string) (*Config, error) {
	c := Default(path)
	if overfull(text) {
		return c, fmt.Errorf("cannot read the configuration %q: a value is nested too deep, or a line has too many dots", c.Path)
	}
	var doc map[string]toml.Primitive
	md, err := toml.Decode(text, &doc)
	if err != nil {
		return c, fmt.Errorf("cannot read the configuration %q: %w", c.Path, syntax(err))
	}
	l := &loader{md: md, path: c.Path, from: make(map[string]string)}
	known := map[string]setting{"check": l.checks(&c.Checks)}
	for _, k := range c.keys() {
		known[k.name] = k.set
	}
	l.table("", doc, known)
	if c.from = l.from; c.from["spool"] == "" {
		c.Spool = filepath.Join(c.Root, ".spool")
	}
	if !md.IsDefined("trial", "stable") {
		c.Trial.Stable = min(c.Trial.Stable, c.Trial.Deadline)
	}
	if c.Trial.Stable > c.Trial.Deadline {
		l.bad("trial.stable", 0, fmt.Sprintf("%s is longer than the deadline of %s; both have their defaults", c.Trial.Stable, c.Trial.Deadline))
		d := Default(path).Trial
		c.Trial.Stable, c.Trial.Deadline = d.Stable, d.Deadline
		delete(c.from, "trial.stable")
		delete(c.from, "trial.deadline")
	}
	names := slices.Collect(maps.Keys(known))
	for name := range new(Check).settings() {
		names = append(names, "check."+name)
	}
	slices.Sort(names)
	for _, key := range l.unknown {
		text := fmt.Sprintf("unknown key %q", key)
		if like := bootcheck.Nearest(key, names); like != "" {
			text += fmt.Sprintf(", did you mean %q?", like)
		}
		l.wrong = append(l.wrong, text)
	}
	if len(l.wrong) > 0 {
		err = fmt.Errorf("configuration %q: %s", c.Path, strings.Join(l.wrong, "; "))
	}
	return c, err
}

// overfull reports whether text would take the parser more memory or time than a boot
// has: 64 KiB of brackets take 70 MiB, of dots minutes.
func overfull(text string) bool {
	depth, dots := 0, 0
	for i := range len(text) {
		switch text[i] {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		case '.':
			dots++
		case '\n':
			dots = 0
		}
		if depth > 64 || dots > 1000 {
			return true
		}
	}
	return false
}

// syntax makes one line of what the parser says.
func syntax(err error) error {
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		return fmt.Errorf("line %d: %s", pe.Position.Line, strings.ReplaceAll(pe.Message, "\n", " "))
	}
	return err
}

// loader goes through one file.
type loader struct {
	md      toml.MetaData
	path    string
	from    map[string]string // keys that were taken: "FILE:LINE"
	wrong   []string          // "line 2: trial.hard: must be at least 1, got 0"
	unknown []string          // keys that mean nothing: a typing error, or for a newer version of the program
}

func (l *loader) bad(key string, line int, why string) {
	text := key + ": " + why
	if line > 0 {
		text = fmt.Sprintf("line %d: %s", line, text)
	}
	l.wrong = append(l.wrong, text)
}

// table takes every key of a TOML table whose name and point is prefix, in the order
// of their names, so that the same file gives the same error.
func (l *loader) table(prefix string, values map[string]toml.Primitive, known map[string]setting) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		key := prefix + name
		set := known[key]
		isTable := slices.ContainsFunc(slices.Collect(maps.Keys(known)), func(k string) bool { return strings.HasPrefix(k, key+".") })
		switch {
		case isTable:
			var sub map[string]toml.Primitive
			// For what is no table, toml leaves sub alone and says nothing.
			if err := l.md.PrimitiveDecode(values[name], &sub); err != nil || sub == nil {
				l.bad(key, 0, fmt.Sprintf("must be a table, [%s]", key))
				continue
			}
			l.table(key+".", sub, known)
		case set == nil:
			l.unknown = append(l.unknown, key)
		default:
			err := l.md.PrimitiveDecode(values[name], set)
			if pe, ok := errors.AsType[toml.ParseError](err); ok {
				l.bad(key, pe.Position.Line, pe.Message)
			} else if err != nil {
				l.bad(key, 0, err.Error())
			} else if key != "check" {
				l.from[key] = l.place(values[name])
			}
		}
	}
}

// place is where a value stands, "FILE:LINE". The parser tells the line with an error only.
func (l *loader) place(value toml.Primitive) string {
	err := l.md.PrimitiveDecode(value, setting(func(any) error { return errors.New("") }))
	if pe, ok := errors.AsType[toml.ParseError](err); ok && pe.Position.Line > 0 {
		return fmt.Sprintf("%s:%d", l.path, pe.Position.Line)
	}
	return l.path
}

// checks takes the [[check]] tables. One that is wrong is left out and named by
// its place in the file; the others count. When none is left, the default stays:
// a typing error must not make every version good.
func (l *loader) checks(dst *[]Check) setting {
	return func(v any) error {
		tables, ok := v.([]map[string]any) // [[check]]
		if list, isList := v.([]any); isList {
			for _, e := range list { // check = [{…}]
				t, isTable := e.(map[string]any)
				if v = e; !isTable {
					break
				}
				tables, ok = append(tables, t), len(tables)+1 == len(list)
			}
		}
		if !ok {
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
			l.from["check"] = l.path // several tables: the parser tells the line of the last
		}
		return nil
	}
}

func (l *loader) check(t map[string]any) (Check, error) {
	c := Check{Required: true, Timeout: defaultTimeout}
	known := c.settings()
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if set := known[name]; set == nil {
			l.unknown = append(l.unknown, "check."+name)
		} else if err := set(t[name]); err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
	}
	kinds := len(slices.DeleteFunc([]string{c.Unit, c.HTTP, c.Script}, func(s string) bool { return s == "" }))
	switch {
	case c.Name == "":
		return c, errors.New("it has no name")
	case kinds != 1:
		return c, fmt.Errorf("%q must have exactly one of unit, http and script, got %d", c.Name, kinds)
	}
	return c, nil
}
