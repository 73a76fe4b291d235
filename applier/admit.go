package applier

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/calendar"
	"github.com/tope-ota/ota/bootcheck"
)

// admit refuses a bundle for everything that its signed manifest says, before
// its payload is fetched. Each refusal has ExitRefused, but for the room that
// it needs (ExitNoSpace).
func (a *applier) admit(ctx context.Context, b *openBundle, o installOptions) error {
	m := b.manifest
	a.version = m.Version
	refuse := refusal(m)
	if a.cfg.Model != "" && !slices.Contains(m.Models, a.cfg.Model) {
		return refuse("it is for %s, this device is %q", strings.Join(m.Models, ", "), a.cfg.Model)
	}
	if today := a.calendar().Today(); m.NotAfter != nil && today.After(*m.NotAfter) {
		return refuse("it expired at %s", m.NotAfter.Format(time.RFC3339)).
			WithAdvice("ask for a newer one; if it is not %s or later, set the device's clock", today.UTC().Format(time.DateOnly))
	}
	record, err := a.record()
	if err != nil {
		return err
	}
	if err := a.checkRelease(b, record, o); err != nil {
		return err
	}
	if record != nil {
		if err := a.admitHere(ctx, b, record, o); err != nil {
			return err
		}
	}
	_, err = a.plan(b, record)
	return err
}

// admitHere refuses a bundle for what this device remembers.
func (a *applier) admitHere(ctx context.Context, b *openBundle, record *bootcheck.Record, o installOptions) error {
	m, ref := b.manifest, b.ref()
	refuse := refusal(m)
	if b := record.BlockedBy(ref); b != nil && !o.force {
		err := refuse("it failed on this device (%s)", strings.TrimSuffix(b.Reason+": "+b.Check, ": ")).
			WithAdvice("`ota-apply unblock %s` or --force tries it again", m.Version)
		err.Code = bootcheck.CodeDeploymentFailed // nothing is wrong with the manifest
		return err
	}
	for _, l := range []struct {
		name string
		ref  *bootcheck.Ref
	}{{"current", record.Current}, {"previous", record.Previous}, {"factory", record.Factory}} {
		if l.ref != nil && l.ref.Version == m.Version && !l.ref.Same(ref) {
			return refuse("%s is a version of this name with other content", l.name).
				WithAdvice("give every release a version of its own")
		}
	}
	// One that is damaged is no version to go back to, and one that is gone neither.
	for i := range record.Confirmed {
		if c := &record.Confirmed[i]; c.Version == m.Version && !c.Same(ref) {
			switch err := a.store.Verify(ctx, c, bootcheck.Content); {
			case err == nil:
				return refuse("a version of this name with other content was confirmed here and is kept").
					WithAdvice("give every release a version of its own")
			case ctx.Err() != nil || bootcheck.Inconclusive(err):
				return err
			}
		}
	}
	return nil
}

// refusal makes refusals of m, for what its manifest says.
func refusal(m *bootcheck.Manifest) func(format string, args ...any) *bootcheck.Error {
	return func(format string, args ...any) *bootcheck.Error {
		return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, "version "+m.Version+" is refused: "+format, args...)
	}
}

// calendar says which date it is, for bundles that expire and for certificates.
func (a *applier) calendar() *calendar.Calendar {
	if a.dates == nil {
		a.dates = calendar.Open(a.cfg.Spool, a.clock)
	}
	return a.dates
}
