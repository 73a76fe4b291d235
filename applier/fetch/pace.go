package fetch

import (
	"sync"
	"time"
)

// pace ends a try whose server is slower than the minimum. It counts only the
// time spent waiting for the network: a slow disk is not the server's fault.
type pace struct {
	need   int64         // bytes that a window must bring
	window time.Duration // of waiting
	tooFew func(got int64)

	mu      sync.Mutex
	timer   *time.Timer
	waiting bool
	since   time.Time     // of this wait, or of the window that began during it
	waited  time.Duration // in this window, before since
	got     int64         // in this window
}

// newPace makes a pace that calls tooFew, at most once a window, when one
// ended with fewer than rate bytes a second.
func newPace(rate int64, window time.Duration, tooFew func(got int64)) *pace {
	p := &pace{window: window, tooFew: tooFew}
	p.need = max(1, int64(float64(rate)*window.Seconds()))
	p.timer = time.AfterFunc(window, p.expire)
	p.timer.Stop()
	return p
}

// begin says that we wait for the server from now on, end that n bytes came.
func (p *pace) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting, p.since = true, time.Now()
	p.timer.Reset(p.window - p.waited)
}

func (p *pace) end(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
	p.waiting = false
	p.waited += time.Since(p.since)
	p.got += int64(n)
	if p.waited >= p.window {
		p.judge()
	}
}

// expire runs when a window ends in the middle of a wait.
func (p *pace) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.waiting || p.waited+time.Since(p.since) < p.window {
		return // end was faster
	}
	p.judge()
	p.since = time.Now()
	p.timer.Reset(p.window)
}

// judge closes a window and begins the next.
func (p *pace) judge() {
	if p.got < p.need {
		p.tooFew(p.got)
	}
	p.waited, p.got = 0, 0
}

// stop ends the timer; p is of no use afterwards.
func (p *pace) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = false
	p.timer.Stop()
}
