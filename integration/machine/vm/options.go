package vm

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/debian"
)

// Options describe a machine. The zero value is a machine with the agent in it
// and nothing else.
type Options struct {
	// Overlay is added to the Debian root; see debian.Overlay. The agent is added
	// by Start. Machines with the same overlay share one image and one snapshot.
	Overlay debian.Overlay

	// Variant is the Debian root, if it is not the usual one. Its processor is the
	// machine's.
	Variant debian.Variant

	// Writable makes the root, /var included, writable: a device that takes
	// packages. Its changes are on the data disk, and survive what that survives.
	Writable bool

	// Cold boots the machine when it starts, 4 to 7 s, twice that for arm64.
	// Otherwise it is restored from a snapshot of a machine that has booted, in less
	// than a second; the first with the same overlay and options makes it. What the
	// overlay starts has then been started before the test began.
	Cold bool

	// From is a directory that Save made of a machine with the same overlay and
	// options: this one continues where that one was. Empty: none.
	From string

	// Watchdog adds an Intel 6300ESB watchdog that resets the machine. systemd
	// must be told to use it: RuntimeWatchdogSec= in a drop-in of the overlay.
	Watchdog bool

	RTC string // start of the clock, as "2001-02-03T04:05:06" (UTC); empty means now

	Append string // added to the kernel's command line; the last word of a kind wins
}

// Missing lists the host's packages that have to be installed for a machine of that
// processor to be built and started; empty when nothing is missing.
func Missing(a debian.Arch) []string {
	missing := debian.Missing()
	if _, err := exec.LookPath(a.Facts().QEMU); err != nil {
		missing = append(missing, a.Facts().QEMUPackage)
	}
	slices.Sort(missing)
	return missing
}

// cmdline is the kernel's, word by word: the kernel prints only errors, which
// saves 1 s; no self-test of each cipher, 0.3 s; a panic stops until the watchdog
// comes; no audit records in the journal; no mitigations, which an emulated CPU
// does not need; the journal goes to the console and so to Log, at no cost that
// could be measured.
const cmdline = "quiet cryptomgr.notests panic=0 audit=0 mitigations=off systemd.journald.forward_to_console=1"

// args are QEMU's without the disks, which do not matter for a snapshot.
func (o Options) args(a *assets) []string {
	// Always emulation: a /dev/kvm that is there may still not run a stock kernel.
	guest := o.Variant.Arch.Facts()
	rootWord := ""
	if o.Writable {
		rootWord = agent.Writable
	}
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-nic", "none"}
	args = append(args, guest.Machine...)
	args = append(args,
		"-accel", "tcg,thread=multi",
		"-smp", "1", "-m", "512M", // two machines of one CPU do more than one of two
		"-kernel", a.kernel.Image, "-initrd", a.initramfs,
		"-append", strings.Join(strings.Fields("console="+guest.Console+" "+cmdline+" "+rootWord+" "+o.Append), " "),
		"-chardev", fmt.Sprintf("socket,id=serial,fd=%d", fdSerial), "-serial", "chardev:serial",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fdQMP), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", fdAgent), "-device", "virtserialport,chardev=agent,name="+agent.PortName,
		"-device", "virtio-rng-pci",
	)
	if o.Watchdog {
		args = append(args, "-device", "i6300esb", "-action", "watchdog=reset")
	}
	if o.RTC != "" {
		args = append(args, "-rtc", "base="+o.RTC)
	}
	return args
}
