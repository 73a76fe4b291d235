package applier

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// A forecast is what `install --dry-run` prints: with --json, this object.
type forecast struct {
	Schema int `json:"schema"`
	bootcheck.VersionInfo
	Here     bool  `json:"here"`    // the very version is in the store already
	Current  bool  `json:"current"` // and it is the current version
	Bundle   int64 `json:"bundle_bytes"`
	Download int64 `json:"download_bytes"`

	Patch    int64 `json:"patch_bytes"` // of Download, by a patch from the current version
	Frames   int64 `json:"frame_bytes"` // of Download, out of the bundle
	Requests int   `json:"requests"`    // of the download

	Reuse      int64    `json:"reuse_bytes"`
	ReuseFiles int      `json:"reuse_files"`
	ReuseFrom  []string `json:"reuse_from"`
	Write      int64    `json:"write_bytes"`

	Need   uint64   `json:"need_bytes"` // at its peak, with the download and the reserve
	Free   uint64   `json:"free_bytes"`
	Remove []string `json:"remove"`       // versions that go first, to make room
	After  []string `json:"remove_after"` // versions that go when it runs: beyond `keep`

	Restart []string `json:"restart"` // services, in this order

	Checks   []string `json:"checks"`     // required ones, which decide about the version
	NotSetUp []string `json:"not_set_up"` // those that count only if the version listens at their address
	unset    []health.Result
}

// dryRun says what install would do, and changes nothing. Of a download only the
// head is fetched, to a directory in memory; what an interrupted install has left in
// the spool stays there, and counts as downloaded still. It refuses what install
// refuses.
func (a *applier) dryRun(ctx context.Context, from string, o installOptions, asJSON bool) error {
	var err error
	if a.store, err = bootcheck.Open(a.cfg.Root); err != nil {
		return err
	}
	if err := bootcheck.CheckOwner(a.cfg.Root); err != nil {
		return err
	}
	keys, err := a.keys() // of an open store, which knows what was revoked
	if err != nil {
		return err
	}
	a.calendar().Volatile()
	if err := os.MkdirAll(a.cfg.Run, 0o755); err != nil {
		return err
	}
	if a.spool, err = os.MkdirTemp(a.cfg.Run, "dry-run-"); err != nil {
		return err
	}
	defer os.RemoveAll(a.spool)
	bundles, err := a.open(ctx, from, o)
	if err != nil {
		return err
	}
	defer bundles.close()
	b, err := bundles.next(keys)
	if err != nil {
		return err
	}
	if err := a.checkAdmission(ctx, b, o); err != nil {
		return err
	}
	f, err := a.forecast(ctx, b, o)
	if err != nil {
		return err
	}
	if b.now != nil && !f.Here {
		// What was fetched to see the head, and to see that a patch cannot be used.
		f.Download += b.now.Have
		f.Requests += b.now.Requests + a.account.stats.Requests
	}
	if b.patch != nil {
		f.Patch = f.Download
	} else {
		f.Frames = f.Download
	}
	if asJSON {
		return bootcheck.WriteJSON(a.out, f)
	}
	f.print(a.out, a.cfg)
	return nil
}

func (a *applier) forecast(ctx context.Context, b *openBundle, o installOptions) (*forecast, error) {
	p, ref, record := b.plan, b.ref(), b.record
	f := &forecast{
		Schema: bootcheck.OutputSchema, VersionInfo: b.manifest.Info(ref.Digest),
		Here: p.here, Current: runs(record, ref),
		Bundle: b.head.Size(b.manifest), Download: p.download, Requests: p.requests,
		Reuse: p.reused, ReuseFiles: p.files, ReuseFrom: append([]string{}, p.from...), Write: p.write,
		Need: p.need.Bytes, Free: p.free.Bytes, Remove: append([]string{}, p.remove...),
		After: []string{}, Restart: []string{}, Checks: []string{}, NotSetUp: []string{},
	}
	if f.Current || o.noActivate {
		return f, nil
	}
	if !o.atReboot {
		f.Restart = append(f.Restart, a.cfg.Services...)
	}
	intact := func(*bootcheck.Ref) bool { return true }
	surplus, err := a.store.Surplus(record.Activate(ref, "", "", nil, intact), a.cfg.Keep)
	if err != nil {
		return nil, err
	}
	env, err := checkEnv(ctx, "")
	if err != nil {
		a.logf("units are not checked: %v", err)
	}
	var names []string
	names, f.unset = health.Deciding(ctx, health.All(a.cfg, env))
	f.Checks = append(f.Checks, names...)
	for _, r := range f.unset {
		f.NotSetUp = append(f.NotSetUp, r.Check)
	}
	for _, v := range surplus {
		if !slices.Contains(f.Remove, v) {
			f.After = append(f.After, v)
		}
	}
	return f, nil
}

func (f *forecast) print(w io.Writer, cfg *config.Config) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	list := func(names []string) string { return cmp.Or(strings.Join(names, ", "), "none") }
	line("version", "%s, release %d", f.Version, *f.Release)
	switch {
	case f.Current:
		line("change", "none: it is already current")
		return
	case f.Here:
		line("download", "none: it is in the store")
	default:
		requests := ""
		if f.Requests > 0 {
			requests = ", " + cli.Plural(f.Requests, "request", "requests")
		}
		if f.Patch > 0 {
			line("download", "%s, a patch in the place of a bundle of %s%s", bootcheck.Size(f.Patch), bootcheck.Size(f.Bundle), requests)
		} else {
			line("download", "%s of a bundle of %s%s", bootcheck.Size(f.Download), bootcheck.Size(f.Bundle), requests)
		}
		if f.ReuseFiles > 0 {
			line("reuse", "%s in %s, from %s", bootcheck.Size(f.Reuse), cli.Plural(f.ReuseFiles, "file", "files"), list(f.ReuseFrom))
		} else {
			line("reuse", "none")
		}
		line("write", "%s", bootcheck.Size(f.Write))
		line("space", "%s are needed with the reserve of %s, %s are free", bootcheck.Size(int64(f.Need)), bootcheck.Size(int64(cfg.Reserve)), bootcheck.Size(int64(f.Free)))
		line("remove", "%s (disk space)", list(f.Remove))
	}
	line("restart", "%s", list(f.Restart))
	line("checks", "%s", list(f.Checks))
	for _, r := range f.unset {
		line("", "%s %s", r.Check, r.Why)
	}
	line("then", "remove %s (keep = %d)", list(f.After), cfg.Keep)
}
