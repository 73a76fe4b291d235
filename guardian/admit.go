package guardian

import (
	"context"
	"errors"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
)

// admission is what this device asks of a version that never ran here.
func (g *guardian) admission(record *bootcheck.Record) *bootcheck.Admission {
	return &bootcheck.Admission{
		Record: record, Keys: g.cfg.Keys, Floor: g.store.Floor(record), Model: g.cfg.Model,
		Today: calendar.Open(g.cfg.Spool, nil).Today(),
	}
}

// refuse puts into disk which versions of record may not run here, and why: current and
// previous, where they were never confirmed, because a revoked key signed them; the next one,
// as that, for everything that an install is refused for.
func (g *guardian) refuse(record *bootcheck.Record, disk *Disk) {
	if n := record.Next; n != nil {
		a := g.admission(record)
		a.AllowDowngrade = n.AllowDowngrade
		if err := g.store.Admit(&n.Ref, a); bootcheck.Inconclusive(err) {
			disk.Unknown[n.Version] = err.Error()
		} else if err != nil {
			disk.NotNext = err.Error()
		}
	}
	ran := []*bootcheck.Ref{record.Previous}
	if record.Phase.Unconfirmed() {
		ran = append(ran, record.Current)
	}
	for _, ref := range ran {
		if why := g.revoked(ref, record); why != "" {
			disk.Refused[ref.Version] = why
		}
	}
}

// revoked says that a revoked key signed ref, which was never confirmed; empty: none did,
// or it is not known, which says nothing against a version that ran.
func (g *guardian) revoked(ref *bootcheck.Ref, record *bootcheck.Record) string {
	if ref == nil {
		return ""
	}
	err := g.store.CheckRevoked(ref, record)
	if bootcheck.Exit(err) == bootcheck.ExitRefused && !errors.Is(err, bootcheck.ErrRevokedUnknown) {
		return err.Error()
	}
	if err != nil {
		g.logf("%v", err)
	}
	return ""
}

// candidates are the versions of names, oldest first, that may run where every record is
// lost: at most two that are intact, the newest first, and the newest that was factory.
// What was confirmed here is not known, but for what is read-only: only factory create
// makes it so. So any other version must be one that an install would take. If none is,
// the newest that no revoked key signed may run: a device must not be without a version
// because of its date, its model or a release. unknown is why one could not be looked at.
func (g *guardian) candidates(ctx context.Context, names []string) (intact []*bootcheck.Ref, factory *bootcheck.Ref, unknown error) {
	look := func(version string) (ref *bootcheck.Ref) {
		snapshot, err := g.store.Snapshot(version)
		if err == nil {
			err = bootcheck.CheckTree(ctx, snapshot.Dir, snapshot.Manifest, bootcheck.Content)
		}
		if err == nil {
			return &snapshot.Ref
		}
		g.logf("version %s is not a candidate: %v", version, err)
		if bootcheck.Inconclusive(err) {
			unknown = err
		}
		return nil
	}
	a := g.admission(nil)
	a.Keys = nil // a key that was replaced says nothing against what it signed then
	var spare []string
	for i := len(names) - 1; i >= 0 && ctx.Err() == nil; i-- {
		version := names[i]
		sealed := g.store.Sealed(version)
		if len(intact) == 2 && (!sealed || factory != nil) {
			continue
		}
		if !sealed {
			is := &bootcheck.Ref{Version: version}
			if err := g.store.Admit(is, a); bootcheck.Exit(err) == bootcheck.ExitRefused {
				g.logf("version %s is not a candidate: %v", version, err)
				if g.revoked(is, nil) == "" {
					spare = append(spare, version)
				}
				continue
			}
		}
		ref := look(version)
		if ref == nil {
			continue
		}
		if sealed && factory == nil {
			factory = ref
		}
		if len(intact) < 2 {
			intact = append(intact, ref)
		}
	}
	for i := 0; len(intact) == 0 && i < len(spare) && ctx.Err() == nil; i++ {
		if ref := look(spare[i]); ref != nil {
			g.logf("no other version is accepted: starting version %s", ref)
			intact = append(intact, ref)
		}
	}
	return intact, factory, unknown
}
