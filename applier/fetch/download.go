package fetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/tope-ota/ota/bootcheck"
)

const (
	// progressInterval is for those who write a file and send a report: a download of a second
	// is no twenty steps.
	progressInterval = 200 * time.Millisecond

	// The head of a bundle is a few kB for a small version and some 100 kB for
	// thousands of files. It is asked for in two steps, so that a server has
	// sent little when it is refused, and a good one costs few requests.
	headFirst, headMore = 256 << 10, 1 << 20
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
	idle   []*http.Client  // that no request uses now
	ahead  []*request      // that were sent before their turn, in order
	asked  int             // how many requests may be in flight
	taken  bool            // the server took the address

	size  int64 // of the whole file; -1: unknown
	have  int64 // bytes in the partial file
	fresh bool  // all of them arrived in this call, and nothing broke off
	broke bool  // what is there is of a try that failed, or of an earlier call

	best       int64 // the longest that have ever was, by steps that count as progress
	failures   int   // tries in a row without progress
	mismatches int
	rewinds    int

	noHead    bool   // do not ask for parts: the server cannot give any, or it did not help
	fruitless bool   // the last request for some of the head that reached a server brought nothing
	now       *File  // once its head is there
	parts     []Part // that are wanted; nil: all

	whole    bool         // all that is wanted was there
	known    bool         // the server has the file that the head belongs to
	compared int64        // bytes of the head that are the server's
	doubt    *doubt       // the part that is fetched again now
	again    map[Part]int // how often a part was in doubt
	reported time.Time
}

// begin takes what an earlier call left.
func (d *Download) begin() {
	d.have, d.size = d.spool.left, d.spool.mark.Size
	d.limit, d.asked = newLimiter(d.opt.LimitRate), maxAsked
	d.best, d.stats.Resumed = d.have, d.have
	d.fresh, d.broke, d.taken = d.have == 0, d.have > 0, d.have > 0
	d.known, d.noHead = d.fresh || d.from.sha256 != "", d.opt.Whole
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

// run makes one step after the other until the file is intact or nothing more can be hoped for.
func (d *Download) run(ctx context.Context) error {
	d.ctx = ctx
	defer d.hangUp()
	for {
		done, err := d.step()
		if done && err == nil {
			d.stats.Size = d.size
			return nil
		}
		if err == nil {
			continue
		}
		d.hangUp() // what was asked for last was not read to its end
		if errors.Is(err, errDoubt) {
			continue
		}
		f := d.classify(err)
		if f.kind == final {
			return d.giveUp(f)
		}
		pause := d.pause(f)
		if f.code == bootcheck.CodeAddressExpired {
			if err := d.renew(); err != nil {
				return d.giveUp(d.classify(err))
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
			return d.giveUp(d.classify(ctx.Err()))
		}
	}
}

// step does what comes first: it compares the head with the server's if that is unsure,
// fetches what is in doubt, then what is missing, then waits for the caller. done: all that is
// wanted is there, and nothing of it is in doubt.
func (d *Download) step() (done bool, err error) {
	if err := d.arrived(); err != nil {
		return false, err
	}
	switch {
	case d.now != nil && !d.known:
		return false, d.compare()
	case d.doubt != nil:
		return false, d.repeat()
	}
	limit, more, err := d.next()
	switch {
	case err != nil:
		return false, err
	case more:
		return false, d.try(limit)
	case d.now == nil:
		return false, d.offer(true)
	}
	if err := d.spool.finish(d.have); err != nil {
		return false, err
	}
	d.report()
	d.whole = true
	d.now.all(d.stats.Resumed > 0)
	d.hangUp()
	select {
	case x, open := <-d.now.doubts:
		if open {
			return false, d.take(x)
		}
		return true, d.checkSum()
	case <-d.caller.Done(): // not the deadline: all has arrived
		return false, context.Cause(d.caller)
	}
}

// renew replaces the address by a fresh one. The file keeps its place in the spool,
// also if the fresh one differs.
func (d *Download) renew() error {
	address, err := d.opt.Fresh(d.ctx)
	if err != nil {
		return &fault{kind: final, err: err}
	}
	fresh, err := Source{URL: address}.parse()
	if err != nil {
		return &fault{kind: final, err: err}
	}
	from := *d.from
	from.req, from.shown = fresh.req, fresh.shown
	d.from, d.taken = &from, false
	return nil
}

// checkSum compares the whole file with its SHA-256, if that is known.
func (d *Download) checkSum() error {
	if d.from.sha256 == "" {
		return nil
	}
	sum := sha256.New()
	// Until the caller ends, not until the deadline: all has arrived.
	if _, err := io.Copy(sum, bootcheck.UntilDone(d.caller, io.NewSectionReader(d.spool.file, 0, d.have))); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != d.from.sha256 {
		return faultf(mismatch, "its SHA-256 is not %s", d.from.sha256).withCode(bootcheck.CodeHashMismatch)
	}
	return nil
}

// next says up to where the next try goes, 0 for the end of the file, and whether there is
// anything more to fetch. The head is fetched first; what is not wanted becomes a hole.
func (d *Download) next() (limit int64, more bool, err error) {
	if d.have == d.size {
		return 0, false, nil
	}
	if d.now == nil && !d.noHead {
		for _, limit := range []int64{headFirst, headMore} {
			if d.have < limit && (d.size < 0 || limit < d.size) {
				return limit, true, nil
			}
		}
	}
	if d.parts == nil {
		return 0, true, nil
	}
	for _, p := range d.parts {
		if p.End > d.have {
			return d.limitOf(p), true, d.skip(p.First)
		}
	}
	return 0, false, d.skip(d.size)
}

// try lets grab fetch what is missing, up to limit if that is not 0.
func (d *Download) try(limit int64) error {
	r := d.request(d.have, limit)
	defer r.done()
	r.ahead = d.now != nil // else it is not known what follows
	err := r.appendTo(d.spool.dest())
	if cause := context.Cause(r.ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	fi, statErr := d.spool.file.Stat()
	if statErr != nil {
		return statErr
	}
	d.have = fi.Size()
	if d.broke && d.have > r.offset {
		d.broke = false
		d.stats.Resumes++
	}
	// Twice in a row: perhaps it is such a range that the server cannot bear.
	nothing, answered := err != nil && limit > 0 && d.have == r.offset && d.now == nil, !unreached(err)
	d.noHead = d.noHead || nothing && answered && d.fruitless
	d.fruitless = nothing && (answered || d.fruitless)
	switch {
	case err != nil:
	case d.have == 0:
		return sizeFault(mismatch, "the server sends an empty file")
	case r.end > 0 && d.have != r.end:
		return sizeFault(transient, "the server sent %d bytes, want %d", d.have, r.end)
	case r.end < 0:
		d.size = d.have // the end of the answer was the end of the file
	}
	return err
}

// arrived runs whenever the file has grown: it offers it when its head is there, reports
// progress, and has it made durable now and then.
func (d *Download) arrived() error {
	if err := d.offer(false); err != nil {
		return err
	}
	if d.now != nil {
		d.now.grow(d.have)
		if err := d.doubted(); err != nil {
			return err
		}
	}
	if time.Since(d.reported) >= progressInterval {
		d.report()
	}
	return d.spool.keep(d.have, d.opt.Reserve)
}

// report tells the progress, until all that is wanted was there.
func (d *Download) report() {
	if d.opt.Progress != nil && !d.whole {
		d.reported = time.Now()
		d.opt.Progress(d.amount())
	}
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
	damaged := []string{bootcheck.CodeSignatureInvalid, bootcheck.CodeInvalidManifest, bootcheck.CodeHashMismatch}
	return bootcheck.Exit(err) == bootcheck.ExitDamaged || slices.Contains(damaged, bootcheck.ReportCode(err))
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
	d.now, d.parts, d.whole, d.compared, d.doubt, d.again = nil, nil, false, 0, nil, nil
	d.noHead = d.opt.Whole || k != mismatch // another file on a server with ranges: its head comes first, too
	d.stats.Resumed, d.broke = 0, false
	d.stats.Restarts++
	return nil
}

// giveUp ends the download with f, and returns its error. What a later call cannot continue
// from is deleted: an empty file, too.
func (d *Download) giveUp(f *fault) error {
	if f.drop || d.have == 0 {
		d.spool.drop()
	} else {
		d.spool.save(d.have)
	}
	if _, ok := errors.AsType[*bootcheck.Error](f.err); ok || f.bare {
		return f.err
	}
	e := bootcheck.Errorf(bootcheck.ExitDownloadFailed, cmp.Or(f.code, bootcheck.CodeDownloadFailed), "cannot download %q: %w", d.from.shown, f.err)
	e.Advice = d.advise(f)
	return e
}
