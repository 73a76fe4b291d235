package follow_test

import (
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/fleet/fake"
)

// stillOffered has the server offer a, also when the device has closed it.
func (d *device) stillOffered(a *fake.Action) {
	d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			d.server.Do(func() { a.Closed = "" })
		}
		return false
	})
}

// An action that is offered still when the device has closed it is closed once in each poll,
// and the exit code is that of the version.
func TestOfferedStill(t *testing.T) {
	for _, row := range []struct {
		name   string
		action fake.Action
		exit   int
		said   string
	}{
		{"refused before a request", fake.Action{ID: "7", Version: "1.1.0", Part: "os"}, 4, "closed/failure"},
		{"refused for its model", fake.Action{ID: "7", Version: "2.0.0"}, 4, "closed/failure"},
		{"to be agreed to", fake.Action{ID: "7", Version: "1.1.0", Confirm: true}, 0, "confirmed"},
		{"current already", fake.Action{ID: "7", Version: "1.0.0"}, 0, "closed/success"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newDevice(t)
			a := d.server.Assign(row.action)
			d.stillOffered(a)
			if row.action.Confirm {
				d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
					d.server.Do(func() { a.Confirm = true })
					return false
				})
			}
			d.once(row.exit)
			d.last(a, row.said)
		})
	}
}

// The service tells at once what it refused, and does not ask without a pause.
func TestRefusalIsToldAtOnce(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "2.0.0"})
	d.stillOffered(a)
	cmd := d.command("ota-apply", "follow")
	d.write("run/follow.json", "{}", 0o644) // it ran in this boot already: no pause before the first poll
	d.check(cmd.Start())
	d.eventually(func() bool { return len(d.said(a)) > 0 })
	time.Sleep(time.Second)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	d.last(a, "closed/failure")
}
