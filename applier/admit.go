package applier

import (
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// clockCredible is when this program was written. A clock that shows an earlier
// time was never set (no RTC: 1970), and says nothing about what has expired.
var clockCredible = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// admit refuses a bundle for everything that its signed manifest says, before
// its payload is fetched. Each refusal has ExitRefused, but for the room that
// it needs (ExitNoSpace).
func (a *applier) admit(b *openBundle, o installOptions) error {
	m := b.manifest
	a.version = m.Version
	refuse := func(format string, args ...any) *bootcheck.Error {
		return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, "version "+m.Version+" is refused: "+format, args...)
	}
	if a.cfg.Model != "" && !slices.Contains(m.Models, a.cfg.Model) {
		return refuse("it is for %s, this device is %q", strings.Join(m.Models, ", "), a.cfg.Model)
	}
	if now := time.Now(); m.NotAfter != nil && now.After(clockCredible) && now.After(*m.NotAfter) {
		return refuse("it expired at %s", m.NotAfter.Format(time.RFC3339))
	}
	record, err := a.record()
	if err != nil {
		return err
	}
	if record != nil {
		if err := a.admitHere(b, record, o, refuse); err != nil {
			return err
		}
	}
	_, err = a.plan(b, record)
	return err
}

// admitHere refuses a bundle for what this device remembers.
func (a *applier) admitHere(b *openBundle, record *bootcheck.Record, o installOptions, refuse func(string, ...any) *bootcheck.Error) error {
	m, ref := b.manifest, &bootcheck.Ref{Version: b.manifest.Version, Digest: b.digest}
	if b := record.BlockedBy(ref); b != nil && !o.force {
		return refuse("it failed on this device (%s)", strings.TrimSuffix(b.Reason+": "+b.Check, ": ")).
			WithAdvice("`ota-apply unblock %s` or --force tries it again", m.Version)
	}
	if m.Release < record.Floor && !o.allowDowngrade && !record.Current.Same(ref) {
		return refuse("its release %d is older than release %d, which ran here", m.Release, record.Floor).
			WithAdvice("--allow-downgrade installs it all the same; `ota-guardian rollback` goes back to a version that is still here")
	}
	for name, linked := range map[string]*bootcheck.Ref{"current": record.Current, "previous": record.Previous, "factory": record.Factory} {
		if linked != nil && linked.Version == m.Version && !linked.Same(ref) {
			return refuse("%s is a version of this name with other content", name).
				WithAdvice("give every release a version of its own")
		}
	}
	return nil
}
