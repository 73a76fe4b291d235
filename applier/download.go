package applier

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A download brings a bundle while it is being unpacked. Its bundle is there when
// the head has arrived and was admitted; it then waits until the recipe has said
// which parts it wants, and reads of these wait until they have arrived.
//
//	fetch's goroutine                        the recipe
//	the head arrives, admit ──── heads ────► next
//	waits ◄──────────────────── wanted ───── want
//	the parts arrive                         takes what other versions have
//	               ─────────── growing ────► ReadAt, frame by frame
//	one is fetched anew ◄────── doubts ───── again, for a frame that is wrong or missing
//	the end ─────────────────── over ──────► settle
type download struct {
	heads  chan *openBundle
	ended  chan struct{} // closed; then err is known
	err    error
	cancel context.CancelFunc

	mu  sync.Mutex
	now *growing // what has arrived since the download began or started over
}

// errStartedOver is what reads of a bundle end with when the server has another
// one now: what was unpacked of the old one is of no use.
var errStartedOver = errors.New("the download started over")

// download begins to fetch the bundle at the address from.
func (a *applier) download(ctx context.Context, from string, o installOptions, keys *trust.Keys, admit admitFunc) *download {
	ctx, cancel := context.WithCancel(ctx)
	d := &download{heads: make(chan *openBundle), ended: make(chan struct{}), cancel: cancel}
	spool := cmp.Or(a.spool, a.cfg.Spool)
	src := fetch.Source{URL: from, Size: o.size, SHA256: o.sha256}
	wanted := make(chan []fetch.Part)
	drop := func() {
		if err := fetch.Remove(spool, src); err != nil {
			a.logf("cannot remove the downloaded bundle: %v", err)
		}
	}
	began := time.Now()
	opt := fetch.Options{
		Dir:       spool,
		Reserve:   int64(a.cfg.Reserve),
		Proxy:     a.cfg.Proxy,
		CA:        a.cfg.CA,
		LimitRate: int64(a.cfg.LimitRate),
		Deadline:  a.cfg.DownloadDeadline,
		Calendar:  a.calendar(),
		Progress:  a.progress,
		Log:       func(line string) { a.logf("%s", line) },
		Inspect: func(f *os.File, have int64) (bool, error) {
			whole, err := headArrived(f, have)
			if err != nil || !whole {
				return false, err
			}
			b, err := readHead(f, -1, have, keys, admit)
			if err != nil {
				return true, err
			}
			g, err := newGrowing(f, have, b.head.PayloadOffset)
			if err != nil {
				return true, err
			}
			d.replace(g)
			b.ReaderAt, b.arrived, b.again, b.settle = g, g.arrived, g.again, g.settle
			b.drop = func() { d.close(); drop() }
			b.want = func(spans []bundle.Span) {
				parts := make([]fetch.Part, len(spans))
				for i, s := range spans {
					parts[i] = fetch.Part{First: s.First, End: s.End}
				}
				select {
				case wanted <- parts:
				case <-ctx.Done():
				}
			}
			select {
			case d.heads <- b:
				return true, nil
			case <-ctx.Done():
				return true, ctx.Err()
			}
		},
		Parts: func() []fetch.Part {
			select {
			case parts := <-wanted:
				return parts
			case <-ctx.Done():
				return nil
			}
		},
		Doubts: func() (int64, <-chan *fetch.Doubt) {
			g := d.now // is changed in this goroutine only, until Fetch has returned
			return g.head, g.doubts
		},
		Arrived: func() {
			d.arrived(time.Since(began))
		},
		Grown: d.grown,
	}
	go func() {
		f, stats, err := fetch.Fetch(ctx, src, opt)
		if err == nil && d.now == nil {
			// It ended before its own head did.
			_, err = readHead(f, stats.Size, stats.Size, keys, admit)
			drop()
		}
		if f != nil {
			f.Close()
		}
		a.account.fetched(stats)
		d.err = err
		if stats.Resumed > 0 {
			d.arrived(math.MaxInt64) // nobody knows how long an earlier call was at it
		}
		d.end(err)
		close(d.ended)
	}()
	return d
}

func (d *download) next(ctx context.Context) (*openBundle, error) {
	select {
	case b := <-d.heads:
		return b, nil
	case <-d.ended:
		if d.err == nil {
			return nil, errors.New("the download ended without a bundle") // cannot be: Inspect is asked for each file
		}
		return nil, d.err
	}
}

// stop ends the download, if it still goes on, and returns when it has kept what a
// later one can go on from.
func (d *download) stop() {
	d.cancel()
	<-d.ended
}

func (d *download) close() {
	d.stop()
	d.replace(nil)
}

// replace makes g what grows from now on.
func (d *download) replace(g *growing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now != nil {
		d.now.end(errStartedOver)
		d.now.close()
	}
	d.now = g
}

func (d *download) grown(have int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now != nil {
		d.now.grow(have)
	}
}

// arrived says that all that is wanted has, and how long that took.
func (d *download) arrived(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now != nil {
		d.now.all(took)
	}
}

func (d *download) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now != nil {
		d.now.end(err)
	}
}

// headArrived reports whether the first have bytes of f hold the whole head.
func headArrived(f io.ReaderAt, have int64) (bool, error) {
	var first [bundle.PrefixSize]byte
	if have < int64(len(first)) {
		return false, nil
	}
	if _, err := f.ReadAt(first[:], 0); err != nil {
		return false, err
	}
	size, err := bundle.HeadSize(first[:])
	return err == nil && have >= size, err
}

// A brokenOff is what a read ends with when the download did not bring what it
// waited for: with errStartedOver, or with the error of the download.
type brokenOff struct{ err error }

func (b *brokenOff) Error() string { return b.err.Error() }
func (b *brokenOff) Unwrap() error { return b.err }

// A growing is a file that is being downloaded. A read waits until all that it
// asks for has arrived.
type growing struct {
	f      *os.File
	head   int64             // bytes of the bundle's head
	doubts chan *fetch.Doubt // closed by settle

	arrived chan struct{} // closed when all that is wanted has, or the end came
	over    chan struct{} // closed at the end of the download of this file; then err is known

	mu    sync.Mutex
	more  sync.Cond
	have  int64
	took  time.Duration // of all that is wanted; 0: it has not arrived
	ended bool
	err   error // once it ended
}

// newGrowing reads along in f, of which have bytes are there. f itself may be
// closed, and its name be given to another file.
func newGrowing(f *os.File, have, head int64) (*growing, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	g := &growing{
		f: os.NewFile(uintptr(fd), f.Name()), head: head, have: have,
		doubts: make(chan *fetch.Doubt), arrived: make(chan struct{}), over: make(chan struct{}),
	}
	g.more.L = &g.mu
	return g, nil
}

// ReadAt is io.ReaderAt.
func (g *growing) ReadAt(p []byte, off int64) (int, error) {
	g.mu.Lock()
	for !g.ended && g.took == 0 && g.have < off+int64(len(p)) {
		g.more.Wait()
	}
	err := g.err
	g.mu.Unlock()
	if err != nil {
		return 0, &brokenOff{err}
	}
	n, err := g.f.ReadAt(p, off)
	if errors.Is(err, os.ErrClosed) {
		err = &brokenOff{errStartedOver} // just now
	}
	return n, err
}

// grow says that have bytes are there.
func (g *growing) grow(have int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case have < g.have:
		g.finish(errStartedOver)
	case have > g.have:
		g.have = have
		g.more.Broadcast()
	}
}

// all says that all that is wanted is there, and took so long.
func (g *growing) all(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.took == 0 && !g.ended {
		close(g.arrived)
	}
	g.took = max(g.took, took, 1)
	g.more.Broadcast()
}

// end says that no more will arrive, because of err or because all has and is right.
func (g *growing) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.finish(err)
}

// finish is end; its caller holds g.mu.
func (g *growing) finish(err error) {
	if g.ended {
		return
	}
	if g.ended, g.err = true, err; g.took == 0 {
		close(g.arrived)
	}
	close(g.over)
	g.more.Broadcast()
}

// again waits until s was fetched anew.
func (g *growing) again(ctx context.Context, s bundle.Span, wrong error) error {
	x := &fetch.Doubt{Part: fetch.Part{First: s.First, End: s.End}, Err: wrong, Again: make(chan struct{})}
	over := func() error {
		if g.err != nil {
			return &brokenOff{g.err}
		}
		return wrong
	}
	select {
	case g.doubts <- x:
	case <-g.over:
		return over()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-x.Again:
		return nil
	case <-g.over:
		return over()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle ends the doubts, waits for the end of the download, and returns how long it
// took until all had arrived. It is called once.
func (g *growing) settle() (time.Duration, error) {
	close(g.doubts)
	<-g.over
	return g.took, g.err
}

func (g *growing) close() { g.f.Close() }
