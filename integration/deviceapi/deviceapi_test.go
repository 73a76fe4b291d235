package deviceapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine/debian"
)

// patience is for a machine that does much else; nothing here takes a second.
const patience = 30 * time.Second

var binary = sync.OnceValues(func() ([]byte, error) {
	return debian.Program(context.Background(), deviceapi.Package)
})

// process is a running device-api with the test in systemd's place.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string
	notes  chan string // what it told systemd
	exited chan error
}

// tree makes a version with that configuration.
func tree(t *testing.T, version string, c deviceapi.Config) string {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "v"+version)
	// A child that is forked meanwhile has the binary open for writing until its own
	// exec, and the version could not be run ("text file busy", go.dev/issue/22315).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := deviceapi.Tree(dir, version, deviceapi.Options{Binary: bin, Config: c}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start runs the version in dir with a watchdog of 400 ms.
func start(t *testing.T, dir, state string) *process {
	t.Helper()
	run := t.TempDir()
	socket := filepath.Join(run, "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	// Its words come through a file, so that no copying goroutine is needed to wait for.
	stderr, err := os.Create(filepath.Join(run, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	p := &process{t: t, notes: make(chan string, 1000), exited: make(chan error, 1)}
	p.cmd = exec.Command(filepath.Join(dir, "bin", "device-api"), "-listen", "127.0.0.1:0")
	p.cmd.Env = []string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=400000", "DEVICE_API_STATE=" + state}
	p.cmd.Stderr = stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		p.exited <- p.cmd.Wait()
		close(over)
	}()
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := notify.Read(b)
			if err != nil {
				return
			}
			p.notes <- string(b[:n])
		}
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-over
		notify.Close()
	})
	address := regexp.MustCompile(`answers on (\S+)`)
	for deadline := time.Now().Add(patience); p.url == ""; time.Sleep(time.Millisecond) {
		said, _ := os.ReadFile(stderr.Name())
		if m := address.FindSubmatch(said); m != nil {
			p.url = "http://" + string(m[1])
		}
		select {
		case err := <-p.exited:
			p.exited <- err
			return p // died before it listened
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("device-api did not say where it answers, but: %s", said)
		}
	}
	return p
}

func (p *process) waitNote(note string) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got := <-p.notes:
			if slices.Contains(strings.Split(got, "\n"), note) {
				return
			}
		case <-deadline:
			p.t.Fatalf("systemd was never told %s", note)
		}
	}
}

// quiet fails if systemd is told note within d.
func (p *process) quiet(note string, d time.Duration) {
	p.t.Helper()
	for over := time.After(d); ; {
		select {
		case got := <-p.notes:
			if slices.Contains(strings.Split(got, "\n"), note) {
				p.t.Fatalf("systemd was told %s", note)
			}
		case <-over:
			return
		}
	}
}

func (p *process) exitCode() int {
	p.t.Helper()
	select {
	case err := <-p.exited:
		p.exited <- err
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			return e.ExitCode()
		}
		if err != nil {
			p.t.Fatal(err)
		}
		return 0
	case <-time.After(patience):
		p.t.Fatal("device-api did not exit")
		return 0
	}
}

func (p *process) do(ctx context.Context, method, path, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

func (p *process) health() (code int, version string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	code, body, err := p.do(ctx, "GET", "/health", "")
	if err != nil {
		p.t.Fatal(err)
	}
	var answer struct{ Status, Version string }
	if err := json.Unmarshal(body, &answer); err != nil {
		p.t.Fatalf("%s: %v", body, err)
	}
	if (answer.Status == "ok") != (code == 200) {
		p.t.Errorf("/health = %d with status %q", code, answer.Status)
	}
	return code, answer.Version
}

func TestGood(t *testing.T) {
	p := start(t, tree(t, "1.1.0", deviceapi.Config{}), t.TempDir())
	p.waitNote("READY=1")
	p.waitNote("WATCHDOG=1")
	p.waitNote("WATCHDOG=1")
	if code, version := p.health(); code != 200 || version != "1.1.0" {
		t.Errorf("/health = %d, %q, want 200, 1.1.0", code, version)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exitCode(); code != 0 {
		t.Errorf("stopped by systemd it exits %d, want 0", code)
	}
}

func TestBehaves(t *testing.T) {
	for behave, check := range map[deviceapi.Behave]func(*process){
		deviceapi.Exit: func(p *process) {
			if code := p.exitCode(); code != 1 {
				p.t.Errorf("exits %d, want 1", code)
			}
			p.quiet("READY=1", 0)
		},
		deviceapi.ExitAfter: func(p *process) {
			p.waitNote("READY=1")
			if code := p.exitCode(); code != 1 {
				p.t.Errorf("exits %d, want 1", code)
			}
		},
		deviceapi.Health500: func(p *process) {
			p.waitNote("WATCHDOG=1")
			if code, _ := p.health(); code != 500 {
				p.t.Errorf("/health = %d, want 500", code)
			}
		},
		deviceapi.HealthOld: func(p *process) {
			p.waitNote("WATCHDOG=1")
			if code, version := p.health(); code != 200 || version != "1.0.9" {
				p.t.Errorf("/health = %d, %q, want 200, 1.0.9", code, version)
			}
		},
		deviceapi.Hang: func(p *process) {
			p.waitNote("READY=1")
			p.quiet("WATCHDOG=1", 500*time.Millisecond)
			if code, _ := p.health(); code != 200 {
				p.t.Errorf("/health = %d, want 200", code)
			}
		},
		deviceapi.NeverReady: func(p *process) {
			p.quiet("READY=1", 500*time.Millisecond)
			if code, _ := p.health(); code != 200 {
				p.t.Errorf("/health = %d, want 200", code)
			}
		},
		deviceapi.NeverAnswers: func(p *process) {
			p.waitNote("WATCHDOG=1")
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			if code, _, err := p.do(ctx, "GET", "/health", ""); !errors.Is(err, context.DeadlineExceeded) {
				p.t.Errorf("/health = %d, %v, want no answer", code, err)
			}
			if code, _, err := p.do(context.Background(), "GET", "/api/v1.0/ota/reports", ""); code != 200 {
				p.t.Errorf("reports = %d, %v, want 200", code, err)
			}
		},
		deviceapi.HealthEmpty: func(p *process) {
			if code, _, err := p.do(p.t.Context(), "GET", "/health", ""); !errors.Is(err, io.EOF) {
				p.t.Errorf("/health = %d, %v, want the end of the connection", code, err)
			}
		},
		deviceapi.NotHTTP: func(p *process) {
			if code, _, err := p.do(p.t.Context(), "GET", "/health", ""); err == nil || !strings.Contains(err.Error(), "malformed HTTP") {
				p.t.Errorf("/health = %d, %v, want what is no HTTP", code, err)
			}
		},
		deviceapi.Redirects: func(p *process) {
			// The client follows it, to where all is well.
			code, body, err := p.do(p.t.Context(), "GET", "/health", "")
			if code != 200 || !strings.Contains(string(body), `"version":"1.2.0"`) {
				p.t.Errorf("/health leads to %d, %s, %v, want 200 and version 1.2.0", code, body, err)
			}
			none := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			resp, err := none.Get(p.url + "/health")
			if err != nil {
				p.t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 302 {
				p.t.Errorf("/health = %d, want 302", resp.StatusCode)
			}
		},
		deviceapi.DiesAsked: func(p *process) {
			p.waitNote("READY=1")
			if code, _ := p.health(); code != 200 {
				p.t.Errorf("/health = %d, want 200", code)
			}
			if code, _, err := p.do(p.t.Context(), "GET", "/health", ""); err == nil {
				p.t.Errorf("/health = %d the second time, want no answer", code)
			}
			if code := p.exitCode(); code != 1 {
				p.t.Errorf("exits %d, want 1", code)
			}
		},
	} {
		t.Run(string(behave), func(t *testing.T) {
			t.Parallel()
			c := deviceapi.Config{Behave: behave, After: 0.3, OldVersion: "1.0.9"}
			check(start(t, tree(t, "1.2.0", c), t.TempDir()))
		})
	}
}

func TestTurnsBad(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "bad")
	dir := tree(t, "1.2.0", deviceapi.Config{BadIfExists: flag, BadBehave: deviceapi.Health500})
	p := start(t, dir, t.TempDir())
	p.waitNote("READY=1")
	if code, _ := p.health(); code != 200 {
		t.Fatalf("/health = %d before it turned bad", code)
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _ := p.health(); code != 500 {
		t.Errorf("/health = %d, want 500", code)
	}
	if err := os.Remove(flag); err != nil {
		t.Fatal(err)
	}
	if code, _ := p.health(); code != 200 {
		t.Errorf("/health = %d after it turned good again", code)
	}

	p = start(t, tree(t, "1.3.0", deviceapi.Config{BadIfExists: flag}), t.TempDir())
	p.waitNote("READY=1")
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := p.exitCode(); code != 1 {
		t.Errorf("turned bad it exits %d, want 1", code)
	}
}

func TestReports(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	state := filepath.Join(t.TempDir(), "a", "state")
	p := start(t, tree(t, "1.0.0", deviceapi.Config{}), state)
	for body, want := range map[string]int{
		`{"stage":"downloading","progress":5,"message":"m","error":""}`: 204,
		"not json": 400,
		"null":     400,
		`{"message":"` + strings.Repeat("x", 70<<10) + `"}`: 400,
	} {
		code, answer, err := p.do(ctx, "POST", "/api/v1.0/ota/report", body)
		if code != want || err != nil {
			t.Errorf("POST %.40s = %d, %s, %v, want %d", body, code, answer, err, want)
		}
	}
	// The power goes while a report is written: half a line is left.
	p.cmd.Process.Kill()
	f, err := os.OpenFile(filepath.Join(state, "reports.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "\n"+`{"time":"2026-01-01T00:00:00Z","vers`)
	f.Close()

	p = start(t, tree(t, "1.1.0", deviceapi.Config{}), state)
	if code, _, err := p.do(ctx, "POST", "/api/v1.0/ota/report", `{"stage":"success","progress":100}`); code != 204 {
		t.Fatal(code, err)
	}
	_, answer, err := p.do(ctx, "GET", "/api/v1.0/ota/reports", "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := deviceapi.ParseReports(answer)
	if err != nil || len(got) != 2 {
		t.Fatalf("reports = %s, %v, want two", answer, err)
	}
	for i, want := range []struct {
		version string
		report  deviceapi.Report
	}{
		{"1.0.0", deviceapi.Report{Stage: "downloading", Progress: 5, Message: "m"}},
		{"1.1.0", deviceapi.Report{Stage: "success", Progress: 100}},
	} {
		if got[i].Version != want.version || got[i].Report() != want.report || time.Since(got[i].Time) > patience {
			t.Errorf("report %d = %s %+v at %s, want %+v", i, got[i].Version, got[i].Report(), got[i].Time, want)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `{"version":""}`, `{"version":"1","behave":"explode"}`,
		`{"version":"1","bad_behave":"exit"}`, `{"version":"1","behave":"exit","bad_if_exists":"/x"}`,
	} {
		dir := tree(t, "1.0.0", deviceapi.Config{})
		if err := os.WriteFile(filepath.Join(dir, "etc", "device-api.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if code := start(t, dir, t.TempDir()).exitCode(); code != 1 {
			t.Errorf("with %q it exits %d, want 1", text, code)
		}
	}
}

func TestTree(t *testing.T) {
	o := deviceapi.Options{
		Binary: []byte("binary"), Payload: 1 << 20, Extra: map[string][]byte{"share/doc/x": []byte("x")},
		Config: deviceapi.Config{Behave: deviceapi.Health500},
	}
	make := func(version string) map[string]string {
		dir := filepath.Join(t.TempDir(), "tree")
		for range 2 { // the second time over the first
			if err := deviceapi.Tree(dir, version, o); err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			var content []byte
			if info.Mode().IsRegular() {
				content, err = os.ReadFile(path)
			}
			got[strings.TrimPrefix(path, dir+"/")] = info.Mode().String() + string(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	a, again, b := make("1.0.0"), make("1.0.0"), make("1.1.0")
	for name, want := range a {
		if again[name] != want {
			t.Errorf("%s is another the second time", name)
		}
		same := b[name] == want
		differs := name == "etc/device-api.json" || name == "lib/version.txt" || name == "lib/payload" || name == "lib/tope/1/core.so"
		if same == differs {
			t.Errorf("%s of 1.0.0 and of 1.1.0: the same %v, want %v", name, same, !differs)
		}
	}
	if got := a["bin/device-api"]; got != "-rwxr-xr-xbinary" {
		t.Errorf("bin/device-api = %q", got)
	}
	if got := a["lib/core.so"]; !strings.HasPrefix(got, "L") {
		t.Errorf("lib/core.so = %q, want a symbolic link", got)
	}
	if err := deviceapi.Tree(t.TempDir(), "1.0.0", deviceapi.Options{}); err == nil {
		t.Error("Tree without a binary succeeded")
	}
	o.Config.Behave = "explode"
	if err := deviceapi.Tree(t.TempDir(), "1.0.0", o); err == nil {
		t.Error("Tree with an unknown behaviour succeeded")
	}
}
