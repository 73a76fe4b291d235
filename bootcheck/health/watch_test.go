package health

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A day is how a check behaves: good from until, in time since the start of the
// test; and how long each run takes.
type day struct {
	from, until time.Duration
	takes       time.Duration
	again       time.Duration // good for good from here; 0: never again
}

const always = 1000 * time.Hour

func (d day) check(name string, required bool, timeout time.Duration) Check {
	start := time.Now()
	return NewCheck(name, required, timeout, func(ctx context.Context) error {
		select {
		case <-time.After(d.takes):
		case <-ctx.Done():
			return ctx.Err()
		}
		at := time.Since(start)
		if d.from <= at && at < d.until || d.again > 0 && at >= d.again {
			return nil
		}
		return fmt.Errorf("bad at %s", at)
	})
}

func TestWatch(t *testing.T) {
	const s, m = time.Second, time.Minute
	required := func(name string, d day) func() Check { return func() Check { return d.check(name, true, 10*s) } }
	wanted := func(name string, d day) func() Check { return func() Check { return d.check(name, false, 10*s) } }
	good := day{until: always}
	for _, tt := range []struct {
		name     string
		checks   []func() Check
		baseline map[string]bool
		fails    string // name of the check that canRollBack; "" good
		from, to time.Duration
	}{
		{"good from the start", []func() Check{required("a", good)}, nil, "", 60 * s, 62 * s},
		{"no check at all", nil, nil, "", 60 * s, 60 * s},
		{"only wanted checks, and they fail", []func() Check{wanted("w", day{})}, nil, "", 60 * s, 62 * s},
		{"good late", []func() Check{required("a", day{from: 5 * m, until: always})}, nil, "", 6 * m, 6*m + 3*s},
		{"never good", []func() Check{required("a", good), required("b", day{})}, nil, "b", 10 * m, 10 * m},
		{"good a moment before the deadline", []func() Check{required("a", day{from: 10*m - 2*s, until: always})}, nil, "", 11*m - 2*s, 11*m + s},
		{"good a moment after the deadline", []func() Check{required("a", day{from: 10*m + s, until: always})}, nil, "a", 10 * m, 10 * m},
		{"good before the deadline, but not for long enough", []func() Check{required("a", day{from: 10*m - 30*s, until: 10*m + 20*s})}, nil, "a", 10*m + 20*s, 10*m + 22*s},
		{"good, then bad before it was stable", []func() Check{required("a", day{until: 59 * s})}, nil, "a", 10 * m, 10 * m},
		{"a gap begins the time again", []func() Check{required("a", day{until: 30 * s, again: 40 * s})}, nil, "", 100 * s, 103 * s},
		{"two that are never good together for long enough", []func() Check{
			required("a", day{until: 50 * s}), required("b", day{from: 40 * s, until: always})}, nil, "a", 10 * m, 10 * m},
		{"never answers", []func() Check{required("a", day{until: always, takes: always})}, nil, "a", 10 * m, 10 * m},
		{"slow, but good", []func() Check{required("a", day{until: always, takes: 9 * s})}, nil, "", 60 * s, 80 * s},
		{"a wanted check that hangs delays nothing", []func() Check{wanted("w", day{takes: always}), required("a", good)}, nil, "", 60 * s, 62 * s},
		{"was failing before", []func() Check{required("a", day{}), required("b", good)}, map[string]bool{"a": false, "b": true}, "", 60 * s, 62 * s},
		{"was good before", []func() Check{required("a", day{})}, map[string]bool{"a": true}, "a", 10 * m, 10 * m},
		{"not in the baseline", []func() Check{required("a", day{})}, map[string]bool{"other": false}, "a", 10 * m, 10 * m},
		{"of two bad ones the first canRollBack", []func() Check{required("a", day{}), required("b", day{})}, nil, "a", 10 * m, 10 * m},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var checks []Check
				for _, c := range tt.checks {
					checks = append(checks, c())
				}
				start := time.Now()
				v, err := Watch{Checks: checks, Stable: m, Deadline: 10 * m, Baseline: tt.baseline}.Run(t.Context())
				took := time.Since(start)
				if err != nil {
					t.Fatal(err)
				}
				if v.Good != (tt.fails == "") || v.Failing.Check != tt.fails {
					t.Errorf("good %v, failing %q (%s), want failing %q", v.Good, v.Failing.Check, v.Failing.Why, tt.fails)
				}
				if took < tt.from || took > tt.to {
					t.Errorf("the result came after %s, want %s to %s", took, tt.from, tt.to)
				}
				if len(v.Results) != len(checks) {
					t.Errorf("%d results of %d checks", len(v.Results), len(checks))
				}
			})
		})
	}
}

func TestWatchEndsEarlyWhenWaitingWillNotHelp(t *testing.T) {
	dead := Check{Name: "dead", Required: true, Timeout: time.Second, run: func(context.Context) finding {
		return finding{err: errors.New("failed for good"), final: true}
	}}
	alive := day{until: always}.check
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		v, err := Watch{Checks: []Check{alive("a", true, time.Second), dead}, Stable: time.Minute, Deadline: time.Hour}.Run(t.Context())
		if err != nil || v.Good || v.Failing.Check != "dead" || v.Failing.Why != "failed for good" || time.Since(start) > time.Second {
			t.Errorf("got %+v, %v after %s, want dead at once", v, err, time.Since(start))
		}
	})
	// What cannot roll back at all cannot roll back early.
	for _, baseline := range []map[string]bool{nil, {"dead": false}} {
		synctest.Test(t, func(t *testing.T) {
			dead := dead
			dead.Required = baseline != nil
			v, err := Watch{Checks: []Check{alive("a", true, time.Second), dead}, Stable: time.Minute, Deadline: time.Hour, Baseline: baseline}.Run(t.Context())
			if err != nil || !v.Good {
				t.Errorf("baseline %v: %+v, %v, want good", baseline, v, err)
			}
		})
	}
}

// TestWatchWaitsForTheSlowest: a check that was good once and then hangs is not
// known to be good, however good the others are.
func TestWatchWaitsForTheSlowest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		hangs := NewCheck("hangs", true, 2*time.Minute, func(ctx context.Context) error {
			if time.Since(start) == 0 {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(always):
				return nil
			}
		})
		v, err := Watch{Checks: []Check{day{until: always}.check("a", true, time.Second), hangs}, Stable: time.Minute, Deadline: 90 * time.Second}.Run(t.Context())
		if took := time.Since(start); err != nil || v.Good || v.Failing.Check != "hangs" || took < 2*time.Minute || took > 2*time.Minute+5*time.Second {
			t.Errorf("%+v, %v after %s, want rolled back by the check that hangs when its time is up", v, err, took)
		}
	})
}

// TestWatchTrustsTheUnitsOwnRecord: a service that dies and is back between
// any two looks is good at each of them.
func TestWatchTrustsTheUnitsOwnRecord(t *testing.T) {
	for _, tt := range []struct {
		name  string
		dies  time.Duration // every
		until time.Duration
		good  bool
		took  time.Duration
	}{
		{"dies every second", time.Second, always, false, 10*time.Minute + 3*time.Second},
		{"dies every 50 s", 50 * time.Second, always, false, 11 * time.Minute},
		{"dies twice, then lives", 20 * time.Second, 45 * time.Second, true, 101 * time.Second},
		{"up for long before", always, always, true, 61 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				c := Check{Name: "unit", Required: true, Timeout: time.Second, run: func(context.Context) finding {
					at := min(time.Since(start), tt.until)
					up := time.Since(start) - at/tt.dies*tt.dies
					if tt.dies == always {
						up += time.Hour
					}
					return finding{up: max(up, 1)}
				}}
				v, err := Watch{Checks: []Check{c}, Stable: time.Minute, Deadline: 10 * time.Minute}.Run(within(t, 12*time.Minute))
				if took := time.Since(start); err != nil || took > tt.took || v.Good != tt.good || v.Good == (v.Failing.Why != "") {
					t.Errorf("%+v, %v after %s, want good %v after at most %s", v, err, took, tt.good, tt.took)
				}
			})
		})
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestWatchEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		v, err := Watch{Checks: []Check{day{takes: always}.check("a", true, time.Hour)}, Stable: time.Minute, Deadline: time.Hour}.Run(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || v.Good || time.Since(start) != 5*time.Second {
			t.Errorf("%+v, %v after %s", v, err, time.Since(start))
		}
	}) // synctest fails if a goroutine is left
}

func TestOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []string
		w := Watch{
			Checks:   []Check{day{from: 10 * time.Second, until: 30 * time.Second, again: 40 * time.Second}.check("a", true, time.Second)},
			Stable:   time.Minute,
			Deadline: 10 * time.Minute,
			OnChange: func(r Result) {
				got = append(got, fmt.Sprintf("%s %v %v", r.Check, r.OK, time.Since(start).Truncate(5*time.Second)))
			},
		}
		if v, err := w.Run(t.Context()); err != nil || !v.Good {
			t.Errorf("%+v, %v", v, err)
		}
		if want := "[a false 0s a true 10s a false 30s a true 40s]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	})
}

// TestOnState holds what is shown of a trial: how long all required checks have been good
// together, and the check that decides it.
func TestOnState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var got []string
		w := Watch{
			Checks: []Check{
				day{from: 10 * time.Second, until: 30 * time.Second, again: 40 * time.Second}.check("a", true, time.Second),
				day{until: always}.check("b", true, time.Second),
				day{}.check("wanted", false, time.Second),
			},
			Stable: time.Minute, Deadline: 10 * time.Minute,
			OnState: func(s State) {
				if at := time.Since(begun).Round(time.Second); at%(10*time.Second) == 5*time.Second {
					if n := len(got); n > 0 && strings.HasPrefix(got[n-1], at.String()+" ") {
						got = got[:n-1] // there is one call a check
					}
					got = append(got, fmt.Sprintf("%s %s %s %v", at, s.Healthy.Round(time.Second), s.Last.Check, s.Last.OK))
				}
			},
		}
		if v, err := w.Run(t.Context()); err != nil || !v.Good {
			t.Errorf("%+v, %v", v, err)
		}
		want := "[5s 0s a false 15s 5s a true 25s 15s a true 35s 0s a false 45s 5s a true 55s 15s a true 1m5s 25s a true 1m15s 35s a true 1m25s 45s a true 1m35s 55s a true]"
		if fmt.Sprint(got) != want {
			t.Errorf("got  %v\nwant %s", got, want)
		}
	})
}

// TestWatchPace: looking costs something on a small device.
func TestWatchPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks, runs int
		count := func(n *int) func(context.Context) finding {
			return func(context.Context) finding { *n++; return finding{} }
		}
		checks := []Check{
			{Name: "unit", Required: true, Timeout: time.Second, run: count(&looks)},
			{Name: "script", Required: true, Timeout: time.Second, every: askEvery, run: count(&runs)},
		}
		if v, err := (Watch{Checks: checks, Stable: time.Minute, Deadline: time.Hour}).Run(t.Context()); err != nil || !v.Good {
			t.Fatalf("%+v, %v", v, err)
		}
		if looks < 60 || looks > 67 || runs < 13 || runs > 14 {
			t.Errorf("%d looks and %d runs of a script in a minute, want one a second and one in 5 s", looks, runs)
		}
	})
}

// A check that cannot be run at one moment says neither that a sick version is well nor
// that a good one was good for long enough.
func TestWatchCannotRunOnce(t *testing.T) {
	const s, m = time.Second, time.Minute
	for _, row := range []struct {
		name   string
		bad    time.Duration // until then, in time since the start
		cannot time.Duration // then it cannot be run, for 3 s
		good   bool
		end    time.Duration
	}{
		{"a version that is sick", always, 5 * m, false, 10 * m},
		{"a version that just became good", 5 * m, 5*m + 10*s, true, 6 * m},
		{"a version that is good", 0, 30 * s, true, m},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				check := Check{Name: "a", Required: true, Timeout: s, run: func(context.Context) finding {
					switch at := time.Since(start); {
					case row.cannot <= at && at < row.cannot+3*s:
						return finding{err: fmt.Errorf("%w: no memory", errCannotRun)}
					case at < row.bad:
						return finding{err: errors.New("sick")}
					}
					return finding{}
				}}
				v, err := Watch{Checks: []Check{check}, Stable: m, Deadline: 10 * m}.Run(t.Context())
				took := time.Since(start)
				if err != nil || v.Good != row.good || took < row.end || took > row.end+3*s {
					t.Errorf("good %v after %s (%v), want %v after %s", v.Good, took, err, row.good, row.end)
				}
			})
		})
	}
}

// TestWatchNotSetUp: the default address counts once something listens there, before the
// switch or after it.
func TestWatchNotSetUp(t *testing.T) {
	const s, m = time.Second, time.Minute
	for _, row := range []struct {
		name     string
		from     time.Duration // something listens from here on
		until    time.Duration
		bad      bool // and answers 500
		baseline map[string]bool
		good     bool
		end      time.Duration
	}{
		{"nothing ever listens: the unit decides", always, always, false, nil, true, m},
		{"nothing listened before, either", always, always, false, map[string]bool{"unit": true}, true, m},
		{"something listened before", always, always, false, map[string]bool{"address": true}, false, 10 * m},
		{"it failed before", always, always, false, map[string]bool{"address": false}, true, m},
		{"something listens later, and is good", 30 * s, always, false, nil, true, 90 * s},
		{"something listens later, and is bad", 30 * s, always, true, nil, false, 10 * m},
		{"something listens, then ends", 0, 30 * s, false, nil, false, 10 * m},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				address := Check{Name: "address", Required: true, Timeout: s, optional: true, run: func(context.Context) finding {
					switch at := time.Since(start); {
					case at < row.from || at >= row.until:
						return finding{err: errors.New("nothing listens"), refused: true}
					case row.bad:
						return finding{err: errors.New("500")}
					}
					return finding{}
				}}
				v, err := Watch{Checks: []Check{address, day{until: always}.check("unit", true, s)}, Stable: m, Deadline: 10 * m, Baseline: row.baseline}.Run(t.Context())
				took := time.Since(start)
				if err != nil || v.Good != row.good || took < row.end || took > row.end+6*s {
					t.Errorf("good %v after %s (%v, %+v), want %v after %s", v.Good, took, err, v.Failing, row.good, row.end)
				}
				if !row.good && v.Failing.Check != "address" {
					t.Errorf("%q failed, want the address", v.Failing.Check)
				}
			})
		})
	}
}
