package calendar

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

func TestToday(t *testing.T) {
	program := bootcheck.BuildDate()
	years := func(n int) time.Time { return program.AddDate(n, 0, 0).Truncate(time.Second) }
	for _, row := range []struct {
		name        string
		clock, kept time.Time // kept: in the file; zero: none
		learned     time.Time
		want        time.Time
		unset       bool
	}{
		{name: "a clock that runs", clock: years(1), want: years(1)},
		{name: "1970", clock: time.Unix(30, 0), want: program, unset: true},
		{name: "1970, and a date of an earlier boot", clock: time.Unix(30, 0), kept: years(2), want: years(2), unset: true},
		{name: "1970, and a date of this boot", clock: time.Unix(30, 0), kept: years(2), learned: years(3), want: years(3), unset: true},
		{name: "an older date is learned", clock: time.Unix(30, 0), kept: years(2), learned: years(1), want: years(2), unset: true},
		{name: "a clock behind what is certain", clock: years(1), kept: years(2), want: years(2), unset: true},
		{name: "a clock that cannot be trusted", clock: years(11), kept: years(0), want: program},
		{name: "a date of an earlier boot that cannot be trusted", clock: time.Unix(30, 0), kept: years(11), want: program, unset: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			if !row.kept.IsZero() {
				c := Open(dir, nil)
				c.Learn(row.kept)
				c.Save()
			}
			c := Open(dir, func() time.Time { return row.clock })
			c.Learn(row.learned)
			if got := c.Today(); !got.Equal(row.want) {
				t.Errorf("Today() = %v, want %v", got, row.want)
			}
			if got := c.Unset(); got != row.unset {
				t.Errorf("Unset() = %v, want %v", got, row.unset)
			}
		})
	}
}

// A file that is damaged, or that others can write, says nothing.
func TestKeptDate(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, FileName)
	next := bootcheck.BuildDate().AddDate(1, 0, 0).Format(time.RFC3339)
	for _, row := range []struct {
		text string
		mode os.FileMode
	}{
		{"", 0o600}, {"\n", 0o600}, {"soon", 0o600}, {strings.Repeat("2", 1<<20), 0o600}, {"9999-99-99T00:00:00Z", 0o600},
		{next, 0o666}, {next, 0o620},
	} {
		if err := os.WriteFile(name, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, row.mode); err != nil {
			t.Fatal(err)
		}
		if c := Open(dir, nil); !c.floor.Equal(bootcheck.BuildDate()) {
			t.Errorf("the date %.40q in a file of mode %v was taken for %v", row.text, row.mode, c.floor)
		}
	}
}

// A reader leaves nothing behind.
func TestVolatile(t *testing.T) {
	dir := t.TempDir()
	next := bootcheck.BuildDate().AddDate(1, 0, 0)
	c := Open(dir, nil)
	c.Volatile()
	c.Learn(next)
	c.Save()
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("%v is left, %v", list, err)
	}
	if got := c.Today(); got.Before(next) {
		t.Errorf("Today() = %v, want %v or later", got, next)
	}
}

// The date of a channel lasts, and counts for bundles and channels, and for no certificate.
func TestChannelDate(t *testing.T) {
	dir := t.TempDir()
	program := bootcheck.BuildDate()
	made := program.AddDate(1, 0, 0).Truncate(time.Second)
	wakes := func() time.Time { return time.Unix(30, 0) }
	c := Open(dir, wakes)
	c.LearnChannel(made)
	c.LearnChannel(program)
	c.Save()
	for _, c := range []*Calendar{c, Open(dir, wakes)} {
		if !c.Today().Equal(made) || !c.Certificates().Equal(program) {
			t.Errorf("Today() = %v, want %v; Certificates() = %v, want %v", c.Today(), made, c.Certificates(), program)
		}
	}
}
