package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/tope-ota/ota/docs/schema"
)

// Remote is all that a machine does by its agent. It calls do with the agent that is
// there; what do returns, it may explain.
type Remote func(ctx context.Context, do func(*Client) error) error

// Exec implements machine.Machine.
func (r Remote) Exec(ctx context.Context, argv ...string) (result Result, err error) {
	err = r(ctx, func(c *Client) (err error) { result, err = c.Exec(ctx, argv...); return err })
	if err == nil && ctx.Value(older{}) == nil {
		err = CheckOutput(argv, result)
	}
	return result, err
}

type older struct{}

// WithOlder is ctx for a machine whose programs are older than docs/schema: Exec does not
// check what they print.
func WithOlder(ctx context.Context) context.Context { return context.WithValue(ctx, older{}, true) }

// CheckOutput says what is wrong with the JSON that one of our programs printed; argv that
// does not begin with one is not looked at, nor is a program that a signal ended.
func CheckOutput(argv []string, r Result) error {
	switch path.Base(argv[0]) {
	case "ota", "ota-apply", "ota-bundle", "ota-guardian":
		if r.Code < 128 {
			if err := schema.CheckOutput(argv[1:], []byte(r.Stdout)); err != nil {
				return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
			}
		}
	}
	return nil
}

// WriteFile implements machine.Machine.
func (r Remote) WriteFile(ctx context.Context, path string, mode uint32, data []byte) error {
	return r(ctx, func(c *Client) error { return c.WriteFile(ctx, path, mode, data) })
}

// ReadFile implements machine.Machine.
func (r Remote) ReadFile(ctx context.Context, path string) (data []byte, err error) {
	err = r(ctx, func(c *Client) (err error) { data, err = c.ReadFile(ctx, path); return err })
	return data, err
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
