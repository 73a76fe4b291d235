package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/channel"
	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/applier/follow/ddi"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// soon is how long before its last day a client certificate is warned of.
const soon = 30 * 24 * time.Hour

// lookAtCertificate sees whether servers will take the certificate of this device, if there
// is one.
func (d *doctor) lookAtCertificate(ctx context.Context) {
	const check = "client certificate"
	const hint = "write a new one to its file in time: it is read for each connection, nothing has to be restarted"
	if d.cfg.ClientCertificate == "" || d.passed(ctx, d.cfg.ClientCertificate) {
		return
	}
	name := d.path(d.cfg.ClientCertificate)
	cert, err := fetch.LoadClientCertificate(name)
	if err != nil {
		d.fail(check, err.Error(), bootcheck.Advice(err))
		return
	}
	last := cert.Leaf.NotAfter
	found := name + ", until " + last.UTC().Format(time.DateOnly)
	switch left := last.Sub(calendar.Open(d.path(d.cfg.Spool), nil).Certificates()); {
	case left < 0:
		d.fail(check, found+": it has expired, and servers that ask for it refuse this device", hint)
	case left < soon:
		d.warn(check, fmt.Sprintf("%s: it expires in %s, and then servers that ask for it refuse this device", found, cli.Plural(int(left/(24*time.Hour)), "day", "days")), hint)
	default:
		d.ok(check, found)
	}
}

// lookAtServer sees whether the device can follow the server of [follow], if there is one.
func (d *doctor) lookAtServer(ctx context.Context) {
	const check, unit = "server", "ota-follow.service"
	var authorities []string
	for _, name := range d.cfg.CA {
		authorities = append(authorities, d.path(name))
	}
	if _, err := fetch.LoadCA(authorities); err != nil {
		d.fail("authorities", err.Error(), bootcheck.Advice(err))
	}
	f := d.cfg.Follow
	if f.Source == "" {
		return
	}
	if f.URL == "" {
		d.fail(check, "[follow] has no url", "set url of [follow] in "+d.cfg.Path)
		return
	}
	before := len(d.findings)
	byFile := f.Source == config.FollowChannel // signed, and most need no token
	if byFile && channel.NameOf(f.URL) == "" {
		d.fail(check, "url of [follow] is not the address of a file NAME.channel", "correct it in "+d.cfg.Path)
	}
	switch token, err := ddi.ReadToken(d.path(f.TokenFile)); {
	case err != nil:
		d.fail(check, err.Error(), "write the token there as one line, mode 0600")
	case token == "" && !byFile && !d.passed(ctx, f.TokenFile):
		d.warn(check, "there is no token in "+f.TokenFile, "write it there as one line, mode 0600, or pass it with LoadCredential= to "+unit+" and ota-install.service")
	}
	if strings.HasPrefix(f.URL, "http://") && !byFile {
		d.warn(check, "the token is sent to "+f.URL+" in clear", "give an address that begins with https://")
	}
	if id := d.value("/etc/machine-id"); f.DeviceID == "" && len(id) != 32 {
		d.fail(check, "this device has no name for the server: /etc/machine-id has none", "set device_id of [follow] in "+d.cfg.Path)
	}
	if d.sysroot != "" || systemd.Running() {
		if u := d.unit(ctx, unit); !strings.HasPrefix(u["UnitFileState"], "enabled") {
			d.warn(check, unit+" is "+u["UnitFileState"]+", so only `ota-apply follow` asks the server", "`systemctl enable --now "+unit+"`")
		} else if path := d.outOfReach(unit, u); path != "" {
			d.fail(check, unit+" may not write "+path, "systemctl edit "+unit+", with the lines [Service] and ReadWritePaths="+path)
		}
	}
	if now := bootcheck.ReadFollowing(d.path(d.cfg.Run)); now != nil && now.Error != "" {
		d.warn(check, "the last time it was asked: "+string(now.Error), "`journalctl -u "+unit+"` says since when; 401 or 403: the token, 404: the device was deleted there")
	}
	if len(d.findings) == before {
		d.ok(check, f.URL)
	}
}

// passed reports whether systemd passes installs a credential of the name of file, which
// then comes first.
func (d *doctor) passed(ctx context.Context, file string) bool {
	text, err := d.unitText(ctx, "ota-install.service")
	if err != nil {
		return false
	}
	unit := settings(text)
	for _, how := range []string{"LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted"} {
		for line := range strings.Lines(unit[how]) {
			if name, _, _ := strings.Cut(strings.TrimSpace(line), ":"); name == filepath.Base(file) {
				return true
			}
		}
	}
	return false
}
