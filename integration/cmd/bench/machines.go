package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// machines measures installs and updates on small machines: little memory, few slow cores,
// a slow disk. The limits are those of cgroups, of a disk of its own. What does not work on
// one of the machines ends it with an error.
func (b *bench) machines(ctx context.Context) {
	all := machineSizes(b.machine)
	output("make", "-s", "build-armv7", "BIN="+b.path("bin"), "VERSION=bench")
	b.publishForMachines()
	c := newCgroups()
	defer c.close()
	d := newDisk(b.dir)
	defer d.close()
	defer c.throttle(d, 0) // a slow disk is slow to unmount
	b.onMachines(ctx, c, d, all)
}

// What is installed. Half of each file does not compress.
const (
	files    = 300
	fileSize = 130_000
)

// publishForMachines packs two versions, the second with every twentieth file changed, and
// lets the server have them.
func (b *bench) publishForMachines() {
	p := pair{old: b.path("machine"), new: b.path("machine")}
	try.Check(os.Mkdir(p.old, 0o755))
	random := rand.NewChaCha8([32]byte{1})
	for _, version := range []string{"1.0.0", "1.1.0"} {
		for i := 0; i < files; i += map[string]int{"1.0.0": 1, "1.1.0": 20}[version] {
			data := make([]byte, fileSize)
			random.Read(data[:fileSize/2])
			try.Check(os.WriteFile(filepath.Join(p.old, fmt.Sprint("file-", i)), data, 0o644))
		}
		bundle := b.path("machine-" + version + ".ota")
		b.ota("ota-bundle", b.create(p, version, bundle)...)
		b.server.publish("/machine/"+version+".ota", try.Get(os.ReadFile(bundle)))
	}
}

func (b *bench) onMachines(ctx context.Context, c *cgroups, d *disk, all []size) {
	fmt.Printf("\n%d files of %d MB; an update changes one file in twenty. A core is a quarter of one of this machine.\n\n", files, files*fileSize/1_000_000)
	fmt.Println("| processor | memory | cores | disk | install | peak | written | update | peak | written |\n|---|---|---|---|---|---|---|---|---|---|")
	for _, s := range all {
		try.Check(ctx.Err())
		b.onMachine(c, d, runtime.GOARCH, s, b.program("ota-apply"))
	}
	emulator, err := exec.LookPath("qemu-arm")
	if err != nil {
		fmt.Println("\narmv7 is not measured: qemu-arm is missing (apt-get install qemu-user)")
		return
	}
	s := size{512, 4, 50}
	if b.machine != "" {
		s = all[0]
	}
	b.onMachine(c, d, "armv7, emulated", s, emulator, b.path("bin/armv7/ota-apply"))
}

// machineSizes are all machines that are measured, or the one that is asked for.
func machineSizes(only string) (all []size) {
	if only != "" {
		var s size
		try.Get(fmt.Sscanf(only, "%d,%d,%d", &s.memory, &s.cores, &s.disk))
		return []size{s}
	}
	for _, memory := range []int64{64, 128, 512} {
		for _, cores := range []int{1, 4} {
			for _, disk := range []int64{10, 50, 200} {
				all = append(all, size{memory, cores, disk})
			}
		}
	}
	return all
}

// onMachine measures an install and an update on a machine of size s, on which program
// runs, and prints both.
func (b *bench) onMachine(c *cgroups, d *disk, processor string, s size, program ...string) {
	root := try.Get(os.MkdirTemp(d.dir, "store-"))
	try.Check(os.Chmod(root, 0o755))
	c.limit(s, d)
	line := fmt.Sprintf("| %s | %d MiB | %d | %d MB/s |", processor, s.memory, s.cores, s.disk)
	defer try.Say("%s", line)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		dropCaches()
		began := time.Now()
		peak, written := used(c.command(s.cores, append(slices.Clone(program), "install", "--no-activate", "--config", b.path("ota.toml"), "--root", root, "http://"+b.direct+"/machine/"+version+".ota")...))
		took := time.Since(began)
		line += fmt.Sprintf(" %.1f s | %.0f MiB | %.0f MB |", took.Seconds(), float64(peak)/(1<<20), float64(written)/1e6)
		confirm(root, version) // it is there, and the update takes files from it
	}
	fmt.Println(line)
	try.Check(os.RemoveAll(root))
}
