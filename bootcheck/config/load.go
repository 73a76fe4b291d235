package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/BurntSushi/toml"

	"github.com/tope-ota/ota/bootcheck"
)

// maxFile is the largest configuration that is read, in bytes. A real one is
// under 4 KiB; the limit keeps a mistake from eating the memory of a boot.
const maxFile = 64 << 10

// Find loads the configuration that a program was told to use: named is the
// value of --config, or empty for $OTA_CONFIG and then DefaultPath. That there
// is no file at DefaultPath is no error; a file that somebody named must be
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
	var text string
	var err error
	if err = bootcheck.Retry(func() error {
		text, err = read(path)
		return err
	}); err != nil {
		return Default(path), fmt.Errorf("cannot read the configuration: %w", err)
	}
	return parse(path, text)
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
	l := &loader{md: md}
	known := c.settings()
	known["check"] = l.checks(&c.Checks)
	l.table("", doc, known)
	if !c.spoolSet {
		c.Spool = filepath.Join(c.Root, ".spool")
	}
	if !md.IsDefined("trial", "stable") {
		c.Trial.Stable = min(c.Trial.Stable, c.Trial.Deadline)
	}
	if c.Trial.Stable > c.Trial.Deadline {
		l.bad("trial.stable", 0, fmt.Sprintf("%s is longer than the deadline of %s; both have their defaults", c.Trial.Stable, c.Trial.Deadline))
		d := Default(path).Trial
		c.Trial.Stable, c.Trial.Deadline = d.Stable, d.Deadline
	}
	for _, key := range l.unknown {
		l.wrong = append(l.wrong, fmt.Sprintf("unknown key %q", key))
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

// read returns the text of a regular file. A FIFO in its place must not stop
// the boot, hence O_NONBLOCK.
func read(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() {
		return "", fmt.Errorf("%q is not a regular file", path)
	}
	if err := bootcheck.CheckOwner(path); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%q is larger than 64 KiB", path)
	}
	return string(b), err
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
	wrong   []string // "line 2: trial.hard: must be at least 1, got 0"
	unknown []string // keys that mean nothing: a typing error, or for a newer version of the program
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
		isTable := prefix == "" && slices.ContainsFunc(slices.Collect(maps.Keys(known)), func(k string) bool { return strings.HasPrefix(k, name+".") })
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
			}
		}
	}
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
