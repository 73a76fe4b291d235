package agent

import (
	"context"
	"fmt"
	"time"
)

// Result is how a program in the guest ended.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code; 128+n if signal n killed it
}

func (r Result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// The agent's file server: bundle x.ota of BundleDir is BundleAt + "/x.ota".
const (
	BundleDir = "/data/bundles"
	BundleAt  = "http://127.0.0.1:8000"
)

// Poll asks cond every few milliseconds until it says yes, fails or ctx ends.
// what names the event in the error: "ctx ended while waiting for <what>".
func Poll(ctx context.Context, what string, cond func(context.Context) (bool, error)) error {
	start := time.Now()
	var last error
	for {
		ok, err := cond(ctx)
		if err == nil && ok {
			return nil
		}
		last = err
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("waited %s for %s: %w (last: %v)", time.Since(start).Round(time.Millisecond), what, ctx.Err(), last)
			}
			return fmt.Errorf("waited %s for %s: %w", time.Since(start).Round(time.Millisecond), what, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
