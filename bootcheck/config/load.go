package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
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
// The error says everything that was wrong, in one line. errors.Is finds
// fs.ErrNotExist when there is no file. errors.As finds UnknownKeys when keys
// are in the file that mean nothing, and BadValue for the first value that is
// wrong.
func Load(path string) (*Config, error) {
	var text string
	err := bootcheck.Retry(func() (err error) {
		text, err = read(path)
		return err
	})
	if err != nil {
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
	l.table(nil, doc, c.settings(l))
	if !md.IsDefined("trial", "stable") {
		c.Trial.Stable = min(c.Trial.Stable, c.Trial.Deadline)
	}
	if c.Trial.Stable > c.Trial.Deadline {
		l.bad("trial.stable", 0, fmt.Sprintf("%s is longer than the deadline of %s; both have their defaults", c.Trial.Stable, c.Trial.Deadline))
		d := Default(path).Trial
		c.Trial.Stable, c.Trial.Deadline = d.Stable, d.Deadline
	}
	if len(l.unknown) > 0 {
		l.errs = append(l.errs, UnknownKeys(l.unknown))
	}
	if len(l.errs) > 0 {
		return c, &Error{Path: c.Path, Errs: l.errs}
	}
	return c, nil
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

// Error is all that is wrong with a file that could be read.
type Error struct {
	Path string
	Errs []error // each a BadValue or UnknownKeys; at least one
}

func (e *Error) Error() string {
	var parts []string
	for _, err := range e.Errs {
		parts = append(parts, err.Error())
	}
	return fmt.Sprintf("configuration %q: %s", e.Path, strings.Join(parts, "; "))
}

func (e *Error) Unwrap() []error { return e.Errs }

// BadValue is a value that is not used.
type BadValue struct {
	Key  string // "trial.hard", "check 2"
	Line int    // 0: not known
	Why  string // "must be at least 1, got 0"
}

func (b BadValue) Error() string {
	if b.Line > 0 {
		return fmt.Sprintf("line %d: %s: %s", b.Line, b.Key, b.Why)
	}
	return fmt.Sprintf("%s: %s", b.Key, b.Why)
}

// UnknownKeys are keys that mean nothing: a typing error, or a file for a newer
// version of the program.
type UnknownKeys []string

func (u UnknownKeys) Error() string {
	var quoted []string
	for _, k := range u {
		quoted = append(quoted, fmt.Sprintf("%q", k))
	}
	if len(quoted) == 1 {
		return "unknown key " + quoted[0]
	}
	return "unknown keys " + strings.Join(quoted, ", ")
}

// A setting takes the value of one key. It changes the Config only when it
// returns nil.
type setting func(value any) error

// UnmarshalTOML makes a setting something that the toml package decodes into:
// it then adds the line to the error.
func (s setting) UnmarshalTOML(value any) error { return s(value) }

// A table maps the name of a key to a setting or to another table.
type table map[string]any

type loader struct {
	md      toml.MetaData
	errs    []error
	unknown []string
}

func (l *loader) bad(key string, line int, why string) {
	l.errs = append(l.errs, BadValue{Key: key, Line: line, Why: why})
}

// table takes every key of a TOML table, in the order of their names, so that
// the same file gives the same error.
func (l *loader) table(at toml.Key, values map[string]toml.Primitive, known table) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		key := append(slices.Clone(at), name)
		switch k := known[name].(type) {
		case table:
			var sub map[string]toml.Primitive
			// For what is no table, toml leaves sub alone and says nothing.
			if err := l.md.PrimitiveDecode(values[name], &sub); err != nil || sub == nil {
				l.bad(key.String(), 0, fmt.Sprintf("must be a table, [%s]", key))
				continue
			}
			l.table(key, sub, k)
		case setting:
			err := l.md.PrimitiveDecode(values[name], k)
			if pe, ok := errors.AsType[toml.ParseError](err); ok {
				l.bad(key.String(), pe.Position.Line, pe.Message)
			} else if err != nil {
				l.bad(key.String(), 0, err.Error())
			}
		default:
			l.unknown = append(l.unknown, key.String())
		}
	}
}
