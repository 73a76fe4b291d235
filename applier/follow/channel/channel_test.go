package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/channel"
	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/applier/follow"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A site is a web server with a channel, in memory, and a device.
type site struct {
	*testing.T
	release, key minisign.PrivateKey
	trusted      minisign.PublicKey
	d            channel.Delegation
	c            channel.Channel
	status       int    // 0: as a web server answers
	text         []byte // nil: the channel
	requests     []*http.Request
	run          string
	clock        func() time.Time
	uptime       time.Duration
	memory       json.RawMessage // that the device keeps
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, run: t.TempDir(), clock: time.Now}
	var err error
	if s.trusted, s.release, err = minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	pub, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.key = key
	built := bootcheck.BuildDate().Truncate(time.Second)
	s.d = channel.Delegation{Format: 1, Channel: "stable", Epoch: 1, Made: built, NotAfter: built.AddDate(20, 0, 0), Keys: []string{pub.String()}}
	s.c = channel.Channel{Format: 1, Channel: "stable", Serial: 1, Made: built.AddDate(0, 1, 0), NotAfter: built.AddDate(19, 0, 0),
		Releases: []channel.Release{{Version: "1.1.0", Release: 2, Models: []string{"x1"}, Manifest: "sha256:" + strings.Repeat("1", 64),
			Bundle: []string{"sub/1.1.0.ota", "https://mirror.example.com/1.1.0.ota", "oci://r.example.com/x1:1.1.0"}, Size: 9, Percent: 100}}}
	return s
}

func (s *site) file() []byte {
	s.Helper()
	d, err := s.d.Encode()
	if err != nil {
		s.Fatal(err)
	}
	c, err := s.c.Encode()
	if err != nil {
		s.Fatal(err)
	}
	data, err := channel.Join(channel.Delegated(bundle.Sign(s.release, d, "c"), d), bundle.Sign(s.key, c, "c"), c)
	if err != nil {
		s.Fatal(err)
	}
	return data
}

// RoundTrip is the web server.
func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	s.requests = append(s.requests, r)
	w := httptest.NewRecorder()
	text := s.text
	if text == nil {
		text = s.file()
	}
	etag := fmt.Sprintf("%q", bootcheck.Digest(text))
	w.Header().Set("ETag", etag)
	switch {
	case s.status != 0:
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(s.status)
	case r.Header.Get("If-None-Match") == etag:
		w.WriteHeader(http.StatusNotModified)
	default:
		_, _ = w.Write(text)
	}
	return w.Result(), nil
}

// start is a process on the device, which runs release 1.
func (s *site) start(memory json.RawMessage) *Source {
	u, _ := url.Parse("http://updates.example.com/printers/stable.channel")
	source := &Source{
		URL: u, HTTP: &http.Client{Transport: s}, Run: s.run, Calendar: calendar.Open(s.run, s.clock),
		Device: func() (*channel.Device, error) {
			return &channel.Device{ID: "7", Model: "x1", Release: 1, Blocked: func(*channel.Release) bool { return false }}, nil
		},
		Keys:   func() (*trust.Keys, []string, error) { return trust.These(s.trusted), nil, nil },
		Uptime: func() time.Duration { return s.uptime },
	}
	s.memory = memory
	return source
}

func (s *site) ask(source *Source) *follow.Answer {
	s.Helper()
	a, err := source.Ask(context.Background(), s.memory)
	if err != nil {
		s.Fatal(err)
	}
	s.memory = a.Memory
	return a
}

func TestOrder(t *testing.T) {
	s := newSite(t)
	a := s.ask(s.start(nil))
	if len(a.Orders) != 1 || !a.Exact || a.Sleep < Interval*9/10 || a.Sleep > Interval*11/10 || a.Sleep != s.ask(s.start(nil)).Sleep {
		t.Fatalf("Ask = %+v", a)
	}
	o := a.Orders[0]
	if o.URL != "http://updates.example.com/printers/sub/1.1.0.ota" || len(o.Mirrors) != 2 || o.Mirrors[0] != "https://mirror.example.com/1.1.0.ota" || o.Mirrors[1] != "oci://r.example.com/x1:1.1.0" ||
		o.Manifest != s.c.Releases[0].Manifest || o.Action != o.Manifest || !o.Stage || !o.Activate || o.Forced {
		t.Errorf("order: %+v", o)
	}
}

// Two devices have pauses of their own, and a fleet has all between 54 and 66 minutes.
func TestIntervals(t *testing.T) {
	var slots [12]int
	for i := range 12_000 {
		slots[(interval(fmt.Sprint(i))-Interval*9/10)/time.Minute]++
	}
	for i, n := range slots {
		if n < 800 || n > 1200 {
			t.Errorf("%d of 12,000 devices ask every %d minutes, want about 1,000", n, 54+i)
		}
	}
}

// The same decisions with any clock, also if it jumps.
func TestClocks(t *testing.T) {
	s := newSite(t)
	times := []time.Time{time.Unix(0, 0), time.Unix(1<<31-1, 0), bootcheck.BuildDate().AddDate(0, 6, 0), time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(-1, 0)}
	var memory json.RawMessage
	jumping := 0
	for _, clock := range append(times, time.Time{}) {
		s.clock = func() time.Time { return clock }
		if clock.IsZero() {
			s.clock = func() time.Time { jumping++; return times[jumping%len(times)] }
		}
		a := s.ask(s.start(memory))
		if memory = a.Memory; len(a.Orders) != 1 || !strings.Contains(string(memory), `"serial":1,`) {
			t.Errorf("at %v: %+v", clock, a)
		}
	}
	// What it says itself of its end counts on a device that wakes in 1970.
	s.clock = func() time.Time { return time.Unix(30, 0) }
	s.c.Serial, s.c.Made, s.c.NotAfter = 2, s.c.Made.AddDate(1, 0, 0), s.c.Made.AddDate(2, 0, 0)
	s.ask(s.start(memory))
	s.c.Serial, s.c.Made, s.c.NotAfter = 3, bootcheck.BuildDate().Truncate(time.Second), bootcheck.BuildDate().AddDate(0, 2, 0).Truncate(time.Second)
	if _, err := s.start(memory).Ask(t.Context(), memory); bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("a channel that ended before the date of another: %v", err)
	}
}

// A poll without news is a short answer, also for the next process of this boot, and what is
// kept is verified again.
func TestNotModified(t *testing.T) {
	s := newSite(t)
	source := s.start(nil)
	s.ask(source)
	if a := s.ask(source); len(a.Orders) != 1 {
		t.Errorf("Ask = %+v", a)
	}
	if a := s.ask(s.start(nil)); len(a.Orders) != 1 {
		t.Errorf("Ask = %+v", a)
	}
	for i, r := range s.requests {
		if got := r.Header.Get("If-None-Match") != ""; got != (i > 0) {
			t.Errorf("request %d asks whether it changed: %v", i, got)
		}
	}
	name := filepath.Join(s.run, cacheFile)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, bytes.Replace(data, []byte(`"percent":100`), []byte(`"percent":101`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	source = s.start(nil)
	if _, err := source.Ask(t.Context(), s.memory); bootcheck.Exit(err) != bootcheck.ExitRefused {
		t.Errorf("what was kept is damaged: %v", err)
	}
	if a := s.ask(source); len(a.Orders) != 1 { // and fetched again
		t.Errorf("Ask = %+v", a)
	}
}

func TestServerErrors(t *testing.T) {
	for _, tt := range []struct {
		status int
		text   string
		denied bool
		exit   bootcheck.ExitCode
	}{
		{status: 401, denied: true, exit: bootcheck.ExitDownloadFailed},
		{status: 403, denied: true, exit: bootcheck.ExitDownloadFailed},
		{status: 404, denied: true, exit: bootcheck.ExitDownloadFailed},
		{status: 429, exit: bootcheck.ExitDownloadFailed},
		{status: 503, exit: bootcheck.ExitDownloadFailed},
		{status: 304, exit: bootcheck.ExitDownloadFailed},
		{text: "<html>a captive portal", exit: bootcheck.ExitDamaged},
		{text: strings.Repeat("\n", 10<<20), exit: bootcheck.ExitDamaged},
	} {
		s := newSite(t)
		if s.status = tt.status; tt.text != "" {
			s.text = []byte(tt.text)
		}
		_, err := s.start(nil).Ask(t.Context(), nil)
		if bootcheck.Exit(err) != tt.exit || errors.Is(err, follow.ErrDenied) != tt.denied {
			t.Errorf("%d %.20q: %v, exit %d", tt.status, tt.text, err, bootcheck.Exit(err))
		}
	}
}

// The days of power since the channel changed are counted without a clock, over boots that are
// shorter than a day, and are written once a day.
func TestDaysOfPower(t *testing.T) {
	s := newSite(t)
	power := filepath.Join(s.run, powerFile)
	first := func(d time.Duration) { // when the first day of this boot ends
		t.Helper()
		if err := os.WriteFile(power, fmt.Appendf(nil, "%d", d/time.Second), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var memory json.RawMessage
	days := func(want int) {
		t.Helper()
		a := s.ask(s.start(memory))
		if memory = a.Memory; *a.UnchangedDays != want {
			t.Errorf("%v after the boot: %d days, want %d", s.uptime, *a.UnchangedDays, want)
		}
	}
	first(7 * time.Hour)
	days(0)
	writes := 0
	for h := range 100 { // asked each hour
		before := memory
		s.uptime = time.Duration(h) * time.Hour
		days((h + 17) / 24)
		if !bytes.Equal(memory, before) {
			writes++
		}
	}
	if writes != 4 {
		t.Errorf("100 hours were %d writes, want 4", writes)
	}
	for boot := range 24 { // of 8 hours each
		first(time.Duration(boot) * time.Hour)
		s.uptime = 8*time.Hour - time.Second
		days(4 + min(boot+1, 8))
	}
	s.uptime = 50 * 24 * time.Hour // asked once only
	first(time.Hour)
	days(12 + 50)
	s.c.Serial++
	days(0)

	// When the first one ends differs between boots, and is not before an hour has passed.
	at := map[string]bool{}
	for range 20 {
		if err := os.Remove(power); err != nil {
			t.Fatal(err)
		}
		days(0)
		text, err := os.ReadFile(power)
		if n, _ := strconv.Atoi(string(text)); err != nil || n < int(s.uptime/time.Second)+3600 || n > int(s.uptime/time.Second)+24*3600 {
			t.Errorf("%v after the boot: the first day ends %q s after it (%v)", s.uptime, text, err)
		}
		at[string(text)] = true
	}
	if len(at) < 2 {
		t.Errorf("the first day always ends %v s after the boot", at)
	}
}

// A slow answer ends within a minute: a server, or a proxy, cannot hold a device back.
func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.clock = func() time.Time { return time.Unix(0, 0) }
		source := s.start(nil)
		drip := transport(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder().Result()
			w.Body = io.NopCloser(reader(func(p []byte) (int, error) {
				time.Sleep(time.Second)
				return copy(p, "x"), r.Context().Err()
			}))
			return w, nil
		})
		var err error
		if source.HTTP, err = (fetch.Options{Calendar: source.Calendar, Transport: func(http.RoundTripper) http.RoundTripper { return drip }}).Client(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err = source.Ask(t.Context(), s.memory); bootcheck.Exit(err) != bootcheck.ExitDownloadFailed || time.Since(began) > time.Minute {
			t.Errorf("one byte a second: %v, exit %d, after %v", err, bootcheck.Exit(err), time.Since(began))
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// A version that could not be installed is offered again after an hour, then later; a new one
// at once.
func TestFailureIsTriedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.clock = func() time.Time { return time.Unix(0, 0) }
		source := s.start(nil)
		for _, wait := range []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour} {
			o := s.ask(source).Orders[0]
			if err := source.Tell(t.Context(), &follow.Message{Action: o.Action, Outcome: follow.Failed}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(wait - time.Second)
			if a := s.ask(source); len(a.Orders) != 0 {
				t.Errorf("it is offered again within %v", wait)
			}
			time.Sleep(2 * time.Second)
		}
		source.failures[s.c.Releases[0].Manifest] = failure{again: time.Now().Add(time.Hour)}
		next := s.c.Releases[0]
		next.Version, next.Release, next.Manifest = "1.2.0", 3, "sha256:"+strings.Repeat("2", 64)
		s.c.Releases, s.c.Serial = append(s.c.Releases, next), 2
		if a := s.ask(source); len(a.Orders) != 1 || a.Orders[0].Version != "1.2.0" {
			t.Errorf("Ask = %+v", a)
		}
	})
}
