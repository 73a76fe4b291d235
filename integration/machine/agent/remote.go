package agent

import (
	"context"
	"errors"
	"fmt"
)

// Remote is all that a machine does by its agent. It calls do with the agent that is
// there; what do returns, it may explain.
type Remote func(ctx context.Context, do func(*Client) error) error

// Exec implements machine.Machine.
func (r Remote) Exec(ctx context.Context, argv ...string) (result Result, err error) {
	err = r(ctx, func(c *Client) (err error) { result, err = c.Exec(ctx, argv...); return err })
	return result, err
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
