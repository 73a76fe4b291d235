package follow_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tope-ota/ota/integration/fleet/fake"
)

// Row 1: a version is closed as a success when it is confirmed, not when it is written.
func TestClosedAfterTheTrial(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.once(0)
	d.current("1.1.0")
	d.unclosed(a)
	d.once(0)
	d.unclosed(a)
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	d.last(a, "closed/success")
	// Row 3: it says which version is current.
	config, base := d.server.Attributes("printer 7")
	if config["ota_version"] != "1.1.0" || config["ota_phase"] != "confirmed" || config["ota_previous"] != "1.0.0" || config["ota_model"] != "x1" {
		t.Errorf("attributes: %v", config)
	}
	if base["name"] != "app" || base["version"] != "1.1.0" {
		t.Errorf("installedBase: %v", base)
	}
	// Nothing changed, so nothing is written (to flash).
	before, _ := os.Stat(d.path("versions/.follow.json"))
	d.once(0)
	after, _ := os.Stat(d.path("versions/.follow.json"))
	if !os.SameFile(before, after) {
		t.Error("a poll that changes nothing wrote the state")
	}
	if r := d.server.Requests(); r[len(r)-1] != "GET /DEFAULT/controller/v1/printer 7" {
		t.Errorf("a poll that changes nothing ends with the request %q", r[len(r)-1])
	}
}

// Row 3: what an operator installs or rolls back to is told, too; a version on trial is not
// yet what is installed.
func TestInstalledByOthers(t *testing.T) {
	d := newDevice(t)
	d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	told := func(version, base string) {
		t.Helper()
		d.once(0)
		config, is := d.server.Attributes("printer 7")
		if config["ota_version"] != version || base != "" && config["sw_version"] != base || is["version"] != base {
			t.Errorf("attributes %v, installedBase %v; want %s, %q", config, is, version, base)
		}
	}
	told("1.1.0", "")
	d.run(0, "ota-guardian", "confirm")
	told("1.1.0", "1.1.0")
	d.run(0, "ota-apply", "install", filepath.Join(releases, "1.2.0.ota"))
	told("1.2.0", "1.1.0")
	d.run(0, "ota-guardian", "confirm")
	told("1.2.0", "1.2.0")
	d.run(0, "ota-guardian", "rollback", "previous")
	d.run(0, "ota-guardian", "confirm")
	told("1.1.0", "1.1.0")
}

// Rows 2, 3, 4: a rollback is a failure with its evidence, the attributes say which version is current, and
// the version is not fetched again.
func TestRolledBack(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0", Update: "forced"})
	d.once(0)
	d.write("sick", "", 0o644)
	_ = d.command("ota-guardian", "confirm").Run()
	d.current("1.0.0")
	d.unclosed(a)
	d.check(os.Remove(d.path("sick")))
	d.once(8)
	d.last(a, "closed/failure")
	text := d.details(a)
	for _, want := range []string{"rolled back from 1.1.0 to 1.0.0", "version: 1.1.0", "level: previous", "cause: health", "check: app is well", "attempts: ", "it is sick"} {
		if !strings.Contains(text, want) {
			t.Errorf("the failure does not say %q:\n%s", want, text)
		}
	}
	config, _ := d.server.Attributes("printer 7")
	if config["ota_version"] != "1.0.0" || config["ota_blocked"] != "1.1.0" || !strings.Contains(config["ota_rollback"], "1.1.0") {
		t.Errorf("attributes: %v", config)
	}
	d.downloads()
	again := d.server.Assign(fake.Action{ID: "8", Version: "1.1.0", Update: "forced"})
	d.once(4)
	d.last(again, "closed/failure")
	if text := d.details(again); !strings.Contains(text, "blocked") {
		t.Errorf("it does not say that the version is blocked:\n%s", text)
	}
	if n := d.downloads(); n != 0 {
		t.Errorf("a blocked version was asked for %d times", n)
	}
	// Under another name, too: the digest counts.
	data, err := os.ReadFile(filepath.Join(releases, "1.1.0.ota"))
	d.check(err)
	dir := t.TempDir()
	d.check(os.WriteFile(filepath.Join(dir, "other.ota"), data, 0o644))
	d.server.Do(func() { d.server.Dir = dir })
	other := d.server.Assign(fake.Action{ID: "9", Version: "9.9", File: "other.ota"})
	d.once(4)
	d.last(other, "closed/failure")
	if n := d.downloads(); n > 2 {
		t.Errorf("of a blocked version more than the head was asked for, %d times", n)
	}
	d.current("1.0.0")
}

// Rows 5 and 6: after a kill at any moment the action is closed once and rightly; what was
// not delivered is delivered later.
func TestKilled(t *testing.T) {
	for _, when := range []string{"GET /files/", "POST feedback", "PUT configData", "GET deploymentBase", "close"} {
		t.Run(when, func(t *testing.T) {
			d := newDevice(t)
			a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
			method, path, _ := strings.Cut(when, " ")
			for range 4 { // after it was answered, and before
				cmd := d.command("ota-apply", "follow", "--once")
				started := make(chan *os.Process, 1)
				var killed atomic.Bool
				d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
					closing := method == "close" && strings.HasSuffix(r.URL.Path, "feedback")
					if (r.Method == method && strings.Contains(r.URL.Path, path) || closing) && killed.CompareAndSwap(false, true) {
						_ = (<-started).Signal(syscall.SIGKILL)
					}
					return false
				})
				d.check(cmd.Start())
				started <- cmd.Process
				_ = cmd.Wait()
				_ = d.command("ota-guardian", "confirm").Run()
			}
			d.server.Before(nil)
			for range 3 {
				_ = d.command("ota-apply", "follow", "--once").Run()
				_ = d.command("ota-guardian", "confirm").Run()
			}
			d.once(0)
			d.current("1.1.0")
			d.last(a, "closed/success")
		})
	}
}

// Row 6: the end of an action is kept until the server has it, in ten ways in which it does
// not.
func TestFeedbackIsNotLost(t *testing.T) {
	fail := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	for name, how := range map[string]func(http.ResponseWriter){
		"500": fail(500), "502": fail(502), "503": fail(503), "401": fail(401), "403": fail(403), "408": fail(408), "409": fail(409), "429": fail(429),
		"redirect to nowhere": func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(307)
		},
		"the connection is cut": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
			d.once(0)
			d.run(0, "ota-guardian", "confirm")
			d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "feedback") {
					how(w)
					return true
				}
				return false
			})
			for range 2 {
				d.once(6)
				d.unclosed(a)
			}
			d.server.Before(nil)
			d.once(0)
			d.last(a, "closed/success")
			if s := d.state(); !strings.Contains(s, `"outbox":[]`) && !strings.Contains(s, `"outbox":null`) {
				t.Errorf("it is still to be delivered: %s", s)
			}
		})
	}
}

// Row 7: a cancel is obeyed until the switch, and rejected after it, and after the end.
func TestCancel(t *testing.T) {
	t.Run("before the download", func(t *testing.T) {
		d := newDevice(t)
		a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0", Cancel: true})
		d.once(0)
		d.last(a, "closed/success")
		d.current("1.0.0")
	})
	t.Run("while it waits", func(t *testing.T) {
		d := newDevice(t)
		a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0", Window: "unavailable"})
		d.once(0)
		d.server.Do(func() { a.Cancel = true })
		d.once(0)
		if a.Closed != "canceled" {
			t.Errorf("the action is %q, want canceled; %q", a.Closed, d.said(a))
		}
		d.current("1.0.0")
	})
	t.Run("on trial", func(t *testing.T) {
		d := newDevice(t)
		a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
		d.once(0)
		d.server.Do(func() { a.Cancel = true })
		d.once(0)
		d.last(a, "rejected/none")
		d.run(0, "ota-guardian", "confirm")
		d.once(0)
		d.last(a, "closed/success")
	})
	t.Run("after the end", func(t *testing.T) {
		d := newDevice(t)
		a := d.server.Assign(fake.Action{ID: "7", Version: "2.0.0"})
		d.once(4)
		d.last(a, "closed/failure")
		d.server.Do(func() { a.Closed, a.Cancel = "", true })
		d.once(4)
		if s := d.said(a); !slices.Contains(s, "rejected/none") {
			t.Errorf("the cancel was not rejected: %q", s)
		}
	})
	t.Run("while it downloads", func(t *testing.T) {
		d := newDevice(t)
		a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
		d.server.Sleep("00:00:10") // the least
		slow := make(chan struct{})
		var heads atomic.Int32
		d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/files/") && heads.Add(1) > 1 { // the first is of the check
				d.server.Do(func() { a.Cancel = true })
				select {
				case <-slow:
				case <-r.Context().Done():
				}
				return true
			}
			return false
		})
		cmd := d.command("ota-apply", "follow")
		d.write("run/follow.json", "{}", 0o644) // it ran in this boot already: no pause before the first poll
		d.check(cmd.Start())
		defer func() {
			close(slow)
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}()
		d.eventually(func() bool { closed := ""; d.server.Do(func() { closed = a.Closed }); return closed == "canceled" })
	})
}

// Row 8: five cancels and a deployment are one poll.
func TestAllThatIsOffered(t *testing.T) {
	d := newDevice(t)
	var cancels []*fake.Action
	for i := range 5 {
		cancels = append(cancels, d.server.Assign(fake.Action{ID: fmt.Sprint(i), Version: "1.2.0", Cancel: true}))
	}
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.once(0)
	for _, c := range cancels {
		d.last(c, "closed/success")
	}
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	d.last(a, "closed/success")
}

// Row 9: a closed window does not hold the download up, and an open one lets it run; it may
// close again in between.
func TestMaintenanceWindow(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0", Update: "forced", Window: "unavailable"})
	d.once(0)
	d.current("1.0.0")
	d.last(a, "downloaded/none")
	d.once(0)
	d.last(a, "downloaded/none")
	if n := d.downloads(); n == 0 {
		t.Error("nothing was downloaded")
	}
	d.server.Do(func() { a.Window = "available" })
	d.once(0)
	d.current("1.1.0")
	if n := d.downloads(); n != 0 {
		t.Errorf("it was downloaded again when the window opened: %d requests", n)
	}
	d.server.Do(func() { a.Window = "unavailable" })
	d.once(0)
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	d.last(a, "closed/success")
}

// Row 10: download-only is staged and reported; the server closes it.
func TestDownloadOnly(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0", Update: "skip", Download: "forced"})
	b := d.server.Assign(fake.Action{ID: "8", Version: "1.2.0", Update: "skip", Download: "forced"})
	d.once(0)
	d.last(a, "downloaded/none")
	d.last(b, "downloaded/none")
	d.current("1.0.0")
	d.run(0, "ota-apply", "list")
	for _, v := range []string{"1.1.0", "1.2.0"} {
		if !strings.Contains(d.out.String(), v) {
			t.Errorf("%s is not in the store:\n%s", v, &d.out)
		}
	}
	if strings.Contains(d.state(), `"stage"`) {
		t.Errorf("the job continues: %s", d.state())
	}
}

// Row 11: an inhibitor holds a soft order and no forced one; one that becomes forced is
// noticed.
func TestInhibitor(t *testing.T) {
	d := newDevice(t)
	d.write("run/inhibit", "a print is under way\n", 0o644)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.once(0)
	d.once(0)
	d.current("1.0.0")
	d.run(0, "ota-apply", "status")
	if !strings.Contains(d.out.String(), "1.1.0 is staged, waits: inhibited: a print is under way") {
		t.Errorf("status does not say what waits:\n%s", &d.out)
	}
	d.server.Do(func() { a.Update = "forced" })
	d.once(0)
	d.current("1.1.0")
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	d.last(a, "closed/success")

	b := d.server.Assign(fake.Action{ID: "8", Version: "1.2.0"})
	d.once(0)
	d.current("1.1.0")
	d.check(os.Remove(d.path("run/inhibit")))
	d.once(0)
	d.current("1.2.0")
	d.unclosed(b)
}

// Row 12: what would be refused is denied before a byte of its payload is fetched, and only
// once; what would not, is agreed to.
func TestConfirmation(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "2.0.0", Confirm: true})
	d.once(4)
	d.last(a, "denied")
	if text := d.details(a); !strings.Contains(text, "x9") {
		t.Errorf("it does not say why: %s", text)
	}
	d.server.Do(func() { a.Closed = "canceled" })
	b := d.server.Assign(fake.Action{ID: "8", Version: "1.1.0", Confirm: true})
	d.write("run/inhibit", "", 0o644)
	d.once(0)
	if s := d.said(b); len(s) > 0 {
		t.Errorf("it was agreed to while it is inhibited: %q", s)
	}
	d.check(os.Remove(d.path("run/inhibit")))
	d.once(0)
	if s := d.said(b); len(s) == 0 || s[0] != "confirmed" {
		t.Errorf("it was not agreed to: %q", s)
	}
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	d.last(b, "closed/success")
}

// Row 15: what other versions have is not downloaded, though the server offers a hash of
// the whole file.
func TestReuses(t *testing.T) {
	d := newDevice(t)
	var bytes atomic.Int64
	d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/files/") {
			http.ServeFile(&counter{w, &bytes}, r, filepath.Join(releases, filepath.Base(r.URL.Path)))
			return true
		}
		return false
	})
	d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.once(0)
	d.current("1.1.0")
	if n := bytes.Load(); n == 0 || n > dataSize {
		t.Errorf("%d bytes were downloaded; the data that both versions have is %d", n, dataSize)
	}
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// Row 18: the token goes to the server alone: no other host sees it, whether the server
// links or redirects there.
func TestTokenStaysAtTheServer(t *testing.T) {
	for _, redirects := range []bool{false, true} {
		t.Run(fmt.Sprintf("redirects=%v", redirects), func(t *testing.T) {
			d := newDevice(t)
			var other []string
			var mu sync.Mutex
			cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				other = append(other, r.Header.Get("Authorization"))
				mu.Unlock()
				http.ServeFile(w, r, filepath.Join(releases, "1.1.0.ota"))
			}))
			t.Cleanup(cdn.Close)
			a := fake.Action{ID: "7", Version: "1.1.0"}
			if redirects {
				d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, "/files/") {
						return false
					}
					http.Redirect(w, r, cdn.URL, http.StatusFound)
					return true
				})
			} else {
				a.URL = cdn.URL + "/1.1.0.ota"
			}
			d.server.Assign(a)
			d.once(0)
			d.current("1.1.0")
			if len(other) == 0 || strings.Join(other, "") != "" {
				t.Errorf("the other host got the tokens %q", other)
			}
		})
	}
}

// Row 19: a token that was rotated is read again; one that others can read is not used.
func TestToken(t *testing.T) {
	d := newDevice(t)
	d.server.Token("TargetToken new")
	d.once(6)
	if !strings.Contains(d.out.String(), "401") {
		t.Errorf("it does not say that the token is wrong:\n%s", &d.out)
	}
	d.write("token", "TargetToken new\n", 0o600)
	d.once(0)
	d.server.Token("GatewayToken all")
	d.write("token", "GatewayToken all", 0o600)
	d.once(0)
	d.write("token", "GatewayToken all", 0o640)
	d.once(6)
	if !strings.Contains(d.out.String(), "chmod 600") {
		t.Errorf("it does not say what to do:\n%s", &d.out)
	}
}

// Row 22: a module of another type is refused before anything is changed.
func TestUnknownModule(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0", Part: "os"})
	d.once(4)
	d.last(a, "closed/failure")
	if text := d.details(a); !strings.Contains(text, `unknown module type "os"`) {
		t.Errorf("it says %s", text)
	}
	if n := d.downloads(); n != 0 {
		t.Errorf("%d requests for it", n)
	}
}

// Row 23: few entries, and short ones.
func TestFewEntries(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.once(0)
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	log := d.server.Said(a)
	if len(log) > 40 || len(log) < 2 {
		t.Errorf("%d entries", len(log))
	}
	for _, f := range log {
		if len(f.Details) > 50 || slices.ContainsFunc(f.Details, func(s string) bool { return len(s) > 500 }) {
			t.Errorf("an entry is too long: %v", f)
		}
	}
}

// Rows 24 and 25: by hand, and by state: an action of the same name that comes again is
// answered by the current version, and one of another name, too.
func TestSameActionAgain(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.once(0)
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	d.server.Do(func() { a.Closed, a.Log = "", nil })
	d.downloads()
	d.once(0)
	d.last(a, "closed/success")
	d.server.Do(func() { a.Closed, a.Log, a.Version = "", nil, "1.2.0" })
	d.once(0)
	d.current("1.2.0")
}

// The server no longer asks for what waits: it is over, and the next one comes.
func TestWithdrawn(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0", Window: "unavailable"})
	d.once(0)
	d.server.Do(func() { a.Closed = "canceled" })
	d.once(0)
	if strings.Contains(d.state(), `"stage"`) {
		t.Errorf("the job continues: %s", d.state())
	}
}

// A file of `ca` that is not there, as while it is replaced, ends neither the follower nor an
// order of the server: both are tried again.
func TestAuthoritiesReplaced(t *testing.T) {
	d := newDevice(t)
	text, err := os.ReadFile(d.path("ota.toml"))
	d.check(err)
	d.write("ota.toml", fmt.Sprintf("ca = %q\n%s", d.path("ca.pem"), text), 0o644)
	there := func() {
		ca := httptest.NewTLSServer(nil)
		defer ca.Close()
		d.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw})), 0o644)
	}
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.once(6)
	if !strings.Contains(d.out.String(), "ca.pem: no such file") || !strings.Contains(d.out.String(), "hint: correct `ca` in the configuration") {
		t.Errorf("it does not say why:\n%s", &d.out)
	}

	cmd := d.command("ota-apply", "follow")
	d.write("run/follow.json", "{}", 0o644) // it ran in this boot already: no pause before the first poll
	d.check(cmd.Start())
	failed := func() bool {
		data, _ := os.ReadFile(d.path("run/follow.json"))
		return strings.Contains(string(data), "ca.pem: no such file")
	}
	d.eventually(failed)
	d.check(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Fatalf("it had ended already: %v\n%s", err, &d.out)
	}

	for _, word := range []string{"deploymentBase/7", "/files/"} { // the dry run finds none, and the install
		there()
		var gone atomic.Bool
		d.server.Before(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, word) && gone.CompareAndSwap(false, true) {
				_ = os.Remove(d.path("ca.pem"))
			}
			return false
		})
		_ = d.command("ota-apply", "follow", "--once").Run()
		d.current("1.0.0")
		d.unclosed(a)
	}
	d.server.Before(nil)
	d.run(2, "ota-apply", "install", d.server.URL+"/files/1.1.0.ota")
	there()
	d.once(0)
	d.current("1.1.0")
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	d.last(a, "closed/success")
}

// Of a version that cannot be had, the error is told, and not what ota-apply tried before.
func TestErrorIsTold(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".otp") {
			w.WriteHeader(http.StatusServiceUnavailable)
		} else if strings.HasSuffix(r.URL.Path, ".ota") {
			w.WriteHeader(http.StatusNotFound)
		} else {
			return false
		}
		return true
	})
	d.once(6)
	if !strings.Contains(d.out.String(), "trying again in") {
		t.Fatalf("ota-apply tried nothing again:\n%s", &d.out)
	}
	if text := d.details(a); !strings.HasPrefix(text, "cannot download") || !strings.Contains(text, "404") {
		t.Errorf("the server was told %s", text)
	}
	if n := strings.Count(d.out.String(), "404 Not Found"); n != 2 { // of ota-apply install, and of follow
		t.Errorf("the error stands %d times in\n%s", n, &d.out)
	}
}

// Another follower, or none to follow: said, and nothing done.
func TestRefusals(t *testing.T) {
	d := newDevice(t)
	cmd := d.command("ota-apply", "follow")
	cmd.Stdout, cmd.Stderr = nil, nil // d.out is of the commands beside it
	d.check(cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	d.eventually(func() bool { _, err := os.Stat(d.path("run/.follow.lock")); return err == nil })
	other := d.command("ota-apply", "follow", "--once")
	var out bytes.Buffer
	other.Stderr = &out
	_ = other.Run()
	if code := other.ProcessState.ExitCode(); code != 3 || !strings.Contains(out.String(), "another process follows") {
		t.Errorf("a second follower ended with %d:\n%s", code, &out)
	}
	d.write("ota.toml", strings.Split(func() string { b, _ := os.ReadFile(d.path("ota.toml")); return string(b) }(), "[follow]")[0], 0o644)
	out.Reset()
	none := d.command("ota-apply", "follow", "--once")
	none.Stderr = &out
	_ = none.Run()
	if code := none.ProcessState.ExitCode(); code != 2 || !strings.Contains(out.String(), "no server to follow") {
		t.Errorf("without a server it ended with %d:\n%s", code, &out)
	}
}

// A state that cannot be written: nothing begins, and it is said; a state that is damaged: it
// is forgotten, and said.
func TestStateThatIsNoFile(t *testing.T) {
	d := newDevice(t)
	a := d.server.Assign(fake.Action{ID: "7", Version: "1.1.0"})
	d.check(os.MkdirAll(d.path("versions/.follow.json/x"), 0o755))
	d.once(10)
	if !strings.Contains(d.out.String(), "cannot write the state of the follower") {
		t.Errorf("it does not say why:\n%s", &d.out)
	}
	d.current("1.0.0")
	d.unclosed(a)
	d.check(os.RemoveAll(d.path("versions/.follow.json")))
	d.write("versions/.follow.json", `{"job":`, 0o600)
	d.once(0)
	if !strings.Contains(d.out.String(), "cannot read the state of the follower") {
		t.Errorf("it does not say why:\n%s", &d.out)
	}
	d.current("1.1.0")
}

// A server that gives a new order for each answer is a broken one, and --once says so.
func TestOrderForEachAnswer(t *testing.T) {
	d := newDevice(t)
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const deployment, api = "/deploymentBase/", "/DEFAULT/controller/v1/printer 7"
		if strings.HasPrefix(r.URL.Path, api) {
			w.Header().Set("Content-Type", "application/json")
		}
		switch {
		case r.Method != http.MethodGet:
		case strings.Contains(r.URL.Path, deployment):
			fmt.Fprintf(w, `{"id": "%d", "deployment": {"download": "forced", "update": "forced", "chunks": [{"part": "bApp", "version": "1.1.0",
				"artifacts": [{"filename": "x.ota", "_links": {"download-http": {"href": "/x.ota"}}}]}]}}`, n.Load())
		case strings.HasPrefix(r.URL.Path, api):
			fmt.Fprintf(w, `{"_links": {"deploymentBase": {"href": "%s%d"}}}`, strings.ReplaceAll(api, " ", "%20")+deployment, n.Add(1))
		default:
			http.ServeFile(w, r, filepath.Join(releases, "1.1.0.ota"))
		}
	}))
	defer server.Close()
	text, err := os.ReadFile(d.path("ota.toml"))
	d.check(err)
	d.write("ota.toml", strings.ReplaceAll(string(text), d.server.URL, server.URL), 0o644)
	d.once(1)
	if !strings.Contains(d.out.String(), "the server gives an order for each answer") {
		t.Errorf("it says %s", &d.out)
	}
}
