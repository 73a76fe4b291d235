// Package machine is the device under test: a test imports it to get one, and a
// story is written once and runs on each.
//
//	machine.go  Machine, what every machine can do, and where things are in it
//	start.go    a machine for a test: StartContainer, StartVM
//	suites.go   EachSuite: a test on each Debian release that this run asks for
//	device.go   Device: a machine with the product on it, and what it must come to
//	install.go  Install: one that continues beside the story
//	output.go   each JSON that a program of the product prints there is checked
//	product.go  the product as scripts/install.sh installs it, a device-api to
//	            update, and bundles of good and bad versions of it
//
// What a machine is made of, each a package below this one:
//
//	debian      the current version: a Debian root, kernel and image, for each processor
//	container   a real systemd in namespaces of this kernel: boots in a third of a second
//	vm          a real kernel in QEMU: loses writes at a power cut, panics, has a watchdog
//	agent       both ends of a line: runs programs, moves files; where the disks are, and
//	            what is in memory
package machine

import (
	"context"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/vm"
)

// Machine is a running test device. Every method ends when ctx does and says
// what it was waiting for. A Machine dies with the test that made it.
type Machine interface {
	// Name says which machine this is, for messages: "vm", "container".
	Name() string

	// Exec runs argv in the guest, as root, in a clean environment, and waits
	// for it. A program that exits non-zero is a Result, not an error; err means
	// that its end is not known (the machine went away, ctx ended), or that what a
	// program of the product printed with --json does not fit docs/schema.
	Exec(ctx context.Context, argv ...string) (Result, error)

	// WriteFile puts data at path in the guest with mode, making the directories
	// above it. The file is intact when WriteFile returns, and durable.
	WriteFile(ctx context.Context, path string, mode uint32, data []byte) error

	// ReadFile reads a file of the guest.
	ReadFile(ctx context.Context, path string) ([]byte, error)

	// BootID is the ID of the boot that is running, as the guest's kernel (or
	// what stands for it) tells it.
	BootID(ctx context.Context) (string, error)

	// Reboot is a clean `systemctl reboot`. It returns when the next boot's
	// agent has said hello; services may still be starting.
	Reboot(ctx context.Context) error

	// PowerCut takes the power away now, with all that was not yet written, and
	// gives it back. It returns when the next boot's agent has said hello.
	PowerCut(ctx context.Context) error

	// WaitReboot returns when a boot other than the one with the ID last has
	// said hello: for a machine that resets or reboots by itself.
	WaitReboot(ctx context.Context, last string) error

	// Log is everything the machine printed so far, for a failed test: serial
	// console or systemd's output, each line with the time since the start.
	Log() string
}

// Where things are in every guest. The root image is read-only; /data is the
// disk that survives a power cut, and /opt/tope, /etc/ota and /var/lib/ota are on it
// (bind mounts made before systemd starts).
const (
	Data     = "/data"
	Store    = "/opt/tope/versions"
	Etc      = "/etc/ota"
	Bundles  = agent.BundleDir // served at BundleAt by the agent
	BundleAt = agent.BundleAt
)

// Result is how a program in the guest ended.
type Result = agent.Result

// Poll is agent.Poll.
func Poll(ctx context.Context, what string, ask func(context.Context) error) error {
	return agent.Poll(ctx, what, ask)
}

var _ = []Machine{(*container.Container)(nil), (*vm.VM)(nil)}
