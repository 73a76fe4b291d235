package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
	"github.com/tope-ota/ota/bootcheck/watchdog"
)

// lookAtReport sees whether device-api can hear how an install gets on.
func (d *doctor) lookAtReport() {
	const check = "report"
	if d.cfg.Report.URL == "" {
		d.ok(check, "no reports are sent, as the configuration says")
		return
	}
	u, err := url.Parse(d.cfg.Report.URL)
	if err != nil || d.sysroot != "" {
		return // what is wrong with it, the configuration's error says
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), "80"), 10, 16)
	if err != nil {
		return
	}
	//   sl  local_address rem_address   st …
	//    0: 0100007F:2378 00000000:0000 0A …     0A: it listens
	suffix := fmt.Sprintf(":%04X", port)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for line := range strings.Lines(d.value(file)) {
			if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], suffix) && f[3] == "0A" {
				d.ok(check, "somebody listens at "+d.cfg.Report.URL)
				return
			}
		}
	}
	d.warn(check, "nothing listens at "+d.cfg.Report.URL, "start the service that is to hear the reports, or correct [report] url")
}

// The file systems that a store may be on, and why it may not be on others.
var (
	goodFileSystems = []string{"ext4", "ext3", "xfs", "btrfs", "f2fs", "ubifs"}
	badFileSystems  = map[string]string{
		"tmpfs": "is lost at every reboot", "ramfs": "is lost at every reboot",
		"vfat": "holds no links", "msdos": "holds no links", "exfat": "holds no links", "ntfs": "holds no links", "ntfs3": "holds no links", "fuseblk": "holds no links",
		"nfs": "is on another machine", "nfs4": "is on another machine", "cifs": "is on another machine", "9p": "is on another machine",
		"ext2":     "has no journal: a power cut damages it",
		"squashfs": "cannot be written", "erofs": "cannot be written", "iso9660": "cannot be written",
	}
	badOptions = map[string]string{
		"ro":          "nothing can be installed, counted or confirmed",
		"noexec":      "no service can start from it",
		"nosymfollow": "current and every other link leads nowhere",
		"nobarrier":   "a power cut loses what was said to be durable",
		"barrier=0":   "a power cut loses what was said to be durable",
	}
)

// lookAtDisk sees whether the store's file system keeps what it is told to.
func (d *doctor) lookAtDisk() {
	root := d.cfg.Root
	if d.store == nil {
		return
	}
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return
	}
	in := strings.TrimPrefix(real, d.sysroot)
	for _, volatile := range []string{"/tmp", "/var/tmp", "/run", "/dev", "/var/run"} {
		if strings.HasPrefix(in, volatile+"/") {
			d.fail("place", in+" is below "+volatile+", which is emptied without asking", "move the store to a disk and set root in the configuration")
		}
	}
	if m, ok := d.mountOf(in); ok {
		why, bad := badFileSystems[m.kind]
		where := fmt.Sprintf("%s is on %s, mounted at %s", in, m.kind, m.at)
		switch {
		case bad:
			d.fail("file system", where+": it "+why, "put the store on ext4, xfs, btrfs, f2fs or ubifs")
		case !slices.Contains(goodFileSystems, m.kind):
			d.warn("file system", where+": nobody has tried power cuts with that", "put the store on ext4, xfs, btrfs, f2fs or ubifs")
		default:
			d.ok("file system", where)
		}
		good := true
		for _, o := range m.options {
			if why, bad := badOptions[o]; bad {
				good = false
				d.fail("mount option "+o, why, fmt.Sprintf("remove %s of %s from /etc/fstab and mount it anew", o, m.at))
			}
			if o == "data=writeback" {
				good = false
				d.warn("mount option "+o, "after a power cut files of the application may hold what was deleted; versions do not", "mount "+m.at+" with data=ordered")
			}
		}
		if good {
			d.ok("mount options", strings.Join(m.options, ","))
		}
	}
	if same(root, d.path("/tmp")) {
		d.warn("/tmp", "it is on the store's file system: what fills it leaves no room for a version", "systemctl enable tmp.mount, or give the store a partition")
	}
	d.lookAtRoom()
}

// lookAtRoom sees whether another version fits.
func (d *doctor) lookAtRoom() {
	free, err := d.store.Free()
	if err != nil {
		d.fail("free space", err.Error(), "look for errors of the disk in `dmesg`")
		return
	}
	need, entries := uint64(0), uint64(0)
	names, _ := d.store.VersionNames()
	for _, name := range names {
		if s, err := d.store.Snapshot(name); err == nil {
			need, entries = max(need, uint64(s.Manifest.Size)), max(entries, uint64(len(s.Manifest.Entries)))
		}
	}
	reserve := uint64(max(0, int64(d.cfg.Reserve)))
	found := fmt.Sprintf("%d MiB free; %d MiB stay free (reserve), the largest version has %d MiB", free.Bytes>>20, reserve>>20, need>>20)
	const cure = "remove what is not needed (`ota-apply cleanup`), lower keep, or use a larger disk"
	switch {
	case free.Bytes < reserve:
		d.fail("free space", found+": every install ends with \"no space\"", cure)
	case free.Bytes < reserve+need:
		d.warn("free space", found+": an install has to remove older versions first", cure)
	default:
		d.ok("free space", found)
	}
	const few = 1000
	switch {
	case free.NoInodes:
	case free.Inodes < entries+few:
		d.fail("inodes", fmt.Sprintf("%d free, a version needs %d", free.Inodes, entries), cure)
	default:
		d.ok("inodes", fmt.Sprintf("%d free", free.Inodes))
	}
}

// same reports whether two folders are on one file system.
func same(a, b string) bool {
	var x, y syscall.Stat_t
	return syscall.Stat(a, &x) == nil && syscall.Stat(b, &y) == nil && x.Dev == y.Dev
}

type mount struct {
	at, kind string
	options  []string
}

// mountOf is what dir is on; not ok where the kernel does not say.
func (d *doctor) mountOf(dir string) (found mount, ok bool) {
	// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
	for line := range strings.Lines(d.value("/proc/self/mountinfo")) {
		before, after, cut := strings.Cut(line, " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if !cut || len(b) < 6 || len(a) < 3 {
			continue
		}
		at := unescape(b[4])
		if dir != at && !strings.HasPrefix(dir, strings.TrimSuffix(at, "/")+"/") || len(at) < len(found.at) {
			continue
		}
		options := strings.Split(b[5], ",")
		for _, o := range strings.Split(a[2], ",") {
			if !slices.Contains(options, o) && o != "rw" {
				options = append(options, o)
			}
		}
		found, ok = mount{at, a[0], options}, true // of two at one place, the later one counts
	}
	return found, ok
}

// unescape reads a path of mountinfo: \040 is a space.
func unescape(s string) string {
	for _, c := range []string{" ", "\t", "\n", "\\"} {
		s = strings.ReplaceAll(s, fmt.Sprintf("\\%03o", c[0]), c)
	}
	return s
}

// What scripts/install.sh installs, and what of it has to be enabled.
var (
	ourUnits = []string{"ota-guardian.service", "ota-confirm.service", "ota-recover.service", "ota-factory.service",
		"ota-verify.service", "ota-verify.timer", "ota-progress.socket", "ota-progress.service"}
	enabledUnits = []string{"ota-guardian.service", "ota-confirm.service", "ota-factory.service", "ota-verify.timer", "ota-progress.socket"}
)

// lookAtUnits sees whether systemd starts what it has to.
func (d *doctor) lookAtUnits(ctx context.Context) {
	good := 0
	for _, name := range ourUnits {
		u, err := d.systemd.Definition(ctx, name)
		switch {
		case err != nil:
			d.fail("unit "+name, err.Error(), "look at `systemctl status`")
		case u.Load == "masked":
			d.fail("unit "+name, "it is masked", "systemctl unmask "+name)
		case u.Load != "loaded":
			d.fail("unit "+name, "systemd cannot load it: "+u.Load, "scripts/install.sh writes it; then systemctl daemon-reload")
		case slices.Contains(enabledUnits, name) && !strings.HasPrefix(u.FileState, "enabled"):
			d.fail("unit "+name, "it is "+u.FileState+", so nothing starts it", "systemctl enable "+name)
		case u.Outdated:
			d.warn("unit "+name, "its file changed after systemd read it", "systemctl daemon-reload")
		default:
			good++
		}
	}
	if good == len(ourUnits) {
		d.ok("units", fmt.Sprintf("%d, those of them enabled that have to be", good))
	}
	conn, ok := d.systemd.(*systemd.Conn)
	if !ok {
		return
	}
	if u, err := conn.Unit(ctx, ourUnits[0]); err == nil && u.Loaded() {
		switch {
		case u.Up():
			d.ok("guardian", "it decided in this boot")
		case u.Active == "failed":
			d.fail("guardian", "it failed in this boot: "+u.Result, "journalctl -b -u "+ourUnits[0])
		default:
			d.warn("guardian", "it has not run in this boot", "reboot, or systemctl start "+ourUnits[0])
		}
	}
}

// lookAtServices sees whether each service starts from the store, after the
// guardian, and comes to it when it crashes again and again.
func (d *doctor) lookAtServices(ctx context.Context) {
	if len(d.cfg.Services) == 0 {
		d.warn("services", "none is configured: nothing is restarted after an update", "set services in "+d.cfg.Path)
	}
	for _, name := range d.cfg.Services {
		s, err := d.systemd.Definition(ctx, name)
		if err != nil {
			d.fail("service "+name, err.Error(), "look at `systemctl status`")
			continue
		}
		if s.Load != "loaded" {
			d.fail("service "+name, "systemd cannot load it: "+s.Load, "make its unit (units/device-api.service.example), or correct services in "+d.cfg.Path)
			continue
		}
		dropIn := "give it the drop-in 50-ota.conf: scripts/install.sh --service " + name + "; then systemctl daemon-reload"
		good := true
		check := func(ok bool, found, cure string) {
			if !ok {
				good = false
				d.fail("service "+name, found, cure)
			}
		}
		check(slices.Contains(s.After, "ota-guardian.service"), "it may start before the guardian decided what it starts from", dropIn)
		check(slices.Contains(s.Before, "ota-confirm.service"), "its version may be judged before it started", dropIn)
		check(slices.Contains(s.OnFailure, "ota-recover.service"), "nobody is called when it crashes again and again: OnFailure= does not name ota-recover.service", dropIn)
		limit := float64(s.RestartDelay) * float64(s.StartLimitBurst)
		check(s.Restart != "" && s.Restart != "no" && s.StartLimitBurst > 0 && limit < float64(s.StartLimitInterval),
			fmt.Sprintf("a crash loop never ends: Restart=%s, %d starts, %s apart, do not fit into StartLimitIntervalSec=%s", s.Restart, s.StartLimitBurst, s.RestartDelay, s.StartLimitInterval), dropIn)
		current := filepath.Join(strings.TrimPrefix(d.cfg.Root, d.sysroot), "current")
		for _, path := range s.IfExists {
			check(path == current || filepath.Base(path) != "current", fmt.Sprintf("it is not started without %s, and the versions are in %s", path, d.cfg.Root),
				fmt.Sprintf("a drop-in of it with ConditionPathExists= and ConditionPathExists=%s", current))
		}
		if found, cure := d.startsFrom(s.Program); cure != "" {
			good = false
			d.fail("service "+name, found, cure)
		}
		if good {
			d.ok("service "+name, "starts "+s.Program+" after the guardian")
		}
	}
}

// startsFrom says what is wrong with where a service starts from; no cure: nothing.
func (d *doctor) startsFrom(program string) (found, cure string) {
	root := strings.TrimPrefix(d.cfg.Root, d.sysroot)
	const advice = "ExecStart= has to go through "
	name := program
	for range 8 { // links to links
		rest, inside := strings.CutPrefix(name, root+"/")
		first, below, _ := strings.Cut(rest, "/")
		switch {
		case inside && first != "current":
			return fmt.Sprintf("it starts %s, which no update changes", name), advice + filepath.Join(root, "current")
		case inside && d.dangling(below):
			return fmt.Sprintf("the version that runs has no %s", below), "correct ExecStart=, or bring that file in a version"
		case inside:
			return "", ""
		}
		target, err := os.Readlink(d.path(name))
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(name), target)
		}
		name = filepath.Clean(target)
	}
	return fmt.Sprintf("it starts %s, which is not in the store: an update changes nothing for it", program), advice + filepath.Join(root, "current")
}

// lookAtKernel sees whether a kernel that hangs or panics comes back.
func (d *doctor) lookAtKernel(ctx context.Context) {
	if d.systemd != nil {
		d.lookAtWatchdog(ctx)
	}
	const cure = "scripts/install.sh writes /usr/lib/sysctl.d/50-ota-panic.conf; then sysctl --system"
	switch panic := d.value("/proc/sys/kernel/panic"); panic {
	case "":
	case "0":
		d.fail("kernel.panic", "0: a kernel that panics stands still for ever", cure)
	default:
		d.ok("kernel.panic", panic)
	}
	if d.value("/proc/sys/kernel/panic_on_oops") == "0" {
		d.warn("kernel.panic_on_oops", "0: half a kernel passes for a working device", cure)
	}
	if backend := d.value("/sys/module/pstore/parameters/backend"); backend == "(null)" {
		d.warn("pstore", "no memory keeps a panic: it counts as a power cut, of which a version survives more", "ramoops in the device tree, or efi_pstore")
	} else if backend != "" {
		d.ok("pstore", backend)
	}
}

// lookAtWatchdog sees whether the hardware watchdog is armed, by whom, with which time-out.
func (d *doctor) lookAtWatchdog(ctx context.Context) {
	const check = "watchdog"
	const configure = "RuntimeWatchdogSec=30s in /etc/systemd/system.conf.d (scripts/install.sh writes 50-ota-watchdog.conf); then systemctl daemon-reexec"
	asked, err := d.systemd.RuntimeWatchdog(ctx)
	switch {
	case err != nil:
		d.fail(check, err.Error(), "look at `systemctl status`")
		return
	case asked == 0:
		d.fail(check, "systemd was not asked to feed one: a kernel that hangs stands still for ever", configure)
		return
	}
	if d.sysroot != "" && d.value("/proc/self/mountinfo") == "" {
		d.ok(check, "systemd will be asked for "+asked.String()) // an image has no devices
		return
	}
	device := d.path(watchdog.Device)
	warning, identity := watchdog.Warning(device, asked), watchdog.Value(device, "identity")
	_, missing := os.Stat(device)
	holder := d.holderOf("/dev/watchdog")
	switch {
	case missing != nil:
		d.fail(check, warning, "load the driver of the board's watchdog (modules-load.d), or set RuntimeWatchdogSec=0 if it has none")
	case holder != "" && holder != "1":
		d.fail(check, fmt.Sprintf("process %s (%s) holds it, so systemd cannot feed it", holder, d.value("/proc/"+holder+"/comm")), "stop that program for good, then systemctl daemon-reexec")
	case warning != "":
		d.fail(check, warning, "set RuntimeWatchdogSec= to a time-out that it can do, then systemctl daemon-reexec and read /sys/class/watchdog/watchdog0/{state,timeout}")
	case holder == "" && os.Geteuid() == 0:
		d.fail(check, identity+" is armed, but PID 1 does not hold it: it resets the machine, or nobody feeds it", configure)
	case strings.Contains(identity, "Software Watchdog"):
		d.warn(check, identity+" is a program of the kernel: it ends with the kernel", "use the board's own watchdog")
	default:
		found := fmt.Sprintf("%s, %s s, held by PID 1 (asked: %s)", identity, watchdog.Value(device, "timeout"), asked)
		if n, err := strconv.ParseUint(watchdog.Value(device, "bootstatus"), 0, 64); err == nil && watchdog.Words(n) != "" {
			found += "; this boot began because " + watchdog.Words(n)
		}
		d.ok(check, found)
	}
}

// holderOf is the process that has a device open whose name begins with prefix; empty: none is seen.
func (d *doctor) holderOf(prefix string) string {
	fds, _ := filepath.Glob(d.path("/proc") + "/[0-9]*/fd/*")
	found := ""
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(target, prefix) {
			continue
		}
		if found = filepath.Base(filepath.Dir(filepath.Dir(fd))); found == "1" {
			break
		}
	}
	return found
}

// lookAtClock sees whether the clock can be right. No decision of the guardian
// uses it; certificates and bundles that expire are judged by it.
func (d *doctor) lookAtClock() {
	now := time.Now()
	newest := bootcheck.BuildDate()
	if d.store != nil {
		if info, err := os.Stat(filepath.Join(d.cfg.Root, "current", "..", "record.json")); err == nil && info.ModTime().After(newest) && d.sysroot == "" {
			newest = info.ModTime()
		}
	}
	const day = time.DateOnly
	if now.Before(newest.Add(-time.Hour)) {
		d.warn("clock", fmt.Sprintf("it shows %s, and that is over: %s was", now.UTC().Format(day), newest.UTC().Format(day)),
			"let a time server or a clock with a battery set it: timedatectl; until then a server's certificate may seem not to be valid yet")
		return
	}
	d.ok("clock", now.UTC().Format(day))
}
