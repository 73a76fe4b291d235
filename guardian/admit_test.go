package guardian

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

const stolen, safe = 0x6666666666666666, 0x1111111111111111

func keyName(id uint64) string { return fmt.Sprintf("%016X", id) }

// sign writes a signature of version as minisign writes it, with nothing behind the ID
// that can be verified: the guardian reads which key signed, no more.
func (b *board) sign(version string, id uint64) {
	b.t.Helper()
	raw := append([]byte("ED"), make([]byte, 8+64)...)
	binary.LittleEndian.PutUint64(raw[2:], id)
	b.must(os.WriteFile(b.path("v"+version, ".ota", "manifest.json.minisig"),
		fmt.Appendf(nil, "untrusted comment: x\n%s\ntrusted comment: y\n%s\n", base64.StdEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString(make([]byte, 64))), 0o644))
}

// change rewrites the manifest of version, which has never run.
func (b *board) change(version string, change func(m *bootcheck.Manifest)) *bootcheck.Ref {
	b.t.Helper()
	name := b.path("v"+version, ".ota", "manifest.json")
	raw, err := os.ReadFile(name)
	b.must(err)
	m, err := bootcheck.ParseManifest(raw)
	b.must(err)
	change(m)
	raw, err = json.Marshal(m)
	b.must(err, os.WriteFile(name, raw, 0o644))
	return &bootcheck.Ref{Version: version, Digest: bootcheck.Digest(raw)}
}

// device is a guardian of b in the next boot of a device of model x1.
func (b *board) device(keys ...uint64) *command {
	b.t.Helper()
	b.boots++
	b.log.Reset()
	dir := b.t.TempDir()
	for _, id := range keys {
		raw := append([]byte("Ed"), make([]byte, 8+32)...)
		binary.LittleEndian.PutUint64(raw[2:], id)
		b.must(os.WriteFile(filepath.Join(dir, keyName(id)+".pub"), []byte("untrusted comment: k\n"+base64.StdEncoding.EncodeToString(raw)+"\n"), 0o644))
	}
	cfg := config.Default("")
	b.must(cfg.SetRoot(b.store.Dir()))
	cfg.Run, cfg.Model, cfg.Keys, cfg.Services = b.t.TempDir(), "x1", []string{dir}, nil
	cfg.Trial.Stable, cfg.Trial.Deadline = 50*time.Millisecond, time.Second
	return &command{guardian: &guardian{cfg: cfg, store: b.store, bootID: fmt.Sprintf("boot-%d", b.boots), log: &b.log, ask: noListener}, out: &b.log}
}

func (b *board) revoke(ids ...uint64) {
	b.t.Helper()
	var keys []string
	for _, id := range ids {
		keys = append(keys, keyName(id))
	}
	_, err := b.store.Revoke(b.record(), keys, nil)
	b.must(err)
}

// try puts a new version 4.0, signed by the stolen key, on trial.
func (b *board) try() *bootcheck.Ref {
	b.t.Helper()
	four := b.add("4.0")
	b.sign("4.0", stolen)
	b.commit(b.record().Activate(four, "", "before", nil, func(*bootcheck.Ref) bool { return true }))
	return four
}

// A version on trial whose key is revoked is rolled back at the next boot, blocked, and the
// device is as it was. What was confirmed stays, also if that key signed it.
func TestRevokedOnTrial(t *testing.T) {
	b := newBoard(t)
	for _, version := range []string{"1.0", "2.0", "3.0"} {
		b.sign(version, stolen)
	}
	four := b.try()
	b.must(b.device().boot(context.Background(), LastClean))
	if b.runs() != "4.0" {
		t.Fatalf("runs %s, want 4.0: no key was revoked", b.runs())
	}
	b.revoke(stolen)
	b.must(b.device().boot(context.Background(), LastClean))
	r := b.record()
	if l := r.LastRollback; b.runs() != "3.0" || r.Phase != bootcheck.PhaseFallback || l.Cause != bootcheck.CauseRevoked || !strings.Contains(l.Output, keyName(stolen)) || r.BlockedBy(four) == nil {
		t.Fatalf("runs %s, %s, %+v, blocked %v\n%s", b.runs(), r.Phase, r.LastRollback, r.Blocked, &b.log)
	}
	b.commit(MarkGood(r, 0).Next)
	before := b.tree()
	b.must(b.device().boot(context.Background(), LastClean))
	if b.runs() != "3.0" || b.tree() != before {
		t.Errorf("runs %s, or a boot with nothing on trial wrote\n%s", b.runs(), &b.log)
	}
	// An operator does not get it back by another door.
	if err := b.device().factoryCreate(context.Background(), "4.0", true); bootcheck.Exit(err) != bootcheck.ExitRefused {
		t.Errorf("factory create --untried 4.0: %v", err)
	}
	r = b.record().Clone()
	r.Unblock("4.0")
	b.commit(r)
	if err := b.device().factoryCreate(context.Background(), "4.0", true); bootcheck.Exit(err) != bootcheck.ExitRefused {
		t.Errorf("unblock, factory create --untried 4.0: %v", err)
	}
}

// Nothing else can run: the version continues, is never confirmed, and an operator is needed.
func TestRevokedOnTrialWithNothingBehindIt(t *testing.T) {
	b := newBoard(t)
	b.try()
	b.revoke(stolen)
	r := b.record().Clone()
	r.Previous, r.Factory, r.Confirmed = nil, nil, nil
	b.commit(r)
	if err := b.device().boot(context.Background(), LastClean); bootcheck.Exit(err) != bootcheck.ExitHeld || b.runs() != "4.0" {
		t.Errorf("boot: %v, runs %s", err, b.runs())
	}
	if err := b.device().confirm(context.Background()); bootcheck.Exit(err) != bootcheck.ExitHeld || b.record().Phase != bootcheck.PhaseHold {
		t.Errorf("confirm: %v, %s", err, b.record().Phase)
	}
}

// confirm and recover roll it back too, without waiting for its health.
func TestRevokedInTheSameBoot(t *testing.T) {
	for name, run := range map[string]func(*command) error{
		"confirm": func(g *command) error { return g.confirm(context.Background()) },
		"recover": func(g *command) error { return g.recover(context.Background(), "device-api.service") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoard(t)
			b.try()
			r := b.record().Clone()
			r.Trial.Baseline = map[string]bool{"device-api runs": false} // what recover would not count
			b.commit(r)
			b.revoke(stolen)
			g := b.device()
			g.cfg.Trial.Stable = 20 * time.Second
			g.cfg.Trial.Deadline = 30 * time.Second
			if err := run(g); bootcheck.Exit(err) != bootcheck.ExitRolledBack || b.runs() != "3.0" || b.record().LastRollback.Cause != bootcheck.CauseRevoked {
				t.Errorf("%v, runs %s, %+v\n%s", err, b.runs(), b.record().LastRollback, &b.log)
			}
		})
	}
}

// What waits for a boot is asked then what an install is asked.
func TestNextIsAsked(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	for _, row := range []struct {
		name   string
		change func(m *bootcheck.Manifest)
		more   func(b *board, n *bootcheck.Next)
		keys   []uint64
		open   bool // every user can change the file of the first key
		runs   bool
	}{
		{name: "nothing is against it", keys: []uint64{stolen, safe}, runs: true},
		{name: "its key was revoked", more: func(b *board, n *bootcheck.Next) { b.revoke(stolen) }},
		{name: "another key was revoked", more: func(b *board, n *bootcheck.Next) { b.revoke(safe) }, runs: true},
		{name: "its key was taken out of the directory", keys: []uint64{safe}},
		{name: "its key is in a file that every user can change", keys: []uint64{stolen, safe}, open: true},
		{name: "there is no directory of keys that can be read", runs: true},
		{name: "another model", change: func(m *bootcheck.Manifest) { m.Models = []string{"x2"} }},
		{name: "it expired", change: func(m *bootcheck.Manifest) { m.NotAfter = &past }},
		{name: "its release is older", change: func(m *bootcheck.Manifest) { m.Release = 4 }},
		{name: "its release is older, and that was allowed", change: func(m *bootcheck.Manifest) { m.Release = 4 }, more: func(b *board, n *bootcheck.Next) { n.AllowDowngrade = true }, runs: true},
		{name: "its release is far ahead", change: func(m *bootcheck.Manifest) { m.Release = 1 << 60 }},
		{name: "it is not known what was revoked", more: func(b *board, n *bootcheck.Next) {
			b.must(os.WriteFile(b.path(".revoked.json"), []byte("x"), 0o600))
		}},
		{name: "it is not known who signed it", more: func(b *board, n *bootcheck.Next) {
			b.revoke(safe)
			b.must(os.WriteFile(b.path("v4.0", ".ota", "manifest.json.minisig"), []byte("x"), 0o644))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBoard(t)
			b.add("4.0")
			b.sign("4.0", stolen)
			four := b.change("4.0", func(m *bootcheck.Manifest) {
				if m.Release = 6; row.change != nil {
					row.change(m)
				}
			})
			next := &bootcheck.Next{Ref: *four}
			if row.more != nil {
				row.more(b, next)
			}
			r := b.record().Clone()
			r.Next, r.Floor = next, 5
			b.commit(r)
			g := b.device(row.keys...)
			if row.open {
				b.must(os.Chmod(filepath.Join(g.cfg.Keys[0], keyName(row.keys[0])+".pub"), 0o666))
			}
			b.must(g.boot(context.Background(), LastClean))
			want, phase := "3.0", bootcheck.PhaseConfirmed
			if row.runs {
				want, phase = "4.0", bootcheck.PhaseTrial
			}
			if r := b.record(); b.runs() != want || r.Phase != phase || r.Next != nil {
				t.Errorf("runs %s (%s), next %v, want %s\n%s", b.runs(), r.Phase, r.Next, want, &b.log)
			}
		})
	}
}

// Every record is lost: of what lies in the store, only what an install would take runs,
// and factory. A device is not left without a version for anything but a revoked key.
func TestLostRecordAsks(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	expired := func(m *bootcheck.Manifest) { m.NotAfter = &past }
	for _, row := range []struct {
		name   string
		signed map[string]uint64
		change map[string]func(m *bootcheck.Manifest)
		sealed string // was factory
		want   string // empty: none runs
	}{
		{name: "the newest", want: "3.0"},
		{name: "a revoked key signed the newest", signed: map[string]uint64{"3.0": stolen}, want: "2.0"},
		{name: "the newest expired", change: map[string]func(m *bootcheck.Manifest){"3.0": expired}, want: "2.0"},
		{name: "the newest is for another model", change: map[string]func(m *bootcheck.Manifest){"3.0": func(m *bootcheck.Manifest) { m.Models = []string{"x2"} }}, want: "2.0"},
		{name: "a revoked key signed all, and one was factory", signed: map[string]uint64{"1.0": stolen, "2.0": stolen, "3.0": stolen}, sealed: "1.0", want: "1.0"},
		{name: "all expired", change: map[string]func(m *bootcheck.Manifest){"1.0": expired, "2.0": expired, "3.0": expired}, want: "3.0"},
		{name: "all expired, and a revoked key signed the newest", signed: map[string]uint64{"3.0": stolen}, change: map[string]func(m *bootcheck.Manifest){"1.0": expired, "2.0": expired, "3.0": expired}, want: "2.0"},
		{name: "a revoked key signed all", signed: map[string]uint64{"1.0": stolen, "2.0": stolen, "3.0": stolen}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBoard(t)
			for _, version := range []string{"1.0", "2.0", "3.0"} {
				b.sign(version, safe)
				if id := row.signed[version]; id != 0 {
					b.sign(version, id)
				}
				if change := row.change[version]; change != nil {
					b.change(version, change)
				}
			}
			if row.sealed != "" {
				_, _, err := b.store.Seal(t.Context(), &bootcheck.Ref{Version: row.sealed}, false)
				b.must(err)
			}
			b.revoke(stolen)
			b.must(os.RemoveAll(b.path(".generations")), os.Remove(b.path(".active")))
			err := b.device(safe).boot(context.Background(), LastUnclean)
			if row.want == "" {
				if bootcheck.Exit(err) != bootcheck.ExitHeld || strings.HasPrefix(b.runs(), "1") {
					t.Errorf("boot: %v, runs %s", err, b.runs())
				}
				return
			}
			if err != nil || b.runs() != row.want {
				t.Errorf("boot: %v, runs %s, want %s\n%s", err, b.runs(), row.want, &b.log)
			}
		})
	}
}

// What is asked of the next version is asked of it as that: it ran here before, so a device
// whose current version is damaged at the same boot rolls back to it all the same.
func TestRefusedAsNextOnly(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	b := newBoard(t)
	two := b.change("2.0", func(m *bootcheck.Manifest) { m.NotAfter = &past })
	r := b.record().Clone()
	r.Previous, r.Confirmed[1], r.Next = two, *two, &bootcheck.Next{Ref: *two}
	b.commit(r)
	b.must(os.Remove(b.path("v3.0", "bin", "app")))
	b.must(b.boot(LastClean))
	if r := b.record(); b.runs() != "2.0" || r.Phase != bootcheck.PhaseFallback || r.Next != nil || r.LastRollback.Cause != bootcheck.CauseDamaged {
		t.Errorf("runs %s (%s), next %v, rollback %+v; want 2.0, which was confirmed here\n%s", b.runs(), r.Phase, r.Next, r.LastRollback, &b.log)
	}
}

// A rollback that comes while device-api is told of the one before is told the next time.
func TestTellsEachRollback(t *testing.T) {
	b := newBoard(t)
	b.trial(0)
	roll := func(cause bootcheck.Cause) {
		r := b.record().Clone()
		r.RolledBack(&bootcheck.Rollback{From: "4.0", To: "3.0", Level: bootcheck.LevelPrevious, Cause: cause})
		b.commit(r)
	}
	roll(bootcheck.CauseHealth)
	g := b.device()
	g.cfg.Report.URL = "http://127.0.0.1:9080/"
	told := 0
	g.ask = func(context.Context, health.Request) (health.Answer, error) {
		if told++; told == 1 {
			roll(bootcheck.CauseCrash)
		}
		return health.Answer{}, nil
	}
	for range 3 {
		g.tell(context.Background(), b.record())
	}
	if r := b.record(); told != 2 || !r.LastRollback.Reported {
		t.Errorf("device-api was told of %d rollbacks, the last one is reported: %v; want 2, and true", told, r.LastRollback.Reported)
	}
}

// An operator does not get a version that was never confirmed here and that a revoked key signed:
// neither by a rollback to it, nor by an adoption of another program's links to it.
func TestRevokedByHand(t *testing.T) {
	t.Run("rollback", func(t *testing.T) {
		b := newBoard(t)
		b.sign("2.0", stolen)
		r := b.record().Clone()
		r.Confirmed = slices.Delete(r.Confirmed, 1, 2)
		b.commit(r)
		b.revoke(stolen)
		if err := b.device().rollback(context.Background(), "previous"); bootcheck.Exit(err) != bootcheck.ExitRefused || b.runs() != "3.0" {
			t.Errorf("the rollback ends with %v, runs %s; want it refused", err, b.runs())
		}
	})
	t.Run("adopt", func(t *testing.T) {
		b := newBoard(t)
		b.sign("3.0", stolen)
		b.revoke(stolen)
		b.must(os.Remove(b.path(".active")), os.RemoveAll(b.path(".generations")), os.Remove(b.path("current")), os.Remove(b.path("previous")), os.Remove(b.path("factory")),
			os.Symlink("v3.0", b.path("current")))
		if err := b.device().adoptStore(context.Background(), false); bootcheck.Exit(err) != bootcheck.ExitRefused {
			t.Errorf("the adoption ends with %v, want it refused\n%s", err, &b.log)
		}
	})
}
