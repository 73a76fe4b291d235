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

// A download is the state of one Fetch over all its tries.
type download struct {
	from  *origin
	opt   Options
	spool *spool
	route *route
	limit *limiter
	stats Stats

	caller context.Context // of Fetch, without its deadline
	tryCtx context.Context // of the try that runs
	client *http.Client    // nil: the next try makes a new one

	size  int64 // of the whole file; -1: unknown
	have  int64 // bytes in the partial file
	moved int64 // bytes by which the last try made it longer
	fresh bool  // all of them arrived in this call, and a validator joins them
	broke bool  // what is there is of a try that failed, or of an earlier call

	best       int64 // the longest that have ever was, by steps that count as progress
	failures   int   // tries in a row without progress
	mismatches int
	rewinds    int
	probe      probe

	noHead    bool   // do not ask for parts: the server cannot give any, or it did not help
	judged    bool   // Inspect is done with this file
	parts     []Part // that are wanted, once it is judged; nil: all
	mended    bool   // no hole is where something is wanted
	inspected int64  // have when it was last called

	whole     bool  // all that is wanted was there
	head      int64 // bytes that Inspect has judged
	known     bool  // the server has the file that they belong to
	compared  int64 // bytes of them that are the server's
	doubts    <-chan *Doubt
	doubt     *Doubt       // the part that is fetched anew now
	doubtAt   int64        // up to where it is
	again     map[Part]int // how often a part was in doubt
	rewritten bool         // a part was fetched anew after the SHA-256 was checked
	reported  time.Time
}

func newDownload(from *origin, opt Options, s *spool, r *route) *download {
	d := &download{
		from: from, opt: opt, spool: s, route: r, limit: newLimiter(opt.LimitRate), size: from.size,
	}
	if s.left > 0 {
		d.have, d.best, d.broke = s.left, s.left, true
		d.stats.Resumed = s.left
		d.size = s.mark.Size
	}
	d.fresh = d.have == 0
	d.known = d.fresh || from.sha256 != nil
	return d
}

// run tries until the file is whole or nothing more can be hoped for.
func (d *download) run(ctx context.Context) error {
	for {
		err := d.step(ctx)
		if err == nil {
			d.stats.Size = d.size
			return nil
		}
		f := d.judge(ctx, err)
		if f.kind == final {
			return d.giveUp(f)
		}
		if f.kind == mismatch {
			d.mismatches++
		}
		pause := d.pause(f)
		d.broke = d.have > 0
		if f.kind != transient || !d.continuable() {
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
			return d.giveUp(d.judge(ctx, ctx.Err()))
		}
	}
}

// step is one go at the whole: from looking at what is there, head first, to
// all that is wanted and beyond doubt.
func (d *download) step(ctx context.Context) error {
	defer d.hangUp()
	for {
		err := d.fetch(ctx)
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

// fetch gets all that is wanted and not there. errDoubt: something else comes first.
func (d *download) fetch(ctx context.Context) error {
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
			if limit > 0 && d.moved == 0 && !d.judged {
				d.noHead = true // perhaps it is such a range that the server cannot bear
			}
			return err
		}
		if limit == 0 {
			break
		}
		if !d.continuable() {
			return faultf(rewind, "the server gives nothing that proves that two parts belong together")
		}
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
	if d.whole = true; d.opt.Arrived != nil {
		d.opt.Arrived()
	}
	err := d.checkSum(ctx)
	if err != nil && d.doubts != nil {
		// A part that is fetched anew may be what is wrong.
		d.rewritten = true
		return nil
	}
	return err
}

// checkSum compares the whole file with its SHA-256, if that is known.
func (d *download) checkSum(ctx context.Context) error {
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

// hangUp ends the connections of the tries so far.
func (d *download) hangUp() {
	if d.client != nil {
		d.client.CloseIdleConnections()
		d.client = nil
	}
}

// next says up to where the next try goes, 0 for the end of the file, and whether
// there is anything more to fetch. It steps over what is not wanted.
func (d *download) next() (limit int64, more bool, err error) {
	if limit := d.headLimit(); limit > 0 {
		return limit, true, nil
	}
	return d.nextPart()
}

// headLimit is how far the next try goes, so that Inspect can look before
// more is fetched; 0: to the end.
func (d *download) headLimit() int64 {
	if d.opt.Inspect == nil || d.judged || d.noHead {
		return 0
	}
	for _, limit := range []int64{headFirst, headMore} {
		if d.have < limit && (d.size < 0 || limit < d.size) {
			return limit
		}
	}
	return 0
}

// begin begins a try that asks for what is not there, up to limit if that is not 0.
// end ends it early.
func (d *download) begin(ctx context.Context, limit int64, end context.CancelCauseFunc) *guard {
	d.tryCtx = ctx
	if d.client == nil {
		d.client = d.route.newClient(new(hops))
	}
	return newGuard(d, limit, end)
}

// try lets grab fetch what is missing, up to limit if that is not 0.
func (d *download) try(ctx context.Context, limit int64) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	g := d.begin(ctx, limit, end)
	defer g.pace.stop()

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
		if !errors.Is(err, grab.ErrBadLength) { // that is judged below, with the numbers
			return err
		}
	}
	want := g.end
	if want == 0 {
		want = d.size // nothing was asked for: the file was whole
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

// arrived runs whenever the file has grown: it shows it to Inspect, reports
// progress, and has it made durable now and then.
func (d *download) arrived() error {
	if err := d.inspect(); err != nil {
		return err
	}
	if err := d.mend(); err != nil {
		return err
	}
	if d.opt.Grown != nil {
		d.opt.Grown(d.have)
	}
	if err := d.doubted(); err != nil {
		return err
	}
	if d.opt.Progress != nil && !d.whole && time.Since(d.reported) >= progressInterval {
		d.reported = time.Now()
		d.opt.Progress(d.amount())
	}
	return d.spool.keep(d.have, d.opt.Reserve)
}

// inspect shows the file to Inspect, as far as it has no holes, until that is done.
func (d *download) inspect() error {
	if d.opt.Inspect == nil || d.judged || d.have <= d.inspected {
		return nil
	}
	d.inspected = d.have
	whole := d.have
	if holes := d.spool.holes(); len(holes) > 0 {
		whole = holes[0].First
	}
	done, err := d.opt.Inspect(d.spool.file, whole)
	if err != nil {
		return d.refused(err)
	}
	if d.judged = done; done {
		// A head that only became whole with bytes of this call is the server's.
		d.known = d.known || d.stats.Fetched > 0
		if d.checked() {
			d.head, d.doubts = d.opt.Doubts()
		}
		d.choose()
	}
	return nil
}

// refused judges an error of Inspect. If what it saw came from an earlier
// call, the fault may lie in the partial file: then it is fetched anew, once.
func (d *download) refused(err error) *fault {
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

// continuable reports whether the partial file can be gone on from: it is
// whole, or something proves that the rest will belong to it.
func (d *download) continuable() bool {
	return d.have == 0 || d.have == d.size || d.checked() || d.from.sha256 != nil || d.spool.mark.validator(d.from) != ""
}

// restart begins at the first byte again, after a fault of kind k.
func (d *download) restart(k kind) error {
	if err := d.spool.reset(); err != nil {
		return err
	}
	d.have, d.size, d.fresh, d.known = 0, d.from.size, true, true
	d.whole, d.head, d.compared, d.doubts, d.doubt, d.again = false, 0, 0, nil, nil, nil
	d.judged, d.parts, d.inspected, d.mended = false, nil, 0, false
	d.noHead = !d.checked() || k != mismatch // another file on a server with ranges: its head comes first, too
	d.stats.Resumed, d.broke = 0, false
	d.stats.Restarts++
	return nil
}

// giveUp ends the download with f. What a later call cannot go on from goes:
// an empty file, too.
func (d *download) giveUp(f *fault) error {
	if f.drop || d.have == 0 || !d.continuable() {
		d.spool.drop()
	} else {
		d.spool.save(d.have)
	}
	return d.from.failed(f, d.advise(f))
}
