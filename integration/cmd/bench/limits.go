package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// A size is what a machine has.
type size struct {
	memory int64 // MiB, with all that the kernel caches for its files
	cores  int   // slow ones: each is a quarter of one of this machine
	disk   int64 // MB/s, to read and to write
}

// A disk is an ext4 in a file, on a loop device of its own, by whose number it is limited.
type disk struct{ dir, number string }

// newDisk makes a disk of 1 GiB in the directory work and mounts it.
func newDisk(work string) *disk {
	image := filepath.Join(work, "disk")
	d := &disk{dir: filepath.Join(work, "mnt")}
	try.Check(os.Mkdir(d.dir, 0o755))
	output("truncate", "-s", "1G", image)
	output("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	output("mount", "-o", "loop", image, d.dir)
	var st unix.Stat_t
	try.Check(unix.Stat(d.dir, &st))
	d.number = fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	return d
}

func (d *disk) close() { output("umount", d.dir) }

// cgroups are where the limits of a machine are: one directory, or, with the first
// version of cgroups, one of each controller.
type cgroups struct {
	v2   string // empty: there is the first version
	dirs []string
}

const hierarchy = "/sys/fs/cgroup"

// newCgroups makes them.
func newCgroups() *cgroups {
	name := fmt.Sprint("ota-bench-", os.Getpid())
	c := &cgroups{}
	if controllers, _ := os.ReadFile(hierarchy + "/cgroup.controllers"); strings.Contains(string(controllers), "memory") {
		try.Check(os.WriteFile(hierarchy+"/cgroup.subtree_control", []byte("+memory +cpu +io"), 0))
		c.v2 = filepath.Join(hierarchy, name)
		c.dirs = []string{c.v2}
	} else {
		c.dirs = []string{filepath.Join(hierarchy, "memory", name), filepath.Join(hierarchy, "cpu", name)}
	}
	for _, dir := range c.dirs {
		try.Check(os.Mkdir(dir, 0o755))
	}
	return c
}

// close removes them.
func (c *cgroups) close() {
	for _, dir := range c.dirs {
		_ = os.Remove(dir)
	}
}

// limit makes the machine that is to come as small as s, on d.
func (c *cgroups) limit(s size, d *disk) {
	memory, quota, rate := fmt.Sprint(s.memory<<20), s.cores*25000, s.disk*1e6
	if c.v2 != "" {
		put(c.v2+"/memory.max", memory)
		put(c.v2+"/cpu.max", fmt.Sprintf("%d 100000", quota))
		put(c.v2+"/io.max", fmt.Sprintf("%s rbps=%d wbps=%[2]d", d.number, rate))
		return
	}
	put(c.dirs[0]+"/memory.limit_in_bytes", memory)
	put(c.dirs[1]+"/cpu.cfs_period_us", "100000")
	put(c.dirs[1]+"/cpu.cfs_quota_us", fmt.Sprint(quota))
	c.throttle(d, rate)
}

func put(name, value string) { try.Check(os.WriteFile(name, []byte(value), 0)) }

// throttle limits d to rate bytes a second, with the first version of cgroups; 0: no
// longer. What is written back belongs to the root there: it is the device that is limited.
func (c *cgroups) throttle(d *disk, rate int64) {
	if c.v2 != "" {
		return
	}
	for _, way := range []string{"read", "write"} {
		put(hierarchy+"/blkio/blkio.throttle."+way+"_bps_device", fmt.Sprintf("%s %d", d.number, rate))
	}
}

// command is args on the machine.
func (c *cgroups) command(cores int, args ...string) *exec.Cmd {
	script := ""
	for _, dir := range c.dirs {
		script += "echo $$ >" + dir + "/cgroup.procs; "
	}
	cmd := bySmallParent(append([]string{"sh", "-ec", script + `exec "$@"`, "sh"}, args...)...)
	cmd.Env = append(os.Environ(), fmt.Sprint("GOMAXPROCS=", cores)) // as many as the program would count there
	return cmd
}
