package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/docs/schema"
)

// An endpoint is a real device-api in so far as it takes reports and keeps
// them.
type endpoint struct {
	*httptest.Server
	mu     sync.Mutex
	got    []State
	change chan struct{}
}

// newEndpoint keeps each report, then answers by answer (nil: 200 and a few
// bytes), which is told the report's number, from 1.
func newEndpoint(t testing.TB, answer func(w http.ResponseWriter, r *http.Request, n int)) *endpoint {
	t.Helper()
	e := &endpoint{change: make(chan struct{}, 1)}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // given up by the client
		}
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s with Content-Type %q", r.Method, r.Header.Get("Content-Type"))
		}
		var keys map[string]any
		var s State
		if err := json.Unmarshal(body, &keys); err != nil || len(keys) != 4 {
			t.Errorf("the report %s has %d keys, want 4 (%v)", body, len(keys), err)
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			t.Errorf("the report %s: %v", body, err)
		}
		e.mu.Lock()
		e.got = append(e.got, s)
		n := len(e.got)
		e.mu.Unlock()
		select {
		case e.change <- struct{}{}:
		default:
		}
		if answer != nil {
			answer(w, r, n)
			return
		}
		io.WriteString(w, `{"ok":true}`)
	}))
	t.Cleanup(func() { e.CloseClientConnections(); e.Close() })
	return e
}

func (e *endpoint) reports() []State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]State(nil), e.got...)
}

// wait returns when n reports have come in all.
func (e *endpoint) wait(t *testing.T, n int) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for len(e.reports()) < n {
		select {
		case <-e.change:
		case <-limit:
			t.Fatalf("%d reports within 20 s, want %d: %v", len(e.reports()), n, e.reports())
		}
	}
}

func stages(states []State) string {
	var words []string
	for _, s := range states {
		words = append(words, s.Stage)
	}
	return strings.Join(words, " ")
}

var all = []string{StageDownloading, StageVerifying, StageToInstall, StageInstalling, StageRebooting}

// TestInstall holds that a quick endpoint hears of every stage, in order, and
// of the end last.
func TestInstall(t *testing.T) {
	e := newEndpoint(t, nil)
	r := New(e.URL+"/api/v1.0/ota/report", "")
	for _, s := range all {
		r.Stage(s, 0, "doing "+s)
	}
	r.Success("1.2.0 runs")
	r.Stage(StageDownloading, 0, "after the end")
	r.Fail(errors.New("after the end"))
	r.Close(t.Context())
	r.Stage(StageDownloading, 0, "after Close")
	r.Close(t.Context())
	got := e.reports()
	if want := strings.Join(append(all, StageSuccess), " "); stages(got) != want {
		t.Errorf("reported: %s; want: %s", stages(got), want)
	}
	if want := state(StageSuccess, 100, "1.2.0 runs", ""); got[len(got)-1] != want {
		t.Errorf("the last report is %+v, want %+v", got[len(got)-1], want)
	}
}

// TestRestart holds that reports arrive again after device-api was restarted, however
// its process ended.
func TestRestart(t *testing.T) {
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			panic(http.ErrAbortHandler) // the process ends with the report in its socket
		}
	})
	r := New(e.URL, "")
	r.Stage(StageInstalling, 0, "")
	e.wait(t, 1)
	if !r.wait(t.Context(), 20*time.Second) {
		t.Fatal("the first report is still under way")
	}
	r.Success("")
	r.Close(t.Context())
	if got := stages(e.reports()); got != "installing success" {
		t.Errorf("reported: %s; want success after the connection broke", got)
	}
}

// TestNewestWins holds that of the progress made while a report is under way
// only the newest is told, and that no stage is lost by that.
func TestNewestWins(t *testing.T) {
	release := make(chan struct{})
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			<-release
		}
	})
	r := New(e.URL, "")
	r.Stage(StageDownloading, 0, "")
	e.wait(t, 1)
	for p := range 101 {
		r.Progress(int64(p), 100)
	}
	r.Stage(StageVerifying, 0, "")
	r.Stage(StageVerifying, 50, "half")
	r.Fail(bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "no key\nfits"))
	close(release)
	r.Close(t.Context())
	want := []State{
		state(StageDownloading, 0, "", ""),
		state(StageDownloading, 100, "", ""),
		state(StageVerifying, 50, "half", ""),
		state(StageFailed, 50, "no key fits", "SIGNATURE_INVALID: no key fits"),
	}
	if got := e.reports(); !reflect.DeepEqual(got, want) {
		t.Errorf("reported:\n%+v\nwant:\n%+v", got, want)
	}
}

// TestProgressSteps holds which progress is told: each 5 %, and the end.
func TestProgressSteps(t *testing.T) {
	r := New("", "")
	var told State
	r.Watch(func(s State) { told = s })
	r.Stage(StageDownloading, 0, "x")
	for _, row := range []struct{ say, told int }{
		{1, 0}, {4, 0}, {5, 5}, {9, 5}, {10, 10}, {8, 10}, {5, 5}, {97, 97}, {99, 97}, {100, 100}, {100, 100},
		{0, 0}, {-7, 0}, {250, 100},
	} {
		r.Progress(int64(row.say), 100)
		if want := state(StageDownloading, row.told, "x", ""); told != want {
			t.Errorf("after Progress(%d): %+v, want %+v", row.say, told, want)
		}
	}
}

// TestSteps holds that a watcher sees every stage and every 5 % in their order.
func TestSteps(t *testing.T) {
	r := New("", "")
	var got []string
	r.Watch(func(s State) { got = append(got, fmt.Sprintf("%s %d", s.Stage, s.Progress)) })
	var want []string
	for _, stage := range all {
		r.Stage(stage, 0, "")
		for p := range 101 {
			r.Progress(int64(p), 100)
			if p%5 == 0 {
				want = append(want, fmt.Sprintf("%s %d", stage, p))
			}
		}
	}
	r.Success("")
	if want = append(want, "success 100"); !slices.Equal(got, want) {
		t.Errorf("told: %q\nwant: %q", got, want)
	}
}

// TestBytes holds what the state file says beside the report: the version, and how many
// bytes of the stage are done, once a second and not more often.
func TestBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "progress.json")
		r := New("", file)
		says := func(what string, percent int, version string, done, total int64) {
			t.Helper()
			synctest.Wait()
			want := bootcheck.Install{Operation: state(StageDownloading, percent, "", ""), Version: bootcheck.OrNull(version), Done: done, Total: total}
			if got := bootcheck.ReadInstall(file); got != want {
				t.Errorf("%s: the file says %+v, want %+v", what, got, want)
			}
		}
		r.Stage(StageDownloading, 0, "")
		says("nothing is known", 0, "", 0, 0)
		r.Version("1.2.0")
		r.Progress(1, 1000)
		says("within the second", 0, "", 0, 0)
		time.Sleep(keepEvery)
		r.Progress(2, 1000)
		says("a second later", 0, "1.2.0", 2, 1000)
		r.Progress(3, 1000)
		says("at once", 0, "1.2.0", 2, 1000)
		r.Progress(60, 1000)
		says("5 %", 6, "1.2.0", 60, 1000)
		r.Stage(StageDownloading, 0, "")
		says("another stage", 0, "1.2.0", 0, 0)
		r.Success("")
		synctest.Wait()
		time.Sleep(keepEvery)
		r.Progress(70, 1000)
		synctest.Wait()
		if got := bootcheck.ReadInstall(file); got.Stage != StageSuccess || got.Done != 0 {
			t.Errorf("after the end the file says %+v", got)
		}
		r.Close(t.Context())
	})
}

// TestTrial holds that each second of a trial is kept, that it is told every 5 %, also when
// it begins again, and that nothing of it follows the end.
func TestTrial(t *testing.T) {
	file := filepath.Join(t.TempDir(), "progress.json")
	r := New("", file)
	var got []string
	r.Watch(func(s State) { got = append(got, fmt.Sprint(s.Progress, " ", s.Message)) })
	r.Stage(StageRebooting, 0, "0 s")
	for _, p := range []int{1, 4, 5, 9, 10, 12, 0, 3, 100} {
		r.Trial(p, fmt.Sprint(p, " %"))
		r.mu.Lock()
		kept := r.kept
		r.mu.Unlock()
		<-kept
		if s, err := read(file); err != nil || s.Stage != StageRebooting || s.Progress != p || s.Message != fmt.Sprint(p, " %") {
			t.Errorf("at %d %% the file says %+v, %v", p, s, err)
		}
	}
	r.Success("done")
	r.Trial(50, "50 %")
	r.Close(t.Context())
	if want := []string{"0 0 s", "5 5 %", "10 10 %", "0 0 %", "100 100 %", "100 done"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if s, err := read(file); err != nil || s.Stage != StageSuccess {
		t.Errorf("after the end the file says %+v, %v", s, err)
	}
}

// TestCodes holds that the error of a report begins with the code of the
// error, in any wrapping.
func TestCodes(t *testing.T) {
	for _, row := range []struct {
		err  error
		want string
	}{
		{errors.New("x"), "DEPLOYMENT_FAILED: x"},
		{bootcheck.Errorf(bootcheck.ExitDownloadFailed, bootcheck.CodeHashMismatch, "x"), "HASH_MISMATCH: x"},
		{fmt.Errorf("y: %w", bootcheck.Errorf(bootcheck.ExitRolledBack, bootcheck.CodeRolledToPrevious, "x")), "ROLLED_BACK_TO_PREVIOUS: y: x"},
	} {
		file := filepath.Join(t.TempDir(), "progress.json")
		r := New("", file)
		r.Fail(row.err)
		r.Close(t.Context())
		if s, err := read(file); err != nil || s.Error != row.want || s.Stage != StageFailed {
			t.Errorf("Fail(%v) = %+v, %v, want the error %q", row.err, s, err, row.want)
		}
	}
}

// deadAddress is one without a listener.
func deadAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String() + "/"
}

func oneGigabyte(w http.ResponseWriter, r *http.Request, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(1<<30))
	block := make([]byte, 1<<16)
	for r.Context().Err() == nil {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func aByteASecond(w http.ResponseWriter, r *http.Request, n int) {
	w.Header().Set("Content-Length", "1000")
	for r.Context().Err() == nil {
		w.Write([]byte{' '})
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
		}
	}
}

// TestBadEndpoints holds that no endpoint can hold an install up: thousands of
// calls return while the first report is not even answered, and Close ends.
func TestBadEndpoints(t *testing.T) {
	elsewhere := newEndpoint(t, nil)
	t.Cleanup(func() {
		if n := len(elsewhere.reports()); n != 0 {
			t.Errorf("%d reports were led elsewhere", n)
		}
	})
	for _, row := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request, n int) // nil: no listener
	}{
		{"dead", nil},
		{"hanging", func(w http.ResponseWriter, r *http.Request, n int) { <-r.Context().Done() }},
		{"500", func(w http.ResponseWriter, r *http.Request, n int) { w.WriteHeader(500) }},
		{"dropping", func(w http.ResponseWriter, r *http.Request, n int) { panic(http.ErrAbortHandler) }},
		{"redirecting", func(w http.ResponseWriter, r *http.Request, n int) {
			http.Redirect(w, r, elsewhere.URL, []int{301, 302, 303, 307, 308}[n%5])
		}},
		{"a reply without end", func(w http.ResponseWriter, r *http.Request, n int) {
			block := make([]byte, 1<<16)
			for r.Context().Err() == nil {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}},
		{"a reply of 1 GB", oneGigabyte},
		{"a byte a second", aByteASecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			url, e := deadAddress(t), (*endpoint)(nil)
			if row.answer != nil {
				e = newEndpoint(t, row.answer)
				url = e.URL
			}
			r := New(url, "")
			const calls = 10_000
			r.Stage(all[0], 0, "")
			if e != nil {
				e.wait(t, 1) // from here on the endpoint has a connection to hold
			}
			for i := range calls {
				r.Stage(all[i%len(all)], i%100, "")
				r.Progress(int64(i%100), 100)
			}
			if e != nil {
				// Had a call waited for its report, each of them had come. How many
				// do come is up to the machine.
				if n := len(e.reports()); n > calls/2 {
					t.Errorf("%d reports came while %d were made", n, calls)
				}
			}
			r.Success("") // which lets through what waits
			r.mu.Lock()
			if n := len(r.waiting); n > waitMax {
				t.Errorf("%d reports wait, want at most %d", n, waitMax)
			}
			r.mu.Unlock()
			begin := time.Now()
			r.Close(t.Context())
			if took := time.Since(begin); took > 10*time.Second { // 2 s, and the machine's own slowness
				t.Errorf("Close took %v", took)
			}
			if e != nil {
				got := e.reports()
				if len(got) == 0 || got[len(got)-1].Stage != StageSuccess {
					t.Errorf("reported: %s; want success last", stages(got))
				}
			}
		})
	}
}

// TestLastAfterHang holds that the last report arrives though one before it
// hangs, by way of a second connection.
func TestLastAfterHang(t *testing.T) {
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			<-r.Context().Done()
		}
	})
	r := New(e.URL, "")
	r.Stage(StageDownloading, 0, "")
	e.wait(t, 1)
	r.Stage(StageVerifying, 0, "")
	r.Fail(errors.New("x"))
	r.Close(t.Context())
	if got := stages(e.reports()); got != "downloading failed" {
		t.Errorf("reported: %s; want: downloading failed", got)
	}
}

// TestLastStage holds that Close lets the last report out, too, if it is not
// the end of an install.
func TestLastStage(t *testing.T) {
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			<-r.Context().Done()
		}
	})
	r := New(e.URL, "")
	r.Stage(StageDownloading, 0, "")
	e.wait(t, 1)
	r.Stage(StageInstalling, 0, "")
	r.Stage(StageRebooting, 0, "")
	r.Close(t.Context())
	if got := stages(e.reports()); got != "downloading rebooting" {
		t.Errorf("reported: %s; want: downloading rebooting", got)
	}
}

// TestMute holds that what comes after it is kept and watched, and not posted.
func TestMute(t *testing.T) {
	e := newEndpoint(t, nil)
	file := filepath.Join(t.TempDir(), "progress.json")
	r := New(e.URL, file)
	var watched []string
	r.Watch(func(s State) { watched = append(watched, s.Stage) })
	r.Stage(StageRebooting, 0, "")
	r.Mute()
	r.Fail(errors.New("terminated"))
	r.Close(t.Context())
	if got := stages(e.reports()); got != "rebooting" {
		t.Errorf("reported: %s; want: rebooting", got)
	}
	if s, err := read(file); err != nil || s.Stage != StageFailed || !slices.Equal(watched, []string{StageRebooting, StageFailed}) {
		t.Errorf("the file says %+v (%v), watched was %v; want both of them to have failed", s, err, watched)
	}
}

// TestCloseCancelled holds that Close does not wait when it must not.
func TestCloseCancelled(t *testing.T) {
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request, n int) { <-r.Context().Done() })
	r := New(e.URL, "")
	r.Fail(errors.New("x"))
	e.wait(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Close(ctx)
	waitFor(t, "the end of the goroutine", func() bool { return r.wait(t.Context(), 0) })
}

// TestNowhere holds that without an address, or with one that the configuration would have
// refused, only the state file is kept.
func TestNowhere(t *testing.T) {
	for _, url := range []string{"", "device-api", "ftp://localhost/", "http://", "http://a b/", "\x00"} {
		file := filepath.Join(t.TempDir(), "progress.json")
		r := New(url, file)
		r.Stage(StageInstalling, 40, "m")
		r.Close(t.Context())
		if s, err := read(file); err != nil || s != state(StageInstalling, 40, "m", "") || r.Err() != nil {
			t.Errorf("the file says %+v (%v), Err() = %v", s, err, r.Err())
		}
	}
}

func TestStateFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "ota")
	file := filepath.Join(dir, "progress.json")
	if s := bootcheck.ReadOperation(file); s != (State{Stage: bootcheck.StageIdle}) {
		t.Errorf("ReadOperation without a file = %+v, want idle", s)
	}
	// What a process left that was killed in the middle of a write.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".progress.json.17"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := New("", file)
	r.Stage(StageDownloading, 7, "a \"b\" <c>")
	waitFor(t, "the first state", func() bool { s, err := read(file); return err == nil && s.Progress == 7 })
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	r.Stage(StageVerifying, 0, "")
	r.Close(t.Context())
	after, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, after) || after.Mode().Perm() != 0o644 {
		t.Errorf("the file was not replaced, or has mode %v, want 0644", after.Mode())
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != `{"stage":"verifying","progress":0,"message":"","error":"","version":null,"bytes_done":0,"bytes_total":0,"exit":null,"schema":1}`+"\n" {
		t.Errorf("the file holds %s (%v)", b, err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("the directory holds %v (%v), want one file", names, err)
	}
	if r.Err() != nil {
		t.Error(r.Err())
	}
	for _, content := range []string{"", "{", "[]", "{}", `{"stage":3}`} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if s := bootcheck.ReadOperation(file); s != (State{Stage: bootcheck.StageIdle}) {
			t.Errorf("ReadOperation of %q = %+v, want idle", content, s)
		}
	}
}

// The end in the file carries the exit code of the command; a report does not.
func TestExitInFile(t *testing.T) {
	for _, row := range []struct {
		end  func(*Reporter)
		want string
	}{
		{func(r *Reporter) { r.Success("version 1") }, `"error":"","version":null,"bytes_done":0,"bytes_total":0,"exit":0,"schema":1}`},
		{func(r *Reporter) { r.Fail(bootcheck.Errorf(bootcheck.ExitDownloadFailed, "", "no server")) }, `"exit":6,"schema":1}`},
	} {
		file := filepath.Join(t.TempDir(), "progress.json")
		r := New("", file)
		r.Stage(StageDownloading, 0, "")
		row.end(r)
		r.Close(t.Context())
		b, err := os.ReadFile(file)
		if err != nil || !strings.HasSuffix(string(b), row.want+"\n") {
			t.Errorf("the file holds %s (%v), want %s at its end", b, err, row.want)
		}
		if err := schema.Check("progress", b); err != nil {
			t.Error(err)
		}
	}
}

func state(stage string, progress int, message, err string) State {
	return State{Stage: stage, Progress: progress, Message: message, Error: err}
}

// read is what a Reporter keeps in file; one that says nothing fails the test.
func read(file string) (State, error) {
	var s State
	data, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(data, &s)
}

// waitFor waits until ok, for as long as a slow machine may take.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no sign of %s within 30 s", what)
		}
	}
}

// TestReaders holds that a reader of the file sees one state or the next, never
// half of one and never idle meanwhile, however often it is replaced; and
// that it says idle as soon as its writer is gone.
func TestReaders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "progress.json")
	r := New("", file)
	r.Stage(StageInstalling, 0, "0")
	waitFor(t, "the file", func() bool { return bootcheck.ReadOperation(file).Stage == StageInstalling })
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var looks, changes atomic.Int64
	for range 4 {
		wg.Go(func() {
			var last State
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := bootcheck.ReadOperation(file)
				// The message says the progress again, in a word that fills some blocks.
				if s.Stage != StageInstalling || !strings.HasPrefix(s.Message, strconv.Itoa(s.Progress)) {
					t.Errorf("a reader saw %+v", s)
					return
				}
				looks.Add(1)
				if s != last {
					changes.Add(1)
				}
				last = s
			}
		})
	}
	for end := time.Now().Add(30 * time.Second); (looks.Load() < 5000 || changes.Load() < 200) && time.Now().Before(end) && !t.Failed(); {
		for p := range 101 {
			r.Stage(StageInstalling, p, strconv.Itoa(p)+strings.Repeat("x", p*9))
			time.Sleep(100 * time.Microsecond) // else most of them were never written
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d looks, %d of them saw something new", looks.Load(), changes.Load())
	if changes.Load() < 200 {
		t.Errorf("only %d looks saw something new", changes.Load())
	}
	r.Close(t.Context())
	want := State{Stage: bootcheck.StageIdle, Message: "the last install was interrupted while installing"}
	if s := bootcheck.ReadOperation(file); s != want {
		t.Errorf("no install runs and the file says %+v, want %+v", s, want)
	}
}

// TestLongText holds that what is told is of bounded length and intact characters.
func TestLongText(t *testing.T) {
	r := New("", "")
	var told State
	r.Watch(func(s State) { told = s })
	r.Fail(errors.New(strings.Repeat("ä", 5000)))
	if len(told.Message) > textMax || !utf8.ValidString(told.Message) || !strings.HasSuffix(told.Message, "ä…") ||
		!strings.HasPrefix(told.Error, "DEPLOYMENT_FAILED: ä") || len(told.Error) > textMax {
		t.Errorf("told %d and %d bytes: %+v", len(told.Message), len(told.Error), told)
	}
}

// TestStateFileTrouble holds that a state file that cannot be written delays
// no install, and is remembered once.
func TestStateFileTrouble(t *testing.T) {
	notDir := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(notDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := newEndpoint(t, nil)
	r := New(e.URL, filepath.Join(notDir, "progress.json"))
	r.Stage(StageDownloading, 0, "")
	waitFor(t, "the error", func() bool { return r.Err() != nil })
	first := r.Err()
	r.Success("")
	r.Close(t.Context())
	if first == nil || r.Err() != first {
		t.Errorf("Err() = %v, then %v", first, r.Err())
	}
	if got := stages(e.reports()); !strings.HasSuffix(got, "success") {
		t.Errorf("reported: %s", got)
	}
}

// TestManyCallers is for the race detector.
func TestManyCallers(t *testing.T) {
	e := newEndpoint(t, nil)
	r := New(e.URL, filepath.Join(t.TempDir(), "progress.json"))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for p := range 100 {
				r.Stage(all[i%len(all)], p, "")
				r.Progress(int64(p+5), 100)
			}
		})
	}
	wg.Wait()
	r.Success("")
	r.Close(t.Context())
	if got := e.reports(); got[len(got)-1].Stage != StageSuccess {
		t.Errorf("the last report is %+v", got[len(got)-1])
	}
}

// TestFlush holds that what was said just before device-api is restarted has arrived,
// also where each report takes it a moment, and that an endpoint that hangs is not
// waited for.
func TestFlush(t *testing.T) {
	e := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		time.Sleep(5 * time.Millisecond)
		io.WriteString(w, `{"ok":true}`)
	})
	r := New(e.URL, "")
	defer r.Close(t.Context())
	want := []string{StageDownloading, StageVerifying, StageToInstall, StageInstalling, StageRebooting}
	for _, stage := range want {
		r.Stage(stage, 0, "")
	}
	r.Flush(t.Context())
	var got []string
	for _, s := range e.reports() {
		got = append(got, s.Stage)
	}
	if !slices.Equal(got, want) {
		t.Errorf("device-api was told %q before its restart, want %q", got, want)
	}

	hang := make(chan struct{})
	defer close(hang)
	silent := New(newEndpoint(t, func(http.ResponseWriter, *http.Request, int) { <-hang }).URL, "")
	ctx, cancel := context.WithCancel(t.Context())
	silent.Stage(StageRebooting, 0, "")
	silent.Flush(ctx) // returns
	cancel()
	silent.Close(ctx)
	New("", "").Flush(ctx)
}
