package agent

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
)

// guest is one session on the guest's side.
type guest struct {
	out     *lineWriter
	session string
	bootID  string

	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc // of the requests under way
	uploads map[uint64]*upload            // of the files that are being written

	tasks sync.WaitGroup
}

// Serve carries out the host's requests from conn until it ends or ctx does,
// and returns why. Programs that still run by then are killed. It closes conn.
func Serve(ctx context.Context, conn io.ReadWriteCloser, bootID string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	g := &guest{
		out:     &lineWriter{w: conn},
		session: randomName(),
		bootID:  bootID,
		cancels: map[uint64]context.CancelFunc{},
		uploads: map[uint64]*upload{},
	}
	// The empty line ends whatever half line the boot before left in the stream.
	if err := g.out.writeRaw([]byte("\n")); err != nil {
		return err
	}
	if err := g.hello(""); err != nil {
		return err
	}
	err := readLines(conn, func(r request) { g.handle(ctx, r) })
	conn.Close()
	cancel()
	g.tasks.Wait()
	for _, u := range g.uploads {
		u.abort()
	}
	return err
}

func (g *guest) hello(nonce string) error {
	return g.out.write(reply{Hello: &hello{Session: g.session, BootID: g.bootID, Nonce: nonce}})
}

// handle starts a request. Only the pieces of a file are dealt with before it
// returns, because they must stay in order.
func (g *guest) handle(ctx context.Context, r request) {
	if r.Op == "ping" {
		g.hello(r.Nonce)
		return
	}
	if r.To != g.session {
		// Meant for the boot before, or for the agent before: whoever sent it must
		// learn that they are gone.
		g.hello("")
		return
	}
	switch r.Op {
	case "exec":
		g.start(ctx, r.ID, func(ctx context.Context) done { return g.exec(ctx, r) })
	case "read":
		g.start(ctx, r.ID, func(ctx context.Context) done { return doneOf(g.readFile(ctx, r)) })
	case "write":
		g.write(ctx, r)
	case "cancel":
		g.cancel(r.ID)
	default:
		g.finish(r.ID, done{Error: "the agent does not know the operation " + r.Op})
	}
}

// start runs f in the background as the request id and replies with its end.
func (g *guest) start(ctx context.Context, id uint64, f func(context.Context) done) {
	ctx, cancel := context.WithCancel(ctx)
	g.mu.Lock()
	g.cancels[id] = cancel
	g.mu.Unlock()
	g.tasks.Go(func() {
		d := f(ctx)
		g.mu.Lock()
		delete(g.cancels, id)
		g.mu.Unlock()
		cancel()
		g.finish(id, d)
	})
}

// finish replies with the end of a request. A stream that broke is noticed by
// the reader, so its error is not needed here.
func (g *guest) finish(id uint64, d done) {
	g.out.write(reply{Session: g.session, ID: id, Done: &d})
}

func (g *guest) cancel(id uint64) {
	g.mu.Lock()
	cancel, u := g.cancels[id], g.uploads[id]
	delete(g.uploads, id)
	g.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if u != nil {
		u.abort()
	}
}

func doneOf(err error) done {
	if err == nil {
		return done{}
	}
	d := done{Error: err.Error()}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		d.Errno = int(errno)
	}
	return d
}

// pieces is an io.Writer that sends what is written to it as replies.
type pieces struct {
	g  *guest
	id uint64
	to func(*reply, []byte)
}

func (p pieces) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		end := min(n+pieceSize, len(b))
		r := reply{Session: p.g.session, ID: p.id}
		p.to(&r, b[n:end])
		if err := p.g.out.write(r); err != nil {
			return n, err
		}
		n = end
	}
	return len(b), nil
}

func toOut(r *reply, b []byte) { r.Out = b }
func toErr(r *reply, b []byte) { r.Err = b }
