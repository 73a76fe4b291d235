package bootcheck

import (
	"strconv"
	"testing"
	"time"
)

// TestBuildDate holds that the date of the program is that of its sources, and never in
// the future: everything would be found expired.
func TestBuildDate(t *testing.T) {
	defer func() { builtAt = "" }()
	if now := time.Now(); written.After(now) {
		t.Errorf("this was written on %v, now is %v", written, now)
	}
	later := written.AddDate(1, 0, 0)
	for _, row := range []struct {
		builtAt string
		want    time.Time
	}{
		{"", written},
		{"soon", written},
		{"0", written},
		{strconv.FormatInt(written.Unix()-1, 10), written},
		{strconv.FormatInt(later.Unix(), 10), later},
	} {
		if builtAt = row.builtAt; !BuildDate().Equal(row.want) {
			t.Errorf("built at %q: BuildDate() = %v, want %v", row.builtAt, BuildDate(), row.want)
		}
	}
}
