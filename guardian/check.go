package guardian

import (
	"context"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// check runs the health checks once on the current version, prints what they
// say and changes nothing. See health.Report for the error.
func (c *command) check(ctx context.Context, asJSON bool) error {
	record, err := c.record()
	if err != nil {
		return err
	}
	env := health.Env{Version: record.Current.Version, Ask: c.ask}
	if systemd.Running() {
		conn, err := dial(ctx)
		if err != nil {
			return err
		}
		env.Units = conn
	} else {
		c.logf("no systemd runs here: units are not checked")
	}
	var version *bootcheck.VersionInfo
	if asJSON {
		version = new(c.store.Info(*record.Current))
	}
	return health.Report(ctx, c.out, c.cfg, env, version)
}
