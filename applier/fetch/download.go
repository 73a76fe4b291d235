package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/cavaliergopher/grab/v3"
	"golang.org/x/time/rate"

	"github.com/tope-ota/ota/bootcheck"
)

const (
	progressInterval = 200 * time.Millisecond

	// The head of a bundle is a few kB for a small version and some 100 kB for
	// thousands of files. It is asked for in two steps, so that a server has
	// sent little when it is refused, and a good one costs few requests.
	headFirst, headMore = 256 << 10, 1 << 20

	// bufferSize of grab: 32 KiB, its default, takes 2.5 times the CPU.
	bufferSize = 256 << 10
)

// A Download is the state of one download over all its tries.
type Download struct {
	from *origin
	opt  Options
	patience
	spool *spool
	route *route
	limit *rate.Limiter
	stats Stats
	began time.Time

	heads  chan *File
	ended  chan struct{} // closed at the end; then err is known
	err    error
	cancel context.CancelFunc
	caller context.Context // of Start, without the deadline
	ctx    context.Context // with the deadline
	tryCtx context.Context // of the try that runs
	idle   []*http.Client  // that no request uses now
	ahead  []*ask          // that were sent before their turn, in order
	asked  int             // how many requests may be in flight
	taken  bool            // the server took the address

	size  int64 // of the whole file; -1: unknown
	have  int64 // bytes in the partial file
	moved int64 // bytes by which the last try made it longer
	fresh bool  // all of them arrived in this call, and nothing broke off
	broke bool  // what is there is of a try that failed, or of an earlier call

	best       int64 // the longest that have ever was, by steps that count as progress
	failures   int   // tries in a row without progress
	mismatches int
	rewinds    int

	noHead   bool   // do not ask for parts: the server cannot give any, or it did not help
	now      *File  // once its head is there
	looked   int64  // have when its head was looked for last
	parts    []Part // that are wanted; nil: all
	repaired bool   // no hole is where something is wanted

	whole     bool         // all that is wanted was there
	known     bool         // the server has the file that the head belongs to
	compared  int64        // bytes of the head that are the server's
	settled   bool         // no more doubts come
	doubt     *doubt       // the part that is fetched again now
	doubtAt   int64        // up to where it is
	again     map[Part]int // how often a part was in doubt
	rewritten bool         // a part was fetched again after the SHA-256 was checked
	reported  time.Time
}

// begin takes what an earlier call left.
func (d *Download) begin() {
	d.limit, d.size, d.asked = newLimiter(d.opt.LimitRate), d.from.size, maxAsked
	if d.spool.left > 0 {
		d.have, d.best, d.broke = d.spool.left, d.spool.left, true
		d.stats.Resumed, d.size, d.taken = d.spool.left, d.spool.mark.Size, true
	}
	d.fresh, d.noHead = d.have == 0, d.opt.Whole
	d.known = d.fresh || d.from.sha256 != nil
}

// newLimiter allows bytes bytes a second, 0 or less: any number, in bursts of an eighth of a
// second: so short that others on the link do not feel it, so long that a read is worth
// its cost.
func newLimiter(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return rate.NewLimiter(rate.Inf, bufferSize)
	}
	return rate.NewLimiter(rate.Limit(bytes), int(min(max(bytes/8, 1), bufferSize)))
}

// run tries until the file is intact or nothing more can be hoped for.
func (d *Download) run(ctx context.Context) error {
	d.ctx = ctx
	for {
		err := d.step(ctx)
		if err == nil {
			d.stats.Size = d.size
			return nil
		}
		f := d.classify(ctx, err)
		if f.kind == final {
			return d.giveUp(f)
		}
		if f.kind == mismatch {
			d.mismatches++
		}
		pause := d.pause(f)
		if f.expired {
			if err := d.renew(ctx); err != nil {
				return d.giveUp(d.classify(ctx, err))
			}
		} else {
			d.asked = max(1, d.asked/2) // perhaps they are more than the server, or the link, bears
		}
		d.broke = d.have > 0
		d.fresh = d.fresh && !d.broke
		if f.kind != transient {
			if err := d.restart(f.kind); err != nil {
				return d.giveUp(d.spool.local(d.spool.part, err))
			}
		}
		if d.opt.Log != nil {
			d.opt.Log(fmt.Sprintf("download of %q: %v; trying again in %v", d.from.shown, f, pause.Round(time.Millisecond)))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return d.giveUp(d.classify(ctx, ctx.Err()))
		}
	}
}

// renew replaces the address by a fresh one. The file keeps its place in the spool,
// also if the fresh one differs.
func (d *Download) renew(ctx context.Context) error {
	address, err := d.opt.Fresh(ctx)
	if err != nil {
		return &fault{kind: final, err: err}
	}
	fresh, err := Source{URL: address}.parse()
	if err != nil {
		return &fault{kind: final, err: err}
	}
	from := *d.from
	from.url, from.user, from.shown = fresh.url, fresh.user, fresh.shown
	d.from, d.taken = &from, false
	return nil
}

// step is one go at the whole: from looking at what is there, head first, to
// all that is wanted and beyond doubt.
func (d *Download) step(ctx context.Context) error {
	defer d.hangUp()
	for {
		err := d.missingParts(ctx)
		if err == nil {
			err = d.settle()
		}
		if err == nil && d.rewritten {
			err = d.checkSum(ctx)
		}
		if !errors.Is(err, errDoubt) {
			return err
		}
		d.hangUp() // what was asked for last was not read to its end
	}
}

// missingParts gets all that is wanted and not there. errDoubt: something else comes first.
func (d *Download) missingParts(ctx context.Context) error {
	for {
		if err := d.arrived(); err != nil {
			return err
		}
		if err := d.clear(ctx); err != nil {
			return err
		}
		limit, more, err := d.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := d.try(ctx, limit); err != nil {
			if limit > 0 && d.moved == 0 && d.now == nil {
				d.noHead = true // perhaps it is such a range that the server cannot bear
			}
			return err
		}
		if limit == 0 {
			break
		}
	}
	if err := d.offer(true); err != nil {
		return err
	}
	if err := d.arrived(); err != nil {
		return err
	}
	if err := d.spool.finish(d.have); err != nil {
		return err
	}
	if d.opt.Progress != nil && !d.whole {
		d.opt.Progress(d.amount())
	}
	d.whole = true
	d.now.all(d.stats.Resumed > 0)
	err := d.checkSum(ctx)
	if err != nil && !d.settled {
		// A part that is fetched again may be what is wrong.
		d.rewritten = true
		return nil
	}
	return err
}

// checkSum compares the whole file with its SHA-256, if that is known.
func (d *Download) checkSum(ctx context.Context) error {
	d.rewritten = false
	if d.from.sha256 == nil {
		return nil
	}
	sum := sha256.New()
	for at := int64(0); at < d.have; at += sumStep {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.Copy(sum, io.NewSectionReader(d.spool.file, at, min(sumStep, d.have-at))); err != nil {
			return err
		}
	}
	if !bytes.Equal(sum.Sum(nil), d.from.sha256) {
		return faultf(mismatch, "its SHA-256 is not %x", d.from.sha256).withCode(bootcheck.CodeHashMismatch)
	}
	return nil
}

// sumStep is how much is hashed between two looks at ctx, bytes.
const sumStep = 16 << 20

// next says up to where the next try goes, 0 for the end of the file, and whether
// there is anything more to fetch. It steps over what is not wanted.
func (d *Download) next() (limit int64, more bool, err error) {
	if limit := d.headLimit(); limit > 0 {
		return limit, true, nil
	}
	return d.nextPart()
}

// headLimit is how far the next try goes, so that the head is checked before
// more is fetched; 0: to the end.
func (d *Download) headLimit() int64 {
	if d.now != nil || d.noHead {
		return 0
	}
	for _, limit := range []int64{headFirst, headMore} {
		if d.have < limit && (d.size < 0 || limit < d.size) {
			return limit
		}
	}
	return 0
}

// guard begins a try that asks for what is not there, up to limit if that is not 0.
// end ends it early.
func (d *Download) guard(ctx context.Context, limit int64, end context.CancelCauseFunc) *guard {
	d.tryCtx = ctx
	return &guard{d: d, offset: d.have, limit: limit, first: d.now == nil, stop: end, left: d.window}
}

// try lets grab fetch what is missing, up to limit if that is not 0.
func (d *Download) try(ctx context.Context, limit int64) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	g := d.guard(ctx, limit, end)
	defer g.done()

	// A new request each time: grab shares the headers of one.
	req, err := grab.NewRequest(d.spool.dest(), d.from.url.String())
	if err != nil {
		return faultf(final, "the address is malformed") // cannot be: it was parsed
	}
	req = req.WithContext(ctx)
	req.Size = max(d.size, 0)
	req.NoCreateDirectories = true
	req.IgnoreRemoteTime = true
	client := &grab.Client{HTTPClient: g, BufferSize: bufferSize}
	err = client.Do(req).Err()

	have, statErr := d.spool.length()
	if statErr != nil {
		return statErr
	}
	d.have, d.moved = have, have-g.offset
	if d.broke && d.moved > 0 {
		d.broke = false
		d.stats.Resumes++
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			return cause
		}
		if !errors.Is(err, grab.ErrBadLength) { // that is checked below, with the numbers
			return err
		}
	}
	want := g.end
	if want == 0 {
		want = d.size // nothing was asked for: the file was intact
	}
	switch {
	case have == 0:
		return faultf(mismatch, "the server sends an empty file").withCode(bootcheck.CodeSizeMismatch)
	case want > 0 && have != want:
		return faultf(transient, "the server sent %d bytes, want %d", have, want).withCode(bootcheck.CodeSizeMismatch)
	case want < 0:
		d.size = have // the end of the answer was the end of the file
	}
	return nil
}

// arrived runs whenever the file has grown: it offers it when its head is there, reports
// progress, and has it made durable now and then.
func (d *Download) arrived() error {
	if err := d.offer(false); err != nil {
		return err
	}
	if d.now != nil {
		if err := d.repair(); err != nil {
			return err
		}
		d.now.grow(d.have)
		if err := d.doubted(); err != nil {
			return err
		}
	}
	if d.opt.Progress != nil && !d.whole && time.Since(d.reported) >= progressInterval {
		d.reported = time.Now()
		d.opt.Progress(d.amount())
	}
	return d.spool.keep(d.have, d.opt.Reserve)
}

// refused decides why the file was refused by its head. If that came from an earlier
// call, the fault may lie in the partial file: then it is fetched again, once.
func (d *Download) refused(err error) *fault {
	f := &fault{kind: final, drop: bootcheck.Exit(err) != bootcheck.ExitNoSpace, bare: true, err: err}
	if !d.fresh && looksDamaged(err) {
		f.kind = mismatch
	}
	return f
}

func looksDamaged(err error) bool {
	if bootcheck.Exit(err) == bootcheck.ExitDamaged {
		return true
	}
	switch bootcheck.ReportCode(err) {
	case bootcheck.CodeSignatureInvalid, bootcheck.CodeInvalidManifest, bootcheck.CodeHashMismatch:
		return true
	}
	return false
}

// restart begins at the first byte again, after a fault of kind k.
func (d *Download) restart(k kind) error {
	if err := d.spool.reset(); err != nil {
		return err
	}
	d.have, d.size, d.fresh, d.known = 0, d.from.size, true, true
	if d.now != nil {
		d.now.end(ErrStartedOver)
		d.now.file.Close()
	}
	d.now, d.looked, d.parts, d.repaired = nil, 0, nil, false
	d.whole, d.compared, d.settled, d.doubt, d.again = false, 0, false, nil, nil
	d.noHead = d.opt.Whole || k != mismatch // another file on a server with ranges: its head comes first, too
	d.stats.Resumed, d.broke = 0, false
	d.stats.Restarts++
	return nil
}

// giveUp ends the download with f. What a later call cannot continue from goes:
// an empty file, too.
func (d *Download) giveUp(f *fault) error {
	if f.drop || d.have == 0 {
		d.spool.drop()
	} else {
		d.spool.save(d.have)
	}
	return d.from.failed(f, d.advise(f))
}
