package guardian

import (
	"context"

	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// check runs the health checks once on the version that runs, prints what they
// say and changes nothing. See health.Report for the error.
func (g *guardian) check(ctx context.Context, asJSON bool) error {
	active, err := g.active()
	if err != nil {
		return err
	}
	if active == nil {
		return errNothing
	}
	env := health.Env{Version: active.Record.Current.Version, Ask: g.ask}
	if systemd.Running() {
		conn, err := dial(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		env.Units = conn
	} else {
		g.logf("no systemd runs here: units are not checked")
	}
	return health.Report(ctx, g.out, g.cfg, env, asJSON)
}
