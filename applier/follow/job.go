package follow

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
)

const (
	maxTries   = 6                // of what may pass by itself, before the action is closed
	firstRetry = 30 * time.Second // doubles with each try
	busyRetry  = 30 * time.Second // another install runs: it ends first
)

// takeOrder begins or continues with the job that o is about.
func (f *Follower) takeOrder(o *Order) {
	if job := f.state.Job; job != nil {
		if job.isOf(*o) {
			if f.order == nil && job.Stage == Staging {
				f.progress(Resumed, 0, "the download continues")
			}
			f.order = o
			return
		}
		if job.Stage == Switching {
			return // the server offers it again when this one has ended
		}
		f.abandon()
	}
	job := &Job{Action: o.Action, Confirm: o.Kind == KindConfirm, Name: o.Name, Label: o.Version, Content: o.Content, Stage: Checking, Since: now()}
	f.state.Job, f.work = job, work{order: o, paid: -1}
	if o.Problem != "" {
		f.fail(bootcheck.ExitRefused, o.Problem)
		return
	}
	// What failed here and is blocked is answered without a request for it.
	for _, e := range f.state.Ended {
		if e.Content == "" || e.Content != o.Content {
			continue
		}
		r, err := f.Store.Record()
		if err != nil || r == nil {
			break
		}
		if b := r.BlockedBy(&bootcheck.Ref{Version: e.Version, Digest: e.Digest}); b != nil {
			job.Version, job.Digest = e.Version, e.Digest
			f.fail(bootcheck.ExitRefused, blockedText(b))
			return
		}
	}
	f.logf("the server asks for version %s (action %s)", o.Version, o.Action)
	f.state.save()
}

func blockedText(b *bootcheck.Blocked) string {
	return fmt.Sprintf("version %s is blocked, it failed on this device (%s)", b.Version, strings.TrimSuffix(b.Reason+": "+b.Check, ": "))
}

// takeCancel obeys a cancel until the switch, and rejects it from then on.
func (f *Follower) takeCancel(o *Order) {
	m := Message{Action: o.Action, Cancel: o.Cancel, Outcome: Cancelled, Details: []string{"nothing was activated"}}
	job := f.state.Job
	switch {
	case job != nil && job.Action == o.Action && job.Stage == Switching:
		m.Outcome, m.Details = Rejected, []string{fmt.Sprintf("version %s is activated already; ota-guardian confirms it or rolls it back", job.name())}
	case job != nil && job.Action == o.Action:
		f.logf("the server cancelled version %s", job.name())
		f.drop()
	case slices.ContainsFunc(f.state.Ended, func(e Ended) bool { return e.Action == o.Action }):
		m.Outcome, m.Details = Rejected, []string{"the action was closed on the device already"}
	}
	f.over[o.task()] = true
	f.post(m)
}

// abandon ends a job that the server does not want any more, before its switch.
func (f *Follower) abandon() {
	f.drop()
	f.state.save()
}

// drop is abandon, and leaves the saving to the caller.
func (f *Follower) drop() {
	if f.child != nil {
		f.child.stop()
	}
	f.state.Job, f.work = nil, work{}
}

// post keeps m until the server has it, and with it what else changed in the state.
func (f *Follower) post(m Message) {
	f.state.Outbox = append(f.state.Outbox, m)
	f.state.save()
}

// progress is a message that may be lost.
func (f *Follower) progress(outcome Outcome, percent int, text string) {
	job := f.state.Job
	if job == nil || job.Confirm || f.told >= maxProgress || text == f.shown {
		return
	}
	f.told++
	f.shown = text
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = f.Source.Tell(ctx, &Message{Action: job.Action, Outcome: outcome, Percent: percent, Details: details(text)})
}

// advance begins what can be done now for the job.
func (f *Follower) advance(ctx context.Context) {
	job := f.state.Job
	f.waits = ""
	switch {
	case job == nil || f.child != nil || f.state.failed != nil:
		return
	case job.Stage == Switching:
		f.checkSwitch(nil)
		return
	case f.order == nil:
		f.waits = "the server has to ask for it again"
		return
	case time.Now().Before(f.retry):
		f.waits = "the next try"
		return
	}
	switch job.Stage {
	case Checking:
		args := []string{"install", "--dry-run", "--json"}
		if f.order.Manifest != "" {
			args = append(args, "--manifest", f.order.Manifest)
		}
		f.start(ctx, append(args, "--url-file")...)
	case Staging:
		if !f.order.Stage {
			f.waits = "the server does not allow the download yet"
			return
		}
		f.start(ctx, "install", "-q", "--json", "--no-activate", "--manifest", job.Digest, "--url-file")
	case Staged:
		held := ""
		if !f.order.Forced {
			held = f.inhibited(ctx)
		}
		switch {
		case job.Confirm && held != "":
			f.waits = held
		case job.Confirm:
			f.end(Message{Outcome: Confirmed, Details: details("this device takes version " + job.Version)})
		case !f.order.Activate:
			f.waits = f.order.Why
			f.tellStaged()
		case held != "":
			f.waits = held
			f.progress(Proceeding, 100, "downloaded, waits: "+held)
		default:
			f.activate(ctx)
		}
	}
}

// tellStaged says once that the version is in the store.
func (f *Follower) tellStaged() {
	if job := f.state.Job; !job.Told {
		job.Told = true
		f.post(Message{Action: job.Action, Outcome: Downloaded, Details: details(fmt.Sprintf("version %s is in the store; %s", job.Version, f.order.Why))})
	}
}

func (f *Follower) activate(ctx context.Context) {
	job := f.state.Job
	record, err := f.Store.Record()
	if err != nil {
		f.waits, f.result = err.Error(), err
		return
	}
	job.Stage, job.Before = Switching, ""
	if record != nil && record.Current != nil {
		job.Before = record.Current.Digest
	}
	if f.state.save() == nil {
		f.switched = true
		f.start(ctx, "activate", "-q", "--json", job.Version)
	}
}

// start calls ota-apply. The last argument --url-file gets a file with the address, which can
// hold a secret.
func (f *Follower) start(ctx context.Context, args ...string) {
	var file string
	var err error
	if args[len(args)-1] == "--url-file" {
		file = filepath.Join(f.Run, ".follow-url")
		urls := append([]string{f.order.URL}, f.order.Mirrors...)
		err = bootcheck.ReplaceFile(file, []byte(urls[f.state.Job.Tries%len(urls)]+"\n"), 0o600, false)
		args = append(args, file)
	}
	if err == nil {
		f.child, err = startChild(ctx, append(slices.Clone(f.Program), args...), f.Log, file)
	}
	if err != nil {
		f.result, f.retry = fmt.Errorf("cannot start ota-apply: %w", err), time.Now().Add(firstRetry)
		f.logf("%v", f.result)
	}
}

// finishChild waits for the end of the child, for Once.
func (f *Follower) finishChild(ctx context.Context) error {
	for f.child != nil {
		select {
		case n, more := <-f.child.news:
			f.hear(ctx, n, more)
		case <-ctx.Done():
			f.child.leave()
			f.child = nil
			return ctx.Err()
		}
	}
	return f.state.failed
}

// hear takes what the child says; no more: its end.
func (f *Follower) hear(ctx context.Context, n said, more bool) {
	job := f.state.Job
	if more {
		if job.Stage != Checking {
			if n.Stage == report.StageDownloading {
				f.percent = max(f.percent, n.Progress)
			}
			text := fmt.Sprintf("%s %d %%", n.Stage, n.Progress/10*10)
			if job.Stage == Switching { // the trial counts in seconds
				text = n.Stage
			}
			f.progress(Proceeding, n.Progress, text)
		}
		return
	}
	r := &f.child.result
	f.child = nil
	if ctx.Err() != nil {
		return // the same stage begins again in the next process
	}
	switch {
	case job.Stage == Switching:
		f.checkSwitch(r)
	case r.exit == 0 && job.Stage == Checking:
		f.accepted(r)
	case r.exit == 0:
		job.Stage, job.Tries = Staged, 0
		f.state.save()
	default:
		f.again(r)
	}
}

// accepted continues with an order that this device takes.
func (f *Follower) accepted(r *result) {
	job := f.state.Job
	job.Version, job.Digest = r.Version, r.Digest
	switch {
	case job.Confirm || r.Here && !r.Current:
		job.Stage = Staged
	case r.Current: // of an earlier order, or of an operator
		job.Stage, job.Before = Switching, ""
	default:
		job.Stage = Staging
	}
	f.state.save()
}

// again tries once more, or closes the action, after r.
func (f *Follower) again(r *result) {
	job := f.state.Job
	f.result = r.err()
	switch r.exit {
	case bootcheck.ExitBusy:
		f.waits = "another install runs"
		f.retry = time.Now().Add(busyRetry)
		return
	case bootcheck.ExitFailed, bootcheck.ExitUsage, bootcheck.ExitDownloadFailed, bootcheck.ExitUnknown, killed:
		// ExitUsage: a file of the configuration may just be replaced.
		f.stale = true
		if r.code == bootcheck.CodeAddressExpired && f.percent > f.paid {
			// The next poll brings another one, at once. While each of them brings something, it is no try that failed.
			job.Tries, f.paid, f.result = 0, f.percent, nil
			f.state.save()
			return
		}
		if job.Tries++; job.Tries < maxTries {
			f.retry = time.Now().Add(firstRetry << job.Tries)
			f.progress(Proceeding, 0, r.lines[0])
			f.state.save()
			return
		}
	}
	f.fail(r.exit, r.lines...)
}

// checkSwitch looks what became of the version after the switch. r is how the activation
// ended; nil: it was interrupted, or is to be awaited.
func (f *Follower) checkSwitch(r *result) {
	job := f.state.Job
	record, err := f.Store.Record()
	if err != nil { // the guardian is just switching, or repairs it
		f.waits, f.result = err.Error(), bootcheck.Errorf(bootcheck.ExitUnknown, "", "version %s was activated: %w", job.name(), err)
		return
	}
	v, text := trialOutcome(record, job)
	if v == good || v == bad {
		if err := f.Store.SyncSwitch(); err != nil { // the server must not hear of what a power cut undoes
			f.waits, f.result = err.Error(), err
			return
		}
	}
	switch {
	case v == good:
		f.state.Installed = &Installed{job.Name, job.Label, job.Digest}
		f.end(Message{Outcome: Done, Details: details(fmt.Sprintf("version %s is confirmed", job.Version))})
	case v == bad:
		code := bootcheck.ExitRolledBack
		if record.Phase == bootcheck.PhaseHold {
			code = bootcheck.ExitHeld
		}
		f.fail(code, text...)
	case v == pending:
		f.waits = "the trial of version " + job.Version
		if r != nil && r.exit == bootcheck.ExitUnknown {
			f.result = r.err()
		}
	case r != nil && r.exit != 0:
		// It goes back so that what changed meanwhile is seen.
		job.Stage = Staged
		if r.exit != bootcheck.ExitBusy {
			job.Stage = Checking
		}
		if f.again(r); f.state.Job != nil {
			f.state.save()
		}
	default: // killed before the switch
		job.Stage = Checking
		f.state.save()
	}
}

// fail closes the action as one that failed.
func (f *Follower) fail(code bootcheck.ExitCode, text ...string) {
	if f.result == nil || bootcheck.Exit(f.result) != code {
		f.result = bootcheck.Errorf(code, "", "%s", text[0])
	}
	f.failed = true
	outcome := Failed
	if f.state.Job.Confirm {
		outcome = Denied
		f.denied[f.state.Job.Action] = true
	}
	f.end(Message{Outcome: outcome, Code: int(code), Details: details(text...)})
}

// end closes the job: in one step on the disk, it is over and its message waits.
func (f *Follower) end(m Message) {
	job := f.state.Job
	m.Action = job.Action
	if !job.Confirm {
		f.state.ended(job)
	}
	f.logf("action %s: %s: %s", m.Action, m.Outcome, m.Details[0])
	if m.Outcome == Done || m.Outcome == Confirmed {
		f.result = nil
	}
	f.over[job.task()] = true
	f.drop()
	f.post(m)
}

// details are the lines of a message.
func details(text ...string) (lines []string) {
	for _, t := range text {
		if t = clip(t, maxDetail); t != "" && len(lines) < maxDetails {
			lines = append(lines, t)
		}
	}
	return lines
}

// clip makes one printable line of at most n bytes of s.
func clip(s string, n int) string {
	return bootcheck.Clip(bootcheck.OneLine(bootcheck.Printable(s)), n)
}

// now is the time for people; nil: the clock was not set.
func now() *time.Time {
	t := time.Now().UTC().Truncate(time.Second)
	if t.Year() < 2026 {
		return nil
	}
	return &t
}
