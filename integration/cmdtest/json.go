package cmdtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/guardian"

	"github.com/tope-ota/ota/docs/schema"
)

// unchecked is in the environment of a program whose output is not checked here: that of
// deaf, which must have the very stdout that it is given, and that of checked.
const unchecked = "OTA_TEST_UNCHECKED"

// invalid is the file of a script's directory that says which output had the wrong form.
const invalid = ".invalid-json"

// Main is testscript.Main with the three programs, and with those of own, by their names,
// in their place. Each output with --json is checked against docs/schema: one that does
// not fit fails the script that made it.
func Main(m testscript.TestingM, own map[string]func()) {
	all := make(map[string]func())
	// As each program's main does.
	run := func(program func(ctx context.Context) bootcheck.ExitCode) func() {
		return func() {
			ctx, _ := cli.Context()
			os.Exit(int(program(ctx)))
		}
	}
	programs := map[string]func(){
		"ota-apply": run(func(ctx context.Context) bootcheck.ExitCode {
			return applier.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
		}),
		"ota-guardian": run(func(ctx context.Context) bootcheck.ExitCode {
			return guardian.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
		}),
		"ota-bundle": run(func(ctx context.Context) bootcheck.ExitCode {
			return bundlecmd.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
		}),
	}
	maps.Copy(programs, own)
	for name, program := range programs {
		all[name] = func() {
			if schema.Name(os.Args[1:]) == "" || os.Getenv(unchecked) != "" {
				program()
				return
			}
			os.Exit(checked())
		}
	}
	testscript.Main(m, all)
}

// checked runs this program once more, with its stdout through a pipe.
func checked() int {
	runtime.LockOSThread() // with which the other one would end
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), unchecked+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, io.MultiWriter(os.Stdout, &out), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		fmt.Fprintln(os.Stderr, err)
		return 99
	} else if ok && exit.ExitCode() < 0 {
		return 99 // killed
	}
	if err := schema.CheckOutput(os.Args[1:], out.Bytes()); err != nil {
		err = fmt.Errorf("%q: %w", os.Args, err)
		fmt.Fprintln(os.Stderr, err)
		_ = os.WriteFile(filepath.Join(os.Getenv("WORK"), invalid), []byte(err.Error()), 0o644)
		return 99
	}
	return cmd.ProcessState.ExitCode()
}

// reportInvalid fails t for what checked found in the script of env.
func reportInvalid(t *testing.T, env *testscript.Env) {
	env.Defer(func() {
		if text, err := os.ReadFile(filepath.Join(env.WorkDir, invalid)); err == nil {
			t.Errorf("%s", text)
		}
	})
}
