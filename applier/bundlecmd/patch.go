package bundlecmd

import (
	"context"
	"fmt"

	"github.com/tope-ota/ota/applier/patch"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// patch makes the patch between two bundles.
func (c *command) patch(ctx context.Context, from, to string, o *signing) error {
	if o.keyFile == "" {
		return cli.Usagef("ota-bundle patch", "patch needs --key: the private key that signs")
	}
	key, err := c.signingKey(ctx, o)
	if err != nil {
		return err
	}
	m, err := patch.Make(ctx, from, to, key, c.progress("patching"))
	if err != nil {
		return err
	}
	c.answerFile(m.File, m.To, trust.KeyID(key.ID()))
	c.answer.Set("from", m.From)
	c.answer.Set("patch_bytes", m.Size)
	c.answer.Set("frame_bytes", m.Frames)
	fmt.Fprintf(c.stdout, "%s: patch from version %s to %s, %s; without it %s\n", m.File, m.From.Version, m.To.Version, bootcheck.Size(m.Size), bootcheck.Size(m.Frames))
	if m.Size >= m.Frames {
		c.say("warning: the patch is not smaller than what it saves: do not publish it")
	}
	return nil
}
