package guardian

import (
	"context"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// rollback makes what a person names the version that runs: "previous",
// "factory" or a version that proved itself here. The one it leaves is blocked
// until a person unblocks it, or the server would send it again at once.
func (g *guardian) rollback(ctx context.Context, name string) error {
	next, err := g.leave(ctx, name)
	if err != nil {
		return err
	}
	if next == nil {
		return nil // it runs already
	}
	fmt.Fprintf(g.out, "current is now %s (%s); %s is blocked until `ota-apply unblock %s`\n",
		next.Current, next.Phase, next.LastRollback.From, next.LastRollback.From)
	if systemd.Running() {
		g.judgeLater(ctx)
	}
	return nil
}

func (g *guardian) leave(ctx context.Context, name string) (*bootcheck.Record, error) {
	unlock, err := g.store.Lock(ctx, lockWait)
	if err != nil {
		return nil, err
	}
	defer unlock()
	active, err := g.active()
	if err != nil {
		return nil, err
	}
	if active == nil {
		return nil, errNothing
	}
	record, disk := active.Record, g.look(ctx, active.Record)
	version, err := g.store.Find(record, name)
	if err != nil {
		return nil, err
	}
	target, err := g.store.Ref(version)
	if err != nil {
		return nil, err
	}
	level := bootcheck.LevelPrevious
	if name == "factory" {
		target, level = record.Factory, bootcheck.LevelFactory
	}
	switch {
	case version == record.Current.Version:
		fmt.Fprintf(g.out, "%s runs already\n", version)
		return nil, nil
	case record.BlockedBy(target) != nil:
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s is blocked: %s", version, record.BlockedBy(target).Reason).
			WithAdvice("`ota-apply unblock %s` lifts it", version)
	case disk.Refused[version] != "":
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "%s", disk.Refused[version])
	case !record.IsConfirmed(target) && !target.Same(record.Factory) && !target.Same(record.Previous):
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s never proved itself on this device", version).
			WithAdvice("`ota-apply activate %s` tries it, with a way back", version)
	}
	if err := g.store.Verify(ctx, target, bootcheck.Content); err != nil {
		return nil, err
	}
	d := Leave(record, disk, g.bootID, target, level)
	err = g.carryOut(ctx, d)
	if bootcheck.Switched(err) {
		g.restart(ctx, d.Run)
	}
	return d.Next, err
}
