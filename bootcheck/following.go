package bootcheck

import "time"

// Following is what `ota-apply follow` does for its server at this moment. It is kept in
// the run directory, in memory. It is only shown: no decision reads it.
type Following struct {
	Server      string     `json:"server"`      // the address of the device at the server
	Action      string     `json:"action"`      // the server's name of what it asks for; empty: nothing
	Version     string     `json:"version"`     // that it asks for
	Stage       string     `json:"stage"`       // judging, staging, staged or switching
	Waits       OrNull     `json:"waits"`       // what it waits for
	Since       *time.Time `json:"since"`       // when the server asked; nil: the clock was not set
	Undelivered int        `json:"undelivered"` // messages that the server does not have yet
	Error       OrNull     `json:"error"`       // of the last poll
	// UnchangedDays is how many days of power what the server says has been the same; nil: it
	// is not counted.
	UnchangedDays *int `json:"unchanged_days"`
}

// FollowingFile is in the run directory.
const FollowingFile = "follow.json"

// Keep replaces what run, the run directory, says of the follower. changed is false if it
// said the same.
func (f *Following) Keep(run string) (changed bool, err error) { return keep(run, FollowingFile, f) }

// ReadFollowing returns what run says of the follower; nil: none ran in this boot, or the
// file cannot be read, which is no error.
func ReadFollowing(run string) *Following {
	f := new(Following)
	if !kept(run, FollowingFile, f) {
		return nil
	}
	return f
}

// text is "1.2.0 is staged, waits: inhibited: a print is under way, asked for 2 h ago".
func (f *Following) text(now time.Time) string {
	text := f.Version + " is " + f.Stage
	if f.Waits != "" {
		text += ", waits: " + string(f.Waits)
	}
	if f.Since != nil {
		text += ", asked for " + Ago(*f.Since, now)
	}
	return text
}
