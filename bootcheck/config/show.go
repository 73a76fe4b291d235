package config

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// A Setting is a key with the value that counts.
type Setting struct {
	Key   string `json:"key"`   // as in the file; "check" is one of the [[check]] tables
	Value any    `json:"value"` // a string, a number, a list of strings or a Check; sizes are bytes, times "1m30s"
	From  string `json:"from"`  // "default", "FILE:LINE", or the flag "--root"
}

// Settings are all keys, each with the value that counts and where it comes from.
func (c *Config) Settings() []Setting {
	var all []Setting
	add := func(name string, value any) {
		all = append(all, Setting{name, value, cmp.Or(c.from[name], "default")})
	}
	for _, k := range c.keys() {
		switch v := k.value.(type) {
		case *string:
			add(k.name, *v)
		case *[]string:
			add(k.name, append([]string{}, *v...))
		case *int:
			add(k.name, *v)
		case *Size:
			add(k.name, *v)
		case *time.Duration:
			add(k.name, short(*v))
		}
	}
	for _, check := range c.Checks {
		add("check", check.setting())
	}
	return all
}

// Lines are the value as `config` prints it: one line, or one for each of a list.
func (s *Setting) Lines() []string {
	switch v := s.Value.(type) {
	case []string:
		return v
	case shownCheck:
		return []string{v.String()}
	}
	return []string{fmt.Sprint(s.Value)}
}

// shownCheck is a Check with all that counts.
type shownCheck struct {
	Name     string           `json:"name"`
	Unit     bootcheck.OrNull `json:"unit"`
	HTTP     bootcheck.OrNull `json:"http"`
	Script   bootcheck.OrNull `json:"script"`
	Required bool             `json:"required"`
	Timeout  string           `json:"timeout"`
}

func (c *Check) setting() shownCheck {
	return shownCheck{c.Name, bootcheck.OrNull(c.Unit), bootcheck.OrNull(c.HTTP), bootcheck.OrNull(c.Script), c.Required, short(c.Timeout)}
}

func (c shownCheck) String() string {
	kind := "wanted"
	if c.Required {
		kind = "required"
	}
	return fmt.Sprintf("%s: %s, %s, timeout %s", c.Name, cmp.Or(c.Unit, c.HTTP, c.Script), kind, c.Timeout)
}

// short is d as it is written in the file: "10m", not "10m0s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
