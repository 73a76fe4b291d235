package agent

import (
	"context"
	"errors"
	"fmt"
)

// Check says what is wrong with what a program printed. Package machine sets it: the agent in
// a machine needs no schemas.
var Check = func(argv []string, r Result) error { return nil }

// Remote is all that a machine does by its agent. It calls do with the agent that is
// there; what do returns, it may explain.
type Remote func(ctx context.Context, do func(*Client) error) error

func (r Remote) do(ctx context.Context, what string, q request) (answer *reply, err error) {
	err = r(ctx, func(c *Client) (err error) { answer, err = c.do(ctx, what, q); return err })
	return answer, err
}

// Exec implements machine.Machine: argv runs with a small fixed environment, in /. When ctx
// ends first, the program and its process group are killed and the error is ctx's. A
// program that cannot be started is an error.
func (r Remote) Exec(ctx context.Context, argv ...string) (Result, error) {
	a, err := r.do(ctx, fmt.Sprintf("run %q", argv), request{Op: "exec", Argv: argv})
	if err != nil {
		return Result{}, err
	}
	result := Result{Stdout: string(a.Out), Stderr: string(a.Err), Code: a.Code}
	if ctx.Value(older{}) == nil {
		err = Check(argv, result)
	}
	return result, err
}

type older struct{}

// WithOlder is ctx for a machine whose programs are older than docs/schema: Exec does not
// check what they print.
func WithOlder(ctx context.Context) context.Context { return context.WithValue(ctx, older{}, true) }

// WriteFile implements machine.Machine. It replaces what was there, also a symbolic link;
// until it returns nil the old file is there.
func (r Remote) WriteFile(ctx context.Context, path string, mode uint32, data []byte) error {
	_, err := r.do(ctx, fmt.Sprintf("write %q", path), request{Op: "write", Path: path, Mode: mode, Data: data})
	return err
}

// ReadFile implements machine.Machine. A missing file is fs.ErrNotExist.
func (r Remote) ReadFile(ctx context.Context, path string) ([]byte, error) {
	a, err := r.do(ctx, fmt.Sprintf("read %q", path), request{Op: "read", Path: path})
	if err != nil {
		return nil, err
	}
	return a.Out, nil
}

// BootID implements machine.Machine.
func (r Remote) BootID(ctx context.Context) (id string, err error) {
	err = r(ctx, func(c *Client) (err error) { id, err = c.Hello(ctx); return err })
	return id, err
}

// AskReboot asks for a clean reboot, and returns the ID of the boot that ends by it.
func (r Remote) AskReboot(ctx context.Context) (last string, err error) {
	last, err = r.BootID(ctx)
	if err != nil {
		return "", err
	}
	result, err := r.Exec(ctx, "systemctl", "reboot")
	if errors.Is(err, ErrGone) {
		return last, nil // it was gone before it could say how systemctl ended
	}
	if err == nil && result.Code != 0 {
		err = fmt.Errorf("systemctl reboot: %s", result)
	}
	return last, err
}
