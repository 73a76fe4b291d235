package docs

import (
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
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
		{"any lines twice", "…\nb\n…\nd\n", "a\nb\nb\nc\nd\n", true},
	} {
		m := matcher{is: map[string]string{}}
		if err := m.match(outputLines(tt.want), outputLines(tt.got)); (err == nil) != tt.ok {
			t.Errorf("%s: match = %v, want ok %t", tt.name, err, tt.ok)
		}
	}
}

func TestParse(t *testing.T) {
	defer try.Fatal(t)
	const text = "<!-- machine: bare -->\n# A heading\n\n" +
		"<!-- file: x.toml -->\n```toml\nkeep = 1\n```\n" +
		"```console\n$ one \\\n>   two\nout\n# cat >f <<EOF\n$ no command\nEOF\n# three\n```\n"
	d := try.Get(parse("x.md", text))
	if d.machine != "bare" || len(d.blocks) != 2 || d.blocks[0].notes.file != "x.toml" || d.blocks[0].text() != "keep = 1\n" {
		t.Errorf("parse = %+v", d)
	}
	steps := try.Get(d.blocks[1].steps())
	var got []string
	for _, s := range steps {
		got = append(got, strings.Join(append([]string{s.command}, s.output...), "|"))
	}
	if want := "one \\\n  two|out; cat >f <<EOF\n$ no command\nEOF; three"; strings.Join(got, "; ") != want {
		t.Errorf("steps are %q, want %q", strings.Join(got, "; "), want)
	}
	if steps[0].device || !steps[1].device {
		t.Errorf("commands are for the wrong machines: %+v", steps)
	}

	d.replaceOutput(&steps[0], []string{"new", "lines"})
	if want := strings.Replace(text, "\nout\n", "\nnew\nlines\n", 1); strings.Join(d.lines, "\n") != want {
		t.Errorf("after an update the document is\n%s\nwant\n%s", strings.Join(d.lines, "\n"), want)
	}
	if got := d.blocks[1].text(); !strings.HasSuffix(got, "# three\n") {
		t.Errorf("after an update the block ends with %q", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a block of no kind":                    "```\nx\n```\n",
		"a block of a kind that nobody runs":    "```perl\nx\n```\n",
		"a block without an end":                "```sh\nx\n",
		"a fence with more than a kind":         "```sh -e\nx\n```\n",
		"a comment that is misspelt":            "<!-- notrun: because -->\n```sh\nx\n```\n",
		"a block that is not run for no reason": "<!-- not run: -->\n```sh\nx\n```\n",
		"a machine that does not exist":         "<!-- machine: phone -->\n",
	} {
		if _, err := parse("x.md", text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	d, err := parse("x.md", "```console\noutput\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.blocks[0].steps(); err == nil {
		t.Error("a transcript that begins with output: no error")
	}
}
