package applier

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
)

// progressBar shows the operator one line that is redrawn:
//
//	downloading  43 %, 172.3 MiB of 400.0 MiB, 12.3 MiB/s, 0:18 left
//
// A caller only notes its news; a goroutine draws the line, at most ten times a
// second, and also when nothing comes: then the rate falls. All methods do nothing
// on a nil bar.
type progressBar struct {
	terminal *os.File
	stop     chan struct{}
	stopped  chan struct{}

	mu          sync.Mutex
	name        string // of the stage; empty: there is nothing to show
	message     string
	whole       string // of a trial: the line as it is; empty: it is made of the rest
	begun       time.Time
	done, total int64
	rate        float64   // bytes a second, of the last seconds
	rated       time.Time // when that was, of
	ratedAt     int64     // these bytes
	shown       string    // the line on the terminal; empty: none
}

const (
	redraw    = 100 * time.Millisecond
	clearLine = "\r\x1b[K"
)

// newProgressBar is nil unless w is a terminal that can write over a line. close
// ends it.
func newProgressBar(w io.Writer) *progressBar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	p := &progressBar{terminal: f, stop: make(chan struct{}), stopped: make(chan struct{})}
	go p.run()
	return p
}

func (p *progressBar) run() {
	defer close(p.stopped)
	// Not a Ticker: it makes up for lost time.
	for next := time.NewTimer(0); ; next.Reset(redraw) {
		select {
		case <-p.stop:
			return
		case <-next.C:
			p.draw(time.Now())
		}
	}
}

func (p *progressBar) stage(name, message string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name, p.message, p.whole, p.begun = name, message, "", time.Now()
	p.done, p.total = 0, 0
	p.startOver(p.begun)
}

// trial shows line until the next stage.
func (p *progressBar) trial(line string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole = line
}

func (p *progressBar) progress(done, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	over := done < p.done || total != p.total
	if p.done, p.total = min(max(done, 0), total), total; over {
		p.startOver(time.Now())
	}
}

// startOver forgets the rate: what was before says nothing any more.
func (p *progressBar) startOver(now time.Time) { p.rate, p.rated, p.ratedAt = -1, now, p.done }

func (p *progressBar) draw(now time.Time) {
	width, _, err := term.GetSize(int(p.terminal.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.name == "" {
		return
	}
	// The last column stays free: some terminals wrap when it is written to.
	line := cut(p.line(now), width-1)
	if line == p.shown {
		return
	}
	// A terminal that was stopped (Ctrl-S) must not stop the install.
	if !cli.Writable(p.terminal, 0) {
		return
	}
	if _, err := io.WriteString(p.terminal, clearLine+line); err == nil {
		p.shown = line
	}
}

// line is what is shown at now.
func (p *progressBar) line(now time.Time) string {
	if p.whole != "" {
		return p.whole
	}
	if p.total <= 0 { // of a stage that does not know how far it is
		line := p.name
		if p.message != "" {
			line += ": " + p.message
		}
		if took := now.Sub(p.begun); took >= 2*time.Second {
			line += ", " + clock(took)
		}
		return line
	}
	if took := now.Sub(p.rated).Seconds(); took >= 1 {
		second := float64(p.done-p.ratedAt) / took
		if p.rate >= 0 && second > 0 {
			second = p.rate*0.7 + second*0.3
		}
		p.rate, p.rated, p.ratedAt = second, now, p.done
	}
	line := fmt.Sprintf("%s %3d %%, %s of %s", p.name, p.done*100/p.total, bootcheck.Size(p.done), bootcheck.Size(p.total))
	switch {
	case p.rate >= 1 && p.done < p.total:
		left := time.Duration(float64(p.total-p.done) / p.rate * float64(time.Second))
		line += fmt.Sprintf(", %s/s, %s left", bootcheck.Size(int64(p.rate)), clock(left))
	case p.rate >= 0 && p.done < p.total:
		line += ", stalled"
	}
	return line
}

// over is w, whose lines go above the bar. A nil bar changes nothing.
func (p *progressBar) over(w io.Writer) io.Writer {
	if p == nil {
		return w
	}
	return overBar{p, w}
}

type overBar struct {
	*progressBar
	w io.Writer
}

func (o overBar) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	return o.w.Write(b)
}

// clear takes the line off the terminal: p.mu is held.
func (p *progressBar) clear() {
	if p.shown != "" && cli.Writable(p.terminal, 0) {
		io.WriteString(p.terminal, clearLine)
		p.shown = ""
	}
}

// close ends the bar and leaves nothing of it on the terminal. It may be called
// more than once, by one caller.
func (p *progressBar) close() {
	if p == nil {
		return
	}
	select {
	case <-p.stop:
		return
	default:
	}
	close(p.stop)
	<-p.stopped
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

// clock is a duration as 0:07, 12:34 or 1:02:03.
func clock(d time.Duration) string {
	const most = 100*time.Hour - time.Second
	s := int(min(d, most).Round(time.Second).Seconds())
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// cut is the first width columns of line, without what would move the cursor.
func cut(line string, width int) string {
	line = bootcheck.Printable(line)
	if width < 0 || utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:width])
}
