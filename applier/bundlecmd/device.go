package bundlecmd

import (
	"context"

	"github.com/tope-ota/ota/applier/doctor"
	"github.com/tope-ota/ota/bootcheck/cli"
)

func (c *command) doctor(ctx context.Context, args []string) error {
	var o doctor.Options
	flags := cli.Flags("ota-bundle doctor")
	flags.BoolVar(&o.JSON, "json", false, "")
	flags.StringVar(&o.Config, "config", "", "")
	flags.StringVar(&o.Root, "root", "", "")
	flags.StringVar(&o.Sysroot, "sysroot", "", "")
	if _, err := cli.Parse(flags, args, 0, 0); err != nil {
		return err
	}
	return doctor.Diagnose(ctx, c.stdout, o)
}
