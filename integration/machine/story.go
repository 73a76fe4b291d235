package machine

import (
	"context"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// A Story is a device in the hands of a test, which ends where something fails.
type Story struct {
	*Device
	T   *testing.T // the subtest that is under way
	Ctx context.Context
}

// NewStory begins with a new device on m.
func NewStory(ctx context.Context, t *testing.T, m Machine, limits Limits) *Story {
	t.Helper()
	defer try.Fatal(t)
	return &Story{try.Get(NewDevice(ctx, m, limits)), t, ctx}
}

// Run is a part of the story as a subtest, which try may end.
func (s *Story) Run(what string, do func(t *testing.T)) bool {
	s.T.Helper()
	before := s.T
	defer func() { s.T = before }()
	return before.Run(what, func(t *testing.T) {
		defer try.Fatal(t)
		s.T = t
		do(t)
	})
}

// Step is Run of a part without which the story ends.
func (s *Story) Step(what string, do func(t *testing.T)) {
	s.T.Helper()
	if !s.Run(what, do) {
		s.T.FailNow()
	}
}

// Out is what a program prints, which has to succeed.
func (s *Story) Out(argv ...string) string {
	s.T.Helper()
	defer try.Fatal(s.T)
	ctx, cancel := context.WithTimeout(s.Ctx, s.Limits.Wait)
	defer cancel()
	return try.Get(s.Must(ctx, argv...))
}

// Sh is Out of a command line, without spaces at its end.
func (s *Story) Sh(line string) string {
	s.T.Helper()
	return strings.TrimSpace(s.Out("sh", "-ec", line))
}

// Sh runs a command line on m, which has to succeed, and returns what it printed, without
// spaces at its end.
func Sh(t testing.TB, m Machine, line string) string {
	t.Helper()
	r, err := m.Exec(Context(t), "sh", "-ec", line)
	if err != nil || r.Code != 0 {
		t.Fatalf("%s: %s, %v", line, r, err)
	}
	return strings.TrimSpace(r.Stdout)
}

// Says runs a command line, with any exit code, and wants it to print that.
func (s *Story) Says(line, want string) {
	s.T.Helper()
	defer try.Fatal(s.T)
	r := try.Get(s.Exec(s.Ctx, "sh", "-c", line))
	if got := strings.TrimSpace(r.Stdout); got != want {
		s.T.Errorf("%s: %q, want %q (%s)", line, got, want, r)
	}
}

// Ends runs a command line, which has to end with code, and returns what it printed.
func (s *Story) Ends(code int, line string) string {
	s.T.Helper()
	defer try.Fatal(s.T)
	r := try.Get(s.Exec(s.Ctx, "sh", "-c", line))
	if r.Code != code {
		s.T.Fatalf("%s: %s; want exit %d", line, r, code)
	}
	return r.Stdout
}

// Show is a property of a unit.
func (s *Story) Show(unit, property string) string {
	s.T.Helper()
	return s.Sh("systemctl show -P " + property + " " + unit)
}
