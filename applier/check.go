package applier

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/tope-ota/ota/applier/check"
	"github.com/tope-ota/ota/bootcheck"
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

// check runs the health checks once on the current version, prints what they
// say and changes nothing. See health.Report for the error.
func (a *applier) check(ctx context.Context, asJSON bool) error {
	record, err := a.store.Record()
	if err != nil {
		return err
	}
	if record == nil {
		return (&bootcheck.Error{Err: errors.New("no version is installed")}).WithAdvice("install one with `ota-apply install`")
	}
	if !systemd.Running() {
		a.logf("no systemd runs here: units are not checked")
	}
	env, err := checkEnv(ctx, record.Current.Version)
	if err != nil {
		return err
	}
	var version *bootcheck.VersionInfo
	if asJSON {
		version = new(a.store.Info(*record.Current))
	}
	return health.Report(ctx, a.out, a.cfg, env, version)
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
