package machine

import (
	"context"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/try"
)

// An Install is an ota-apply install that continues beside the story, up to the end of the
// boot. What it fails with ends the story, by try.
type Install struct {
	Ended chan struct{} // closed when the others are set
	Result
	Err error

	d       *Device
	version string
}

// Begin begins one of v.
func (d *Device) Begin(ctx context.Context, v Version, flags ...string) *Install {
	argv := append([]string{"ota-apply", "install", try.Get(d.Offer(ctx, v))}, flags...)
	return d.BeginBy(ctx, v, argv...)
}

// BeginBy is Begin with a command of its own, for a version that is offered.
func (d *Device) BeginBy(ctx context.Context, v Version, argv ...string) *Install {
	i := &Install{d: d, version: v.Name, Ended: make(chan struct{})}
	go func() {
		defer close(i.Ended)
		i.Result, i.Err = d.Exec(ctx, argv...)
	}()
	return i
}

// Switched waits until its version is current.
func (i *Install) Switched(ctx context.Context) {
	err := i.d.Wait(ctx, i.version+" to be current", func(s *bootcheck.Status) bool { return s.Current == i.version })
	select {
	case <-i.Ended:
		if err != nil {
			try.Failf("%w\nota-apply ended: %s (%v)", err, i.Result, i.Err)
		}
	default:
	}
	try.Check(err)
}

// Ends waits for its end, which must be with code.
func (i *Install) Ends(code bootcheck.ExitCode) {
	<-i.Ended
	try.Check(i.Err)
	if i.Code != int(code) {
		try.Failf("ota-apply install %s: %s; want exit %d", i.version, i.Result, code)
	}
}
