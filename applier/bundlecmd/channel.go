package bundlecmd

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/channel"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// channeling is what the flags of the commands "channel …" say.
type channeling struct {
	signing
	made, notAfter        string
	name, out, delegation string
	to                    list // public keys of channel keys
	epoch                 int64
	renew                 bool
	percent               int
	fromRelease           int64
	barrier, urgent       bool
	urls                  list
	waves, unless, from   string
	least                 int64
	keys                  list
}

// channelVerbs are the commands that make and show a channel file.
func (c *command) channelVerbs() []cli.Verb {
	o := &channeling{}
	keys := []string{"file", "change", "key_id", "release_key_id", "delegation", "channel"}
	signs := func(fs *flag.FlagSet) {
		c.withJSON(fs)
		o.keyFlags(fs)
		fs.StringVar(&o.with, "with", "", "`COMMAND` signs, as for ota-bundle sign")
		fs.StringVar(&o.made, "made", "", "`TIME` it is made at, as 2027-12-31T12:00:00Z: the same input and time give the same bytes (default now)")
		fs.StringVar(&o.notAfter, "not-after", "", "it counts until `DATE`, as 2027-12-31; a channel by default as long as before, 90 days at first")
	}
	return []cli.Verb{
		{Name: "channel delegate", Help: "let a key sign a channel\nThe release key signs. A higher epoch ends all delegations before it, for each device that sees it.",
			Example: "ota-bundle channel delegate --key release.key --name stable --to ci.pub --not-after 2027-12-31 -o stable.delegation",
			Flags: func(fs *flag.FlagSet) {
				signs(fs)
				fs.StringVar(&o.name, "name", "", "of the channel `NAME`")
				fs.Var(&o.to, "to", "the key `PUB` may sign it; again for each further one")
				fs.Int64Var(&o.epoch, "epoch", 0, "the delegations below `N` end (default that of FILE, at first 1)")
				fs.StringVar(&o.out, "o", "", "write it to `FILE`")
			},
			Run: c.makes(func(ctx context.Context, _ []string) error { return c.delegate(ctx, o) }, keys...)},
		{Name: "channel init", Args: "NAME.channel", Help: "begin a channel\nWith --renew: sign it again, by the delegation that it has or by another one.",
			Example: "ota-bundle channel init --delegation stable.delegation --key ci.key stable.channel",
			Flags: func(fs *flag.FlagSet) {
				signs(fs)
				fs.StringVar(&o.delegation, "delegation", "", "what channel delegate made, `FILE`")
				fs.BoolVar(&o.renew, "renew", false, "keep the releases of a channel that exists")
			},
			Run: c.makes(func(ctx context.Context, args []string) error { return c.initChannel(ctx, args[0], o) }, keys...)},
		{Name: "channel add", Args: "NAME.channel FILE.ota", Help: "list a bundle in a channel",
			Example: "ota-bundle channel add --key ci.key --percent 1 stable.channel 1.2.0.ota",
			Flags: func(fs *flag.FlagSet) {
				signs(fs)
				fs.IntVar(&o.percent, "percent", 0, "`N` of 100 devices take it; promote raises it")
				fs.Int64Var(&o.fromRelease, "from-release", 0, "only devices take it that run release `N` or higher")
				fs.BoolVar(&o.barrier, "barrier", false, "no device goes past it without having run it")
				fs.BoolVar(&o.urgent, "urgent", false, "the file inhibit of a device does not hold it")
				fs.Var(&o.urls, "url", "its `ADDRESS`: http, https, oci, or relative to the channel's; again for each mirror (default FILE.ota beside the channel)")
			},
			Run: c.makes(func(ctx context.Context, args []string) error { return c.addRelease(ctx, args[0], args[1], o) }, keys...)},
		{Name: "channel promote", Args: "NAME.channel VERSION [PERCENT]", Help: "let more devices take a version\n" +
			"PERCENT only grows; without it, it is that of the next wave.\nWith --unless-rollbacks and --from, what the fleet tells decides: it is promoted, or stopped (exit code 4), or, while too few devices tell, left as it is (exit code 1).",
			Example: "ota-bundle channel promote --key ci.key --unless-rollbacks 2% --from answer.json stable.channel 1.2.0",
			Flags: func(fs *flag.FlagSet) {
				signs(fs)
				fs.StringVar(&o.waves, "waves", "1,5,25,50,100", "the `PERCENTAGES` of the waves (default 1,5,25,50,100)")
				fs.StringVar(&o.unless, "unless-rollbacks", "", "stop it if more than `P%` of the devices that took it rolled back")
				fs.StringVar(&o.from, "from", "", "the answer of Prometheus to a query, JSON, or a table, CSV: `FILE`")
				fs.Int64Var(&o.least, "least", 1, "as long as fewer than `N` devices tell, leave it as it is")
			},
			Run: c.makes(func(ctx context.Context, args []string) error { return c.promote(ctx, args, o) }, keys...)},
		{Name: "channel stop", Args: "NAME.channel VERSION", Help: "let no further device take a version\nDevices that run it keep it. It cannot be undone: give the corrected application a version of its own.",
			Example: "ota-bundle channel stop --key ci.key stable.channel 1.2.0",
			Flags:   signs,
			Run:     c.makes(func(ctx context.Context, args []string) error { return c.stop(ctx, args[0], args[1], o) }, keys...)},
		{Name: "channel inspect", Args: "NAME.channel", Help: "show what a channel says, unchecked", Flags: c.withJSON,
			Run: c.answers(func(_ context.Context, args []string) error { return c.inspectChannel(args[0]) }, keys...)},
		{Name: "channel verify", Args: "NAME.channel", Help: "check a channel as a device does",
			Example: "ota-bundle channel verify --key release.pub stable.channel",
			Flags: func(fs *flag.FlagSet) {
				c.withJSON(fs)
				fs.Var(&o.keys, "key", "a trusted release key, or a directory of them, `PUB`; again for each further one")
			},
			Run: c.answers(func(_ context.Context, args []string) error { return c.verifyChannel(args[0], o) }, keys...)},
	}
}

func (c *command) inspectChannel(name string) error {
	return c.showChannel(name, channel.Read, "NOT CHECKED: this is what the channel says (to check it: ota-bundle channel verify)")
}

func (c *command) verifyChannel(name string, o *channeling) error {
	if len(o.keys) == 0 {
		return cli.Usagef("ota-bundle channel verify", "channel verify needs --key: a trusted release key")
	}
	keys, err := trust.Named(o.keys)
	if err != nil {
		return err
	}
	return c.showChannel(name, func(data []byte) (*channel.File, error) {
		f, err := channel.Open(data, channel.NameOf(name), keys, nil)
		if err == nil {
			err = f.Expired(time.Now())
		}
		return f, err
	}, name+": good")
}

// showChannel prints the channel in the file name, as open reads it: first, then a line for the
// file, its key, and each release.
func (c *command) showChannel(name string, open func(data []byte) (*channel.File, error), first string) error {
	data, err := read("the channel", name, channel.MaxSize)
	if err != nil {
		return err
	}
	f, err := open(data)
	if err != nil {
		return err
	}
	c.answerChannel(name, f)
	ch, d := f.Channel, f.Delegation
	fmt.Fprintln(c.stdout, first)
	fmt.Fprintf(c.stdout, "channel    %s, serial %d, made %s, until %s, signed by %s\n", ch.Channel, ch.Serial, ch.Made.Format(time.RFC3339), ch.NotAfter.Format(time.RFC3339), f.KeyID)
	fmt.Fprintf(c.stdout, "key        epoch %d, until %s, delegated by %s\n", d.Epoch, d.NotAfter.Format(time.RFC3339), cmp.Or(f.ReleaseKey, "no key"))
	for _, r := range ch.Releases {
		text := fmt.Sprintf("release %d for %s, %d %%", r.Release, strings.Join(r.Models, ", "), r.Percent)
		if r.FromRelease > 0 {
			text += fmt.Sprintf(", from release %d", r.FromRelease)
		}
		if r.Barrier {
			text += ", barrier"
		}
		if r.Urgent {
			text += ", urgent"
		}
		if slices.Contains(ch.Stop, r.Manifest) {
			text += ", stopped"
		}
		fmt.Fprintf(c.stdout, "%-10s %s\n", r.Version, text)
	}
	return nil
}
