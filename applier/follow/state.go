package follow

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// stateFile is in the store: it is about the versions there, and must be lost only with
// them. It is replaced whole, and only when something changed that a power cut must not
// lose.
const stateFile = ".follow.json"

const maxState = 1 << 20 // bytes; a real one is below 300 KiB

// A Stage is how far a job has come.
type Stage string

// Stages. Each is on the disk before what it names begins.
const (
	Checking  Stage = "judging"   // its head is fetched and compared with what the device takes
	Staging   Stage = "staging"   // it is downloaded into the store
	Staged    Stage = "staged"    // it is in the store
	Switching Stage = "switching" // it is activated, then on trial
)

// A Job is the order that is carried out.
type Job struct {
	Action  string `json:"action"`
	Confirm bool   `json:"confirm,omitempty"` // only to be checked
	Name    string `json:"name"`
	Label   string `json:"label"` // what the server calls the version
	Content string `json:"content,omitempty"`

	Stage   Stage      `json:"stage"`
	Since   *time.Time `json:"since"`             // nil: the clock was not set
	Version string     `json:"version,omitempty"` // of the bundle, with its digest: from Staging on
	Digest  string     `json:"digest,omitempty"`
	Before  string     `json:"before,omitempty"` // the digest that was current before Switching
	Tries   int        `json:"tries,omitempty"`  // that failed in a way that may pass
	Told    bool       `json:"told,omitempty"`   // the server knows that it is staged
}

func (j *Job) ref() *bootcheck.Ref { return &bootcheck.Ref{Version: j.Version, Digest: j.Digest} }

// isOf reports whether o asks for j.
func (j *Job) isOf(o Order) bool {
	return j.Action == o.Action && j.Confirm == (o.Kind == KindConfirm)
}

func (j *Job) task() task {
	if j.Confirm {
		return task{KindConfirm, j.Action}
	}
	return task{KindInstall, j.Action}
}

// name is the version as far as it is known.
func (j *Job) name() string {
	if j.Version != "" {
		return j.Version
	}
	return j.Label
}

// Ended is an action that was closed here.
type Ended struct {
	Action  string `json:"action"`
	Content string `json:"content,omitempty"`
	Version string `json:"version,omitempty"`
	Digest  string `json:"digest,omitempty"`
}

// maxEnded is how many of them are remembered.
const maxEnded = 16

// A State is what the follower must not forget.
type State struct {
	Schema    int             `json:"schema"`
	Server    string          `json:"server"`
	Job       *Job            `json:"job"`
	Outbox    []Message       `json:"outbox"` // not yet delivered, oldest first
	Ended     []Ended         `json:"ended"`  // newest last
	Installed *Installed      `json:"installed"`
	Told      string          `json:"told"`             // checksum of the attributes that the server has
	Memory    json.RawMessage `json:"memory,omitempty"` // of the source, see Answer

	path   string
	failed error // of the last save
	saves  int   // in this process
}

// load reads the state for server. One of another server, or none, is a new state. One
// that is damaged is an error and a new state: the record says which version is current, and the
// server what should. An error that is bootcheck.Inconclusive comes without a state.
func load(store *bootcheck.Store, server string) (*State, error) {
	path := filepath.Join(store.Dir(), stateFile)
	fresh := &State{Schema: 1, Server: server, path: path}
	data, err := bootcheck.ReadRegular(path, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	s := &State{}
	if err == nil {
		err = bootcheck.ReadJSON(data, s)
	}
	if err != nil {
		if bootcheck.Inconclusive(err) {
			fresh = nil // what was seen of a channel must not be forgotten for it
		}
		return fresh, fmt.Errorf("cannot read the state of the follower: %w", err)
	}
	if s.Server != server {
		fresh.Memory = s.Memory // what was seen of a channel counts at its mirrors, too
		return fresh, nil
	}
	s.path = path
	return s, nil
}

// save makes s durable. A failure is kept in s.failed until a save succeeds: what the state
// says must be on the disk before the follower continues.
func (s *State) save() error {
	data, err := json.Marshal(s)
	if err == nil {
		err = bootcheck.ReplaceFile(s.path, append(data, '\n'), 0o600, true)
	}
	s.saves++
	if s.failed = err; err != nil {
		// A sync that failed leaves the old state or the new one.
		s.failed = bootcheck.Errorf(bootcheck.ExitUnknown, "", "cannot write the state of the follower: %w", err)
	}
	return s.failed
}

// ended notes that job was closed.
func (s *State) ended(job *Job) {
	s.Ended = append(s.Ended, Ended{job.Action, job.Content, job.Version, job.Digest})
	s.Ended = s.Ended[max(0, len(s.Ended)-maxEnded):]
}
