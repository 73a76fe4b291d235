package debian

import "debug/elf"

// Arch is the processor of a guest. The zero value is amd64, which everything runs on
// that does not say otherwise. A third one needs a row of facts, a target build-NAME in
// the Makefile, and a kernel that has the modules of the test machine.
//
//	            amd64                          arm64
//	QEMU        q35, its oldest CPU            virt, a Cortex-A57
//	kernel      packed; entered by PVH         as it is in the package
//	console     ttyS0, an 8250                 ttyAMA0, a PL011
//	devices     virtio and i6300esb, on PCI    the same
//
// Both are emulated: neither must be the processor of the host.
type Arch int

// The processors that there are guests of.
const (
	AMD64 Arch = iota
	ARM64
)

// Arches are both of them, for what is made or tested for each.
var Arches = []Arch{AMD64, ARM64}

// Facts are all that depends on the processor.
type Facts struct {
	Name    string      // as Debian, Go and the targets of `make build-…` call it
	Triplet string      // of the libraries' directory, /usr/lib/<Triplet>
	Linker  string      // of programs that are not static, in the root
	Kernel  string      // the package that depends on the suite's newest kernel
	Packed  bool        // the kernel is a bzImage: what QEMU enters at once has to be taken out of it
	ELF     elf.Machine // of programs

	QEMU        string   // program
	QEMUPackage string   // Debian's and Ubuntu's, that has it
	Machine     []string // its arguments that say what is emulated
	Console     string   // what the kernel calls the first serial port
}

var facts = [...]Facts{
	AMD64: {
		Name:    "amd64",
		Triplet: "x86_64-linux-gnu",
		Linker:  "lib64/ld-linux-x86-64.so.2",
		// The cloud kernel would be smaller, but has no watchdog drivers.
		Kernel: "linux-image-amd64",
		Packed: true,
		ELF:    elf.EM_X86_64,

		QEMU:        "qemu-system-x86_64",
		QEMUPackage: "qemu-system-x86",
		Machine:     []string{"-M", "q35"},
		Console:     "ttyS0",
	},
	ARM64: {
		Name:    "arm64",
		Triplet: "aarch64-linux-gnu",
		Linker:  "lib/ld-linux-aarch64.so.1",
		Kernel:  "linux-image-arm64",
		ELF:     elf.EM_AARCH64,

		QEMU:        "qemu-system-aarch64",
		QEMUPackage: "qemu-system-arm",
		// An ARMv8.0 core, as many devices have. No time is to be had here: "max" takes 8 s
		// of the host's processor for a boot, this one and a Cortex-A53 9 s, and "max" with
		// pointer authentication, which is dear to emulate, 11 s.
		Machine: []string{"-M", "virt,gic-version=3", "-cpu", "cortex-a57"},
		Console: "ttyAMA0",
	},
}

// Facts are those of a.
func (a Arch) Facts() Facts { return facts[a] }

// String is the name that Debian and Go use.
func (a Arch) String() string { return facts[a].Name }
