package applier

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
)

// A bundle of 600 MB that the device must not take is refused as soon as its head
// has arrived, whether the server gives ranges or not: at most 1 MiB of it leaves
// the server.
func TestRefusedByItsHead(t *testing.T) {
	const most = 1 << 20
	refused := func(d *device, format string, args ...any) string {
		return "version 2.0.0 is refused: " + fmt.Sprintf(format, args...)
	}
	_, stranger, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		prepare func(d *device, b *hugeBundle) // before it is signed
		device  func(d *device, digest string) // when its digest is known
		exit    bootcheck.ExitCode             // 0: ExitRefused
		want    func(d *device) string
	}{
		{
			name:    "unsigned",
			prepare: func(d *device, b *hugeBundle) { b.sign = func(raw, sig []byte) []byte { return nil } },
			want:    func(d *device) string { return "the manifest is not signed" },
		},
		{
			name:    "an unknown key",
			prepare: func(d *device, b *hugeBundle) { b.key = stranger },
			want: func(d *device) string {
				return "signed with key " + keyID(stranger) + ", which is not trusted here"
			},
		},
		{
			name: "a revoked key",
			device: func(d *device, digest string) {
				d.must(d.install(d.bundle("1.0.1", func(c *bundle.Contents) { c.Key, c.Revoke, c.Release = d.new, []string{keyID(d.key)}, 5 }), installOptions{noActivate: true}))
				s, err := bootcheck.Open(d.cfg.Root)
				d.must(err)
				d.must(s.Remove(nil, "1.0.1"))
			},
			want: func(d *device) string { return "signed with key " + keyID(d.key) + ", which was revoked" },
		},
		{
			name: "the signature of something else",
			prepare: func(d *device, b *hugeBundle) {
				b.sign = func(raw, sig []byte) []byte { return bundle.Sign(d.key, []byte("something else"), "2.0.0") }
			},
			want: func(d *device) string { return "signature with key " + keyID(d.key) + " is wrong" },
		},
		{
			name:    "a key that revokes itself",
			prepare: func(d *device, b *hugeBundle) { b.manifest.RevokedKeys = []string{keyID(d.key)} },
			want:    func(d *device) string { return refused(d, "it revokes key %s, with which it is signed", keyID(d.key)) },
		},
		{
			name:    "another model",
			prepare: func(d *device, b *hugeBundle) { b.manifest.Models = []string{"x2", "x3"} },
			want:    func(d *device) string { return refused(d, `it is for x2, x3, this device is "x1"`) },
		},
		{
			name:    "an older release",
			prepare: func(d *device, b *hugeBundle) { b.manifest.Release = 4 },
			want:    func(d *device) string { return refused(d, "its release 4 is older than release 5, which ran here") },
		},
		{
			name:    "a release far ahead",
			prepare: func(d *device, b *hugeBundle) { b.manifest.Release = 1<<63 - 1 },
			want: func(d *device) string {
				return refused(d, "its release 9223372036854775807 is 9223372036854775802 beyond")
			},
		},
		{
			name: "expired",
			prepare: func(d *device, b *hugeBundle) {
				until := time.Now().Add(-time.Minute)
				b.manifest.NotAfter = &until
			},
			want: func(d *device) string { return refused(d, "it expired at ") },
		},
		{
			name: "blocked",
			device: func(d *device, digest string) {
				d.commit(func(r *bootcheck.Record) {
					r.Block(bootcheck.Ref{Version: "2.0.0", Digest: digest}, bootcheck.CauseHealth, "device-api answers")
				})
			},
			want: func(d *device) string { return refused(d, "check \"device-api answers\" failed here") },
		},
		{
			name:    "the name of the current version",
			prepare: func(d *device, b *hugeBundle) { b.manifest.Version = "1.0.0" },
			want:    func(d *device) string { return "current is a version of this name with other content" },
		},
		{
			name:    "a version that is a path",
			prepare: func(d *device, b *hugeBundle) { b.manifest.Version = "../../etc" },
			exit:    bootcheck.ExitDamaged,
			want:    func(d *device) string { return `version "../../etc" is not a letter or digit and then` },
		},
		{
			name:    "a version that is a flag",
			prepare: func(d *device, b *hugeBundle) { b.manifest.Version = "--force" },
			exit:    bootcheck.ExitDamaged,
			want:    func(d *device) string { return `version "--force" is not a letter or digit and then` },
		},
		{
			name:    "a version of 65 characters",
			prepare: func(d *device, b *hugeBundle) { b.manifest.Version = strings.Repeat("1", 65) },
			exit:    bootcheck.ExitDamaged,
			want:    func(d *device) string { return "is not a letter or digit and then" },
		},
		{
			name: "another format",
			prepare: func(d *device, b *hugeBundle) {
				b.json = func(raw []byte) []byte { return bytes.Replace(raw, []byte(`"format":1`), []byte(`"format":2`), 1) }
			},
			exit: bootcheck.ExitDamaged,
			want: func(d *device) string { return "format 2 is not known" },
		},
		{
			name: "no bundle",
			prepare: func(d *device, b *hugeBundle) {
				b.head = func(raw, sig []byte) []byte { return []byte("<!DOCTYPE html><html>log in first</html>") }
			},
			exit: bootcheck.ExitDamaged,
			want: func(d *device) string { return "not a bundle: its first bytes are not those of one" },
		},
	} {
		for _, ranges := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, ranges %v", row.name, ranges), func(t *testing.T) {
				d := newDevice(t)
				b := d.huge()
				if row.prepare != nil {
					row.prepare(d, b)
				}
				head, digest := b.bake(t)
				if row.device != nil {
					row.device(d, digest)
				}
				s := newCountingServer(t, head, int64(len(head))+hugePayload+20, ranges)
				exit := row.exit
				if exit == 0 {
					exit = bootcheck.ExitRefused
				}
				d.refused(d.install(s.url, installOptions{}), exit, row.want(d))
				if sent := s.sent.Load(); sent > most {
					t.Errorf("%d bytes left the server, want at most %d", sent, most)
				} else {
					t.Logf("%d bytes left the server", sent)
				}
			})
		}
	}
}

// A bundle that expires is checked by the latest date that is certain.
func TestExpired(t *testing.T) {
	program := bootcheck.BuildDate()
	days := func(n int) time.Time { return program.AddDate(0, 0, n).UTC().Truncate(time.Second) }
	y1970 := time.Unix(30, 0)
	for _, row := range []struct {
		name         string
		clock, until time.Time
		seen         time.Time // the newest date that a signature proved; zero: none
		refused      bool
	}{
		{name: "a clock that runs, before", clock: days(10), until: days(11)},
		{name: "a clock that runs, after", clock: days(12), until: days(11), refused: true},
		{name: "1970, nothing says that it expired", clock: y1970, until: days(1)},
		{name: "1970, and it expired before the program was made", clock: y1970, until: days(-1), refused: true},
		{name: "1970, and it expired before a certificate that was seen", clock: y1970, until: days(1), seen: days(2), refused: true},
		{name: "1970, and it expires after all that was seen", clock: y1970, until: days(3), seen: days(2)},
		{name: "a clock behind what was seen", clock: days(1), until: days(2), seen: days(3), refused: true},
		{name: "nine years ahead", clock: days(9 * 365), until: days(11), refused: true},
		{name: "a clock that is more than ten years ahead says nothing", clock: days(11 * 365), until: days(11)},
		{name: "nor does it where the bundle expired before the program was made", clock: days(11 * 365), until: days(-1), refused: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newDevice(t)
			if !row.seen.IsZero() {
				d.must(mkdir(d.cfg.Spool))
				c := calendar.Open(d.cfg.Spool, nil)
				c.Learn(row.seen)
				c.Save()
			}
			d.clock = row.clock
			err := d.install(d.bundle("2.0.0", func(c *bundle.Contents) { c.NotAfter = &row.until }), installOptions{})
			if !row.refused {
				if err != nil || d.runs() != "2.0.0" {
					t.Errorf("install: %v, %s runs, want 2.0.0", err, d.runs())
				}
				return
			}
			d.refused(err, bootcheck.ExitRefused, "version 2.0.0 is refused: it expired at "+row.until.Format(time.RFC3339))
			if want := "if it is not "; !strings.Contains(bootcheck.Advice(err), want) {
				t.Errorf("advice %q, want %q in it", bootcheck.Advice(err), want)
			}
		})
	}
}

// A version that was damaged in its trial was rolled back, also if it is not blocked.
func TestRolledBackAsDamaged(t *testing.T) {
	d := newDevice(t)
	d.must(d.install(d.bundle("1.1.0", nil), installOptions{}))
	var ref bootcheck.Ref
	d.commit(func(r *bootcheck.Record) {
		ref = *r.Current
		r.Current, r.Previous, r.Phase = r.Previous, nil, bootcheck.PhaseFallback
		r.RolledBack(&bootcheck.Rollback{From: "1.1.0", To: "1.0.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseDamaged})
	})
	store, err := bootcheck.Open(d.cfg.Root)
	d.must(err)
	a := &applier{cfg: d.cfg, store: store, out: io.Discard}
	if done, err := a.trialOutcome(&ref); !done || bootcheck.Exit(err) != bootcheck.ExitRolledBack {
		t.Errorf("trialOutcome(1.1.0) = %t, %v, want an error with ExitRolledBack", done, err)
	}
}
