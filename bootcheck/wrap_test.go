package bootcheck

import "testing"

// A hint is pasted: what stands in backticks is on one line, however long it is.
func TestWrap(t *testing.T) {
	const words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
	for _, row := range []struct{ name, text, want string }{
		{"words", words + " fifteen", "one two three four five six seven eight nine ten eleven twelve thirteen\n       fourteen fifteen"},
		{"a command at the end of a line", words[:55] + " run `ota-apply install --dry-run x.ota` now",
			"one two three four five six seven eight nine ten eleven run\n       `ota-apply install --dry-run x.ota` now"},
		{"a command that is longer than a line", "run `" + words + " " + words + "` now", "run\n       `" + words + " " + words + "`\n       now"},
		{"a backtick that nothing ends", "the name is ` and no more", "the name is ` and no more"},
		{"nothing", " ", ""},
	} {
		if got := Wrap(7, row.text); got != row.want {
			t.Errorf("%s:\n%q, want\n%q", row.name, got, row.want)
		}
	}
}
