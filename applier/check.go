package applier

import (
	"context"
	"net"
	"os"

	"github.com/tope-ota/ota/applier/check"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// serveCheck is the program of ota-health@.service.
func serveCheck(ctx context.Context) error {
	conn, err := net.FileConn(os.Stdin)
	if err != nil {
		return cli.Usagef("ota-apply check", "check --request: standard input must be a socket: %v", err)
	}
	defer conn.Close()
	return check.Serve(ctx, conn)
}

// checkEnv is for checks of version. Where systemd runs, ota-health.socket carries
// them out, as for the guardian; elsewhere this process does. With an error, systemd
// does not answer, and env has no units.
func checkEnv(ctx context.Context, version string) (health.Env, error) {
	env := health.Env{Version: version}
	if !systemd.Running() {
		env.Ask = func(ctx context.Context, r health.Request) (health.Answer, error) { return check.Do(ctx, r), ctx.Err() }
		return env, nil
	}
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return env, err
	}
	// After an upgrade of the package it can be there and not started. An error shows
	// when it is asked.
	_ = conn.Start(ctx, health.SocketUnit)
	env.Units = conn
	return env, nil
}
