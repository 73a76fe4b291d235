package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// maxConsole bounds what is kept of a machine that prints without end; the start
// goes first, since the end tells why a test failed. In bytes.
const maxConsole = 8 << 20

// A Console keeps what a machine prints, each line with the time since the start, and
// behind dashes what the harness did.
type Console struct {
	start time.Time
	mu    sync.Mutex
	text  bytes.Buffer
}

// NewConsole is one of a machine that starts now.
func NewConsole() *Console { return &Console{start: time.Now()} }

// noise is what a log does not need: a terminal's control sequences (ECMA-48), and at
// the start the journal's time, which is the host's and beside which ours stands.
var noise = regexp.MustCompile(`^\[ *[0-9]+\.[0-9]{6}\] ` + "|\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\\\-_]|\r|\x00")

// Copy takes lines from r until it ends, each with a prefix.
func (c *Console) Copy(prefix string, r io.Reader) {
	for br := bufio.NewReader(r); ; {
		line, err := br.ReadString('\n')
		if line != "" {
			c.add(prefix + noise.ReplaceAllString(strings.TrimRight(line, "\n"), ""))
		}
		if err != nil {
			return
		}
	}
}

// Note adds a line of the harness.
func (c *Console) Note(format string, args ...any) { c.add("-- " + fmt.Sprintf(format, args...)) }

func (c *Console) add(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(&c.text, "%8.3f %s\n", time.Since(c.start).Seconds(), line)
	if c.text.Len() > maxConsole {
		c.text.Next(c.text.Len() - maxConsole/2)
	}
}

func (c *Console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// Tail is the last n lines, for an error.
func (c *Console) Tail(n int) string {
	lines := strings.SplitAfter(strings.TrimSuffix(c.String(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
