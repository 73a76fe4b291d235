package bootcheck

import "fmt"

// Watching is how far the trial of a version has come. `ota-guardian confirm` keeps it in
// the run directory, in memory, while it watches. It is only shown: no decision reads it.
type Watching struct {
	Version string `json:"version"`
	Healthy int    `json:"healthy_seconds"` // how long all required checks have been good together
	Stable  int    `json:"stable_seconds"`  // how long they must be, to confirm the version
	// Check is the required check that is bad, or else the one that became good last;
	// empty: no check is required.
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Why   string `json:"why"` // one line: why it is bad; empty: it is good
}

// NoAnswerYet is why a check is not good that has not ended once.
const NoAnswerYet = "no answer yet"

// watchingFile is in the run directory, and only while a trial is watched.
const watchingFile = "watching.json"

// Keep replaces what run, the run directory, says of a trial.
func (w *Watching) Keep(run string) error {
	_, err := keep(run, watchingFile, w)
	return err
}

// EndWatching says that no trial is watched any more.
func EndWatching(run string) error { return forget(run, watchingFile) }

// ReadWatching returns what run says of the trial of version; nil: it is not watched now,
// or the file cannot be read, which is no error.
func ReadWatching(run, version string) *Watching {
	w := new(Watching)
	if !kept(run, watchingFile, w) || w.Version != version {
		return nil
	}
	return w
}

// Percent is how much of the stable time is over.
func (w *Watching) Percent() int {
	if w.Stable <= 0 {
		return 0
	}
	return min(100*w.Healthy/w.Stable, 100)
}

// Steady is "healthy for 23 of 60 s".
func (w *Watching) Steady() string {
	return fmt.Sprintf("healthy for %d of %d s", min(w.Healthy, w.Stable), w.Stable)
}

// CheckResult is `"device-api answers" good`, or, of a check that is bad, why.
func (w *Watching) CheckResult() string {
	switch {
	case w.Check == "":
		return "no check is required"
	case w.OK:
		return fmt.Sprintf("%q good", w.Check)
	case w.Why == NoAnswerYet:
		return fmt.Sprintf("%q has no answer yet", w.Check)
	}
	return fmt.Sprintf("%q bad: %s", w.Check, w.Why)
}
