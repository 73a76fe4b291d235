package systemdtest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	page "github.com/tope-ota/ota/applier/screen"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/docs/schema"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// screen asks as a screen does, until there is a file /data/stop, and prints for
// each answer how many microseconds it took and its last line. Its arguments are
// what it sleeps between two: at least, and at most so much more, in milliseconds.
const screen = `
while [ ! -e /data/stop ]; do
	began=${EPOCHREALTIME/./} lines=()
	exec 3<>/dev/tcp/127.0.0.1/12315 && printf 'GET /api/v1.0/progress HTTP/1.0\r\n\r\n' >&3 && mapfile -t lines <&3
	exec 3>&-
	echo "$((${EPOCHREALTIME/./} - began)) ${lines[-1]:-lost}"
	sleep "0.$(printf %03d $(($1 + RANDOM % $2)))"
done`

// What a screen is answered, by the units as they are installed: while device-api
// restarts, across the end and the start of the service, and after a power cut; and
// what a program reads of an install that was handed to its unit.
func TestProgress(t *testing.T) { onDevices(t, nil, progress) }

func progress(s *served, _ debian.Suite) {
	d, ctx := s.Device, s.Ctx

	s.Run("the first request starts it", func(t *testing.T) {
		s.Out("sh", "-c", "systemctl is-system-running --wait || true") // the agent answers before that; degraded: nothing is installed
		if got := s.Show("ota-progress.socket", "ActiveState"); got != "active" {
			t.Errorf("the socket is %s, want active", got)
		}
		if got := s.Show("ota-progress.service", "ActiveState"); got != "inactive" {
			t.Errorf("the service is %s before a request, want inactive", got)
		}
		if got := s.now(); got != (bootcheck.Operation{Stage: "idle"}) {
			t.Errorf("a new device is answered %+v, want idle", got)
		}
		pid := s.Show("ota-progress.service", "MainPID")
		out := s.Out("sh", "-c", "stat -c %u /proc/"+pid+"; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/"+pid+"/status; ls /proc/"+pid+"/net/ >/dev/null; wc -l </proc/"+pid+"/net/dev")
		if uid, rest, _ := strings.Cut(out, "\n"); uid == "0" || !strings.Contains(rest, "CapEff:\t0000000000000000") || !strings.Contains(rest, "NoNewPrivs:\t1") || !strings.Contains(rest, "Seccomp:\t2") {
			t.Errorf("the service has more than it needs:\n%s", out)
		}
		// 127.0.0.1:12315, as the kernel writes it, and nothing else of this port.
		if got := s.Out("sh", "-c", `cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == "0A" && $2 ~ /:301B$/ { print $2 }'`); got != "0100007F:301B\n" {
			t.Errorf("it listens on %q", got)
		}
		if head, body, err := d.Get(ctx, "127.0.0.1/12315", "/etc/passwd"); !strings.HasPrefix(head, "HTTP/1.0 404 Not Found\r\n") {
			t.Errorf("another path is answered %q %q (%v)", head, body, err)
		}
	})

	s.Run("while device-api restarts", func(t *testing.T) {
		end := s.screen(30, 40)
		try.Check(d.Factory(ctx, machine.Version{Name: "1.0.0", Release: 1}))
		for range 3 {
			s.Out("systemctl", "restart", "device-api.service")
		}
		try.Check(d.Installs(ctx, machine.Version{Name: "1.1.0", Release: 2, Payload: 4 << 20}, bootcheck.ExitDone))
		answers := end()
		seen, soon := map[string]bool{}, 0
		for _, a := range answers {
			seen[a.Stage] = true
			if a.took <= 100*time.Millisecond {
				soon++
			}
		}
		// Nearly all of them, on a machine that is not busy with something else.
		if soon < len(answers)/2 {
			t.Errorf("%d of %d answers took more than 100 ms", len(answers)-soon, len(answers))
		}
		for _, stage := range []string{"idle", "rebooting", "success"} {
			if !seen[stage] {
				t.Errorf("no request was answered %q in two installs: %v", stage, seen)
			}
		}
		if got := s.now(); got.Stage != "success" || got.Message != "version 1.1.0" {
			t.Errorf("the end is served as %+v", got)
		}
		// What the page shows is in the version store, which its sandbox can read.
		_, body, err := d.Get(ctx, "127.0.0.1/12315", "/api/v1.0/screen")
		try.Check(err)
		var shown page.State
		if err := json.Unmarshal([]byte(body), &shown); err != nil || schema.Check("screen", []byte(body)) != nil || shown.Error != "" || shown.Phase != bootcheck.PhaseConfirmed || shown.Current != "1.1.0" || shown.Operation.Version != "1.1.0" {
			t.Errorf("the page is to show %q (%v)", body, err)
		}
		if got := s.Show("ota-progress.service", "NRestarts"); got != "0" {
			t.Errorf("the service was restarted %s times", got)
		}
	})

	s.Run("events of an install in its unit", func(t *testing.T) {
		r, err := d.Install(ctx, machine.Version{Name: "1.2.0", Release: 3}, "--json")
		if err != nil || r.Code != 0 {
			t.Fatalf("install: %v, %s", err, r)
		}
		events := s.events(r.Stdout)
		var stages []string
		for _, e := range events[:len(events)-1] {
			if e.Event != "progress" {
				t.Errorf("an event %+v before the last", e)
			}
			stages = append(stages, e.Stage)
		}
		if told := events[len(events)-2].Message; !strings.HasPrefix(told, "watching 1.2.0: healthy for ") {
			t.Errorf("the last that is told before the result is %q, want how far the trial is", told)
		}
		want := []string{"downloading", "verifying", "toInstall", "installing", "rebooting"}
		if stages = slices.Compact(stages); !slices.Equal(stages, want) {
			t.Errorf("told of the stages %q, want %q", stages, want)
		}
		last := events[len(events)-1]
		if last != (event{Event: "result", Stage: "success", Version: "1.2.0", Message: "version 1.2.0 is current and confirmed"}) {
			t.Errorf("the result is %+v", last)
		}
	})

	s.Run("an install that is killed in its unit", func(t *testing.T) {
		// It waits for an end that never comes.
		try.Check(d.Configure(ctx, d.Limits.Stable, 10*d.Limits.Wait))
		install := d.Begin(ctx, machine.Version{Name: "1.3.0", Release: 4, Behave: deviceapi.Config{Behave: deviceapi.Health500}}, "--json")
		s.wait("the restart", func(op bootcheck.Operation) bool { return op.Stage == "rebooting" })
		s.Out("systemctl", "kill", "--signal=KILL", "ota-install.service")
		install.Ends(bootcheck.ExitUnknown)
		events := s.events(install.Stdout)
		last := events[len(events)-1]
		if last.Event != "result" || last.Exit != install.Code || last.Stage != "failed" || !strings.Contains(last.Error, "was killed (exit code 137)") {
			t.Errorf("the result is %+v: %s", last, install.Result)
		}
		if got := s.now(); got.Stage != "failed" || !strings.Contains(got.Error, "was killed") {
			t.Errorf("a screen is answered %+v", got)
		}
		try.Get(d.Must(ctx, "ota-guardian", "rollback"))
	})

	s.Run("it ends and starts again", func(t *testing.T) {
		const dropIn = "/run/systemd/system/ota-progress.service.d/99-test.conf"
		try.Check(d.WriteFile(ctx, dropIn, 0o644, []byte("[Service]\nExecStart=\nExecStart=/usr/bin/ota-apply serve-progress --idle 200ms\n")))
		s.Out("systemctl", "daemon-reload")
		s.Out("systemctl", "stop", "ota-progress.service")
		first := s.invocation()
		s.now()
		try.Check(d.WaitShell(ctx, "the service to end", "[ $(systemctl is-active ota-progress.service) = inactive ]"))
		if got := s.Show("ota-progress.service", "Result"); got != "success" {
			t.Errorf("it ended with %s, want success", got)
		}
		if second := s.invocation(); second == first {
			t.Error("it was not started again")
		}

		// Screens that ask at the very moment at which it ends.
		end := s.screen(190, 30)
		runs := map[string]bool{}
		try.Check(machine.Poll(ctx, "30 runs of the service", func(context.Context) error {
			if runs[s.invocation()] = true; len(runs) < 30 {
				return fmt.Errorf("%d so far", len(runs))
			}
			return nil
		}))
		answers := end()
		took := make([]time.Duration, len(answers))
		for i, a := range answers {
			took[i] = a.took
		}
		slices.Sort(took)
		if n := len(took); n > 0 {
			// About every second one starts the program.
			t.Logf("%d answers of %d runs within %v (median), %v (9 of 10), %v (all)", n, len(runs), took[n/2], took[n*9/10], took[n-1])
		}

		// One that crashes is started again too, while screens wait.
		s.now()
		s.Out("systemctl", "kill", "--signal=KILL", "ota-progress.service")
		s.now()
		s.Out("systemctl", "stop", "device-api.service")
		s.now()
		if got := s.Show("ota-progress.socket", "ActiveState"); got != "active" {
			t.Errorf("the socket is %s, want active", got)
		}
	})

	try.Check(d.PowerCut(ctx))
	try.Check(d.WaitShell(ctx, "the socket", "systemctl is-active ota-progress.socket"))
	if got := s.now(); got != (bootcheck.Operation{Stage: "idle"}) {
		s.T.Errorf("after a power cut a screen is answered %+v, want idle", got)
	}
}

// served asks a device as a screen does.
type served struct{ *machine.Story }

func (s *served) invocation() string {
	s.T.Helper()
	return s.Show("ota-progress.service", "InvocationID")
}

// answer is what a screen was told, and after which time.
type answer struct {
	bootcheck.Operation
	took time.Duration
}

func (s *served) answers(out string) []answer {
	s.T.Helper()
	var all []answer
	for line := range strings.Lines(out) {
		took, body, _ := strings.Cut(line, " ")
		us, err := strconv.Atoi(took)
		a := answer{took: time.Duration(us) * time.Microsecond}
		if err == nil {
			err = schema.Check("progress", []byte(body))
		}
		if err != nil || json.Unmarshal([]byte(body), &a.Operation) != nil {
			s.T.Errorf("a screen was answered %q (%v)", line, err)
			continue
		}
		all = append(all, a)
	}
	return all
}

// now is the answer at this moment.
func (s *served) now() bootcheck.Operation {
	s.T.Helper()
	out := s.Out("bash", "-c", strings.Replace(screen, "while [ ! -e /data/stop ]; do", "for once in 1; do", 1), "screen", "0", "1")
	all := s.answers(out)
	if len(all) != 1 {
		s.T.Fatalf("a screen was answered %q", out)
	}
	return all[0].Operation
}

// wait asks until the answer is right.
func (s *served) wait(what string, right func(bootcheck.Operation) bool) {
	s.T.Helper()
	defer try.Fatal(s.T)
	try.Check(machine.Poll(s.Ctx, what, func(context.Context) error {
		if op := s.now(); !right(op) {
			return fmt.Errorf("it is %+v", op)
		}
		return nil
	}))
}

// screen asks all the time, until the function is called that it returns: every
// request must have its answer.
func (s *served) screen(atLeast, random int) (end func() []answer) {
	s.T.Helper()
	s.Out("rm", "-f", "/data/stop")
	out := make(chan string, 1)
	go func() {
		r, err := s.Exec(s.Ctx, "bash", "-c", screen, "screen", strconv.Itoa(atLeast), strconv.Itoa(random))
		if err != nil || r.Code != 0 || r.Stderr != "" {
			r.Stdout += fmt.Sprintf("%v: %s", err, r)
		}
		out <- r.Stdout
	}()
	return func() []answer {
		s.T.Helper()
		s.Out("touch", "/data/stop")
		all := s.answers(<-out)
		if len(all) == 0 {
			s.T.Fatal("a screen had no answer")
		}
		took := make([]time.Duration, 0, len(all))
		for _, a := range all {
			took = append(took, a.took)
		}
		slices.Sort(took)
		s.T.Logf("%d answers within %v (median), %v (99 of 100), %v (all)", len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
		return all
	}
}

// event is a line of install --json.
type event struct {
	Event    string `json:"event"`
	Stage    string `json:"stage"`
	Progress int    `json:"progress"`
	Message  string `json:"message"`
	Exit     int    `json:"exit"`
	Version  string `json:"version"`
	Error    string `json:"error"`
}

func (s *served) events(out string) []event {
	s.T.Helper()
	var all []event
	for line := range strings.Lines(out) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event == "" {
			s.T.Errorf("no event: %q", line)
		}
		all = append(all, e)
	}
	if len(all) == 0 {
		s.T.Fatal("no events")
	}
	return all
}
