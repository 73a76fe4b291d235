// Package report sends the progress of an install to device-api and to the state file,
// progress.json.
//
// device-api is slow, hangs or is being restarted: no method but Flush and Close waits
// for it, or for a disk. The newest wins: one report a stage waits to be posted, and one
// state to be written. What cannot be delivered within 2 s is dropped; that is what the
// state file is for.
package report

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tope-ota/ota/applier/check"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
)

// The stages of an install, in their order. The words are API: device-api and
// screens know them.
const (
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
	waitMax   = 8                      // stages that may wait: more than an install has
	postLimit = 2 * time.Second        // for one report
	lastLimit = time.Second            // in Close, for all that waits, then again for the last report
	slowLimit = 250 * time.Millisecond // instead, if the report before timed out; and in Flush
	keepEvery = time.Second            // between two states of the file that say how many bytes are done
	textMax   = 1000                   // bytes of a message: a cause may quote an address of any length
)

// A State is what a report says. All four keys are always there.
type State = bootcheck.Operation

// kept is what the state file says.
type kept struct {
	bootcheck.Install
	Exit   *bootcheck.ExitCode `json:"exit"` // of the command; null until it has ended
	Schema int                 `json:"schema"`
}

// A Reporter reports one install. Its methods may be called from several goroutines.
type Reporter struct {
	url  string
	file string // empty: no state is kept

	mu      sync.Mutex
	watch   func(State)
	state   kept          // the newest
	noted   time.Time     // when state was last to be kept
	told    int           // percent of the last state that was told
	kept    chan struct{} // closed while state is in the file
	waiting []State       // to be posted, the oldest first, no two neighbours of the same stage
	idle    chan struct{} // closed while nothing waits or is under way
	cancel  func()        // ends the post under way
	slow    bool          // the last report timed out
	closed  bool
	muted   bool // nothing is posted
	err     error

	there *os.File // what is at file: open, as it is locked; of the process that keeps it
}

// New makes a Reporter that posts to address, of the configuration, and keeps the last state
// in file, as bootcheck.Operation says (mode 0644; its directory is made if missing). Empty
// means: do not. The caller calls Close at the end.
func New(address, file string) *Reporter {
	r := &Reporter{url: address, muted: address == "", file: file, cancel: func() {}, idle: make(chan struct{}), kept: make(chan struct{})}
	r.state.Schema = bootcheck.OutputSchema
	close(r.idle)
	close(r.kept)
	if file != "" {
		// What a process left that was killed in the middle of a write.
		left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".*"))
		for _, name := range left {
			os.Remove(name)
		}
	}
	return r
}

// Watch lets f see every state, in their order. f must return soon. Watch is called
// before the first state.
func (r *Reporter) Watch(f func(State)) { r.watch = f }

// Stage begins a stage, or says something new about the one that runs.
// progress is a percentage of the stage.
func (r *Reporter) Stage(stage string, progress int, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Done, r.state.Total = 0, 0
	r.set(State{Stage: stage, Progress: percent(progress), Message: message})
}

// Version says which version is installed. The state file has it from the next stage on.
func (r *Reporter) Version(version string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Version = bootcheck.OrNull(version)
}

// Progress says how far the stage is: done of total bytes, which are above 0. It is told at
// steps of 5 % and at 100 %. The state file has the bytes once a second.
func (r *Reporter) Progress(done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Done, r.state.Total = done, total
	s := r.state.Operation
	if p := percent(int(done * 100 / total)); isStep(s.Progress, p) {
		s.Progress = p
		r.set(s)
	} else if time.Since(r.noted) >= keepEvery {
		r.keepState(s)
	}
}

// Trial says how far the trial is that a stage waits for, and message says it to people.
// The state file has each call; it is told at steps of 5 % and at 100 %.
func (r *Reporter) Trial(p int, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state.Operation
	s.Progress, s.Message = percent(p), message
	if r.keepState(s) && isStep(r.told, s.Progress) {
		r.tell()
	}
}

// isStep reports whether a progress is to be told after that of before, which is more when a
// download starts over.
func isStep(before, now int) bool {
	return max(now-before, before-now) >= step || now == 100 && before != 100
}

// Mute ends the posts. What comes from now on is kept in the file and watched all the same.
func (r *Reporter) Mute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.muted = true
}

// Fail ends the reports with stage "failed" and the error "CODE: text of err".
func (r *Reporter) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := bootcheck.Line(err)
	if r.set(State{Stage: StageFailed, Progress: r.state.Progress, Message: text, Error: bootcheck.ReportCode(err) + ": " + text}) {
		r.state.Exit = new(bootcheck.Exit(err))
	}
}

// Success ends the reports with stage "success" at 100 %.
func (r *Reporter) Success(message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set(State{Stage: StageSuccess, Progress: 100, Message: message}) {
		r.state.Exit = new(bootcheck.ExitDone)
	}
}

// Err is the first thing that was wrong with the state file. It is
// worth a line in the log, and no reason to stop.
func (r *Reporter) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// set makes s the state: r.mu is held. Nothing follows success or failed.
func (r *Reporter) set(s State) bool {
	if !r.keepState(s) {
		return false
	}
	r.tell()
	return true
}

// keepState makes s the state, in the file too, and sends nothing: r.mu is held.
func (r *Reporter) keepState(s State) bool {
	if r.closed || r.state.Stage == StageSuccess || r.state.Stage == StageFailed {
		return false
	}
	s.Message, s.Error = clip(s.Message), clip(s.Error)
	r.state.Operation, r.noted = s, time.Now()
	if r.file != "" {
		begin(&r.kept, r.keepNewest)
	}
	return true
}

// tell tells the watcher and device-api of the state: r.mu is held.
func (r *Reporter) tell() {
	s := r.state.Operation
	r.told = s.Progress
	if r.watch != nil {
		r.watch(s)
	}
	if r.muted {
		return
	}
	if n := len(r.waiting); n > 0 && r.waiting[n-1].Stage == s.Stage {
		r.waiting = r.waiting[:n-1]
	}
	r.waiting = append(r.waiting, s)
	r.waiting = r.waiting[max(0, len(r.waiting)-waitMax):]
	begin(&r.idle, r.postWaiting)
}

// begin runs f unless it runs already: done is closed when it does not.
func begin(done *chan struct{}, f func(done chan struct{})) {
	select {
	case <-*done:
		*done = make(chan struct{})
		go f(*done)
	default: // it sees what is new
	}
}

// keepNewest writes the state until there is no newer one.
func (r *Reporter) keepNewest(done chan struct{}) {
	for written := (kept{}); ; {
		r.mu.Lock()
		s := r.state
		if s == written {
			close(done)
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		written = s
		if err := r.keep(s); err != nil {
			r.mu.Lock()
			r.err = cmp.Or(r.err, fmt.Errorf("cannot keep the progress of the install: %w", err))
			r.mu.Unlock()
		}
	}
}

// keep replaces the state file as a whole. Nothing is synced: the file tells about this
// boot only, and after a power cut an empty one says as much as none.
func (r *Reporter) keep(s kept) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	dir := filepath.Dir(r.file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(r.file)+".*")
	if err != nil {
		return err
	}
	// Locked before another process can see it: see bootcheck.Operation.
	err = bootcheck.LockOperation(f)
	if err == nil {
		_, err = f.Write(append(data, '\n'))
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), r.file)
	}
	if err != nil {
		os.Remove(f.Name())
		return errors.Join(err, f.Close())
	}
	// Only now: a reader that finds the file before unlocked sees that there is another.
	r.there.Close() // of nil: an error, and nothing else
	r.there = f
	return nil
}

// postWaiting posts what waits, one report after the other.
func (r *Reporter) postWaiting(done chan struct{}) {
	for {
		r.mu.Lock()
		if len(r.waiting) == 0 {
			close(done)
			r.mu.Unlock()
			return
		}
		body, _ := json.Marshal(r.waiting[0]) // of texts and a number
		r.waiting = r.waiting[1:]
		ctx, cancel := context.WithCancel(context.Background())
		r.cancel = cancel
		r.mu.Unlock()
		answer := check.Do(ctx, health.Request{Report: r.url, Body: body, Timeout: postLimit})
		cancel()
		r.mu.Lock()
		r.slow = answer.Late
		r.mu.Unlock()
	}
}

// wait waits until nothing waits or is under way, for limit at most, and for slowLimit
// where the last report timed out.
func (r *Reporter) wait(ctx context.Context, limit time.Duration) bool {
	r.mu.Lock()
	idle := r.idle
	if r.slow {
		limit = slowLimit
	}
	r.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-time.After(limit):
	case <-ctx.Done():
	}
	return false
}

// Flush gives what was said a quarter of a second to arrive. Call it before device-api
// is restarted: what waits then would never be told.
func (r *Reporter) Flush(ctx context.Context) { r.wait(ctx, slowLimit) }

// Close lets the last report out and unlocks the state file: within 2 s, within half a
// second if the report before timed out, and at once when ctx ends. It may be called
// more than once.
func (r *Reporter) Close(ctx context.Context) {
	r.mu.Lock()
	r.closed = true
	kept := r.kept
	r.mu.Unlock()
	// First: a screen and a report say the same at the same moment.
	select {
	case <-kept:
		r.there.Close()
	case <-ctx.Done():
	}
	if r.wait(ctx, lastLimit) {
		return
	}
	// There is no time for all of it: what is under way and what waits is given up for
	// the last, then that, too.
	for last := 1; last >= 0; last-- {
		r.mu.Lock()
		r.waiting = r.waiting[len(r.waiting)-min(len(r.waiting), last):]
		if last == 0 || len(r.waiting) > 0 {
			r.cancel()
		}
		r.mu.Unlock()
		if r.wait(ctx, lastLimit) {
			return
		}
	}
}

func percent(p int) int { return min(max(p, 0), 100) }

// clip makes text one line of at most textMax bytes.
func clip(text string) string { return bootcheck.Clip(bootcheck.OneLine(text), textMax) }
