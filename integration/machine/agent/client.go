package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// ErrGone ends a call whose agent went away before it answered: the machine
// was reset, or the stream closed. Whether the call was carried out is unknown.
var ErrGone = errors.New("the agent in the machine went away before it answered")

// pingEvery is how often a ping is sent again: it can be lost with the boot that was
// to answer it.
const pingEvery = 250 * time.Millisecond

// Client is the host's side of the stream. Its methods may be called at once
// from many goroutines, and each returns soon after its ctx ends.
type Client struct {
	conn   io.ReadWriteCloser
	lines  chan []byte   // to the writer
	closed chan struct{} // closed when the stream ended

	mu      sync.Mutex
	err     error  // why the stream ended
	session string // that is there; empty: none yet
	calls   map[uint64]*call
	nextID  uint64
}

// call is a request that waits for its answer; nil: the session went away.
type call struct {
	session string // that is to answer; empty: any
	answer  chan *reply
}

// NewClient talks to the agent at the other end of conn, which may not be there
// yet. Close ends it and closes conn.
func NewClient(conn io.ReadWriteCloser) *Client {
	c := &Client{
		conn:   conn,
		lines:  make(chan []byte),
		closed: make(chan struct{}),
		calls:  make(map[uint64]*call),
		// A machine restored from a snapshot may still answer calls of the client
		// before this one: no two clients use the same numbers.
		nextID: rand.Uint64() >> 16,
	}
	go c.write()
	go func() { c.close(readLines(conn, c.take)) }()
	return c
}

// Close ends every call and closes the stream.
func (c *Client) Close() { c.close(errors.New("the stream was closed")) }

// Closed is closed when the stream has ended.
func (c *Client) Closed() <-chan struct{} { return c.closed }

func (c *Client) close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = fmt.Errorf("%w: %v", ErrGone, err)
		close(c.closed)
		c.conn.Close()
	}
}

func (c *Client) write() {
	for {
		select {
		case <-c.closed:
			return
		case line := <-c.lines:
			if _, err := c.conn.Write(line); err != nil {
				c.close(err)
				return
			}
		}
	}
}

// send hands a line to the writer. A guest that does not read blocks the
// writer, not the caller beyond its ctx.
func (c *Client) send(ctx context.Context, r request) error {
	line, err := encode(r)
	if err != nil {
		return err
	}
	select {
	case c.lines <- line:
		return nil
	case <-c.closed:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("the machine takes no requests: %w", ctx.Err())
	}
}

// take deals with a line of the guest.
func (c *Client) take(r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Session == "" {
		return
	}
	c.session = r.Session
	for id, call := range c.calls {
		switch {
		case call.session != "" && call.session != r.Session:
			call.answer <- nil
		case id == r.ID:
			call.answer <- &r
		default:
			continue
		}
		delete(c.calls, id)
	}
}

// begin makes a call for session and gives r its ID. The caller forgets it.
func (c *Client) begin(session string, r *request) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextID++
	r.To, r.ID = session, c.nextID
	k := &call{session: session, answer: make(chan *reply, 1)}
	if session != "" && session != c.session {
		k.answer <- nil
	} else {
		c.calls[r.ID] = k
	}
	return k
}

func (c *Client) forget(r request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, r.ID)
}

// ping returns the answer to a ping sent after it was called: a line that was
// on its way before, perhaps of a boot that has ended, does not count.
func (c *Client) ping(ctx context.Context) (*reply, error) {
	start := time.Now()
	r := request{Op: "ping"}
	k := c.begin("", &r)
	defer c.forget(r)
	for {
		try, cancel := context.WithTimeout(ctx, pingEvery)
		// A writer that is blocked now may not be in the next round.
		err := c.send(try, r)
		if err == nil {
			select {
			case answer := <-k.answer:
				cancel()
				return answer, nil
			case <-c.closed:
				err = c.err
			case <-try.Done():
			}
		}
		cancel()
		if errors.Is(err, ErrGone) {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("waited %s for the agent's hello: %w", time.Since(start).Round(time.Millisecond), ctx.Err())
		}
	}
}

// Hello asks the agent that is there now which it is, waits until one answers,
// and returns the ID of its boot.
func (c *Client) Hello(ctx context.Context) (bootID string, err error) {
	r, err := c.ping(ctx)
	if err != nil {
		return "", err
	}
	return r.BootID, nil
}

// WaitBoot returns the ID of the boot that is there as soon as it is another
// than last.
func (c *Client) WaitBoot(ctx context.Context, last string) (bootID string, err error) {
	for {
		bootID, err = c.Hello(ctx)
		if err != nil {
			return "", fmt.Errorf("no boot other than %q: %w", last, err)
		}
		if bootID != last {
			return bootID, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// do carries out r in the session that is there.
func (c *Client) do(ctx context.Context, what string, r request) (*reply, error) {
	answer, err := c.try(ctx, r)
	if err == nil && answer.Error != "" {
		err = &remoteError{answer.Error, syscall.Errno(answer.Errno)}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot %s in the machine: %w", what, err)
	}
	return answer, nil
}

func (c *Client) try(ctx context.Context, r request) (_ *reply, err error) {
	defer try.End(&err)
	c.mu.Lock()
	session := c.session
	c.mu.Unlock()
	if session == "" {
		hello := try.Get(c.ping(ctx))
		session = hello.Session
	}
	k := c.begin(session, &r)
	defer c.forget(r)
	try.Check(c.send(ctx, r))
	select {
	case answer := <-k.answer:
		if answer == nil {
			return nil, ErrGone
		}
		return answer, nil
	case <-c.closed:
		return nil, c.err
	case <-ctx.Done():
		go func() { // the guest may no longer listen
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			c.send(ctx, request{To: r.To, ID: r.ID, Op: "cancel"})
		}()
		return nil, ctx.Err()
	}
}

// remoteError is an error of the guest, with the system call's number if there
// was one, so that errors.Is works on the host.
type remoteError struct {
	text  string
	errno syscall.Errno
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}
