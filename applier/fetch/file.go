package fetch

import (
	"context"
	"errors"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrStartedOver is what the reads of a File end with when the download began at the first
// byte again: Download.Next gives what came in its place.
var ErrStartedOver = errors.New("the download started over")

// A Broken is what a read ends with when the download did not bring what it waited for:
// Err is ErrStartedOver, or the error of the download.
type Broken struct{ Err error }

func (b *Broken) Error() string { return b.Err.Error() }
func (b *Broken) Unwrap() error { return b.Err }

// A File is a file that is being downloaded, whose head has arrived, or all of it if it
// ends before that. Nothing more arrives before Want; after it, a read waits until all
// that it asks for is there. A nil one is of a file that does not come from elsewhere: all
// of it is there.
type File struct {
	file  *os.File
	head  int64 // bytes of it that the caller checks first
	Have  int64 // bytes that were there when the head was
	began time.Time

	Requests int // that were sent until the head was there

	choice  chan choice
	doubts  chan *doubt   // closed by Finish
	arrived chan struct{} // closed when all that is wanted has, or the end came
	over    chan struct{} // closed at the end of the download of this file; then err is known

	mu   sync.Mutex
	more sync.Cond
	want bool // Want was called
	have int64
	took time.Duration // until all that is wanted was there; 0: it is not
	err  error         // that it ended with
}

// A choice is what the caller makes of a head: it wants some parts of the file, or refuses it.
type choice struct {
	parts []Part
	err   error
}

// Want says what else of the file is wanted, in order; nil: all. What is not becomes a
// hole of the file: it is neither fetched nor given room. Where the whole file has to be
// fetched, as its SHA-256 is known or the server gives no ranges, it is. It is called
// once.
func (f *File) Want(parts []Part) {
	if f == nil {
		return
	}
	f.mu.Lock()
	f.want = true
	f.mu.Unlock()
	f.choice <- choice{parts: parts}
}

// Refuse ends the download because of what the head says, in the place of Want, and
// returns err when what had arrived is deleted. If it says that there is no room
// (ExitNoSpace), that is kept: it is wanted once there is. If it says that the head is
// damaged, and the head is of an earlier call, it is fetched again: ErrStartedOver.
func (f *File) Refuse(err error) error {
	if f == nil {
		return err
	}
	f.choice <- choice{err: err}
	<-f.over
	return f.err
}

// ReadAt is io.ReaderAt. Its error may be a *Broken.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	for f.want && f.err == nil && f.took == 0 && f.have < off+int64(len(p)) {
		f.more.Wait()
	}
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return 0, &Broken{err}
	}
	n, err := f.file.ReadAt(p, off)
	if errors.Is(err, os.ErrClosed) {
		err = &Broken{ErrStartedOver} // just now
	}
	return n, err
}

// Again fetches p once more, whose content is wrong: damaged on the way, or from a server that
// has another file. It returns wrong if it stays so.
func (f *File) Again(ctx context.Context, p Part, wrong error) error {
	if f == nil {
		return wrong
	}
	x := &doubt{Part: p, err: wrong, again: make(chan struct{})}
	doubts := f.doubts
	for {
		select {
		case doubts <- x:
			doubts = nil // it is taken: now wait
		case <-x.again:
			return nil
		case <-f.over:
			if f.err != nil {
				return &Broken{f.err}
			}
			return wrong
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Arrived is closed when all that is wanted has arrived, or never will.
func (f *File) Arrived() <-chan struct{} {
	if f == nil {
		here := make(chan struct{})
		close(here)
		return here
	}
	return f.arrived
}

// Finish says that no part is in doubt any more, waits for the end of the download, and
// returns how long it takes to have all of it again. It is called once.
func (f *File) Finish() (time.Duration, error) {
	if f == nil {
		return 0, nil
	}
	close(f.doubts)
	<-f.over
	return f.took, f.err
}

// grow says that have bytes are there.
func (f *File) grow(have int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have = have
	f.more.Broadcast()
}

// all says that all that is wanted is there; resumed: some of it is of an earlier call.
func (f *File) all(resumed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.took == 0 {
		close(f.arrived)
	}
	if f.took = max(1, time.Since(f.began)); resumed {
		f.took = math.MaxInt64 // how long that took is not known
	}
	f.more.Broadcast()
}

// end says that no more will arrive, because of err or because all has and is right.
func (f *File) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err = err; f.took == 0 {
		close(f.arrived)
	}
	close(f.over)
	f.more.Broadcast()
}

// offer gives the file, once its head is there or all of it is, to the caller,
// and waits for what is wanted of it.
func (d *Download) offer(all bool) error {
	if d.now != nil {
		return nil
	}
	have, head := d.have, int64(0)
	if holes := d.spool.mark.Holes; len(holes) > 0 {
		have = holes[0].First
	}
	if first := make([]byte, d.opt.Prefix); have >= int64(len(first)) {
		_, err := d.spool.file.ReadAt(first, 0)
		if err == nil {
			head, err = d.opt.HeadSize(first)
		}
		if err != nil {
			return d.refused(err)
		}
	}
	if have < head {
		head = 0 // not all of it is there
	}
	if head == 0 && !all {
		return nil
	}
	// The spool may close its file, and give its name to another one.
	fd, err := unix.FcntlInt(d.spool.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return d.spool.local(d.spool.part, os.NewSyscallError("fcntl", err))
	}
	f := &File{
		file: os.NewFile(uintptr(fd), d.spool.file.Name()), head: head, Have: have, have: have, began: d.began, Requests: d.stats.Requests,
		choice: make(chan choice, 1), doubts: make(chan *doubt), arrived: make(chan struct{}), over: make(chan struct{}),
	}
	f.more.L = &f.mu
	d.now = f
	// A head that only became whole with bytes of this call is the server's.
	d.known = d.known || d.stats.Fetched > 0 || head == 0
	select {
	case d.heads <- f:
	case <-d.caller.Done():
		return d.caller.Err()
	}
	select {
	case c := <-f.choice:
		if c.err != nil {
			return d.refused(c.err)
		}
		return d.choose(c.parts)
	case <-d.caller.Done():
		return d.caller.Err()
	}
}

// Next is the file, when its head has arrived, and after ErrStartedOver what came in its
// place.
func (d *Download) Next() (*File, error) {
	select {
	case f := <-d.heads:
		return f, nil
	case <-d.ended:
		return nil, d.err
	}
}

// Close ends the download if it still continues, and returns when it has kept what a later
// one can continue from, and how it went.
func (d *Download) Close() Stats {
	d.cancel()
	<-d.ended
	if d.now != nil {
		d.now.file.Close()
	}
	return d.stats
}

// Drop is Close, and deletes what is kept, but nothing that another download uses.
func (d *Download) Drop() error {
	d.Close()
	if d.spool == nil {
		return nil
	}
	return removeFiles(d.opt.Dir, d.from.name)
}
