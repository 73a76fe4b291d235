package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck/health"
)

// lookAtChecks says which checks decide about a new version.
func (d *doctor) lookAtChecks(ctx context.Context) {
	const check = "health checks"
	var names []string
	unset := ""
	for _, c := range d.cfg.Checks {
		if c.Script != "" {
			if info, err := os.Stat(d.path(c.Script)); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
				d.fail("health check", fmt.Sprintf("%q is to run %s, which cannot be run", c.Name, c.Script), "put the program there and make it executable: `chmod 0755 "+c.Script+"`")
			}
		}
		switch {
		case !c.Required:
		case d.cfg.IsDefault(c) && len(d.cfg.Services) > 0 && d.sysroot == "" && !listens(ctx, c.HTTP):
			unset = fmt.Sprintf("; %q is not set up: nothing listens at %s", c.Name, c.HTTP)
		default:
			names = append(names, c.Name)
		}
	}
	for _, s := range d.cfg.Services {
		names = append(names, health.UnitCheck(s))
	}
	if len(names) == 0 {
		d.fail("health check", "no check is required and no service is configured: every version is good", "set services or a [[check]] in "+d.cfg.Path)
		return
	}
	d.ok(check, fmt.Sprintf("%s; each must be good for a new version%s; `ota check` runs them", strings.Join(names, ", "), unset))
}

// lookAtReport sees whether device-api can hear how an install progresses.
func (d *doctor) lookAtReport(ctx context.Context) {
	const check = "report"
	if d.cfg.Report.URL == "" {
		d.ok(check, "no reports are sent, as the configuration says")
		return
	}
	if d.sysroot != "" {
		return
	}
	if !listens(ctx, d.cfg.Report.URL) {
		d.warn(check, "nothing listens at "+d.cfg.Report.URL, "start the service that is to hear the reports, or correct [report] url")
		return
	}
	d.ok(check, "a service listens at "+d.cfg.Report.URL)
}

// listens reports whether something takes connections at address, a URL that the
// configuration took.
func listens(ctx context.Context, address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
