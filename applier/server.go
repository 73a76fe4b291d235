package applier

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	filechannel "github.com/tope-ota/ota/applier/channel"
	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/applier/follow"
	"github.com/tope-ota/ota/applier/follow/channel"
	"github.com/tope-ota/ota/applier/follow/ddi"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// followServer asks the server of [follow] what should run, and does it by `ota-apply
// install` and `ota-apply activate`.
func (a *applier) followServer(ctx context.Context, c *command) error {
	cfg := a.cfg.Follow
	if cfg.Source == "" || cfg.URL == "" {
		return bootcheck.Errorf(bootcheck.ExitUsage, "", "no server to follow: [follow] of the configuration has no source or no url").
			WithAdvice("set `source = \"ddi\"` or `\"channel\"`, and `url`, of [follow] in %s", a.cfg.Path)
	}
	device, err := a.deviceID()
	if err != nil {
		return err
	}
	if a.store, err = bootcheck.Create(a.cfg.Root); err != nil {
		return err
	}
	a.store.Run = a.cfg.Run
	client, err := fetch.Options{Proxy: a.cfg.Proxy, CA: a.cfg.CA, ClientCertificate: credential(a.cfg.ClientCertificate),
		Calendar: a.calendar(), Transport: a.serverAuth()}.Client()
	if err != nil {
		return err
	}
	source, err := a.source(device, client)
	if err != nil {
		return err
	}
	program := []string{os.Args[0]}
	for flag, value := range map[string]string{"--config": c.file, "--root": c.root} {
		if value != "" {
			program = append(program, flag, value)
		}
	}
	f, err := follow.New(follow.Options{
		Source: source,
		Store:  a.store, Run: a.cfg.Run, Program: program, Log: a.log, Changed: a.publish,
	})
	if err != nil {
		return err
	}
	defer f.Close()
	if c.once {
		return f.Once(ctx)
	}
	f.Follow(ctx)
	return nil
}

// source is what [follow] names.
func (a *applier) source(device string, client *http.Client) (follow.Source, error) {
	cfg := a.cfg.Follow
	if cfg.Source == config.FollowChannel {
		u, err := url.Parse(cfg.URL)
		if err != nil || filechannel.NameOf(u.Path) == "" {
			return nil, bootcheck.Errorf(bootcheck.ExitUsage, "", "cannot follow %q: it is not the address of a file NAME.channel", cfg.URL).
				WithAdvice("set `url` of [follow] in %s to the address of the channel", a.cfg.Path)
		}
		return &channel.Source{
			URL: u, HTTP: client, Run: a.cfg.Run, Calendar: a.calendar(),
			Device: func() (*filechannel.Device, error) { return a.channelDevice(device) }, Keys: a.channelKeys, Uptime: uptime,
		}, nil
	}
	base, err := ddi.New(cfg.URL, cfg.Tenant, device)
	if err != nil {
		return nil, bootcheck.Errorf(bootcheck.ExitUsage, "", "cannot follow %q: %w", cfg.URL, err)
	}
	return &ddi.Client{Base: base, HTTP: client, Parts: cfg.Parts, Device: map[string]string{"ota_model": a.cfg.Model, "hw_boardname": a.cfg.Model}}, nil
}

// uptime is the time since the boot, also that asleep.
func uptime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // Linux has had it since 2.6.39
	return time.Duration(t.Nano())
}

// channelDevice is what a channel chooses by.
func (a *applier) channelDevice(id string) (*filechannel.Device, error) {
	record, err := a.store.Record()
	if err != nil {
		return nil, err
	}
	d := &filechannel.Device{
		ID: id, Model: a.cfg.Model, Empty: record == nil, Floor: a.store.Floor(record),
		Blocked: func(r *filechannel.Release) bool { return record != nil && record.BlockedBy(r.Ref()) != nil },
	}
	if record != nil && record.Current != nil && record.Current.Digest != bootcheck.NoManifest {
		switch snapshot, err := a.store.Snapshot(record.Current.Version); {
		case err == nil:
			d.Release = snapshot.Manifest.Release
		case bootcheck.Inconclusive(err):
			return nil, err
		default:
			d.Release = d.Floor // damaged: what was confirmed is no higher
		}
	}
	return d, nil
}

// channelKeys are the keys that may delegate a channel, and the IDs of those that were revoked.
func (a *applier) channelKeys() (*trust.Keys, []string, error) {
	keys, err := a.keys()
	if err != nil {
		return nil, nil, err
	}
	record, err := a.store.Record()
	if err != nil {
		return nil, nil, err
	}
	revoked, _ := a.store.RevokedKeys(record) // applyRevoked has said what is wrong with them
	return keys, revoked, nil
}

// deviceID is the name of this device at the server.
func (a *applier) deviceID() (string, error) {
	if id := a.cfg.Follow.DeviceID; id != "" {
		return id, nil
	}
	data, err := os.ReadFile("/etc/machine-id")
	id := strings.TrimSpace(string(data))
	if err == nil && len(id) == 32 {
		return id, nil
	}
	return "", bootcheck.Errorf(bootcheck.ExitUsage, "", "this device has no name for the server: /etc/machine-id has none").
		WithAdvice("set `device_id` of [follow] in %s", a.cfg.Path)
}

// serverAuth gives requests to the server of [follow] its token: those of the follower,
// and those of an install from there. nil: there is no such server.
func (a *applier) serverAuth() func(http.RoundTripper) http.RoundTripper {
	if a.cfg.Follow.Source == "" {
		return nil
	}
	base, err := ddi.New(a.cfg.Follow.URL, a.cfg.Follow.Tenant, "")
	if err != nil {
		return nil
	}
	file := credential(a.cfg.Follow.TokenFile)
	return func(over http.RoundTripper) http.RoundTripper { return &ddi.Auth{Base: base, File: file, Over: over} }
}
