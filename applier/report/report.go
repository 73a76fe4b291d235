// Package report tells device-api, and whoever looks into the state file, how
// an install gets on.
//
// An install does not wait for a report, but for a moment before device-api is
// restarted (Flush): a Reporter notes what is to be said and returns; goroutines of its own say it, one report after the other. What cannot
// be delivered within 2 s is dropped.
//
//	caller ── Stage, Progress, Fail, Success
//	  ├ watcher, if there is one                (events for programs)
//	  ├ newest state
//	  │   └ goroutine: state file               (status and screens read it)
//	  └ queue: one report for each stage        (within a stage the newest wins)
//	      └ goroutine: POST, 2 s each, of one stage 20 a second at most
//	caller ── Close: the last of both gets its chance
//
// device-api is restarted in the middle of an install, so that reports get
// lost is normal; that is what the state file is for.
package report

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// The stages of an install, in their order. The words are API: device-api and
// screens know them.
const (
	StageIdle        = bootcheck.StageIdle
	StageDownloading = "downloading"
	StageVerifying   = "verifying"
	StageToInstall   = "toInstall" // verified, the new version is about to be written
	StageInstalling  = "installing"
	StageRebooting   = "rebooting" // the services are being restarted, or the device
	StageSuccess     = "success"
	StageFailed      = "failed"
)

const (
	step      = 5                      // percent between two reports of a stage
	queueMax  = 8                      // stages that may wait: more than an install has
	postLimit = 2 * time.Second        // for one report
	lastLimit = time.Second            // in Close, for the queue to drain, then again for the last report
	slowLimit = 250 * time.Millisecond // instead, if the endpoint let the report before time out; and in Flush

	textMax = 1000 // bytes of a message: a cause may quote an address of any length
)

// postPause is between two reports of a stage: whatever the endpoint does, reports
// cost little of the processor. A variable for a test.
var postPause = 50 * time.Millisecond

// A State is what a report says. All four keys are always there.
type State = bootcheck.Operation

// terminal reports whether nothing is to be said after s.
func terminal(s State) bool { return s.Stage == StageSuccess || s.Stage == StageFailed }

// A Reporter reports one install. Its methods may be called from several
// goroutines; none but Flush and Close waits for anything.
type Reporter struct {
	keep *keeper // nil: no state file
	post *poster // nil: reports go nowhere

	mu      sync.Mutex
	watch   func(State)
	state   State
	queue   []State // oldest first, no two neighbours of the same stage
	sending bool    // a report is under way
	closed  bool
	muted   bool // see Mute
	err     error

	wake    chan struct{}      // the queue is no longer empty
	closing chan struct{}      // Close was called: no more pauses
	idle    chan struct{}      // the queue is empty and nothing is under way
	hurry   context.CancelFunc // gives up the report under way
	stop    context.CancelFunc // ends the goroutine
	stopped chan struct{}      // it has ended
}

// New makes a Reporter that posts to url and keeps the last state in
// stateFile, as bootcheck.Operation says (mode 0644; its folder is made if
// missing). Empty means: do not. Close must be called at the end.
func New(url, stateFile string) *Reporter {
	r := &Reporter{}
	if stateFile != "" {
		newest := func() State {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.state
		}
		r.keep = newKeeper(stateFile, newest, func(err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.err == nil {
				r.err = fmt.Errorf("cannot keep the progress of the install: %w", err)
			}
		})
	}
	if url == "" {
		return r
	}
	post, err := newPoster(url)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.err = err
		return r
	}
	r.post = post
	r.wake, r.idle, r.stopped = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	r.closing = make(chan struct{})
	var ctx, patient context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	patient, r.hurry = context.WithCancel(ctx)
	go r.run(ctx, patient)
	return r
}

// Watch lets f see every state that is told, in their order. f is called by who
// calls the Reporter and must return soon. Watch is called before anything is told.
func (r *Reporter) Watch(f func(State)) { r.watch = f }

// Stage begins a stage, or says something new about the one that runs.
// progress is a percentage of the stage.
func (r *Reporter) Stage(stage string, progress int, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(State{Stage: stage, Progress: percent(progress), Message: message})
}

// Progress says how far the stage is. It is told at steps of 5 % and at 100 %.
func (r *Reporter) Progress(p int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Progress = percent(p)
	moved := s.Progress - r.state.Progress // falls when a download starts over
	if moved >= step || moved <= -step || s.Progress == 100 && moved != 0 {
		r.set(s)
	}
}

// Mute keeps whatever comes from now on from being posted. It is kept in the file, and
// watched, all the same.
func (r *Reporter) Mute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.muted = true
}

// Fail ends the reports with stage "failed" and the error "CODE: text of err".
func (r *Reporter) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := err.Error()
	r.set(State{Stage: StageFailed, Progress: r.state.Progress, Message: text, Error: bootcheck.ReportCode(err) + ": " + text})
}

// Success ends the reports with stage "success" at 100 %.
func (r *Reporter) Success(message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(State{Stage: StageSuccess, Progress: 100, Message: message})
}

// Err is the first thing that was wrong with the url or the state file. It is
// worth a line in the log, and no reason to stop.
func (r *Reporter) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// set makes s the state: r.mu is held. Nothing follows success or failed.
func (r *Reporter) set(s State) {
	if r.closed || terminal(r.state) {
		return
	}
	s.Message, s.Error = clip(bootcheck.OneLine(s.Message)), clip(bootcheck.OneLine(s.Error))
	r.state = s
	if r.watch != nil {
		r.watch(s)
	}
	if r.keep != nil {
		signal(r.keep.wake)
	}
	if r.post == nil || r.muted {
		return
	}
	if n := len(r.queue); n > 0 && r.queue[n-1].Stage == s.Stage {
		r.queue[n-1] = s
	} else {
		r.queue = append(r.queue, s)
	}
	if len(r.queue) > queueMax {
		r.queue = slices.Delete(r.queue, 0, 1)
	}
	signal(r.wake)
}

// signal notes in c, which holds one value, that there is something to see.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func percent(p int) int { return min(max(p, 0), 100) }

// clip shortens text to textMax bytes, between two characters.
func clip(text string) string {
	if len(text) <= textMax {
		return text
	}
	return strings.ToValidUTF8(text[:textMax-len("…")], "") + "…"
}
