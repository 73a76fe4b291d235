package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
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

// ask returns what a program of the system prints. A PID 1 that accepts and says
// nothing must not hold the doctor for ever.
func ask(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", program, err, bootcheck.OneLine(stderr.String()))
	}
	return strings.TrimSpace(string(out)), err
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

// kernel reports whether the files of a kernel are there: not below an image on a desk.
func (d *doctor) kernel() bool { return d.value("/proc/self/mountinfo") != "" }

// lookAtDisk sees whether the store's file system keeps what it is told to, and has
// room for another version.
func (d *doctor) lookAtDisk(ctx context.Context) {
	if d.store == nil {
		return
	}
	real, err := filepath.EvalSymlinks(d.cfg.Root)
	if err != nil {
		return
	}
	in := strings.TrimPrefix(real, d.sysroot)
	for _, volatile := range []string{"/tmp", "/var/tmp", "/run", "/dev", "/var/run"} {
		if strings.HasPrefix(in, volatile+"/") {
			d.fail("place", in+" is below "+volatile+", which is emptied without asking", "move the store to a disk and set root in the configuration")
		}
	}
	if d.kernel() {
		d.lookAtMount(ctx, in, real)
	}
	var a, b syscall.Stat_t
	if syscall.Stat(real, &a) == nil && syscall.Stat(d.path("/tmp"), &b) == nil && a.Dev == b.Dev {
		d.warn("/tmp", "it is on the store's file system: what fills it leaves no room for a version", "`systemctl enable tmp.mount`, or give the store a partition")
	}
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
	size := func(n uint64) string { return bootcheck.Size(int64(n)) }
	found := fmt.Sprintf("%s free; %s stay free (reserve), the largest version has %s", size(free.Bytes), size(reserve), size(need))
	const hint = "remove what is not needed (`ota-apply cleanup`), lower keep, or use a larger disk"
	switch {
	case free.Bytes < reserve:
		d.fail("free space", found+": every install ends with \"no space\"", hint)
	case free.Bytes < reserve+need:
		d.warn("free space", found+": an install has to remove older versions first", hint)
	default:
		d.ok("free space", found)
	}
	const few = 1000
	if inodes := fmt.Sprintf("%d free, a version needs %d", free.Inodes, entries); free.Inodes < entries+few && !free.NoInodes {
		d.fail("inodes", inodes, hint)
	} else if !free.NoInodes {
		d.ok("inodes", inodes)
	}
}

// lookAtMount checks what the store, which the system sees at in, is mounted from.
func (d *doctor) lookAtMount(ctx context.Context, in, real string) {
	out, err := d.ask(ctx, "findmnt", "-rnv", "-o", "FSTYPE,TARGET,OPTIONS", "--target", real)
	f := strings.Fields(out)
	if err != nil || len(f) != 3 {
		d.warn("file system", fmt.Sprintf("cannot tell what %s is on: %v", in, err), "install findmnt of util-linux")
		return
	}
	kind, at := f[0], f[1]
	where := fmt.Sprintf("%s is on %s, mounted at %s", in, kind, at)
	const other = "put the store on ext4, xfs, btrfs, f2fs or ubifs"
	if why, bad := badFileSystems[kind]; bad {
		d.fail("file system", where+": it "+why, other)
	} else if !slices.Contains(goodFileSystems, kind) {
		d.warn("file system", where+": power cuts were not tried with it", other)
	} else {
		d.ok("file system", where)
	}
	before := len(d.findings)
	for o := range strings.SplitSeq(f[2], ",") {
		if why, bad := badOptions[o]; bad {
			d.fail("mount option "+o, why, fmt.Sprintf("remove %s of %s from /etc/fstab and mount it again", o, at))
		} else if o == "data=writeback" {
			d.warn("mount option "+o, "after a power cut files of the application may hold what was deleted; versions do not", "mount "+at+" with data=ordered")
		}
	}
	if len(d.findings) == before {
		d.ok("mount options", f[2])
	}
}

// What scripts/install.sh installs, and what of it has to be enabled.
var (
	ourUnits = []string{"ota-guardian.service", "ota-confirm.service", "ota-recover.service", "ota-factory.service",
		"ota-verify.service", "ota-verify.timer", "ota-health.socket", "ota-progress.socket", "ota-progress.service", "ota-install.service", "ota-follow.service"}
	enabledUnits = []string{"ota-guardian.service", "ota-confirm.service", "ota-factory.service", "ota-verify.timer", "ota-health.socket", "ota-progress.socket"}
)

// lookAtSystemd sees whether systemd starts what it has to, each service from the store.
func (d *doctor) lookAtSystemd(ctx context.Context) {
	if d.sysroot == "" && !systemd.Running() {
		d.warn("systemd", "no systemd runs here: units and watchdog are not checked", "run this on the device, or name an image of one with --sysroot")
		return
	}
	before := len(d.findings)
	for _, name := range ourUnits {
		check := "unit " + name
		switch u := d.unit(ctx, name); {
		case u["LoadState"] == "masked":
			d.fail(check, "it is masked", "`systemctl unmask "+name+"`")
		case u["LoadState"] != "loaded":
			d.fail(check, "systemd cannot load it: "+u["LoadState"], "`scripts/install.sh` writes it; then `systemctl daemon-reload`")
		case slices.Contains(enabledUnits, name) && !strings.HasPrefix(u["UnitFileState"], "enabled"):
			d.fail(check, "it is "+u["UnitFileState"]+", so nothing starts it", "`systemctl enable "+name+"`")
		case d.outOfReach(name, u) != "":
			path := d.outOfReach(name, u)
			d.fail(check, "it may not write "+path, "`systemctl edit "+name+"`, with the lines [Service] and ReadWritePaths="+path)
		case u["NeedDaemonReload"] == "yes":
			d.warn(check, "its file changed after systemd read it", "`systemctl daemon-reload`")
		}
	}
	if len(d.findings) == before {
		d.ok("units", fmt.Sprintf("%d, those of them enabled that have to be", len(ourUnits)))
	}
	if u := d.unit(ctx, ourUnits[0]); d.sysroot == "" && u["LoadState"] == "loaded" {
		switch u["ActiveState"] {
		case "active":
			d.ok("guardian", "it decided in this boot")
		case "failed":
			d.fail("guardian", "it failed in this boot: "+u["Result"], "journalctl -b -u "+ourUnits[0])
		default:
			d.warn("guardian", "it has not run in this boot", "reboot, or `systemctl start "+ourUnits[0]+"`")
		}
	}
	if len(d.cfg.Services) == 0 {
		d.warn("services", "none is configured: nothing is restarted after an update", "set services in "+d.cfg.Path)
	}
	for _, name := range d.cfg.Services {
		d.lookAtService(ctx, name)
	}
	d.lookAtWatchdog(ctx)
}

// unit is the state of a unit, as systemctl shows it.
func (d *doctor) unit(ctx context.Context, name string) map[string]string {
	if d.sysroot == "" {
		out, err := d.ask(ctx, "systemctl", "show", "-p", "LoadState,UnitFileState,NeedDaemonReload,ActiveState,Result,After,Before,OnFailure,ReadWritePaths", "--", name)
		if err != nil {
			return map[string]string{"LoadState": err.Error()}
		}
		return settings(out)
	}
	state, err := d.ask(ctx, "systemctl", "--root="+d.sysroot, "is-enabled", name)
	u := map[string]string{"LoadState": "loaded", "UnitFileState": state}
	switch {
	case state == "masked":
		u["LoadState"] = state
	case errors.Is(err, exec.ErrNotFound):
		u["LoadState"] = err.Error()
	case state == "":
		u["LoadState"] = "not-found"
	default:
		text, err := d.unitText(ctx, name)
		if err != nil {
			u["LoadState"] = err.Error()
		}
		maps.Copy(u, settings(text))
	}
	return u
}

// unitText is what the files of a unit say, drop-ins included.
func (d *doctor) unitText(ctx context.Context, name string) (string, error) {
	if d.sysroot == "" {
		return d.ask(ctx, "systemctl", "cat", "--", name)
	}
	return d.ask(ctx, "systemd-analyze", "--no-pager", "--root="+d.sysroot, "cat-config", "systemd/system/"+name)
}

// outOfReach is what of the configuration the unit name, u, has to write and may not:
// its sandbox is that of the defaults. Empty: nothing.
func (d *doctor) outOfReach(name string, u map[string]string) string {
	writes := strings.Fields(u["ReadWritePaths"])
	if len(writes) == 0 {
		return ""
	}
	paths := []string{d.cfg.Root}
	switch name {
	case "ota-install.service":
		paths = append(paths, d.cfg.Spool, d.cfg.Run)
	case "ota-follow.service":
		paths = append(paths, d.cfg.Run)
	}
	if file := d.cfg.Metrics.File; file != "" && filepath.Dir(file) != d.cfg.Run { // which is RuntimeDirectory=
		paths = append(paths, filepath.Dir(file))
	}
	for _, path := range paths {
		path = strings.TrimPrefix(path, d.sysroot)
		if !slices.ContainsFunc(writes, func(dir string) bool { return strings.HasPrefix(path+"/", strings.TrimLeft(dir, "-+")+"/") }) {
			return path
		}
	}
	return ""
}

// settings are the lines KEY=VALUE of a file of systemd and its drop-ins. Each value of a
// key that stands several times is a line; an empty value takes them back.
func settings(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if ok && !strings.HasPrefix(key, "#") {
			if all[key] = strings.TrimSpace(all[key] + "\n" + value); value == "" {
				delete(all, key)
			}
		}
	}
	return all
}

// last is the value that counts of a setting that has only one.
func last(s, otherwise string) string {
	return cmp.Or(s[strings.LastIndexByte(s, '\n')+1:], otherwise)
}

// timeUnits are the names that systemd.time(7) has for units, as Go has them. Of days and
// longer ones Go has none.
var timeUnits = strings.NewReplacer("minutes", "m", "minute", "m", "min", "m", "msec", "ms", "usec", "us",
	"seconds", "s", "second", "s", "sec", "s", "hours", "h", "hour", "h", "hr", "h", " ", "")

// timeSpan reads a time as systemd writes it: "30s", "1min 30s", "60".
func timeSpan(s string) time.Duration {
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Duration(n * float64(time.Second))
	}
	if s == "infinity" {
		return math.MaxInt64
	}
	t, _ := time.ParseDuration(timeUnits.Replace(s))
	return t
}

// lookAtService sees whether a service starts from the store, after the guardian, and
// is handed to it when it crashes repeatedly.
func (d *doctor) lookAtService(ctx context.Context, name string) {
	check := "service " + name
	u := d.unit(ctx, name)
	if u["LoadState"] != "loaded" {
		d.fail(check, "systemd cannot load it: "+u["LoadState"], "make its unit (units/device-api.service.example), or correct services in "+d.cfg.Path)
		return
	}
	s, before := u, len(d.findings)
	if d.sysroot == "" {
		text, err := d.ask(ctx, "systemctl", "--no-pager", "cat", "--", name)
		if err != nil {
			d.fail(check, err.Error(), "look at `systemctl status`")
			return
		}
		s = settings(text)
		maps.Copy(s, u) // systemd knows the order that other units ask for, too
	}
	need := func(ok bool, found, hint string) {
		if !ok {
			d.fail(check, found, hint)
		}
	}
	dropIn := "give it the drop-in 50-ota.conf: `scripts/install.sh --service " + name + "`; then `systemctl daemon-reload`"
	has := func(key, unit string) bool { return slices.Contains(strings.Fields(s[key]), unit) }
	need(has("After", "ota-guardian.service"), "it may start before ota-guardian has decided which version it starts from", dropIn)
	need(has("Before", "ota-confirm.service"), "its version may be confirmed before it has started", dropIn)
	need(has("OnFailure", "ota-recover.service"), "nothing rolls back when it crashes: OnFailure= does not name ota-recover.service", dropIn)
	// The defaults are those of systemd-system.conf(5).
	restart, delay := last(s["Restart"], "no"), timeSpan(last(s["RestartSec"], "100ms"))
	burst, _ := strconv.Atoi(last(s["StartLimitBurst"], "5"))
	interval := timeSpan(last(s["StartLimitIntervalSec"], "10s"))
	need(restart != "no" && burst > 0 && float64(delay)*float64(burst) < float64(interval),
		fmt.Sprintf("a crash loop never ends: Restart=%s, %d starts, %s apart, do not fit into StartLimitIntervalSec=%s", restart, burst, delay, interval), dropIn)
	current := filepath.Join(strings.TrimPrefix(d.cfg.Root, d.sysroot), "current")
	for _, path := range strings.Fields(s["ConditionPathExists"]) {
		need(path == current || filepath.Base(path) != "current", fmt.Sprintf("it is not started without %s, and the versions are in %s", path, d.cfg.Root),
			fmt.Sprintf("a drop-in of it with ConditionPathExists= and ConditionPathExists=%s", current))
	}
	program := strings.TrimLeft(s["ExecStart"], "@-:+!")
	program = program[:strings.IndexAny(program+" ", " \n")]
	found, hint := d.startsFrom(program)
	need(hint == "", found, hint)
	if len(d.findings) == before {
		d.ok(check, "starts "+program+" after the guardian")
	}
}

// startsFrom says what is wrong with where a service starts from; no hint: nothing.
func (d *doctor) startsFrom(program string) (found, hint string) {
	through := "ExecStart= has to go through " + filepath.Join(strings.TrimPrefix(d.cfg.Root, d.sysroot), "current")
	name := program
	for range 8 { // links to links
		switch first, below, inside := d.inStore(name); {
		case inside && first != "current":
			return fmt.Sprintf("it starts %s, which no update changes", name), through
		case inside && d.dangling(below):
			return fmt.Sprintf("the current version has no %s", below), "correct ExecStart=, or bring that file in a version"
		case inside:
			return "", ""
		}
		if name = d.readlink(name); name == "" {
			break
		}
	}
	return fmt.Sprintf("it starts %s, which is not in the store: an update changes nothing for it", program), through
}

// lookAtWatchdog sees whether the hardware watchdog is armed, by whom, with which time-out.
func (d *doctor) lookAtWatchdog(ctx context.Context) {
	const check = "watchdog"
	const configure = "RuntimeWatchdogSec=30s in /etc/systemd/system.conf.d (`scripts/install.sh` writes 50-ota-watchdog.conf); then `systemctl daemon-reexec`"
	text, err := d.ask(ctx, "systemctl", "show", "-p", "RuntimeWatchdogUSec", "--value")
	if d.sysroot != "" {
		text, err = d.ask(ctx, "systemd-analyze", "--no-pager", "--root="+d.sysroot, "cat-config", "systemd/system.conf")
		text = last(settings(text)["RuntimeWatchdogSec"], "0")
	}
	asked := timeSpan(text)
	switch {
	case err != nil:
		d.fail(check, err.Error(), "look at `systemctl status`")
		return
	case asked == 0 || text == "infinity": // as systemctl shows RuntimeWatchdogSec=default
		d.fail(check, "systemd was not asked to feed one: a kernel that hangs is never reset", configure)
		return
	case !d.kernel():
		d.ok(check, "systemd will be asked for "+asked.String())
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
		d.fail(check, fmt.Sprintf("process %s (%s) holds it, so systemd cannot feed it", holder, d.value("/proc/"+holder+"/comm")), "stop that program for good, then `systemctl daemon-reexec`")
	case warning != "":
		d.fail(check, warning, "set RuntimeWatchdogSec= to a time-out that it can do, then `systemctl daemon-reexec` and read /sys/class/watchdog/watchdog0/{state,timeout}")
	case holder == "" && os.Geteuid() == 0:
		d.fail(check, identity+" is armed, but PID 1 does not hold it: it resets the machine, or no process feeds it", configure)
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
func (d *doctor) holderOf(prefix string) (found string) {
	fds, _ := filepath.Glob(d.path("/proc") + "/[0-9]*/fd/*")
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

// lookAtKernel sees whether a kernel that panics comes back, and tells of it.
func (d *doctor) lookAtKernel() {
	const hint = "`scripts/install.sh` writes /usr/lib/sysctl.d/50-ota-panic.conf; then `sysctl --system`"
	switch panic := d.value("/proc/sys/kernel/panic"); panic {
	case "":
	case "0":
		d.fail("kernel.panic", "0: a kernel that panics hangs for ever", hint)
	default:
		d.ok("kernel.panic", panic)
	}
	if d.value("/proc/sys/kernel/panic_on_oops") == "0" {
		d.warn("kernel.panic_on_oops", "0: a kernel that failed in part continues as if it worked", hint)
	}
	switch backend := d.value("/sys/module/pstore/parameters/backend"); backend {
	case "":
	case "(null)":
		d.warn("pstore", "no memory keeps a panic: it counts as a power cut", "ramoops in the device tree, or efi_pstore")
	default:
		d.ok("pstore", backend)
	}
}
