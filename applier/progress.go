package applier

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progressBar shows a person one line that is written over. All methods do
// nothing on a nil bar.
type progressBar struct {
	w     io.Writer
	mu    sync.Mutex
	name  string
	begun time.Time
	first int64 // bytes that were there when the stage began
	shown time.Time
}

// newProgressBar is nil unless w is a terminal.
func newProgressBar(w io.Writer) *progressBar {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &progressBar{w: w}
	}
	return nil
}

const clearLine = "\r\x1b[K"

func (p *progressBar) stage(name, message string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name, p.begun, p.first = name, time.Now(), -1
	fmt.Fprintf(p.w, clearLine+"%s: %s", name, message)
}

func (p *progressBar) progress(done, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.first < 0 {
		p.first, p.begun = done, now
	}
	if now.Sub(p.shown) < 100*time.Millisecond && done < total {
		return
	}
	p.shown = now
	line := fmt.Sprintf("%s %3d %% of %.1f MiB", p.name, done*100/total, float64(total)/(1<<20))
	if took := now.Sub(p.begun).Seconds(); took > 0.5 && done > p.first {
		rate := float64(done-p.first) / took
		line += fmt.Sprintf(", %.1f MiB/s, %s left", rate/(1<<20),
			(time.Duration(float64(total-done)/rate) * time.Second).Round(time.Second))
	}
	fmt.Fprint(p.w, clearLine+line)
}

// clear makes room for a line of another kind.
func (p *progressBar) clear() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprint(p.w, clearLine)
}
