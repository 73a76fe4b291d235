package container

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// openConsole makes the terminal that becomes the guest's /dev/console: systemd
// writes to nothing else there. The name of the slave is its path.
func openConsole() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("cannot unlock the console's terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot name the console's terminal: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}

// maxLog is how much of a machine's output is kept, in bytes; the oldest goes
// first. A service that dies each second writes about 1 MB an hour.
const maxLog = 8 << 20

// console is the log of a machine.
type console struct {
	start time.Time
	sink  io.Writer // may be nil

	mu    sync.Mutex
	lines []string
	size  int
}

// noise is what the console's lines have that a log does not need: a terminal's
// control sequences (ECMA-48), and at the start the journal's time, which is the
// host's and beside which ours stands.
var noise = regexp.MustCompile(`^\[ *[0-9]+\.[0-9]{6}\] ` + "|\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\\\-_]|\r")

// read adds what comes from r until its end.
func (c *console) read(r io.Reader) {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if line != "" {
			c.add(noise.ReplaceAllString(strings.TrimRight(line, "\n"), ""))
		}
		if err != nil {
			return // EIO: nobody has the terminal open any more
		}
	}
}

// say adds a line of the harness's own.
func (c *console) say(format string, args ...any) {
	c.add("-- " + fmt.Sprintf(format, args...))
}

func (c *console) add(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line = fmt.Sprintf("%8.3f %s\n", time.Since(c.start).Seconds(), line)
	c.lines = append(c.lines, line)
	c.size += len(line)
	for c.size > maxLog {
		c.size -= len(c.lines[0])
		c.lines = c.lines[1:]
	}
	if c.sink != nil {
		io.WriteString(c.sink, line)
	}
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "")
}

// tail is the last lines of the log, about n bytes.
func (c *console) tail(n int) string {
	text := c.text()
	if len(text) <= n {
		return text
	}
	text = text[len(text)-n:]
	return text[strings.IndexByte(text, '\n')+1:]
}
