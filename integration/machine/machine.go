// Package machine is what a scenario needs of a device under test. There are
// two: a virtual machine with a real kernel (integration/machine/vm) and a real systemd
// in namespaces (integration/machine/container). A scenario is written once and runs on
// both.
package machine

import (
	"context"
	"fmt"
	"time"
)

// Machine is a running test device. Every method ends when ctx does and says
// what it was waiting for. A Machine dies with the test that made it.
type Machine interface {
	// Name says which machine this is, for messages: "vm", "container".
	Name() string

	// Exec runs argv in the guest, as root, in a clean environment, and waits
	// for it. A program that exits non-zero is a Result, not an error; err means
	// that nobody knows how it ended (the machine went away, ctx ended).
	Exec(ctx context.Context, argv ...string) (Result, error)

	// WriteFile puts data at path in the guest with mode, making the folders
	// above it. The file is whole when WriteFile returns, and durable.
	WriteFile(ctx context.Context, path string, mode uint32, data []byte) error

	// ReadFile reads a file of the guest.
	ReadFile(ctx context.Context, path string) ([]byte, error)

	// BootID is the ID of the boot that is running, as the guest's kernel (or
	// what stands for it) tells it.
	BootID(ctx context.Context) (string, error)

	// Reboot is a clean `systemctl reboot`. It returns when the next boot's
	// agent has said hello; services may still be starting.
	Reboot(ctx context.Context) error

	// PowerCut takes the power away now, with whatever was not yet written, and
	// gives it back. It returns when the next boot's agent has said hello.
	PowerCut(ctx context.Context) error

	// WaitReboot returns when a boot other than the one with the ID last has
	// said hello: for a machine that resets or reboots by itself.
	WaitReboot(ctx context.Context, last string) error

	// Log is everything the machine printed so far, for a failed test: serial
	// console or systemd's output, each line with the time since the start.
	Log() string
}

// Result is how a program in the guest ended.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code; 128+n if signal n killed it
}

func (r Result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// Where things are in every guest. The root image is read-only; /data is the
// disk that survives a power cut, and /opt/tope, /etc/ota and /var/lib/ota are on it
// (bind mounts made before systemd starts).
const (
	Data     = "/data"
	Store    = "/opt/tope/versions"
	Etc      = "/etc/ota"
	Bundles  = "/data/bundles"         // served at BundleURL by the agent
	BundleAt = "http://127.0.0.1:8000" // the agent's file server: bundle x.ota is BundleAt + "/x.ota"
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
