package guardian

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/loopback"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// Who judges a version may change the store and reset the machine. Who asks that
// version how it is, and runs the scripts of others, needs the network and rights
// that those scripts need. They are two processes:
//
//	ota-confirm.service   confirm: no network, starts nothing of others, writes the store
//	ota-health.service    probe: the network, the scripts; the store is read-only
//
// confirm starts the second one while it needs it, as a transient unit, and has it
// do one thing after the other over a pair of sockets: its standard input and
// output. It ends when confirm does, whatever happens to that.
const probeUnit = "ota-health.service"

// A request is a line of JSON to probe. One of Order, Report and Cancel is set.
type request struct {
	ID     int           `json:"id"`
	Order  *health.Order `json:"order,omitempty"`
	Report *report       `json:"report,omitempty"`
	Cancel bool          `json:"cancel,omitempty"` // nobody waits for the answer to ID any more
}

// A report is something to tell device-api.
type report struct {
	URL  string          `json:"url"`
	Body json.RawMessage `json:"body"`
}

// A reply is the line that answers the request with the same ID.
type reply struct {
	ID int `json:"id"`
	health.Answer
}

// maxLine bounds a line of either direction: an Answer holds 4 KiB of output,
// each byte of which JSON may write as six.
const maxLine = 64 << 10

// probe does what it is asked on in, many things at the same time, and answers on
// out. It returns when in ends, and leaves nothing running.
func probe(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	// Two, as requests have to be read while an answer waits to be taken.
	var mu, writing sync.Mutex
	running := map[int]context.CancelFunc{} // belongs to mu
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("cannot read a request: %w", err)
		}
		mu.Lock()
		if r.Cancel {
			if end := running[r.ID]; end != nil {
				end()
			}
			mu.Unlock()
			continue
		}
		one, end := context.WithCancel(ctx)
		running[r.ID] = end
		mu.Unlock()
		wg.Go(func() {
			line, err := json.Marshal(reply{r.ID, r.do(one)})
			end()
			mu.Lock()
			delete(running, r.ID)
			mu.Unlock()
			writing.Lock()
			defer writing.Unlock()
			if err == nil {
				_, _ = out.Write(append(line, '\n')) // who asked may be gone
			}
		})
	}
	return lines.Err()
}

func (r request) do(ctx context.Context) health.Answer {
	switch {
	case r.Order != nil:
		return r.Order.Do(ctx)
	case r.Report != nil:
		if err := r.Report.send(ctx); err != nil {
			return health.Answer{Error: err.Error()}
		}
		return health.Answer{}
	}
	return health.Answer{Error: "nothing is asked for", CannotRun: true}
}

// reportLimit bounds one report, as ota-apply does: device-api is on this machine.
const reportLimit = 2 * time.Second

func (r report) send(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	status, _, err := loopback.Post(ctx, r.URL, "application/json", r.Body)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("it answered %d", status)
	}
	return err
}

// A prober is confirm's end of the sockets.
type prober struct {
	conn net.Conn

	mu      sync.Mutex // of what follows
	last    int
	waiting map[int]chan health.Answer

	writing sync.Mutex // never held by who reads

	gone chan struct{} // closed when nobody answers any more
	err  error         // why; valid after gone
}

// startProbe starts probeUnit.
func startProbe(ctx context.Context) (*prober, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a pair of sockets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "probe"), os.NewFile(uintptr(fds[1]), "probe")
	defer theirs.Close()
	defer ours.Close() // FileConn has a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	bus, err := dial(ctx)
	if err == nil {
		defer bus.Close()
		// A program that was replaced while it runs is still where it was.
		self = strings.TrimSuffix(self, " (deleted)")
		err = bus.RunTransient(ctx, probeUnit, []string{self, "probe"}, systemd.Transient{
			Description: "Run the health checks of the application", Stdin: theirs, Stdout: theirs, Properties: probeProperties()})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return newProber(conn), nil
}

// newProber speaks to a probe at the other end of conn.
func newProber(conn net.Conn) *prober {
	p := &prober{conn: conn, waiting: map[int]chan health.Answer{}, gone: make(chan struct{})}
	go p.read()
	return p
}

func (p *prober) read() {
	lines := bufio.NewScanner(p.conn)
	lines.Buffer(nil, maxLine)
	err := io.ErrUnexpectedEOF
	for lines.Scan() {
		var r reply
		if err = json.Unmarshal(lines.Bytes(), &r); err != nil {
			break
		}
		p.mu.Lock()
		answer := p.waiting[r.ID]
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		if answer != nil {
			answer <- r.Answer // has room for one
		}
		err = io.ErrUnexpectedEOF
	}
	if lines.Err() != nil {
		err = lines.Err()
	}
	p.err = fmt.Errorf("%s does not answer: %w", probeUnit, err)
	close(p.gone)
}

// ask has probe do r. A probe that is gone answers nothing: who asks waits until
// ctx ends, whose error is the only one.
func (p *prober) ask(ctx context.Context, r request) (health.Answer, error) {
	answer := make(chan health.Answer, 1)
	p.mu.Lock()
	p.last++
	r.ID = p.last
	p.waiting[r.ID] = answer
	p.mu.Unlock()
	p.send(r)
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		p.send(request{ID: r.ID, Cancel: true})
		return health.Answer{}, ctx.Err()
	}
}

// send writes r.
func (p *prober) send(r request) {
	p.writing.Lock()
	defer p.writing.Unlock()
	line, err := json.Marshal(r)
	if err == nil {
		// A probe that hangs must not hold up who asks: there is room for many lines
		// before anybody reads them.
		_ = p.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, err = p.conn.Write(append(line, '\n'))
	}
	if err != nil {
		p.conn.Close() // half a line is of no use: read sees the end
	}
}

func (p *prober) isGone() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// close ends the probe.
func (p *prober) close() {
	p.conn.Close()
	<-p.gone
}

// probeProperties are those of probeUnit.
func probeProperties() []systemd.Property {
	return append(systemd.CheckSandbox(), []systemd.Property{
		// systemd forgets it when it has ended, however.
		{Name: "CollectMode", Value: "inactive-or-failed"},
		{Name: "TimeoutStopUSec", Value: uint64(5 * time.Second / time.Microsecond)},
		// A version that eats all memory must not take with it who would say so.
		{Name: "OOMScoreAdjust", Value: int32(-500)},
	}...)
}

// probePause is what lies between two starts of a probe that ended by itself.
const probePause = 2 * time.Second

// errProbe says that the checks could not be run to their end. It tells nothing
// about the version.
var errProbe = errors.New("the health checks cannot be run")

// prober is the probe of this process, started when there is none that answers.
func (g *guardian) prober(ctx context.Context) (*prober, error) {
	if g.probe != nil && !g.probe.isGone() {
		return g.probe, nil
	}
	g.closeProbe()
	p, err := startProbe(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProbe, err)
	}
	g.probe = p
	return p, nil
}

func (g *guardian) closeProbe() {
	if g.probe != nil {
		g.probe.close()
		g.probe = nil
	}
}
