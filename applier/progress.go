package applier

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
)

// progressBar shows a person one line that is written over:
//
//	downloading  43 % [########............]  172.3 of 400.0 MiB   12.3 MiB/s     0:18 left
//
// Who has news only notes them; a goroutine draws the line, at most ten times a
// second, and also when nothing comes: then the rate falls. All methods do nothing
// on a nil bar.
type progressBar struct {
	terminal *os.File
	stop     chan struct{}
	stopped  chan struct{}

	mu          sync.Mutex
	name        string // of the stage; empty: there is nothing to show
	message     string
	begun       time.Time
	done, total int64
	speed       speed
	shown       string // the line on the terminal; empty: none
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
	p.name, p.message, p.begun = name, message, time.Now()
	p.done, p.total, p.speed = 0, 0, speed{}
}

func (p *progressBar) progress(done, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if done < p.done || total != p.total {
		p.speed = speed{} // it started over
	}
	p.done, p.total = min(max(done, 0), total), total
}

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
	line := p.waiting(now, width-1)
	if p.total > 0 {
		p.speed.note(now, p.done)
		line = p.moving(width - 1)
	}
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

// waiting is the line of a stage that does not know how far it is.
func (p *progressBar) waiting(now time.Time, width int) string {
	line := p.name
	if p.message != "" {
		line += ": " + p.message
	}
	if took := now.Sub(p.begun); took >= 2*time.Second {
		line += ", " + clock(took)
	}
	return cut(line, width)
}

// moving is the line of a stage that is at done of total: as much of it as fits,
// the most useful first, and the bar in what is left.
func (p *progressBar) moving(width int) string {
	line := fmt.Sprintf("%s %3d %%", p.name, p.done*100/p.total)
	rate, left := "", ""
	if perSecond, ok := p.speed.rate(); ok {
		rate = fmt.Sprintf("%8s/s", size(int64(perSecond)))
		switch {
		case p.done >= p.total:
		case perSecond < 1:
			left = "stalled"
		default:
			left = clock(time.Duration(float64(p.total-p.done)/perSecond*float64(time.Second))) + " left"
		}
	}
	total := size(p.total)
	of := fmt.Sprintf("%*s of %s", len(total), size(p.done), total)

	// Each has its width all the time, so that nothing jumps.
	const rateWidth, leftWidth, smallestBar = 13, 14, 8
	var parts string
	if add := fmt.Sprintf("%*s", rateWidth, rate); len(line)+len(add) <= width {
		parts = add
	}
	if add := fmt.Sprintf("%*s", leftWidth, left); len(line)+len(parts)+len(add) <= width {
		parts += add
	}
	if add := "  " + of; len(line)+len(parts)+len(add) <= width {
		parts = add + parts
	}
	if cells := min(width-len(line)-len(parts)-len(" []"), 40); cells >= smallestBar {
		full := int(p.done * int64(cells) / p.total)
		line += " [" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]"
	}
	return cut(strings.TrimRight(line+parts, " "), width)
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

// speed is how fast a number grew in the last seconds.
type speed struct {
	seen []sample // the oldest first
}

type sample struct {
	at   time.Time
	done int64
}

const (
	speedWindow = 5 * time.Second // what is older does not count
	speedFirst  = time.Second     // before that there is nothing to say
)

func (s *speed) note(now time.Time, done int64) {
	s.seen = append(s.seen, sample{now, done})
	for len(s.seen) > 2 && now.Sub(s.seen[1].at) >= speedWindow {
		s.seen = s.seen[1:]
	}
}

func (s *speed) rate() (perSecond float64, ok bool) {
	if len(s.seen) < 2 {
		return 0, false
	}
	first, last := s.seen[0], s.seen[len(s.seen)-1]
	took := last.at.Sub(first.at)
	return float64(last.done-first.done) / took.Seconds(), took >= speedFirst
}

// size is a number of bytes for a person.
func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
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
