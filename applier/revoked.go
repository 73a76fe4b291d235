package applier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// applyRevoked takes what was revoked on this device out of keys.
func (a *applier) applyRevoked(keys *trust.Keys) error {
	if a.store == nil {
		return nil // it is not open yet: the install asks again when it opens it
	}
	record, err := a.store.Record()
	if err != nil {
		return err
	}
	revoked, err := a.store.RevokedKeys(record)
	if errors.Is(err, bootcheck.ErrRevokedUnknown) {
		return a.revokedUnknown(err)
	}
	if err != nil {
		a.logf("%v; using what the record has", err)
	}
	keys.Revoke(revoked)
	return nil
}

// nameTwins says which trusted keys are one public key under several IDs.
func (a *applier) nameTwins(keys *trust.Keys) {
	named := make(map[string]bool)
	for _, id := range keys.IDs() {
		if twins := keys.Twins([]string{id}); len(twins) > 1 && !named[id] {
			slices.Sort(twins)
			a.logf("the trusted keys %s are one key: to revoke one is to revoke all", strings.Join(twins, ", "))
			for _, twin := range twins {
				named[twin] = true
			}
		}
	}
}

// revokedUnknown is the end of an install that cannot know whom to trust.
func (a *applier) revokedUnknown(err error) error {
	return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "%w: every install is refused", err).
		WithAdvice(bootcheck.RevokedUnknownAdvice)
}

// remember takes the revocations of m, a manifest that was verified and admitted:
// on this disk, durably, and for the rest of this run. It is done before the
// payload is fetched, as a server that holds that back must not keep a stolen key
// trusted; and not earlier, as what was refused has no say.
func (a *applier) remember(ctx context.Context, record *bootcheck.Record, m *bootcheck.Manifest, keys *trust.Keys) error {
	revoked := keys.Twins(m.RevokedKeys)
	all, err := a.store.Revoke(record, revoked, keys.IDs())
	if err != nil {
		return fmt.Errorf("cannot remember that version %s revokes keys: %w", m.Version, err)
	}
	keys.Revoke(revoked)
	if len(all) == bootcheck.MaxRevokedKeys {
		a.logf("the list of revoked keys is full (%d): keys that this device does not trust are dropped from it", len(all))
	}
	if record == nil || !record.Clone().AddRevoked(all) {
		return nil // the first record will have it: see commitTrial
	}
	a.logf("version %s revokes %s: what was signed with %s is refused from now on", m.Version, cli.Plural(len(revoked), "key", "keys"), strings.Join(revoked, ", "))
	if err := a.commitRevoked(ctx, all); err != nil {
		// The store's file has it already, and the next switch writes it again.
		a.logf("the record does not know that keys were revoked: %v", err)
	}
	return nil
}

func (a *applier) commitRevoked(ctx context.Context, keys []string) error {
	record, unlock, err := a.lockRecord(ctx, lockToCommit)
	if err != nil {
		return err
	}
	defer unlock()
	if record == nil {
		return nil
	}
	next := record.Clone()
	if !next.AddRevoked(keys) {
		return nil
	}
	if n := next.Next; n != nil && bootcheck.Exit(a.store.CheckRevoked(&n.Ref, next)) == bootcheck.ExitRefused {
		a.logf("version %s does not run from the next boot on: a revoked key signed it", &n.Ref)
		next.Next = nil
	}
	return a.store.Commit(next)
}
