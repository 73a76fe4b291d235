// Benchsmall measures installs and updates on small machines: little memory, few slow
// cores, a slow disk. The limits are those of cgroups, of a disk of its own; the
// program is the one that `make build` makes. It prints a table in Markdown. What does not
// work on one of the machines ends it with an error. It must run as root:
//
//	go run ./integration/cmd/benchsmall [-only 64,1,10]
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/try"
)

func main() {
	only := flag.String("only", "", "measure one machine: MiB of memory, cores, MB/s of its disk, as 64,1,10")
	dir := flag.String("dir", "/var/tmp", "a directory with room for 2 GiB")
	flag.Parse()
	if err := run(*dir, *only); err != nil {
		fmt.Fprintln(os.Stderr, "benchsmall:", err)
		os.Exit(1)
	}
}

// sizes are all machines that are measured.
func sizes(only string) (all []size, err error) {
	if only != "" {
		var s size
		_, err := fmt.Sscanf(only, "%d,%d,%d", &s.memory, &s.cores, &s.disk)
		return []size{s}, err
	}
	for _, memory := range []int64{64, 128, 512} {
		for _, cores := range []int{1, 4} {
			for _, disk := range []int64{10, 50, 200} {
				all = append(all, size{memory, cores, disk})
			}
		}
	}
	return all, nil
}

func run(dir, only string) (err error) {
	defer try.End(&err)
	machines := try.Get(sizes(only))
	b := try.Get(newBench(dir))
	defer func() { err = errors.Join(err, b.close()) }()

	fmt.Printf("%d files of %d MB; an update changes one file in twenty. A core is a quarter of one of this machine.\n\n", files, files*fileSize/1_000_000)
	fmt.Println("| processor | memory | cores | disk | install | peak | written | update | peak | written |\n|---|---|---|---|---|---|---|---|---|---|")
	for _, s := range machines {
		try.Check(b.row("amd64", s, b.path("amd64/ota-apply")))
	}
	emulator, err := exec.LookPath("qemu-arm")
	if err != nil {
		fmt.Println("\narmv7 is not measured: qemu-arm is missing (apt-get install qemu-user)")
		return nil
	}
	s := size{512, 4, 50}
	if only != "" {
		s = machines[0]
	}
	return b.row("armv7, emulated", s, emulator, b.path("armv7/ota-apply"))
}

// What is installed. Half of each file does not compress.
const (
	files    = 300
	fileSize = 130_000
)

type bench struct {
	dir  string // all of it, removed at the end
	disk *disk
	c    *cgroups
	url  string
	n    int // stores that were made
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// newBench builds the programs, makes two bundles, and serves them.
func newBench(dir string) (_ *bench, err error) {
	defer try.End(&err)
	b := &bench{dir: try.Get(os.MkdirTemp(dir, "ota-benchsmall-"))}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, arch := range []string{"amd64", "armv7"} {
		try.Get(output("make", "-s", "build-"+arch, "BIN="+b.dir))
	}
	bundle := b.path("amd64/ota-bundle")
	try.Get(output(bundle, "keygen", "--no-password", b.path("k")))
	tree, www := b.path("tree"), b.path("www")
	try.Check(errors.Join(os.Mkdir(tree, 0o755), os.Mkdir(www, 0o755)))
	random := rand.NewChaCha8([32]byte{1})
	for _, version := range []string{"1.0.0", "1.1.0"} {
		for i := range files {
			if version == "1.1.0" && i%20 != 0 {
				continue
			}
			data := make([]byte, fileSize)
			random.Read(data[:fileSize/2])
			try.Check(os.WriteFile(filepath.Join(tree, fmt.Sprint("file-", i)), data, 0o644))
		}
		try.Get(output(bundle, "create", "--dir", tree, "--version", version, "--release", "0", "--model", "x1", "--key", b.path("k.key"), "-o", filepath.Join(www, version+".ota")))
	}
	config := fmt.Sprintf("keys = %q\nrun = %q\nreserve = 0\nservices = []\n[report]\nurl = \"\"\n", b.path("k.pub"), b.path("run"))
	try.Check(os.WriteFile(b.path("ota.toml"), []byte(config), 0o644))
	l := try.Get(net.Listen("tcp", "127.0.0.1:0"))
	go http.Serve(l, http.FileServer(http.Dir(www)))
	b.url = "http://" + l.Addr().String() + "/"
	b.c = try.Get(newCgroups())
	b.disk = try.Get(newDisk(b.dir))
	return b, nil
}

func (b *bench) close() (err error) {
	if b.c != nil {
		b.c.close(b.disk) // first: a slow disk is slow to unmount
	}
	if b.disk != nil {
		err = b.disk.close()
	}
	if err != nil {
		return err // what is mounted is not removed
	}
	return os.RemoveAll(b.dir)
}

// row measures an install and an update on a machine of size s, on which program runs,
// and prints both.
func (b *bench) row(processor string, s size, program ...string) (err error) {
	defer try.End(&err)
	b.n++
	root := filepath.Join(b.disk.dir, fmt.Sprint("store-", b.n))
	try.Check(os.Mkdir(root, 0o755))
	try.Check(b.c.limit(s, b.disk))
	line := fmt.Sprintf("| %s | %d MiB | %d | %d MB/s |", processor, s.memory, s.cores, s.disk)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		try.Get(output("sync"))
		try.Check(os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0))
		began := time.Now()
		used, err := b.c.run(s.cores, append(slices.Clone(program), "install", "--no-activate", "--config", b.path("ota.toml"), "--root", root, b.url+version+".ota")...)
		took := time.Since(began)
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		line += fmt.Sprintf(" %.1f s | %.0f MiB | %.0f MB |", took.Seconds(), float64(used.Maxrss)/1024, float64(used.Oublock)*512/1e6)
		store := try.Get(bootcheck.Open(root))
		snapshot := try.Get(store.Snapshot(version))
		if version == "1.0.0" { // what the update takes files from
			record := &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: &snapshot.Ref}
			record.Confirm(snapshot.Ref)
			try.Check(store.Commit(record))
		}
	}
	fmt.Println(line)
	return os.RemoveAll(root)
}
