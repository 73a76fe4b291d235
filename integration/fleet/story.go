package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/guardian"
)

// Begin and End are the time that the fleet is watched. The dashboard shows the last
// day of it; the hour before that is there since increase() looks back.
var (
	Begin = time.Date(2026, 3, 10, 11, 0, 0, 0, time.UTC)
	End   = time.Date(2026, 3, 11, 12, 0, 0, 0, time.UTC)
)

// Size is the number of devices.
const Size = 60

var (
	v200 = &release{"2.0.0", 20, 150 << 20}
	v210 = &release{"2.1.0", 21, 155 << 20}
	v220 = &release{"2.2.0", 22, 158 << 20}
	v231 = &release{"2.3.1", 31, 160 << 20}
	v240 = &release{"2.4.0", 40, 168 << 20}
	v241 = &release{"2.4.1", 41, 168 << 20}

	sizes = func() map[string]uint64 {
		all := map[string]uint64{}
		for _, r := range []*release{v200, v210, v220, v231, v240, v241} {
			all[r.version] = r.bytes
		}
		return all
	}()
)

// Day is the story, with a row for each of the devices that are not as the others.
//
//	Tuesday    13:00  2.4.0 goes to four devices, and is good there
//	           15:00  it goes to 20 more. On four (a board of another kind) its service
//	                  ends again and again: back to 2.3.1, on one to factory. A fifth is
//	                  power-cycled until its boots are used up. On a sixth both versions
//	                  fail one and the same check: on hold. The rollout is stopped
//	           19:00  fifteen devices are switched off for the night
//	           20:00  2.4.1 goes to eight devices: the first four, and those that crashed
//	Wednesday  08:00  it goes to the others, until noon: some resume their download, one
//	                  gives up, one has no room. The last one is on trial at the end
//
// dir is for the stores of the devices.
func Day(dir string) ([]*Device, error) {
	all := make([]*Device, Size)
	var wg sync.WaitGroup
	for n := 1; n <= Size; n++ {
		wg.Go(func() {
			all[n-1] = day(filepath.Join(dir, fmt.Sprint(n)), n)
			all[n-1].at = End
		})
	}
	wg.Wait()
	for _, d := range all {
		if d.err != nil {
			return nil, d.err
		}
	}
	return all, nil
}

// The devices that are not as the others.
const (
	onHold      = 15
	powerCycled = 10
	toFactory   = 20
	resetsHard  = 27
	factoryRots = 36
	gaveUp      = 33
	diskFull    = 41
	recordRots  = 49
	noFactory   = 57
	lastOne     = 60
)

var (
	crashes = map[int]bool{7: true, 12: true, 18: true, toFactory: true}
	resumes = map[int]int{9: 1, 14: 2, 22: 1, 31: 1, 38: 4, 46: 2, 52: 5, 55: 1}
	behind  = map[int]bool{25: true, 26: true, 58: true} // missed the release before
	asleep  = func(n int) bool { return n >= 30 && n < 45 }
)

// day is the story of device n.
func day(dir string, n int) *Device {
	factory, previous, current := v200, v220, v231
	if behind[n] {
		previous, current = v210, v220
	}
	if n == noFactory {
		factory = nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return &Device{err: err}
	}
	d := newDevice(dir, fmt.Sprintf("printer-%02d:9100", n), uint64(n), Begin.Add(-time.Hour), factory, previous, current)
	if d.err != nil {
		return d
	}
	tuesday := func(hour, minute int) { d.at = time.Date(2026, 3, 10, hour, minute, d.rng.IntN(60), 0, time.UTC) }
	wednesday := func(hour, minute int) { d.at = time.Date(2026, 3, 11, hour, minute, d.rng.IntN(60), 0, time.UTC) }
	if n == diskFull {
		d.others = diskBytes - (v200.bytes + v220.bytes + v231.bytes) - 48<<20
		d.tell()
	}

	// 2.4.0, until it is stopped.
	switch {
	case n <= 4:
		tuesday(13, 4*(n-1))
		d.install(v240, install{})
	case n == onHold:
		tuesday(15, 20)
		d.install(v240, install{failsCheck: "print server answers"})
		return d
	case n == powerCycled:
		tuesday(15, 30)
		d.install(v240, install{interrupt: powerCycles})
	case n == toFactory:
		tuesday(15, 55)
		d.disk.Damaged = map[string]string{"2.3.1": "device-api differs", "2.2.0": "device-api differs"}
		d.install(v240, install{crashes: true})
		d.disk.Damaged = nil
	case n <= 24:
		tuesday(15, 4*(n-5))
		d.install(v240, install{crashes: crashes[n], resumes: resumes[n]})
	}

	if asleep(n) {
		tuesday(19, 3*(n-30))
		d.off()
		wednesday(6, 20+2*(n-30))
		d.boot(guardian.LastUnclean)
		d.pass(3 * time.Minute)
		if n == factoryRots {
			d.disk.Damaged = map[string]string{"2.0.0": "lib/motion.so differs"}
		}
		d.factoryChecked()
	}

	// 2.4.1, for all but those that were seen to first.
	switch {
	case n <= 4:
		tuesday(20, 3*n)
		d.install(v241, install{})
	case crashes[n]:
		tuesday(20, 20+n)
		d.install(v241, install{})
	case n == resetsHard:
		wednesday(8, 10)
		d.install(v241, install{})
		for _, minute := range []int{5, 25, 31} {
			wednesday(10, minute)
			d.off()
			d.pass(80 * time.Second)
			d.boot(guardian.LastHard)
			d.pass(3 * time.Minute)
			d.factoryChecked()
		}
	case n == diskFull:
		wednesday(9, 12)
		d.install(v241, install{fails: syscall.ENOSPC})
	case n == gaveUp:
		wednesday(9, 5)
		d.install(v241, install{resumes: 6, fails: bootcheck.Errorf(bootcheck.ExitDownloadFailed, bootcheck.CodeDownloadFailed, "the server does not answer")})
		wednesday(10, 40)
		d.install(v241, install{resumes: 3})
	case n == recordRots:
		wednesday(8, 45)
		d.install(v241, install{})
		wednesday(10, 10)
		d.recordRots()
	case n == lastOne:
		wednesday(11, 58)
		d.install(v241, install{})
	case behind[n]: // they are not in the list of the first waves, either
	default:
		wednesday(8, (n*7)%55)
		if n%3 != 0 {
			d.pass(time.Hour + time.Duration(n)*time.Minute)
		}
		d.install(v241, install{resumes: resumes[n]})
	}
	return d
}

// powerCycles is a person who switches the device off and on before the version had
// its verdict, again and again: the boots of the trial are used up.
func powerCycles(d *Device, _ *release) {
	for range d.cfg.Trial.Unclean {
		d.pass(d.about(35 * time.Second))
		d.off()
		d.pass(d.about(2 * time.Minute))
		d.boot(guardian.LastUnclean)
	}
	d.confirm()
	d.pass(time.Minute)
	d.factoryChecked()
}
