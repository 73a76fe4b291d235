package vm

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// maxConsole bounds what is kept of a machine that prints without end; the start
// goes first, since the end tells why a test failed. In bytes.
const maxConsole = 8 << 20

// console keeps what the machine prints, each line with the time since the start.
type console struct {
	start time.Time
	sink  io.Writer // may be nil

	mu      sync.Mutex
	text    bytes.Buffer
	lost    bool
	partial map[string][]byte // by source: a line without its end
}

func newConsole(sink io.Writer) *console {
	return &console{start: time.Now(), sink: sink, partial: make(map[string][]byte)}
}

// copy takes lines from r until it ends. source is empty for the serial console.
func (c *console) copy(source string, r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		c.write(source, buf[:n])
		if err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			if rest := c.partial[source]; len(rest) > 0 {
				c.line(source, rest)
			}
			delete(c.partial, source)
			return
		}
	}
}

func (c *console) write(source string, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := append(c.partial[source], b...)
	for {
		i := bytes.IndexByte(text, '\n')
		if i < 0 {
			break
		}
		c.line(source, text[:i])
		text = text[i+1:]
	}
	c.partial[source] = bytes.Clone(text)
}

// note adds a line of the harness.
func (c *console) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line("vm", fmt.Appendf(nil, format, args...))
}

func (c *console) line(source string, b []byte) {
	if source != "" {
		source = "[" + source + "] "
	}
	line := fmt.Sprintf("%8.3f %s%s\n", time.Since(c.start).Seconds(), source, bytes.Trim(b, "\r\x00"))
	c.text.WriteString(line)
	if c.text.Len() > maxConsole {
		c.text.Next(c.text.Len() - maxConsole/2)
		c.lost = true
	}
	if c.sink != nil {
		io.WriteString(c.sink, line)
	}
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost {
		return "(the start is lost)\n" + c.text.String()
	}
	return c.text.String()
}

// tail is the last n lines, for an error.
func (c *console) tail(n int) string {
	lines := strings.SplitAfter(strings.TrimSuffix(c.String(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
