package systemd

// What can be seen without a systemd. That the calls do what they say is tested
// on a real one, in integration/systemdtest.

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

// TestAFrozenPID1HoldsNobody: a PID 1 that crashed still has its socket; the
// kernel accepts, and nobody answers.
func TestAFrozenPID1HoldsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &Conn{dial: func(life context.Context) (*bus.Conn, error) {
		return bus.NewConnection(func() (*dbus.Conn, error) {
			conn, err := dbus.Dial("unix:path="+path, dbus.WithContext(life))
			if err != nil {
				return nil, err
			}
			if err := conn.Auth([]dbus.Auth{dbus.AuthExternal("0")}); err != nil {
				conn.Close()
				return nil, err
			}
			return conn, nil
		})
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = c.Unit(ctx, "x.service")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
		t.Errorf("Unit = %v after %s, want %v", err, time.Since(start), context.DeadlineExceeded)
	}
	// The half-made connection is given up, not leaked.
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection stays open: %v", err)
	}
}

func TestConnectingWaitsForAPID1ThatReexecutes(t *testing.T) {
	final := errors.New("not allowed")
	for _, tt := range []struct {
		name  string
		errs  []error // of each try; the last one repeats
		tries int
		want  error
		took  time.Duration
	}{
		{"comes back", []error{syscall.ECONNREFUSED, io.EOF, dbus.ErrClosed, syscall.EPIPE, syscall.ECONNRESET, final}, 6, final, 250 * time.Millisecond},
		{"never comes back", []error{syscall.ECONNREFUSED}, 302, syscall.ECONNREFUSED, patience + 50*time.Millisecond},
		{"another error is no reason to wait", []error{final}, 1, final, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				c := &Conn{dial: func(context.Context) (*bus.Conn, error) {
					tries++
					return nil, tt.errs[min(tries, len(tt.errs))-1]
				}}
				start := time.Now()
				_, err := c.connected(t.Context())
				if !errors.Is(err, tt.want) || tries != tt.tries || time.Since(start) != tt.took {
					t.Errorf("%v after %d tries and %s, want %v after %d and %s", err, tries, time.Since(start), tt.want, tt.tries, tt.took)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := &Conn{dial: func(context.Context) (*bus.Conn, error) { return nil, syscall.ECONNREFUSED }}
		ctx, cancel := context.WithTimeout(t.Context(), 1020*time.Millisecond) // between two tries
		defer cancel()
		_, err := c.connected(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the context ends first: %v", err)
		}
	})
}

func TestAfterClose(t *testing.T) {
	c := &Conn{dial: func(context.Context) (*bus.Conn, error) {
		t.Error("it connects again")
		return nil, io.EOF
	}}
	c.Close()
	c.Close()
	if _, err := c.Unit(t.Context(), "x.service"); !errors.Is(err, errClosed) {
		t.Errorf("Unit after Close = %v", err)
	}
}

func TestUnitOf(t *testing.T) {
	got := unitOf(map[string]any{
		"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "Result": "exit-code",
		"NRestarts": uint32(4), "MainPID": uint32(0), "ExecMainCode": int32(1), "ExecMainStatus": int32(3),
		"ActiveEnterTimestampMonotonic": uint64(1_500_000), "InvocationID": []byte{0xab, 0x01},
		"Job": []any{uint32(17), dbus.ObjectPath("/org/freedesktop/systemd1/job/17")},
	})
	want := Unit{
		Load: "loaded", Active: "failed", Sub: "failed", Result: "exit-code", Job: 17, NRestarts: 4,
		ExecMainCode: 1, ExecMainStatus: 3, ActiveEnter: 1500 * time.Millisecond, InvocationID: "ab01",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.String() != "failed (failed), result exit-code" {
		t.Errorf("String() = %q", got)
	}
	// Nothing, or of another type, is zero and never a panic.
	odd := unitOf(map[string]any{"LoadState": 3, "NRestarts": "x", "Job": []any{"x"}, "InvocationID": nil})
	if !reflect.DeepEqual(odd, Unit{}) {
		t.Errorf("odd properties: %+v", odd)
	}
}

func TestWatchdogOf(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       time.Duration
		fails      bool
	}{
		{"as godbus prints it", "@t 30000000", 30 * time.Second, false},
		{"without its type", "30000000", 30 * time.Second, false},
		{"none", "@t 0", 0, false},
		{"what the device does by default", "@t 18446744073709551615", 0, false},
		{"longer than a Duration", "@t 9223372036854775807", 0, false},
		{"no number", "@t many", 0, true},
		{"nothing", "", 0, true},
	} {
		if got, err := watchdogOf(tt.text); got != tt.want || (err != nil) != tt.fails {
			t.Errorf("%s: watchdogOf(%q) = %s, %v, want %s", tt.name, tt.text, got, err, tt.want)
		}
	}
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		how, status int32
		code        int
		ok          bool
	}{
		{0, 0, 0, false}, // no main process, or it has not ended
		{cldExited, 0, 0, true},
		{cldExited, 8, 8, true},
		{cldKilled, int32(syscall.SIGKILL), 137, true},
		{cldDumped, int32(syscall.SIGSEGV), 139, true},
		{6, 0, 0, false}, // CLD_CONTINUED
	} {
		if code, ok := (Unit{ExecMainCode: tt.how, ExecMainStatus: tt.status}).exitCode(); code != tt.code || ok != tt.ok {
			t.Errorf("code %d, status %d: %d, %v, want %d, %v", tt.how, tt.status, code, ok, tt.code, tt.ok)
		}
	}
}
