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
)

// ErrGone ends a call whose agent went away before it answered: the machine
// was reset, or the stream closed. Whether the call was carried out is unknown.
var ErrGone = errors.New("the agent in the machine went away before it answered")

// maxAnswer is how much output or file a call takes in before it gives up, in
// bytes: nothing in a test is that large on purpose.
const maxAnswer = 256 << 20

// pingEvery is how often a hello is asked for while none comes. A ping can be
// lost with the boot that was to answer it.
const pingEvery = 250 * time.Millisecond

// Client is the host's side of the stream. Its methods may be called at once
// from many goroutines, and each returns soon after its ctx ends.
type Client struct {
	conn   io.ReadWriteCloser
	lines  chan []byte   // to the writer
	closed chan struct{} // closed when the stream ended

	mu      sync.Mutex
	err     error // why the stream ended
	hello   hello // of the session that is there; no session yet: zero
	calls   map[uint64]*call
	waiters map[string]chan hello // by nonce
	nextID  uint64
}

// call is a request that waits for its end. Its fields but done belong to the
// reader until done is closed.
type call struct {
	session     string
	out, errOut []byte
	end         done
	err         error // the call's end is not known, and why
	done        chan struct{}
}

// NewClient talks to the agent at the other end of conn, which may not be there
// yet. Close ends it and closes conn.
func NewClient(conn io.ReadWriteCloser) *Client {
	c := &Client{
		conn:    conn,
		lines:   make(chan []byte),
		closed:  make(chan struct{}),
		calls:   map[uint64]*call{},
		waiters: map[string]chan hello{},
		// A machine restored from a snapshot may still answer calls of the client
		// before this one: no two clients use the same numbers.
		nextID: rand.Uint64() >> 16,
	}
	go c.write()
	go func() {
		err := readLines(conn, c.take)
		if errors.Is(err, io.EOF) {
			err = errors.New("the machine closed the stream")
		}
		c.close(err)
	}()
	return c
}

// Close ends every call and closes the stream.
func (c *Client) Close() error {
	c.close(errors.New("the stream was closed"))
	return nil
}

// Closed is closed when the stream has ended.
func (c *Client) Closed() <-chan struct{} { return c.closed }

func (c *Client) close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.closed)
	c.conn.Close()
	for id, call := range c.calls {
		call.fail(fmt.Errorf("%w: %v", ErrGone, err))
		delete(c.calls, id)
	}
}

func (c *call) fail(err error) {
	c.err = err
	close(c.done)
}

func (c *Client) write() {
	// Ends a half line that a client before this one left.
	if _, err := c.conn.Write([]byte("\n")); err != nil {
		c.close(err)
		return
	}
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
	if len(line) > maxLine {
		return fmt.Errorf("the request is too long: %d bytes, at most %d", len(line), maxLine)
	}
	select {
	case c.lines <- line:
		return nil
	case <-c.closed:
		return c.closedErr()
	case <-ctx.Done():
		return fmt.Errorf("the machine takes no requests: %w", ctx.Err())
	}
}

func (c *Client) closedErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Errorf("%w: %v", ErrGone, c.err)
}

// take deals with a line of the guest.
func (c *Client) take(r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	if h := r.Hello; h != nil && h.Session != "" {
		c.takeHello(*h)
		return
	}
	call := c.calls[r.ID]
	if call == nil || call.session != r.Session {
		return
	}
	call.out = append(call.out, r.Out...)
	call.errOut = append(call.errOut, r.Err...)
	switch {
	case r.Done != nil:
		call.end = *r.Done
		close(call.done)
		delete(c.calls, r.ID)
	case len(call.out)+len(call.errOut) > maxAnswer:
		call.fail(fmt.Errorf("more than %d bytes of output", maxAnswer))
		delete(c.calls, r.ID)
	}
}

func (c *Client) takeHello(h hello) {
	if h.Session != c.hello.Session {
		for id, call := range c.calls {
			call.fail(ErrGone)
			delete(c.calls, id)
		}
	}
	c.hello = h
	if w := c.waiters[h.Nonce]; w != nil {
		w <- h
		delete(c.waiters, h.Nonce)
	}
}

// Hello asks the agent that is there now who it is, waits until one answers,
// and returns the ID of its boot.
func (c *Client) Hello(ctx context.Context) (bootID string, err error) {
	h, err := c.ping(ctx)
	return h.BootID, err
}

// ping returns the answer to a ping sent after it was called: a hello that was
// on its way before, perhaps of a boot that has ended, does not count.
func (c *Client) ping(ctx context.Context) (hello, error) {
	start := time.Now()
	nonce, answer := randomName(), make(chan hello, 1)
	c.mu.Lock()
	c.waiters[nonce] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiters, nonce)
		c.mu.Unlock()
	}()
	for {
		try, cancel := context.WithTimeout(ctx, pingEvery)
		// A writer that is blocked now may not be in the next round.
		if err := c.send(try, request{Op: "ping", Nonce: nonce}); err != nil && try.Err() == nil {
			cancel()
			return hello{}, err
		}
		select {
		case h := <-answer:
			cancel()
			return h, nil
		case <-c.closed:
			cancel()
			return hello{}, c.closedErr()
		case <-try.Done():
			cancel()
		}
		if ctx.Err() != nil {
			return hello{}, fmt.Errorf("waited %s for the agent's hello: %w", time.Since(start).Round(time.Millisecond), ctx.Err())
		}
	}
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
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no boot other than %q: %w", last, ctx.Err())
		case <-c.closed:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// session is the one that requests are for: the one that is known or, at the
// start, the first to say hello.
func (c *Client) session(ctx context.Context) (string, error) {
	c.mu.Lock()
	s := c.hello.Session
	c.mu.Unlock()
	if s != "" {
		return s, nil
	}
	h, err := c.ping(ctx)
	return h.Session, err
}

// do sends the request r, or the pieces of it that more gives until it returns
// false, and waits for its end.
func (c *Client) do(ctx context.Context, what string, r request, more func(*request) bool) (*call, error) {
	fail := func(err error) (*call, error) { return nil, fmt.Errorf("cannot %s in the machine: %w", what, err) }
	session, err := c.session(ctx)
	if err != nil {
		return fail(err)
	}
	k := &call{session: session, done: make(chan struct{})}
	c.mu.Lock()
	switch {
	case c.err != nil:
		c.mu.Unlock()
		return fail(c.closedErr())
	case c.hello.Session != session:
		c.mu.Unlock()
		return fail(ErrGone)
	}
	c.nextID++
	r.ID, r.To = c.nextID, session
	c.calls[r.ID] = k
	c.mu.Unlock()

	for again := true; again; {
		if more != nil {
			again = more(&r)
		} else {
			again = false
		}
		if err := c.send(ctx, r); err != nil {
			c.forget(r)
			return fail(err)
		}
		select {
		case <-k.done: // refused, or gone: the rest need not be sent
			again = false
		default:
		}
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		c.forget(r)
		return fail(ctx.Err())
	}
	if k.err != nil {
		if !errors.Is(k.err, ErrGone) {
			c.forget(r)
		}
		return fail(k.err)
	}
	if k.end.Error != "" {
		return fail(&remoteError{k.end.Error, syscall.Errno(k.end.Errno)})
	}
	return k, nil
}

// forget gives up a call and asks the guest to do the same, without waiting for
// a guest that no longer listens.
func (c *Client) forget(r request) {
	c.mu.Lock()
	delete(c.calls, r.ID)
	c.mu.Unlock()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c.send(ctx, request{To: r.To, ID: r.ID, Op: "cancel"})
	}()
}

// Exec runs argv as root with a small fixed environment, in /, and waits for
// it. When ctx ends first, the program and its process group are killed and the
// error is ctx's. A program that cannot be started is an error; errors.Is with
// fs.ErrNotExist works as it does for os/exec on a path.
func (c *Client) Exec(ctx context.Context, argv ...string) (Result, error) {
	k, err := c.do(ctx, fmt.Sprintf("run %q", argv), request{Op: "exec", Argv: argv}, nil)
	if err != nil {
		return Result{}, err
	}
	return Result{Stdout: string(k.out), Stderr: string(k.errOut), Code: k.end.Code}, nil
}

// WriteFile puts data at the absolute path with mode, making the folders above
// it (0755). It replaces what was there, also a symbolic link; when it returns
// nil the file is whole and durable, and until then the old one is.
func (c *Client) WriteFile(ctx context.Context, path string, mode uint32, data []byte) error {
	r := request{Op: "write", Path: path, Mode: mode}
	_, err := c.do(ctx, fmt.Sprintf("write %q", path), r, func(r *request) bool {
		n := min(len(data), pieceSize)
		r.Data, data = data[:n], data[n:]
		r.Last = len(data) == 0
		return !r.Last
	})
	return err
}

// ReadFile reads a file. A missing one is fs.ErrNotExist.
func (c *Client) ReadFile(ctx context.Context, path string) ([]byte, error) {
	k, err := c.do(ctx, fmt.Sprintf("read %q", path), request{Op: "read", Path: path}, nil)
	if err != nil {
		return nil, err
	}
	return k.out, nil
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
