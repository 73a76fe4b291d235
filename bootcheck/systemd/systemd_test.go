package systemd

// What can be seen without a systemd. That the calls do what they say is tested
// on a real one, in integration/systemdtest.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// listen is a Manager of a peer that serve plays, once a connection.
func listen(t *testing.T, serve func(net.Conn)) *Manager {
	t.Helper()
	m := &Manager{private: filepath.Join(t.TempDir(), "private")}
	l, err := net.Listen("unix", m.private)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return m
}

// peer greets and answers calls as PID 1 does, until answer has none.
func peer(conn net.Conn, answer func(message) [][]byte) {
	b := bus{r: bufio.NewReader(conn), ended: map[string]string{}}
	want := fmt.Sprintf("\x00AUTH EXTERNAL %x\r\n", fmt.Appendf(nil, "%d", os.Geteuid()))
	if line, _ := b.r.ReadString('\n'); line != want {
		io.WriteString(conn, "REJECTED EXTERNAL\r\n")
		return
	}
	if line, _ := b.r.ReadString('\n'); line != "BEGIN\r\n" || b.r.Buffered() > 0 {
		return
	}
	io.WriteString(conn, "OK 0123456789abcdef0123456789abcdef\r\n")
	for {
		m, err := b.read()
		if err != nil {
			return
		}
		answers := answer(m)
		if answers == nil {
			return
		}
		for _, a := range answers {
			conn.Write(a)
		}
	}
}

// reply answers call with values of the types in signature.
func reply(call message, signature string, body []byte) []byte {
	m := marshal(methodReturn, 1, signature, body, nil)
	// REPLY_SERIAL is no string: it goes before the fields that marshal writes.
	head := append([]byte{fieldReplySerial, 1, 'u', 0}, le(call.serial)...)
	fields := append(head, m[16:len(m)-len(body)]...)
	size := 8 + binary.LittleEndian.Uint32(m[12:])
	return slices.Concat(m[:12], le(size), fields, body)
}

func le(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// values is D-Bus's form of strings, one after the other.
func values(texts ...string) (b []byte) {
	for _, t := range texts {
		b = appendString(b, t)
	}
	return b
}

func TestJobs(t *testing.T) {
	removed := func(path, result string) []byte {
		return marshal(signal, 9, "uoss", append(le(17), values(path, "x.service", result)...), []field{{fieldMember, 's', "JobRemoved"}})
	}
	job := "/org/freedesktop/systemd1/job/17"
	for name, tt := range map[string]struct {
		answer func(message) [][]byte
		want   string
	}{
		"done": {func(m message) [][]byte {
			return [][]byte{reply(m, "o", values(job)), removed("/another", "failed"), removed(job, "done")}
		}, ""},
		"done before systemd answers": {func(m message) [][]byte { return [][]byte{removed(job, "done"), reply(m, "o", values(job))} }, ""},
		"failed": {func(m message) [][]byte { return [][]byte{reply(m, "o", values(job)), removed(job, "failed")} },
			`cannot restart x.service: the unit failed`},
		"refused": {func(m message) [][]byte {
			refusal := reply(m, "s", values("Shutting down."))
			refusal[1] = methodError
			return [][]byte{refusal}
		}, `cannot restart x.service: Shutting down.`},
		"never ends": {func(m message) [][]byte { return [][]byte{reply(m, "o", values(job))} },
			`cannot wait for the restart of x.service: context deadline exceeded`},
		"no D-Bus": {func(m message) [][]byte { return [][]byte{[]byte("HTTP/1.1 400 Bad Request")} },
			`cannot restart x.service: it does not speak D-Bus as this program does`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := listen(t, func(conn net.Conn) {
				peer(conn, func(m message) [][]byte {
					if m.member != "RestartUnit" || !reflect.DeepEqual(m.body, []any{"x.service", "replace"}) {
						t.Errorf("systemd is asked for %s %q", m.member, m.body)
					}
					return tt.answer(m)
				})
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := m.Restart(ctx, "x.service"); fmt.Sprint(err) != cmp.Or(tt.want, "<nil>") {
				t.Errorf("Restart = %v, want %s", err, tt.want)
			}
		})
	}
}

// TestSystemBus: another user than root, and a sandbox that hides PID 1's socket, ask by
// way of the D-Bus daemon, which wants to know them first.
func TestSystemBus(t *testing.T) {
	calls := make(chan string, 10)
	m := listen(t, func(conn net.Conn) {
		peer(conn, func(m message) [][]byte {
			calls <- m.member
			return [][]byte{reply(m, "v", slices.Concat([]byte{1, 't', 0, 0, 0, 0, 0, 0}, le(30_000_000), le(0)))}
		})
	})
	m.private, m.system = "", m.private
	if d, err := m.RuntimeWatchdog(t.Context()); d != 30*time.Second || err != nil {
		t.Errorf("RuntimeWatchdog = %s, %v, want 30s", d, err)
	}
	close(calls)
	if got := slices.Collect(func(yield func(string) bool) {
		for c := range calls {
			yield(c)
		}
	}); !slices.Equal(got, []string{"Hello", "AddMatch", "Get"}) {
		t.Errorf("the daemon is asked for %q", got)
	}
}

// TestInhibited: a lock that delays a shutdown holds nothing, nor does one on something else.
func TestInhibited(t *testing.T) {
	locks := [][4]string{
		{"sleep", "NetworkManager", "it goes offline", "delay"},
		{"shutdown:sleep", "shutdown-logger", "it writes", "delay"},
		{"handle-power-key:idle", "desktop", "it handles them", "block"},
	}
	m := listen(t, func(conn net.Conn) {
		peer(conn, func(m message) [][]byte {
			var body []byte
			for _, l := range locks {
				text := l[:]
				for body = pad(body, 8); len(text) > 0; text = text[1:] {
					body = appendString(body, text[0])
				}
				body = append(pad(body, 4), slices.Concat(le(0), le(42))...)
			}
			return [][]byte{reply(m, "a(ssssuu)", slices.Concat(le(uint32(len(body))), le(0), body))}
		})
	})
	m.private, m.system = "", m.private
	if why, err := m.inhibited(t.Context()); why != "" || err != nil {
		t.Errorf("Inhibited = %q, %v, want none", why, err)
	}
	locks = append(locks, [4]string{"idle:sleep:shutdown", "printer", "a print is under way", "block"})
	if why, err := m.inhibited(t.Context()); why != "printer: a print is under way" || err != nil {
		t.Errorf("Inhibited = %q, %v", why, err)
	}
	if _, err := (&Manager{system: "/nowhere"}).inhibited(t.Context()); err == nil {
		t.Error("no bus is no error")
	}
}

// TestDecode: each type of the specification, and no byte is too few, or too many, for a panic.
func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		signature, bytes string
		want             any
	}{
		{"y", "07", byte(7)},
		{"b", "01000000", true},
		{"q", "0102", uint16(0x201)},
		{"i", "ffffffff", int32(-1)},
		{"u", "ffffffff", uint32(1<<32 - 1)},
		{"t", "0100000000000080", uint64(1<<63 + 1)},
		{"s", "020000006869" + "00", "hi"},
		{"o", "01000000" + "2f00", "/"},
		{"g", "02" + "6173" + "00", "as"},
		{"v", "017500" + "00" + "05000000", uint32(5)}, // the value begins at a multiple of 4
		{"ay", "03000000" + "010203", []byte{1, 2, 3}},
		{"as", "0d000000" + "01000000" + "6100" + "0000" + "00000000" + "00", []string{"a", ""}},
		{"at", "08000000" + "00000000" + "0200000000000000", []any{uint64(2)}},
		{"at", "00000000" + "00000000", []any(nil)}, // what aligns the first is there without one
		{"(yu)", "01000000" + "02000000", []any{byte(1), uint32(2)}},
		{"a{sv}", "12000000" + "00000000" + "01000000" + "6100" + "0173" + "00" + "000000" + "01000000" + "6200", []any{[]any{"a", "b"}}},
		{"a(ss)", "00000000" + "00000000", []any(nil)},
		{"z", "00000000", nil},
		{"a", "00000000", nil},
		{"(y", "00", nil},
		{"as", "ffffffff", nil},
		{"ay", "ffffffff", nil},
		{"s", "ffffffff" + "00", nil},
		{strings.Repeat("(", 100) + "y" + strings.Repeat(")", 100), "00", nil},
	} {
		b, err := hex.DecodeString(tt.bytes)
		if err != nil {
			t.Fatal(err)
		}
		d := decoder{b: b}
		got, rest := d.value(tt.signature)
		if bad := tt.want == nil; d.bad != bad || !bad && (rest != "" || d.at != len(b) || !reflect.DeepEqual(got, tt.want)) {
			t.Errorf("%s of %s = %#v, bad %v at %d, want %#v", tt.signature, tt.bytes, got, d.bad, d.at, tt.want)
		}
		for n := range b {
			short := decoder{b: b[:n]}
			if short.value(tt.signature); !short.bad {
				t.Errorf("%s: %d of %d bytes are enough", tt.signature, n, len(b))
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(reply(message{serial: 1}, "s", values("x")))
	f.Add(marshal(signal, 1, "uoss", append(le(17), values("/j", "x", "done")...), []field{{fieldMember, 's', "JobRemoved"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		(&bus{r: bufio.NewReader(bytes.NewReader(b)), ended: map[string]string{}}).read()
	})
}

func TestUnitPath(t *testing.T) {
	for name, want := range map[string]string{
		"device-api.service": "/org/freedesktop/systemd1/unit/device_2dapi_2eservice",
		"9p@0.service":       "/org/freedesktop/systemd1/unit/_39p_400_2eservice",
	} {
		if got := unitPath(name); got != want {
			t.Errorf("unitPath(%q) = %s, want %s", name, got, want)
		}
	}
}

// TestAFrozenPID1HoldsNoCaller: a PID 1 that crashed still has its socket; the
// kernel accepts, and no process answers.
func TestAFrozenPID1HoldsNoCaller(t *testing.T) {
	left := make(chan error, 1)
	m := listen(t, func(conn net.Conn) {
		_, err := io.Copy(io.Discard, conn)
		left <- err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := m.Unit(ctx, "x.service")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
		t.Errorf("Unit = %v after %s, want %v", err, time.Since(start), context.DeadlineExceeded)
	}
	// The half-made connection is given up, not leaked.
	select {
	case err := <-left:
		if err != nil {
			t.Errorf("the connection ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the connection stays open")
	}
}

// TestConnectsAgain: PID 1 re-executes itself. It drops what it has accepted, before it
// greets and after, and is back a moment later.
func TestConnectsAgain(t *testing.T) {
	var tries atomic.Int32
	m := listen(t, func(conn net.Conn) {
		defer conn.Close()
		switch tries.Add(1) {
		case 1:
		case 2:
			bufio.NewReader(conn).ReadString('\n')
		case 3:
			peer(conn, func(message) [][]byte { return nil })
		default:
			peer(conn, func(m message) [][]byte { return [][]byte{reply(m, "", nil)} })
		}
	})
	if err := m.ResetFailed(t.Context(), "x.service"); err != nil || tries.Load() != 4 {
		t.Errorf("ResetFailed = %v after %d tries, want nil after 4", err, tries.Load())
	}
	if err := os.Remove(m.private); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", m.private)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close() // as PID 1 between its close and its bind
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	if err := m.ResetFailed(ctx, "x.service"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the context ends first: %v", err)
	}
	start := time.Now()
	m.private += "/x"
	if err := m.ResetFailed(t.Context(), "x.service"); !errors.Is(err, syscall.ENOTDIR) || time.Since(start) > patience/2 {
		t.Errorf("another error is no reason to wait: %v after %s", err, time.Since(start))
	}
}

func TestUnitOf(t *testing.T) {
	got := unitOf(map[string]any{
		"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "Result": "exit-code",
		"NRestarts": uint32(4), "MainPID": uint32(0), "ExecMainCode": int32(1), "ExecMainStatus": int32(3),
		"ActiveEnterTimestampMonotonic": uint64(1_500_000), "InvocationID": []byte{0xab, 0x01},
		"Job": []any{uint32(17), "/org/freedesktop/systemd1/job/17"},
	})
	want := Unit{
		Load: "loaded", Active: "failed", Sub: "failed", Result: "exit-code", Job: 17, NRestarts: 4,
		ExecMainCode: 1, ExecMainStatus: 3, ActiveEnter: 1500 * time.Millisecond, InvocationID: "ab01",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
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
