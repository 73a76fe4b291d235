package guardian

import (
	"context"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// rollback makes what an operator names the current version: "previous",
// "factory" or a version that was confirmed here. The one it leaves is blocked
// until an operator unblocks it, or the server would send it again at once.
func (c *command) rollback(ctx context.Context, name string) error {
	next, err := c.rollbackTo(ctx, name)
	if err != nil {
		return err
	}
	if next == nil {
		return nil // it runs already
	}
	fmt.Fprintf(c.out, "rolled back to %s (%s); %s is blocked until `ota-apply unblock %s`\n",
		next.Current, next.Phase, next.LastRollback.From, next.LastRollback.From)
	if systemd.Running() {
		c.startTrial(ctx)
	}
	return nil
}

func (c *command) rollbackTo(ctx context.Context, name string) (*bootcheck.Record, error) {
	record, unlock, err := c.lockRecord(ctx, lockWait)
	if err != nil {
		return nil, err
	}
	defer unlock()
	disk := c.look(ctx, record)
	version, err := c.store.Find(record, name)
	if err != nil {
		return nil, err
	}
	target := record.Unlisted(version)
	if target == nil {
		if target, err = c.store.Ref(version); err != nil {
			return nil, err
		}
	}
	level := bootcheck.LevelPrevious
	if name == "factory" {
		target, level = record.Factory, bootcheck.LevelFactory
	}
	switch {
	case version == record.Current.Version:
		fmt.Fprintf(c.out, "version %s is already current\n", version)
		return nil, nil
	case record.BlockedBy(target) != nil:
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s is blocked: %s", version, record.BlockedBy(target).Reason).
			WithAdvice("`ota-apply unblock %s` allows it again", version)
	case disk.Refused[version] != "":
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "%s", disk.Refused[version])
	case !record.IsConfirmed(target) && !target.Same(record.Factory) && !target.Same(record.Previous):
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s was never confirmed on this device", version).
			WithAdvice("`ota-apply activate %s` starts a trial of it", version)
	}
	if err := c.store.Verify(ctx, target, bootcheck.Content); err != nil {
		return nil, err
	}
	d := OperatorRollback(record, disk, c.bootID, target, level)
	err = c.commitDecision(ctx, d)
	if bootcheck.Switched(err) {
		c.restart(ctx, d.Run)
	}
	return d.Next, err
}
