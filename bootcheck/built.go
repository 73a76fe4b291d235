package bootcheck

import (
	"strconv"
	"time"
)

// builtAt is the date of the sources that this program was built from, in seconds
// since 1970: SOURCE_DATE_EPOCH. `make build` sets it (go build -ldflags -X).
var builtAt string

// written is when this was written. Raise it now and then, never beyond the day on
// which that is done.
var written = time.Date(2026, time.November, 28, 0, 0, 0, 0, time.UTC)

// BuildDate is a date that is certainly past: no clock that shows less was ever set.
// It is that of the sources, or that of this file in a program that was not made by
// `make build`.
func BuildDate() time.Time {
	if s, err := strconv.ParseInt(builtAt, 10, 64); err == nil && s > written.Unix() {
		return time.Unix(s, 0).UTC()
	}
	return written
}
