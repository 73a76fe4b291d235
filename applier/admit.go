package applier

import (
	"cmp"
	"context"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// admit refuses a bundle for everything that its signed manifest says, before
// its payload is fetched. Each refusal has ExitRefused, but for the room that
// it needs (ExitNoSpace). What the manifest revokes is remembered, also when there is no
// room: a full disk must not keep a stolen key trusted.
func (a *applier) admit(ctx context.Context, b *openBundle, o installOptions, keys *trust.Keys) error {
	err := a.checkAdmission(ctx, b, o)
	if err == nil || bootcheck.Exit(err) == bootcheck.ExitNoSpace {
		err = cmp.Or(a.remember(ctx, b.record, b.manifest, keys), err)
	}
	return err
}

// checkAdmission is admit, and remembers nothing.
func (a *applier) checkAdmission(ctx context.Context, b *openBundle, o installOptions) error {
	a.found(b.manifest.Info(b.digest))
	if o.manifest != "" && b.digest != o.manifest {
		return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeHashMismatch,
			"version %s is refused: its digest is %s, not %s", b.manifest.Version, b.digest, o.manifest)
	}
	record, err := a.store.Record()
	if err != nil {
		return err
	}
	b.record = record
	if err := a.admission(record, o).Refuse(b.ref(), b.manifest); err != nil {
		return err
	}
	if record != nil {
		if err := a.admitName(ctx, b.ref(), record); err != nil {
			return err
		}
	}
	b.plan, err = a.plan(b)
	return err
}

// admission is what this device asks of a version that record, which may be nil, knows
// nothing good of.
func (a *applier) admission(record *bootcheck.Record, o installOptions) *bootcheck.Admission {
	return &bootcheck.Admission{
		Record: record, Floor: a.store.Floor(record), Model: a.cfg.Model, Today: a.calendar().Today(),
		AllowDowngrade: o.allowDowngrade, Force: o.force,
	}
}

// admitName refuses ref if a version of its name with other content is linked, or was
// confirmed and is kept.
func (a *applier) admitName(ctx context.Context, ref *bootcheck.Ref, record *bootcheck.Record) error {
	refuse := func(format string, args ...any) error {
		return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, "version %s is refused: %s", ref, fmt.Sprintf(format, args...)).
			WithAdvice("give every release a version of its own")
	}
	if l := record.Linked(ref.Version); l.Ref != nil && !l.Ref.Same(ref) {
		return refuse("%s is a version of this name with other content", l.Name)
	}
	// One that is damaged is no version to go back to, and one that is gone neither.
	for i := range record.Confirmed {
		if c := &record.Confirmed[i]; c.Version == ref.Version && !c.Same(ref) {
			switch err := a.store.Verify(ctx, c, bootcheck.Content); {
			case err == nil:
				return refuse("a version of this name with other content was confirmed here and is kept")
			case ctx.Err() != nil || bootcheck.Inconclusive(err):
				return err
			}
		}
	}
	return nil
}

// admitStored refuses a version of the store for what an install of it is refused for.
// Who signed it is not asked of one that was confirmed here.
func (a *applier) admitStored(ref *bootcheck.Ref, record *bootcheck.Record, o installOptions) error {
	if err := a.store.Admit(ref, a.admission(record, o)); err != nil || record != nil && record.IsConfirmed(ref) {
		return err
	}
	keys, err := a.keys()
	if err != nil {
		return err
	}
	dir := a.store.VersionDir(ref.Version)
	raw, err := bootcheck.ReadSnapshotFile(dir, bootcheck.ManifestPath, bootcheck.MaxManifest)
	if err != nil {
		return err
	}
	sig, err := bootcheck.ReadSnapshotFile(dir, bootcheck.SignaturePath, bootcheck.MaxSignature)
	if err != nil {
		return fmt.Errorf("cannot tell who signed version %s: %w", ref, err)
	}
	if _, err := keys.Verify(raw, sig); err != nil {
		return (&bootcheck.Error{Exit: bootcheck.Exit(err), Code: bootcheck.ReportCode(err), Err: fmt.Errorf("version %s is refused: %w", ref, err)}).
			WithAdvice("install a bundle that is signed with a key that is trusted here")
	}
	return nil
}

// calendar says which date it is, for bundles that expire and for certificates.
func (a *applier) calendar() *calendar.Calendar {
	if a.dates == nil {
		a.dates = calendar.Open(a.cfg.Spool, a.clock)
	}
	return a.dates
}
