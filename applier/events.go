package applier

import (
	"bytes"
	"encoding/json"
	"io"
	"time"

	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
)

// events tells a program the progress of an install (install --json and activate
// --json): one JSON object a line on stdout, and nothing else there. First
//
//	{"event":"progress","stage":"downloading","progress":40,"message":"…","schema":1}
//
// at each change of stage and every 5 %; stage is one of report's but for success
// and failed, progress is percent of the stage, message is for an operator. The
// progress falls when a download starts over. Last, always and once
//
//	{"event":"result","exit":0,"stage":"success","version":"1.2.0","message":"…","error":"","digest":"sha256:…","release":7,"size":812,"schema":1}
//
// exit is the exit code; stage is success for 0, else failed; version is that of
// the bundle, empty if it was not found out; message is for an operator; error is
// empty, or a code and the message as in a report: "DISK_FULL: …"; digest, release and
// size are the version's, null if they were not found out. There is no line for a command line that is wrong (exit 2).
//
// All keys are always there; a later version may have more of them, and more
// events.
//
// A program that does not read loses events, and never holds the install up.
type events struct {
	w    io.Writer
	room func(time.Duration) bool // whether w takes a line within this time
	text bytes.Buffer             // what an operator would have been told on stdout

	// The unit that the install runs in has the same stdout and gives the result, or
	// gave it.
	elsewhere bool
}

// resultPatience is how long the result waits for a program that does not read.
const resultPatience = 2 * time.Second

func newEvents(stdout io.Writer) *events {
	return &events{w: stdout, room: func(wait time.Duration) bool { return cli.Writable(stdout, wait) }}
}

type progressEvent struct {
	Event    string `json:"event"`
	Stage    string `json:"stage"`
	Progress int    `json:"progress"`
	Message  string `json:"message"`
	Schema   int    `json:"schema"`
}

type resultEvent struct {
	Event   string             `json:"event"`
	Exit    bootcheck.ExitCode `json:"exit"`
	Stage   string             `json:"stage"`
	Version string             `json:"version"`
	Message string             `json:"message"`
	Error   string             `json:"error"`
	Digest  *string            `json:"digest"`
	Release *int64             `json:"release"`
	Size    *int64             `json:"size"` // of its files, bytes
	Schema  int                `json:"schema"`
}

// progress is a report.Reporter's watcher.
func (e *events) progress(s report.State) {
	if s.Running() { // the end is the result's to tell
		e.print(progressEvent{"progress", s.Stage, s.Progress, s.Message, bootcheck.OutputSchema}, 0)
	}
}

// result is the last line: the command that was to run version ended with err. Of a
// version that was not found out, all fields are empty.
func (e *events) result(version bootcheck.VersionInfo, err error) {
	if e.elsewhere {
		return
	}
	r := resultEvent{Event: "result", Stage: report.StageSuccess, Version: version.Version, Message: bootcheck.OneLine(e.text.String()),
		Digest: version.Digest, Release: version.Release, Size: version.Size, Schema: bootcheck.OutputSchema}
	if err != nil {
		r.Exit, r.Stage, r.Message = bootcheck.Exit(err), report.StageFailed, bootcheck.Line(err)
		r.Error = bootcheck.ReportCode(err) + ": " + r.Message
	}
	e.print(r, resultPatience)
}

func (e *events) print(v any, patience time.Duration) {
	if !e.room(patience) {
		return
	}
	enc := json.NewEncoder(e.w)
	enc.SetEscapeHTML(false) // these are read by programs and people, not by browsers
	// One write, so that lines of two processes do not mix. The caller may be gone:
	// it is what the install is for that counts.
	_ = enc.Encode(v)
}
