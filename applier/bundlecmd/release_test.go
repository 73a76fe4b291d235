package bundlecmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aead.dev/minisign"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// inRelease goes to a directory with the keys release and ci, a bundle 1.ota and a channel s.channel.
func inRelease(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := errors.Join(os.MkdirAll("tree", 0o755), os.WriteFile("tree/app", nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"keygen --no-password release", "keygen --no-password ci",
		"create --dir tree --version 1 --release 1 --model x1 --key release.key -o 1.ota",
		"channel delegate --key release.key --name s --to ci.pub --not-after 2090-12-31 -o s.delegation",
		"channel init --delegation s.delegation --key ci.key s.channel",
	} {
		if code, out := runIn(t.Context(), strings.Fields(line)...); code != 0 {
			t.Fatalf("%s: exit %d: %s", line, code, out)
		}
	}
}

func runIn(ctx context.Context, args ...string) (bootcheck.ExitCode, string) {
	var out bytes.Buffer
	code := Main(ctx, args, strings.NewReader(""), &out, &out)
	return code, out.String()
}

// TestInterrupted holds that a command which reads a whole bundle ends when it is told to.
func TestInterrupted(t *testing.T) {
	inRelease(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before, _ := os.ReadFile("s.channel")
	for _, line := range []string{"channel add --key ci.key s.channel 1.ota", "index ."} {
		if code, out := runIn(ctx, strings.Fields(line)...); code != bootcheck.ExitFailed || !strings.HasPrefix(out, "ota-bundle: ") || !strings.HasSuffix(out, "interrupted\n") {
			t.Errorf("%s: exit %d, want %d: %s", line, code, bootcheck.ExitFailed, out)
		}
	}
	if _, out := runIn(ctx, "channel", "add", "--json", "--key", "ci.key", "s.channel", "1.ota"); !strings.Contains(out, `"message": "interrupted"`) {
		t.Errorf("channel add --json: %s", out)
	}
	if after, _ := os.ReadFile("s.channel"); !bytes.Equal(before, after) {
		t.Error("the channel was changed")
	}
}

// TestSignLeavesBehind holds that a program which a command of sign --with leaves behind, an agent of
// a key perhaps, is not waited for, and that the signature counts.
func TestSignLeavesBehind(t *testing.T) {
	t.Parallel()
	_, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	want, file := bundle.Sign(key, []byte("x"), "x"), filepath.Join(t.TempDir(), "sig")
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c := &command{stderr: new(bytes.Buffer)}
	if sig, err := c.signWith(t.Context(), "sleep 60 & cat "+file, []byte("x")); !bytes.Equal(sig, want) {
		t.Errorf("signWith: %q, %v", sig, err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestKeygenAtOnce holds that of commands that make one key at once one does, and that its files
// are a pair.
func TestKeygenAtOnce(t *testing.T) {
	inRelease(t)
	for i := range 50 {
		name := fmt.Sprint("k", i)
		var made atomic.Int32
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if code, _ := runIn(t.Context(), "keygen", "--no-password", name); code == 0 {
					made.Add(1)
				}
			})
		}
		wg.Wait()
		if made.Load() != 1 {
			t.Errorf("%d commands made the key, want 1", made.Load())
		}
		if code, out := runIn(t.Context(), "sign", "--file", "--force", "--key", name+".key", "--pub", name+".pub", "tree/app"); code != 0 {
			t.Errorf("exit %d: %s", code, out)
		}
	}
	if left, _ := filepath.Glob(".*"); len(left) > 0 {
		t.Errorf("%q were left", left)
	}
}

// TestKeygenInADropBox holds that a key is made in a directory that its user may not read, and that
// no second name of the private key is left there.
func TestKeygenInADropBox(t *testing.T) {
	const nobody = 65534
	t.Chdir(t.TempDir()) // the directories above need not be open to that user
	if err := os.Chmod(".", 0o300); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(".", nobody, -1); err != nil {
			t.Fatal(err)
		}
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if _, err := unix.SetfsuidRetUid(nobody); err != nil {
			t.Fatal(err)
		}
		defer unix.SetfsuidRetUid(0)
	}
	code, out := runIn(t.Context(), "keygen", "--no-password", "k")
	if err := os.Chmod(".", 0o700); err != nil {
		t.Fatal(err)
	}
	files, _ := os.ReadDir(".")
	if code != 0 || len(files) != 2 {
		t.Errorf("exit %d, %d files, want 2: %v: %s", code, len(files), files, out)
	}
}

// TestPushTellsNoSecret holds that the query of the address that an upload goes to is in no
// message, and that without a home no credentials of the current directory are used.
func TestPushTellsNoSecret(t *testing.T) {
	inRelease(t)
	t.Setenv("HOME", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	if err := os.MkdirAll(".docker", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(".docker/config.json", []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", "/upload?_state=marker-4711")
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPut:
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	code, out := runIn(t.Context(), "push", "1.ota", "oci://"+srv.Listener.Addr().String()+"/x1:1")
	if code != bootcheck.ExitFailed || !strings.Contains(out, "cannot push 1.ota: ") {
		t.Errorf("exit %d, want %d: %s", code, bootcheck.ExitFailed, out)
	}
	if strings.Contains(out, "marker-4711") {
		t.Errorf("it shows the secret of the upload: %s", out)
	}
}

// TestPushAfterPodmanLogin holds that the credentials are found where podman login puts them.
func TestPushAfterPodmanLogin(t *testing.T) {
	inRelease(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch user, password, _ := r.BasicAuth(); {
		case user != "joe" || password != "pw":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodPut:
			w.WriteHeader(http.StatusCreated)
		}
	}))
	defer srv.Close()
	host := srv.Listener.Addr().String()
	t.Setenv("HOME", ".")
	t.Setenv("XDG_RUNTIME_DIR", "run")
	if err := errors.Join(os.MkdirAll("run/containers", 0o700), os.WriteFile("run/containers/auth.json", []byte(`{"auths":{"`+host+`":{"auth":"am9lOnB3"}}}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	if code, out := runIn(t.Context(), "push", "1.ota", "oci://"+host+"/x1:1"); code != 0 {
		t.Errorf("exit %d, want 0: %s", code, out)
	}
}

// TestDelegationThatEnded holds that the operator learns what ended, and what to do.
func TestDelegationThatEnded(t *testing.T) {
	inRelease(t)
	code, out := runIn(t.Context(), "channel", "add", "--key", "ci.key", "--made", "2091-01-01T00:00:00Z", "s.channel", "1.ota")
	if code != bootcheck.ExitRefused || !strings.Contains(out, "its delegation counted until 2090-12-31T23:59:59Z") || !strings.Contains(out, "channel delegate") {
		t.Errorf("exit %d, want %d and what to do: %s", code, bootcheck.ExitRefused, out)
	}
}
