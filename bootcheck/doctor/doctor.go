// Package doctor looks at how a device, or an image of one, is set up, and says what
// is not as it should be and what to do. It changes nothing.
package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/systemd"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// States of a finding.
const (
	stateOK   = "ok"
	stateWarn = "warn" // it works, and less well than it could
	stateFail = "fail" // an update, a fall back or the device will fail because of it
)

// finding is one line of what the doctor found.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"`
	Found string `json:"found"`          // what is so
	Cure  string `json:"cure,omitempty"` // what to do; empty: nothing is wrong
}

// doctor looks at how a device is set up and changes nothing.
type doctor struct {
	out   io.Writer
	cfg   *config.Config
	store *bootcheck.Store // nil: there is none
	// sysroot is in front of every path of the system: an image that does not run.
	// Empty: this device.
	sysroot  string
	systemd  units
	findings []finding
}

// units is whom to ask about units: systemd, or the files of an image.
type units interface {
	Definition(ctx context.Context, name string) (systemd.Definition, error)
	RuntimeWatchdog(ctx context.Context) (time.Duration, error)
}

// Options say what is looked at, and how it is said.
type Options struct {
	Config  string // the configuration; empty: as for the programs of the device
	Root    string // the store; empty: as the configuration says
	Sysroot string // an image of a device, below a folder; empty: this device
	JSON    bool
}

// Diagnose prints to out what it finds. The error says how much of it is wrong.
func Diagnose(ctx context.Context, out io.Writer, o Options) error {
	d, cfgErr, err := open(out, o)
	if err != nil {
		return err
	}
	if conn, err := d.connect(ctx); err != nil {
		d.fail("systemd", err.Error(), "look at `systemctl status`; a PID 1 that does not answer needs a reboot")
	} else if conn != nil {
		defer conn.Close()
	}
	d.lookAtConfig(cfgErr)
	d.lookAtStore(ctx)
	d.lookAtKeys()
	d.lookAtDisk()
	d.lookAtPrograms()
	d.lookAtLinks()
	if d.systemd != nil {
		d.lookAtUnits(ctx)
		d.lookAtServices(ctx)
	}
	d.lookAtKernel(ctx)
	d.lookAtClock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.report(o.JSON)
}

func (d *doctor) add(state, check, found, cure string) {
	d.findings = append(d.findings, finding{bootcheck.OneLine(check), state, bootcheck.OneLine(found), bootcheck.OneLine(cure)})
}
func (d *doctor) ok(check, found string)         { d.add(stateOK, check, found, "") }
func (d *doctor) warn(check, found, cure string) { d.add(stateWarn, check, found, cure) }
func (d *doctor) fail(check, found, cure string) { d.add(stateFail, check, found, cure) }

// path is where the system's file name is to be looked at.
func (d *doctor) path(name string) string {
	if d.sysroot == "" || name == d.sysroot || strings.HasPrefix(name, d.sysroot+"/") {
		return name
	}
	return filepath.Join(d.sysroot, name)
}

// value is a file of one line; empty: it is not there, or says nothing.
func (d *doctor) value(name string) string {
	data, err := os.ReadFile(d.path(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (d *doctor) report(asJSON bool) error {
	count := map[string]int{}
	for _, f := range d.findings {
		count[f.State]++
	}
	if asJSON {
		e := json.NewEncoder(d.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(map[string]any{stateOK: count[stateOK], stateWarn: count[stateWarn], stateFail: count[stateFail], "findings": d.findings}); err != nil {
			return err
		}
	} else {
		width := 0
		for _, f := range d.findings {
			width = max(width, len(f.Check))
		}
		for _, f := range d.findings {
			fmt.Fprintf(d.out, "%-4s  %-*s  %s\n", f.State, width, f.Check, f.Found)
			if f.Cure != "" {
				fmt.Fprintf(d.out, "      %-*s  -> %s\n", width, "", f.Cure)
			}
		}
		fmt.Fprintf(d.out, "%d ok, %d warn, %d fail\n", count[stateOK], count[stateWarn], count[stateFail])
	}
	if n := count[stateFail]; n > 0 {
		return fmt.Errorf("%d of %d checks of the set-up fail", n, len(d.findings))
	}
	return nil
}

// lookAtConfig sees whether both programs do what the configuration says.
func (d *doctor) lookAtConfig(cfgErr error) {
	const check = "configuration"
	name := d.cfg.Path
	_, err := os.Lstat(name)
	switch {
	case cfgErr != nil:
		d.fail(check, cfgErr.Error(), cmp.Or(bootcheck.Advice(cfgErr), "correct it")+": ota-apply refuses to work with it, and ota-guardian uses defaults for what is wrong")
	case err != nil:
		d.warn(check, name+" is not there: everything has its default", "scripts/install.sh writes one to start from")
	default:
		d.ok(check, name+"; only root can change it")
	}
	if d.cfg.Model == "" {
		d.warn("model", "none is configured: bundles of every model are taken", fmt.Sprintf("set model in %s to what your bundles are made for", name))
	} else {
		d.ok("model", d.cfg.Model)
	}
	required := 0
	for _, c := range d.cfg.Checks {
		if c.Required {
			required++
		}
		if c.Script == "" {
			continue
		}
		if info, err := os.Stat(d.path(c.Script)); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			d.fail("health check", fmt.Sprintf("%q is to run %s, which cannot be run", c.Name, c.Script), "put the program there and make it executable: chmod 0755 "+c.Script)
		}
	}
	if required == 0 && len(d.cfg.Services) == 0 {
		d.fail("health check", "no check is required and no service is configured: every version is good", "set services or a [[check]] in "+name)
	} else {
		d.ok("health checks", fmt.Sprintf("%d required, and that each of %d services runs; `ota-guardian check` runs them", required, len(d.cfg.Services)))
	}
	d.lookAtReport()
}

// checkOwner fails unless only root (or the user of this program) can change names.
func (d *doctor) checkOwner(check string, names ...string) {
	good := true
	for _, name := range names {
		err := bootcheck.CheckOwner(name)
		if cure := bootcheck.Advice(err); bootcheck.Exit(err) == bootcheck.ExitRefused {
			d.fail(check, err.Error(), cure)
			good = false
		}
	}
	if good {
		d.ok(check, "only root can change "+strings.Join(names, ", "))
	}
}

// lookAtStore sees whether the record, the links and the versions are right.
func (d *doctor) lookAtStore(ctx context.Context) {
	root := d.cfg.Root
	store, err := bootcheck.Open(root)
	if err != nil {
		d.fail("store", err.Error(), "mount its disk, correct root in the configuration, or make it: /usr/lib/ota/setup_symlinks.sh")
		return
	}
	d.store = store
	d.checkOwner("store", root)
	if store.Foreign() {
		d.fail("links", fmt.Sprintf("%s/current is no link of the store: another program keeps it", root), "stop that program for good, then take over what it installed: /usr/lib/ota/setup_symlinks.sh (ota-guardian adopt)")
	}
	active, err := store.Active()
	switch {
	case errors.Is(err, bootcheck.ErrEmpty):
		if !store.Foreign() {
			d.warn("record", "no version is installed", "install one: ota-apply install URL")
		}
		return
	case err != nil:
		d.fail("record", err.Error(), "the next boot goes on with the newest version that is whole; install a version to have a record again")
		return
	case active.Damage != "":
		if !store.Foreign() {
			d.fail("record", active.Damage, "nothing is lost: `ota-guardian adopt` or the next boot mends it")
		}
	default:
		d.ok("record", fmt.Sprintf("generation %d, the links say the same", active.Record.Generation))
	}
	r := active.Record
	switch {
	case r.Phase == bootcheck.PhaseHold:
		d.fail("phase", fmt.Sprintf("on hold with version %s (%s)", r.Current, r.HoldReason), "`ota-guardian status` shows the evidence; install a version or use `ota-guardian rollback`")
	case r.Phase.Judged():
		d.warn("phase", fmt.Sprintf("version %s is on trial (%s)", r.Current, r.Phase), "wait for the verdict: `ota-guardian confirm` or the running ota-confirm.service")
	default:
		d.ok("phase", string(r.Phase))
	}
	d.lookAtVersion(ctx, "current", r.Current)
	if r.Previous != nil {
		d.lookAtVersion(ctx, "previous", r.Previous)
	}
	if r.Factory == nil {
		d.warn("factory", "there is no factory version: nothing is the last resort", "/usr/lib/ota/create_factory_version.sh, or `ota-guardian factory create` for the version that runs")
		return
	}
	d.lookAtVersion(ctx, "factory", r.Factory)
}

// lookAtVersion sees whether ref has all its files and starts from what it should;
// `ota-guardian verify` reads every byte.
func (d *doctor) lookAtVersion(ctx context.Context, name string, ref *bootcheck.Ref) {
	err := d.store.Verify(ctx, ref, bootcheck.Start)
	cure := "ota-guardian verify --repair " + name
	if err == nil && name == "factory" && !ref.Plain() {
		if info, statErr := os.Stat(d.store.VersionDir(ref.Version)); statErr == nil && info.Mode().Perm()&0o222 != 0 {
			err, cure = fmt.Errorf("version %s is writable (%04o)", ref, info.Mode().Perm()), "ota-guardian factory repair"
		}
	}
	switch {
	case err != nil:
		d.fail(name, err.Error(), cure)
	case ref.Plain():
		d.warn(name, fmt.Sprintf("%s has no manifest: nothing can check or repair it", ref), "the next signed version replaces it; for factory: /usr/lib/ota/create_factory_version.sh")
	default:
		d.ok(name, ref.Version)
		d.lookAtExternal(name, ref)
	}
}

// lookAtExternal shows which links of ref lead out of it. Whether something is there is
// not asked: nothing follows them but the services.
func (d *doctor) lookAtExternal(name string, ref *bootcheck.Ref) {
	_, m, err := bootcheck.ReadManifest(d.store.VersionDir(ref.Version))
	if err != nil {
		return
	}
	var links []string
	for _, e := range m.Entries {
		if e.External {
			links = append(links, e.Path+" -> "+e.Target)
		}
	}
	if n := len(links); n > 0 {
		more := ""
		if n > 20 {
			links, more = links[:20], fmt.Sprintf(" and %d more", n-20)
		}
		d.ok(name+", external links", strings.Join(links, ", ")+more)
	}
}

// lookAtKeys sees whether a bundle can be believed, and whom.
func (d *doctor) lookAtKeys() {
	var paths []string
	for _, p := range d.cfg.Keys {
		p = d.path(p)
		paths = append(paths, p)
		entries, _ := os.ReadDir(p) // of a file, none
		for _, e := range entries {
			if name := filepath.Join(p, e.Name()); strings.HasSuffix(name, ".key") {
				d.fail("secret key", name+" is on the device: who reads it signs bundles for all of them", "delete it here, make another key and revoke this one: docs/SECURITY.md")
			}
		}
	}
	keys := trust.Load(paths)
	where := strings.Join(d.cfg.Keys, ", ")
	for _, err := range keys.Skipped {
		d.fail("keys", err.Error(), cmp.Or(bootcheck.Advice(err), "replace it by the public key (NAME.pub) that ota-bundle keygen wrote"))
	}
	if keys.Len() == 0 {
		d.fail("keys", "no trusted key in "+where+": every install is refused", "copy NAME.pub of the release engineer to "+where)
	} else {
		d.ok("keys", fmt.Sprintf("%d in %s", keys.Len(), where))
	}
}

// lookAtPrograms sees whether the programs are where no bundle and no user can change them.
func (d *doctor) lookAtPrograms() {
	const check = "programs"
	var dirs []string
	if d.sysroot != "" {
		dirs = []string{d.path("/usr/bin"), d.path("/usr/local/bin")}
	} else if self, err := os.Executable(); err == nil {
		dirs = []string{filepath.Dir(self)}
	}
	for _, dir := range dirs {
		guardian, apply := filepath.Join(dir, "ota-guardian"), filepath.Join(dir, "ota-apply")
		if _, err := os.Stat(guardian); err != nil {
			continue
		}
		real, err := filepath.EvalSymlinks(guardian)
		root, rootErr := filepath.EvalSymlinks(d.cfg.Root)
		switch {
		case err == nil && rootErr == nil && strings.HasPrefix(real, root+"/"):
			d.fail(check, real+" is in the version store: an update could replace it", "install it outside: scripts/install.sh")
		default:
			if info, err := os.Stat(apply); err != nil || info.Mode()&0o111 == 0 {
				d.fail(check, apply+" is not there: nothing can be installed", "scripts/install.sh puts it there")
				return
			}
			d.checkOwner(check, dir, guardian, apply)
		}
		return
	}
	d.fail(check, "ota-guardian is in none of "+strings.Join(dirs, ", "), "scripts/install.sh puts it there")
}

// linkDirs are where other programs find what a version brings.
var linkDirs = []string{"/usr/local/bin", "/opt/tope/services"}

// lookAtLinks sees whether the links into the store go through current.
func (d *doctor) lookAtLinks() {
	root := strings.TrimPrefix(d.cfg.Root, d.sysroot)
	good := 0
	for _, dir := range linkDirs {
		entries, _ := os.ReadDir(d.path(dir)) // there need be none
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			target, err := os.Readlink(d.path(name))
			if err != nil {
				continue
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(dir, target)
			}
			rest, inside := strings.CutPrefix(filepath.Clean(target), root+"/")
			first, below, _ := strings.Cut(rest, "/")
			switch {
			case !inside:
			case first != "current":
				d.fail("link "+name, "it leads to "+target+", which no update changes", "make it anew through current: /usr/lib/ota/setup_symlinks.sh")
			case d.dangling(below):
				d.warn("link "+name, "the version that runs has no "+below, "remove the link, or bring the file in the next version")
			default:
				good++
			}
		}
	}
	if good > 0 {
		d.ok("links to current", fmt.Sprintf("%d in %s", good, strings.Join(linkDirs, ", ")))
	}
}

// dangling reports whether the version that runs lacks name; not before one runs, nor
// where a link leads out of it.
func (d *doctor) dangling(name string) bool {
	current, err := os.OpenRoot(filepath.Join(d.cfg.Root, "current"))
	if err != nil {
		return false
	}
	defer current.Close()
	_, err = current.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}

// open reads the configuration. cfgErr is what is wrong with it.
func open(out io.Writer, o Options) (d *doctor, cfgErr, err error) {
	d = &doctor{out: out}
	if o.Sysroot == "" {
		d.cfg, cfgErr = config.Find(o.Config)
	} else {
		abs, err := filepath.Abs(o.Sysroot)
		if err == nil {
			d.sysroot, err = filepath.EvalSymlinks(abs)
		}
		if err != nil {
			return nil, nil, bootcheck.Errorf(bootcheck.ExitUsage, "", "cannot look at the image: %w", err)
		}
		if d.sysroot == "/" {
			d.sysroot = ""
		}
		d.cfg, cfgErr = config.Load(cmp.Or(o.Config, d.path(config.DefaultPath)))
		if o.Config == "" && errors.Is(cfgErr, fs.ErrNotExist) {
			cfgErr = nil
		}
		// The paths in it are those of the image.
		for i, name := range d.cfg.Keys {
			d.cfg.Keys[i] = d.path(name)
		}
		if err := d.cfg.SetRoot(d.path(d.cfg.Root)); err != nil {
			return nil, nil, err
		}
	}
	if o.Root != "" {
		err = d.cfg.SetRoot(o.Root)
	}
	return d, cfgErr, err
}

// connect finds whom to ask about units. conn is to be closed; nil: there is none.
func (d *doctor) connect(ctx context.Context) (conn *systemd.Conn, err error) {
	switch {
	case d.sysroot != "":
		d.systemd = unitFiles(d.sysroot)
	case !systemd.Running():
		d.warn("systemd", "no systemd runs here: units and watchdog are not looked at", "run this on the device, or name an image of one with --sysroot")
	default:
		ctx, cancel := context.WithTimeout(ctx, dialLimit)
		defer cancel()
		if conn, err = systemd.Dial(ctx); err == nil {
			d.systemd = conn
		}
	}
	return conn, err
}

// dialLimit bounds the wait for a PID 1 that accepts and says nothing.
const dialLimit = 30 * time.Second
