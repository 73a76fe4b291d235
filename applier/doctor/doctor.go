// Package doctor looks at how a device, or an image of one, is set up, and says what
// is not as it should be and what to do. It changes nothing.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// States of a finding.
const (
	stateOK   = "ok"
	stateWarn = "warn" // it works, and less well than it could
	stateFail = "fail" // an update, a rollback or the device will fail because of it
)

type finding struct {
	Check string           `json:"check"`
	State string           `json:"state"`
	Found string           `json:"found"`
	Hint  bootcheck.OrNull `json:"cure"` // what to do; empty: nothing is wrong
}

type doctor struct {
	cfg   *config.Config
	store *bootcheck.Store // nil: there is none
	// sysroot is in front of every path of the system: an image that does not run.
	// Empty: this device.
	sysroot  string
	ask      func(ctx context.Context, program string, args ...string) (string, error)
	findings []finding
}

// Options say what is looked at, and how it is said.
type Options struct {
	Config  string // the configuration; empty: as for the programs of the device
	Root    string // the store; empty: as the configuration says
	Sysroot string // an image of a device, below a directory; empty: this device
	JSON    bool
}

// Diagnose prints to out what it finds. The error says how much of it is wrong.
func Diagnose(ctx context.Context, out io.Writer, o Options) error {
	return diagnose(ctx, out, o, ask)
}

func diagnose(ctx context.Context, out io.Writer, o Options, ask func(context.Context, string, ...string) (string, error)) error {
	d := &doctor{ask: ask}
	cfgErr, err := d.open(o)
	if err != nil {
		return err
	}
	d.lookAtConfig(cfgErr)
	d.lookAtChecks(ctx)
	d.lookAtReport(ctx)
	d.lookAtStore(ctx)
	d.lookAtKeys()
	d.lookAtDisk(ctx)
	d.lookAtPrograms()
	d.lookAtLinks()
	d.lookAtSystemd(ctx)
	d.lookAtCertificate(ctx)
	d.lookAtServer(ctx)
	d.lookAtKernel()
	d.lookAtClock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.report(out, o.JSON)
}

// open reads the configuration. cfgErr is what is wrong with it.
func (d *doctor) open(o Options) (cfgErr, err error) {
	if o.Sysroot == "" {
		d.cfg, cfgErr = config.Find(o.Config)
	} else {
		abs, err := filepath.Abs(o.Sysroot)
		if err == nil {
			d.sysroot, err = filepath.EvalSymlinks(abs)
		}
		if err != nil {
			return nil, bootcheck.Errorf(bootcheck.ExitUsage, "", "cannot look at the image: %w", err)
		}
		d.sysroot = strings.TrimSuffix(d.sysroot, "/")
		d.cfg, cfgErr = config.Load(cmp.Or(o.Config, d.path(config.DefaultPath)))
		if o.Config == "" && errors.Is(cfgErr, fs.ErrNotExist) {
			cfgErr = nil
		}
		// The paths in it are those of the image.
		for i, name := range d.cfg.Keys {
			d.cfg.Keys[i] = d.path(name)
		}
		if err := d.cfg.SetRoot(d.path(d.cfg.Root)); err != nil {
			return nil, err
		}
	}
	if o.Root != "" {
		err = d.cfg.SetRoot(o.Root)
	}
	return cfgErr, err
}

func (d *doctor) ok(check, found string) { d.add(stateOK, check, found, "") }

func (d *doctor) warn(check, found, hint string) { d.add(stateWarn, check, found, hint) }

func (d *doctor) fail(check, found, hint string) { d.add(stateFail, check, found, hint) }

func (d *doctor) add(state, check, found, hint string) {
	d.findings = append(d.findings, finding{bootcheck.OneLine(check), state, bootcheck.OneLine(found), bootcheck.OrNull(bootcheck.OneLine(hint))})
}

// path is where the system's file name is to be looked at.
func (d *doctor) path(name string) string {
	if name == d.sysroot || strings.HasPrefix(name, d.sysroot+"/") {
		return name
	}
	return filepath.Join(d.sysroot, name)
}

// value is a file of one line; empty: it is not there, or says nothing.
func (d *doctor) value(name string) string {
	data, _ := os.ReadFile(d.path(name))
	return strings.TrimSpace(string(data))
}

func (d *doctor) report(out io.Writer, asJSON bool) error {
	count, width := map[string]int{}, 0
	for _, f := range d.findings {
		count[f.State]++
		width = max(width, len(f.Check))
	}
	if asJSON {
		if err := bootcheck.WriteJSON(out, map[string]any{"schema": bootcheck.OutputSchema, stateOK: count[stateOK], stateWarn: count[stateWarn], stateFail: count[stateFail], "findings": d.findings}); err != nil {
			return err
		}
	} else {
		wrap := func(_ int, text string) string { return text } // a line a finding, for grep
		if o, ok := out.(*cli.Output); ok && o.Terminal() {
			wrap = bootcheck.Wrap
		}
		for _, f := range d.findings {
			bootcheck.Paint(out, map[string]bootcheck.Colour{stateOK: bootcheck.Green, stateWarn: bootcheck.Yellow, stateFail: bootcheck.Red}[f.State], fmt.Sprintf("%-4s", f.State))
			fmt.Fprintf(out, "  %-*s  %s\n", width, f.Check, wrap(width+8, f.Found))
			if f.Hint != "" {
				fmt.Fprintf(out, "      %-*s  -> %s\n", width, "", wrap(width+11, string(f.Hint)))
			}
		}
		fmt.Fprintf(out, "%d ok, %d warn, %d fail\n", count[stateOK], count[stateWarn], count[stateFail])
	}
	if n := count[stateFail]; n > 0 {
		return fmt.Errorf("%d of %d checks of the setup fail", n, len(d.findings))
	}
	return nil
}

// lookAtConfig sees whether both programs do what the configuration says.
func (d *doctor) lookAtConfig(cfgErr error) {
	const check = "configuration"
	name := d.cfg.Path
	if _, err := os.Lstat(name); cfgErr != nil {
		d.fail(check, cfgErr.Error(), cmp.Or(bootcheck.Advice(cfgErr), "correct it")+": ota-apply refuses to work with it, and ota-guardian uses defaults for what is wrong")
	} else if err != nil {
		d.warn(check, name+" is not there: everything has its default", "`scripts/install.sh` writes one to start from")
	} else {
		d.ok(check, name+"; only root can change it")
	}
	if d.cfg.Model == "" {
		d.warn("model", "none is configured: bundles of every model are taken", fmt.Sprintf("set model in %s to what your bundles are made for", name))
	} else {
		d.ok("model", d.cfg.Model)
	}
}

// checkOwner fails unless only root (or the user of this program) can change names.
func (d *doctor) checkOwner(check string, names ...string) {
	before := len(d.findings)
	for _, name := range names {
		if err := bootcheck.CheckOwner(name); bootcheck.Exit(err) == bootcheck.ExitRefused {
			d.fail(check, err.Error(), bootcheck.Advice(err))
		}
	}
	if len(d.findings) == before {
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
	foreign := store.Foreign()
	if foreign {
		d.fail("links", fmt.Sprintf("%s/current is no link of the store: another program keeps it", root), "stop that program for good, then take over what it installed: `/usr/lib/ota/setup_symlinks.sh` (`ota-guardian adopt`)")
	}
	active, err := store.Active()
	switch {
	case errors.Is(err, bootcheck.ErrEmpty):
		if !foreign {
			d.warn("record", "no version is installed", "install one: `ota-apply install URL`")
		}
		return
	case err != nil:
		d.fail("record", err.Error(), "the next boot starts the newest intact version; install a version to have a record again")
		return
	case active.Damage == "":
		d.ok("record", fmt.Sprintf("generation %d, the links say the same", active.Record.Generation))
	case !foreign:
		d.fail("record", active.Damage, "nothing is lost: `ota-guardian adopt` or the next boot repairs it")
	}
	r := active.Record
	switch {
	case r.Phase == bootcheck.PhaseHold:
		d.fail("phase", fmt.Sprintf("on hold with version %s (%s)", r.Current, r.HoldReason), "`ota-guardian status` shows the evidence; install a version or use `ota-guardian rollback`")
	case r.Phase.Unconfirmed():
		d.warn("phase", fmt.Sprintf("version %s is on trial (%s)", r.Current, r.Phase), "wait for ota-confirm.service, or run `ota-guardian confirm`")
	default:
		d.ok("phase", string(r.Phase))
	}
	d.lookAtVersion(ctx, "current", r.Current)
	if r.Previous != nil {
		d.lookAtVersion(ctx, "previous", r.Previous)
	}
	if r.Factory == nil {
		d.warn("factory", "there is no factory version to roll back to", "`/usr/lib/ota/create_factory_version.sh`, or `ota-guardian factory create` for the current version")
		return
	}
	d.lookAtVersion(ctx, "factory", r.Factory)
}

// lookAtVersion sees whether ref has all its files and starts from what it should;
// `ota-guardian verify` reads every byte.
func (d *doctor) lookAtVersion(ctx context.Context, name string, ref *bootcheck.Ref) {
	err := d.store.Verify(ctx, ref, bootcheck.Start)
	hint := "`ota-guardian verify --repair " + name + "`"
	if err == nil && name == "factory" && !d.store.Unsigned(ref.Version) {
		if info, statErr := os.Stat(d.store.VersionDir(ref.Version)); statErr == nil && info.Mode().Perm()&0o222 != 0 {
			err, hint = fmt.Errorf("version %s is writable (%04o)", ref, info.Mode().Perm()), "`ota-guardian factory repair`"
		}
	}
	switch {
	case err != nil:
		d.fail(name, err.Error(), hint)
	case ref.Digest == bootcheck.NoManifest:
		d.warn(name, fmt.Sprintf("%s has no manifest: nothing can check or repair it", ref), "`ota-guardian adopt`")
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

// lookAtKeys sees which keys are trusted, and that none of them is secret.
func (d *doctor) lookAtKeys() {
	var paths []string
	for _, p := range d.cfg.Keys {
		p = d.path(p)
		paths = append(paths, p)
		secret, _ := filepath.Glob(filepath.Join(p, "*.key"))
		for _, name := range secret {
			d.fail("secret key", name+" is on the device: an attacker who reads it can sign bundles for every device", "delete it here, make another key and revoke this one: docs/SECURITY.md")
		}
	}
	keys, where := trust.Load(paths), strings.Join(d.cfg.Keys, ", ")
	for _, err := range keys.Skipped {
		d.fail("keys", err.Error(), cmp.Or(bootcheck.Advice(err), "replace it by the public key (NAME.pub) that ota-bundle keygen wrote"))
	}
	ids, gone := keys.IDs(), "no trusted key in "+where
	if d.store != nil {
		record, _ := d.store.Record() // lookAtStore has said what is wrong with it
		revoked, err := d.store.RevokedKeys(record)
		if errors.Is(err, bootcheck.ErrRevokedUnknown) {
			d.fail("keys", err.Error()+": every install is refused", bootcheck.RevokedUnknownAdvice)
			return
		}
		revoked = keys.Twins(revoked)
		ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(revoked, id) })
		if keys.Len() > 0 {
			gone = "each trusted key in " + where + " was revoked"
		}
	}
	if len(ids) == 0 {
		d.fail("keys", gone+": every install is refused", "copy NAME.pub of the release engineer to "+where)
	} else {
		d.ok("keys", fmt.Sprintf("%d in %s", len(ids), where))
	}
}

// lookAtPrograms sees whether the programs are where no bundle and no user can change them.
func (d *doctor) lookAtPrograms() {
	const check, hint = "programs", "`scripts/install.sh` puts it there"
	dirs := []string{d.path("/usr/bin"), d.path("/usr/local/bin")}
	if self, err := os.Executable(); d.sysroot == "" && err == nil {
		dirs = []string{filepath.Dir(self)}
	}
	for _, dir := range dirs {
		guardian, apply := filepath.Join(dir, "ota-guardian"), filepath.Join(dir, "ota-apply")
		real, err := filepath.EvalSymlinks(guardian)
		if err != nil {
			continue
		}
		root, _ := filepath.EvalSymlinks(d.cfg.Root) // empty: there is no store
		info, err := os.Stat(apply)
		switch {
		case root != "" && strings.HasPrefix(real, root+"/"):
			d.fail(check, real+" is in the version store: an update could replace it", "install it outside: `scripts/install.sh`")
		case err != nil || info.Mode()&0o111 == 0:
			d.fail(check, apply+" is not there: nothing can be installed", hint)
		default:
			d.checkOwner(check, dir, guardian, apply)
		}
		return
	}
	d.fail(check, "ota-guardian is in none of "+strings.Join(dirs, ", "), hint)
}

// inStore resolves name, one link, into the store: below is the path in "current" or
// in another first element. Not inside: name leads elsewhere, to target.
func (d *doctor) inStore(name string) (first, below string, inside bool) {
	rest, inside := strings.CutPrefix(name, strings.TrimPrefix(d.cfg.Root, d.sysroot)+"/")
	first, below, _ = strings.Cut(rest, "/")
	return first, below, inside
}

// readlink is where the link name leads, absolute; empty: it is none.
func (d *doctor) readlink(name string) string {
	target, err := os.Readlink(d.path(name))
	if err != nil {
		return ""
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(name), target)
	}
	return filepath.Clean(target)
}

// dangling reports whether the current version lacks name; not before there is one, nor
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

// lookAtLinks sees whether the links into the store go through current.
func (d *doctor) lookAtLinks() {
	dirs := []string{"/usr/local/bin", "/opt/tope/services"} // where other programs find what a version brings
	good := 0
	for _, dir := range dirs {
		entries, _ := os.ReadDir(d.path(dir)) // there need be none
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			target := d.readlink(name)
			switch first, below, inside := d.inStore(target); {
			case !inside:
			case first != "current":
				d.fail("link "+name, "it leads to "+target+", which no update changes", "make it again through current: /usr/lib/ota/setup_symlinks.sh")
			case d.dangling(below):
				d.warn("link "+name, "the current version has no "+below, "remove the link, or bring the file in the next version")
			default:
				good++
			}
		}
	}
	if good > 0 {
		d.ok("links to current", fmt.Sprintf("%d in %s", good, strings.Join(dirs, ", ")))
	}
}

// lookAtClock sees whether the clock can be right. No decision of the guardian
// uses it; certificates and bundles that expire depend on it.
func (d *doctor) lookAtClock() {
	now, newest := time.Now(), calendar.Open(d.path(d.cfg.Spool), func() time.Time { return time.Time{} }).Today()
	const day = time.DateOnly
	if now.Before(newest.Add(-time.Hour)) {
		d.warn("clock", fmt.Sprintf("it shows %s, and that is over: %s was", now.UTC().Format(day), newest.UTC().Format(day)),
			"let a time server or a clock with a battery set it: `timedatectl`; until then a server's certificate may seem not to be valid yet")
		return
	}
	d.ok("clock", now.UTC().Format(day))
}
