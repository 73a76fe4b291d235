package docs

import (
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		name, want, got string
		ok              bool
	}{
		{"the same", "a\nb\n", "a\nb\n", true},
		{"nothing", "", "", true},
		{"nothing is shown of what is printed", "", "a\n", false},
		{"another line", "a\n", "b\n", false},
		{"a line less", "a\nb\n", "a\n", false},
		{"a line more", "a\n", "a\nb\n", false},
		{"anything in a line", "free … MiB\n", "free 812 MiB\n", true},
		{"anything in a line, but not the rest of it", "free … MiB\n", "free 812 GiB\n", false},
		{"what looks like a pattern is none", "a.c\n", "abc\n", false},
		{"any lines", "a\n…\nd\n", "a\nb\nc\nd\n", true},
		{"no lines are any", "a\n…\n", "a\n", true},
		{"any lines, and then one that is missing", "a\n…\ne\n", "a\nb\nc\nd\n", false},
		{"an example of a key, twice the same", "key 054F3E65460EA1D2\nby 054F3E65460EA1D2\n", "key 344033F05DDB9FA7\nby 344033F05DDB9FA7\n", true},
		{"an example of a key, and then another one", "key 054F3E65460EA1D2\nby 054F3E65460EA1D2\n", "key 344033F05DDB9FA7\nby E7115822F119519C\n", false},
		{"two examples for one key", "key 054F3E65460EA1D2\nby 16D2054F3E65460E\n", "key 344033F05DDB9FA7\nby 344033F05DDB9FA7\n", false},
		{"an example of a digest that is too short", "sha256:" + strings.Repeat("1", 64) + "\n", "sha256:1234\n", false},
		{"the first build on a machine", "done\n", "go: downloading example.org/a v1.2.3\ndone\n", true},
		{"any lines twice", "…\nb\n…\nd\n", "a\nb\nb\nc\nd\n", true},
	} {
		m := matcher{is: map[string]string{}}
		if err := m.match(outputLines(tt.want), outputLines(tt.got)); (err == nil) != tt.ok {
			t.Errorf("%s: match = %v, want ok %t", tt.name, err, tt.ok)
		}
	}
}
