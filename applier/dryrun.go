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
)

// A forecast is what `install --dry-run` prints: with --json, this object.
type forecast struct {
	Version  string `json:"version"`
	Release  int64  `json:"release"`
	Digest   string `json:"digest"`
	Here     bool   `json:"here"`    // the very version is in the store already
	Current  bool   `json:"current"` // and it is what runs
	Bundle   int64  `json:"bundle_bytes"`
	Download int64  `json:"download_bytes"`

	Reuse      int64    `json:"reuse_bytes"`
	ReuseFiles int      `json:"reuse_files"`
	ReuseFrom  []string `json:"reuse_from"`
	Write      int64    `json:"write_bytes"`

	Need   uint64   `json:"need_bytes"` // at its peak, with the download and the reserve
	Free   uint64   `json:"free_bytes"`
	Remove []string `json:"remove"`       // versions that go first, to make room
	After  []string `json:"remove_after"` // versions that go when it runs: beyond `keep`

	Restart []string `json:"restart"` // services, in this order
}

// dryRun says what install would do, and changes nothing. Of a download only the
// head is fetched, to a folder in memory; what an interrupted install has left in
// the spool stays there, and counts as downloaded still. It refuses what install
// refuses.
func (a *applier) dryRun(ctx context.Context, from string, o installOptions, asJSON bool) error {
	var err error
	if a.store, err = bootcheck.Open(a.cfg.Root); err != nil {
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
	if err := a.judge(ctx, b, o); err != nil {
		return err
	}
	f, err := a.forecast(b, o)
	if err != nil {
		return err
	}
	if b.now != nil && !f.Here {
		f.Download += b.now.Have // what was fetched to see the head
	}
	if asJSON {
		return a.printJSON(f)
	}
	f.print(a.out, a.cfg)
	return nil
}

func (a *applier) forecast(b *openBundle, o installOptions) (*forecast, error) {
	p, ref, record := b.plan, b.ref(), b.record
	f := &forecast{
		Version: ref.Version, Release: b.manifest.Release, Digest: ref.Digest,
		Here: p.here, Current: runs(record, ref),
		Bundle: b.head.Size(b.manifest), Download: p.download,
		Reuse: p.reused, ReuseFiles: p.files, ReuseFrom: append([]string{}, p.from...), Write: p.write,
		Need: p.need.Bytes, Free: p.free.Bytes, Remove: append([]string{}, p.remove...),
		After: []string{}, Restart: []string{},
	}
	if f.Current || o.noActivate {
		return f, nil
	}
	f.Restart = append(f.Restart, a.cfg.Services...)
	whole := func(*bootcheck.Ref) bool { return true }
	surplus, err := a.store.Surplus(record.Activate(ref, "", nil, whole), a.cfg.Keep)
	if err != nil {
		return nil, err
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
	line("version", "%s, release %d", f.Version, f.Release)
	switch {
	case f.Current:
		line("nothing", "is to be done: it runs already")
		return
	case f.Here:
		line("download", "nothing: it is in the store")
	default:
		line("download", "%s of a bundle of %s", cli.Size(f.Download), cli.Size(f.Bundle))
		if f.ReuseFiles > 0 {
			line("reuse", "%s in %s, from %s", cli.Size(f.Reuse), cli.Plural(f.ReuseFiles, "file", "files"), list(f.ReuseFrom))
		} else {
			line("reuse", "nothing")
		}
		line("write", "%s", cli.Size(f.Write))
		line("space", "%s are needed with the reserve of %s, %s are free", cli.Size(int64(f.Need)), cli.Size(int64(cfg.Reserve)), cli.Size(int64(f.Free)))
		line("remove", "%s (disk space)", list(f.Remove))
	}
	line("restart", "%s", list(f.Restart))
	line("then", "remove %s (keep = %d)", list(f.After), cfg.Keep)
}
