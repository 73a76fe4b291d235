package main

import (
	"bytes"
	"fmt"
	"html"
	"os"
	"strings"
	"time"
)

// A cast records lines with their times, for an SVG in which they scroll as they did in the
// terminal, with the waiting cut short.
type cast struct {
	lines []string
	at    []time.Duration // when each line came, in the picture's time
	last  time.Time
	rest  []byte // of a line that has not ended
}

// Write takes what goes to the terminal.
func (c *cast) Write(p []byte) (int, error) {
	const longest, lineTime = 1200 * time.Millisecond, 60 * time.Millisecond
	now := time.Now()
	pause := lineTime
	if !c.last.IsZero() {
		pause = min(max(now.Sub(c.last), lineTime), longest)
	}
	c.last = now
	c.rest = append(c.rest, p...)
	for {
		line, rest, ended := bytes.Cut(c.rest, []byte("\n"))
		if !ended {
			return len(p), nil
		}
		t := pause
		if len(c.at) > 0 {
			t += c.at[len(c.at)-1]
		}
		c.lines, c.at, c.rest, pause = append(c.lines, string(line)), append(c.at, t), rest, lineTime
	}
}

// save writes the picture: a window onto all lines, which one animation moves. What has not
// come yet is below the window.
func (c *cast) save(file string) error {
	const rows, columns, height, left = 24, 104, 18, 14
	if len(c.lines) == 0 {
		return fmt.Errorf("there is nothing to show")
	}
	total := c.at[len(c.at)-1] + 6*time.Second
	var b strings.Builder
	w, h := columns*17/2+2*left, rows*height+2*left
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="make demo: a device updates, and survives bad versions and power cuts">`+"\n", w, h)
	b.WriteString("<style>\ntext{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#d6deeb;white-space:pre}\n.c{fill:#7fdbca}.t{fill:#ffd580;font-weight:bold}\n")
	fmt.Fprintf(&b, "#s{animation:s %.1fs steps(1) infinite}\n@keyframes s{\n", total.Seconds())
	for i, at := range c.at {
		fmt.Fprintf(&b, "%.3f%%{transform:translateY(%dpx)}\n", 100*at.Seconds()/total.Seconds(), (rows-1-i)*height)
	}
	fmt.Fprintf(&b, "}\n@media(prefers-reduced-motion){#s{animation:none;transform:translateY(%dpx)}}\n</style>\n", (rows-len(c.lines))*height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" rx="8" fill="#10151f"/>`+"\n", w, h)
	fmt.Fprintf(&b, `<svg x="%d" y="%d" width="%d" height="%d"><g id="s">`+"\n", left, left, w-2*left, rows*height)
	for i, line := range c.lines {
		class := ""
		switch text := strings.TrimSpace(line); {
		case strings.HasPrefix(text, "$ "):
			class = ` class="c"`
		case strings.HasPrefix(line, "          ") && !strings.HasPrefix(line, "           "):
			class = ` class="t"`
		}
		if r := []rune(line); len(r) > columns {
			line = string(r[:columns-1]) + "…"
		}
		if line != "" {
			fmt.Fprintf(&b, `<text y="%d"%s>%s</text>`+"\n", i*height+height-4, class, html.EscapeString(line))
		}
	}
	b.WriteString("</g></svg>\n</svg>\n")
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
