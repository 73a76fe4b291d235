package bundlecmd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/channel"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// lifetime is how long a channel counts that says nothing else: that nothing is signed for a
// quarter is a job that does not run.
const lifetime = 90 * 24 * time.Hour

// dates are those of what is made: its own, and until when it counts; zero: nothing says so.
func (o *channeling) dates() (made, notAfter time.Time, err error) {
	made = time.Now().UTC().Truncate(time.Second)
	if o.made != "" {
		if made, err = time.Parse(time.RFC3339, o.made); err != nil {
			return made, notAfter, cli.Usagef("ota-bundle", "--made %q is not a time like 2027-12-31T12:00:00Z", o.made)
		}
		made = made.UTC()
	}
	if o.notAfter != "" {
		if notAfter, err = parseDate(o.notAfter); err != nil {
			return made, notAfter, cli.Usagef("ota-bundle", "--not-after %v", err)
		}
	}
	return made, notAfter, nil
}

func (c *command) delegate(ctx context.Context, o *channeling) error {
	if o.name == "" || len(o.to) == 0 || o.notAfter == "" || o.out == "" {
		return cli.Usagef("ota-bundle channel delegate", "channel delegate needs --key, --name, --to, --not-after and -o")
	}
	if err := channel.CheckName(o.name); err != nil {
		return cli.Usagef("ota-bundle channel delegate", "--name: %v", err)
	}
	d := &channel.Delegation{Format: channel.Format, Channel: o.name, Epoch: max(o.epoch, 1)}
	old, err := read("the delegation", o.out, maxDelegation)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		before, _, err := channel.ReadDelegation(old)
		if err != nil {
			return fmt.Errorf("%s exists: %w", o.out, err)
		}
		if o.epoch != 0 && o.epoch < before.Epoch {
			return bootcheck.Errorf(bootcheck.ExitRefused, "", "%s has epoch %d: devices that have seen it refuse a lower one", o.out, before.Epoch)
		}
		d.Epoch = max(o.epoch, before.Epoch)
	}
	var ids []string
	for _, file := range o.to {
		key, err := trust.ReadKey(file)
		if err != nil {
			return err
		}
		d.Keys, ids = append(d.Keys, key.String()), append(ids, trust.KeyID(key.ID()))
	}
	if d.Made, d.NotAfter, err = o.dates(); err != nil {
		return err
	}
	raw, err := d.Encode()
	if err != nil {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "cannot delegate: %w", err)
	}
	sig, _, err := c.signature(ctx, raw, "ota-bundle delegation of channel "+o.name, &o.signing)
	if err != nil {
		return err
	}
	signer := trust.SignedBy(sig)
	data := channel.Delegated(sig, raw)
	if _, _, err := channel.ReadDelegation(data); err != nil {
		return err
	}
	if slices.Contains(ids, signer) {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "key %s would delegate to itself: a channel key is online, and this one signs bundles", signer).
			WithAdvice("`ota-bundle keygen NAME` makes a channel key")
	}
	if err := bootcheck.ReplaceFile(o.out, data, 0o644, true); err != nil {
		return fmt.Errorf("cannot write the delegation: %w", err)
	}
	c.answer.Set("file", o.out)
	c.answer.Set("change", "delegated")
	c.answer.Set("release_key_id", signer)
	c.answer.Set("delegation", d)
	fmt.Fprintf(c.stdout, "%s: channel %s, epoch %d, until %s, signed by %s\n", o.out, d.Channel, d.Epoch, d.NotAfter.Format(time.RFC3339), signer)
	return nil
}

// maxDelegation is for reading one, bytes; one that counts is shorter.
const maxDelegation = 16 << 10

// readChannel reads the channel in the file name, which this program has written.
func readChannel(name string) (*channel.File, error) {
	data, err := read("the channel", name, channel.MaxSize)
	if err != nil {
		return nil, err
	}
	f, err := channel.Read(data)
	if err != nil {
		return nil, err
	}
	if f.Channel.Channel != channel.NameOf(name) || f.Delegation.Channel != f.Channel.Channel {
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, "", "%s is channel %q", name, f.Channel.Channel)
	}
	if again, err := f.Channel.Encode(); err != nil || !bytes.HasSuffix(data, again) {
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, "", "%s was written by another program, or a newer one: this one would lose what it does not know", name)
	}
	return f, nil
}

func (c *command) initChannel(ctx context.Context, name string, o *channeling) error {
	f := &channel.File{Channel: &channel.Channel{Format: channel.Format, Channel: channel.NameOf(name)}}
	if f.Channel.Channel == "" {
		return cli.Usagef("ota-bundle channel init", "%q is not the file NAME.channel", name)
	}
	_, err := os.Lstat(name)
	switch {
	case err == nil && !o.renew:
		return exists(name, "sign it again: --renew")
	case err == nil || o.renew:
		if f, err = readChannel(name); err != nil {
			return err
		}
	case o.delegation == "":
		return cli.Usagef("ota-bundle channel init", "channel init needs --delegation")
	}
	if o.delegation != "" {
		data, err := read("the delegation", o.delegation, maxDelegation)
		if err != nil {
			return err
		}
		d, signer, err := channel.ReadDelegation(data)
		switch {
		case err != nil:
			return err
		case d.Channel != f.Channel.Channel:
			return bootcheck.Errorf(bootcheck.ExitRefused, "", "%s is a delegation for channel %q, not %q", o.delegation, d.Channel, f.Channel.Channel)
		case f.Delegation != nil && d.Epoch < f.Delegation.Epoch:
			return bootcheck.Errorf(bootcheck.ExitRefused, "", "%s has epoch %d, and %s has %d: devices refuse a lower one", o.delegation, d.Epoch, name, f.Delegation.Epoch)
		case f.Delegation != nil && d.Epoch > f.Delegation.Epoch:
			f.Channel.Serial = 0 // they begin again
		}
		f.Delegation, f.Delegated, f.ReleaseKey = d, data, signer
	}
	return c.publish(ctx, name, f, "signed", o)
}

// publish signs the channel with its next serial, and replaces the file name. What devices
// would refuse is not written.
func (c *command) publish(ctx context.Context, name string, f *channel.File, change string, o *channeling) error {
	ch, d := f.Channel, f.Delegation
	made, notAfter, err := o.dates()
	if err != nil {
		return err
	}
	if !made.Before(d.NotAfter) {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "cannot sign %s: its delegation counted until %s", name, d.NotAfter.Format(time.RFC3339)).
			WithAdvice("`ota-bundle channel delegate` makes another one; then: `ota-bundle channel init --renew --delegation FILE --key NAME.key %s`", name)
	}
	if notAfter.IsZero() {
		life := cmp.Or(ch.NotAfter.Sub(ch.Made), lifetime)
		if notAfter = made.Add(life); notAfter.After(d.NotAfter) {
			notAfter = d.NotAfter // the key does not count longer
		}
	}
	ch.Serial++
	ch.Made, ch.NotAfter = made, notAfter
	raw, err := ch.Encode()
	if err != nil {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "cannot sign %s: %w", name, err)
	}
	sig, _, err := c.signature(ctx, raw, "ota-bundle channel "+ch.Channel, &o.signing)
	if err != nil {
		return err
	}
	data, err := channel.Join(f.Delegated, sig, raw)
	if err != nil {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "cannot sign %s: %w", name, err)
	}
	if err := channel.CheckSigned(data); err != nil {
		return err
	}
	if err := bootcheck.ReplaceFile(name, data, 0o644, true); err != nil {
		return fmt.Errorf("cannot write the channel: %w", err)
	}
	f.KeyID = trust.SignedBy(sig)
	c.answerChannel(name, f)
	c.answer.Set("change", change)
	fmt.Fprintf(c.stdout, "%s: serial %d, %s, until %s, signed by %s\n", name, ch.Serial, change, ch.NotAfter.Format(time.RFC3339), f.KeyID)
	return nil
}

func (c *command) answerChannel(name string, f *channel.File) {
	c.answer.Set("file", name)
	c.answer.Set("key_id", bootcheck.OrNull(f.KeyID))
	c.answer.Set("release_key_id", bootcheck.OrNull(f.ReleaseKey))
	c.answer.Set("delegation", f.Delegation)
	c.answer.Set("channel", f.Channel)
}

func (c *command) addRelease(ctx context.Context, name, bundleFile string, o *channeling) error {
	const verb = "ota-bundle channel add"
	if o.percent < 0 || o.percent > 100 {
		return cli.Usagef(verb, "--percent %d is not a number from 0 to 100", o.percent)
	}
	if o.fromRelease < 0 {
		return cli.Usagef(verb, "--from-release %d is negative", o.fromRelease)
	}
	f, err := readChannel(name)
	if err != nil {
		return err
	}
	p, err := look(ctx, bundleFile)
	if err != nil {
		return err
	}
	if p.KeyID == "" {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "cannot list %s: it is not signed, and no device would take it", bundleFile).
			WithAdvice("`ota-bundle sign` signs it")
	}
	for _, u := range o.urls {
		if err := channel.CheckAddress(u); err != nil {
			return cli.Usagef(verb, "--url: %v", err)
		}
	}
	r := channel.Release{
		Version: p.Version, Release: p.Release, Models: p.Models, Manifest: p.Digest, Bundle: o.urls, Size: p.Size,
		Percent: o.percent, FromRelease: o.fromRelease, Barrier: o.barrier, Urgent: o.urgent,
	}
	if len(r.Bundle) == 0 {
		rel, err := filepath.Rel(filepath.Dir(name), bundleFile)
		if err != nil || strings.HasPrefix(rel, "../") {
			rel = filepath.Base(bundleFile)
		}
		r.Bundle = []string{(&url.URL{Path: rel}).String()}
	}
	if slices.Contains(f.Channel.Stop, r.Manifest) {
		return stopped(&r)
	}
	if i := slices.IndexFunc(f.Channel.Releases, func(old channel.Release) bool { return old.Manifest == r.Manifest }); i >= 0 {
		old := &f.Channel.Releases[i]
		if r.Percent < old.Percent {
			return lowered(old, r.Percent)
		}
		*old = r
	} else {
		f.Channel.Releases = append(f.Channel.Releases, r)
	}
	return c.publish(ctx, name, f, fmt.Sprintf("version %s at %d %%", r.Version, r.Percent), o)
}

func stopped(r *channel.Release) error {
	return bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s is stopped", r.Version).WithAdvice("give the corrected application a version of its own")
}

func lowered(r *channel.Release, percent int) error {
	return bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s is at %d %%: it is not lowered to %d %%, as devices took it already", r.Version, r.Percent, percent).
		WithAdvice("`ota-bundle channel stop` ends it")
}

// readRelease reads the channel in the file name, and finds version in it; ended is whether
// that is stopped.
func readRelease(name, version string) (f *channel.File, r *channel.Release, ended bool, err error) {
	if f, err = readChannel(name); err != nil {
		return nil, nil, false, err
	}
	for i := range f.Channel.Releases {
		if c := &f.Channel.Releases[i]; c.Version == version || c.Manifest == version {
			if r != nil {
				return nil, nil, false, cli.Usagef("ota-bundle", "%s has several bundles of version %s: name the digest of the manifest", name, version)
			}
			r = c
		}
	}
	if r == nil {
		return nil, nil, false, cli.Usagef("ota-bundle", "%s has no version %s", name, version)
	}
	return f, r, slices.Contains(f.Channel.Stop, r.Manifest), nil
}

// unchanged says that the channel f, in the file name, is as it was, and why.
func (c *command) unchanged(name string, f *channel.File, format string, args ...any) {
	c.answerChannel(name, f)
	c.answer.Set("change", "none")
	fmt.Fprintf(c.stdout, "%s: %s already\n", name, fmt.Sprintf(format, args...))
}

func (c *command) promote(ctx context.Context, args []string, o *channeling) error {
	const verb = "ota-bundle channel promote"
	if (o.unless == "") != (o.from == "") {
		return cli.Usagef(verb, "--unless-rollbacks and --from need each other")
	}
	f, r, ended, err := readRelease(args[0], args[1])
	if err != nil {
		return err
	}
	if ended {
		return stopped(r)
	}
	percent := r.Percent
	if len(args) > 2 {
		if percent, err = strconv.Atoi(strings.TrimSuffix(args[2], "%")); err != nil || percent < 0 || percent > 100 {
			return cli.Usagef(verb, "PERCENT %.20q is not a number from 0 to 100", args[2])
		}
	} else {
		for _, w := range slices.Backward(strings.Split(o.waves, ",")) {
			n, err := strconv.Atoi(strings.TrimSpace(w))
			if err != nil || n < 1 || n > 100 {
				return cli.Usagef(verb, "--waves %.80q are not numbers from 1 to 100 with commas between them", o.waves)
			}
			if n > r.Percent {
				percent = n
			}
		}
	}
	if percent < r.Percent {
		return lowered(r, percent)
	}
	if o.from != "" {
		most, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(o.unless, "%")), 64)
		if err != nil || !(most >= 0 && most <= 100) {
			return cli.Usagef(verb, "--unless-rollbacks %.20q is not a number of percent such as 2%%", o.unless)
		}
		told, err := readResults(o.from, r.Version)
		if err != nil {
			return bootcheck.Errorf(bootcheck.ExitFailed, "", "version %s stays at %d %%: %w", r.Version, r.Percent, err)
		}
		all := told.installed + told.rolledBack
		if told.rolledBack > 0 && 100*told.rolledBack > most*all {
			text := fmt.Sprintf("%v of %v devices rolled back from version %s, more than %v %%", told.rolledBack, all, r.Version, most)
			if err := c.stop(ctx, args[0], args[1], o); err != nil {
				return err
			}
			return bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s is stopped: %s", r.Version, text).WithAdvice("publish the file at once")
		}
		if r.Percent > 0 && all < float64(max(o.least, 1)) { // at 0 % no device can tell
			return bootcheck.Errorf(bootcheck.ExitFailed, "", "version %s stays at %d %%: %v of at least %d devices told what became of it, and silence is no success", r.Version, r.Percent, all, max(o.least, 1))
		}
	}
	if percent == r.Percent {
		c.unchanged(args[0], f, "version %s is at %d %%", r.Version, r.Percent)
		return nil
	}
	r.Percent = percent
	return c.publish(ctx, args[0], f, fmt.Sprintf("version %s at %d %%", r.Version, percent), o)
}

func (c *command) stop(ctx context.Context, name, version string, o *channeling) error {
	f, r, ended, err := readRelease(name, version)
	if err != nil {
		return err
	}
	if ended {
		c.unchanged(name, f, "version %s is stopped", r.Version)
		return nil
	}
	f.Channel.Stop = append(f.Channel.Stop, r.Manifest)
	return c.publish(ctx, name, f, "version "+r.Version+" stopped", o)
}
