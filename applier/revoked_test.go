package applier

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A stolen key cannot fill the list of revoked keys so that it is never revoked itself.
func TestFullListOfRevokedKeys(t *testing.T) {
	d := newDevice(t)
	for i := range bootcheck.MaxRevokedKeys/64 + 1 {
		d.must(d.install(d.bundle("6.6.6", func(c *bundle.Contents) {
			for k := range 64 {
				c.Revoke = append(c.Revoke, fmt.Sprintf("%016X", i*64+k+1))
			}
			c.Release = 6 + int64(i)
		}), installOptions{noActivate: true}))
		d.must(os.RemoveAll(d.path("versions/v6.6.6")))
	}
	d.must(d.install(d.bundle("2.0.0", func(c *bundle.Contents) { c.Key, c.Revoke, c.Release = d.new, []string{keyID(d.key)}, 200 }), installOptions{}))
	d.confirm()
	for _, lost := range []string{"nothing", "versions/.revoked.json"} {
		d.must(os.RemoveAll(d.path(lost)))
		err := d.install(d.bundle("6.7.0", func(c *bundle.Contents) { c.Release = 300 }), installOptions{})
		if bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(err.Error(), "which was revoked") || d.runs() != "2.0.0" {
			t.Errorf("%s is lost: install of what the revoked key signed: %v, %s runs", lost, err, d.runs())
		}
	}
}

// otherID is what under writes where minisign writes the ID of a key.
const otherID = 0x1122334455667788

func under(t *testing.T, text []byte) []byte {
	t.Helper()
	lines := strings.Split(string(text), "\n")
	raw, err := base64.StdEncoding.DecodeString(lines[1])
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint64(raw[2:], otherID)
	lines[1] = base64.StdEncoding.EncodeToString(raw)
	return []byte(strings.Join(lines, "\n"))
}

// A key that lies on the device under two IDs is one key: revoking one revokes both.
func TestRevokedUnderAnotherID(t *testing.T) {
	id := trust.KeyID(otherID)
	for _, revoked := range []string{"the key", "its twin"} {
		t.Run(revoked, func(t *testing.T) {
			d := newDevice(t)
			pub, err := os.ReadFile(d.path("etc/keys/old.pub"))
			d.must(err)
			d.write("etc/keys/twin.pub", string(under(t, pub)))
			asTwin := func(version string) string {
				b := d.huge()
				b.manifest.Version = version
				b.sign = func(raw, sig []byte) []byte { return under(t, sig) }
				head, _ := b.bake(t)
				return d.write(version+".ota", string(head))
			}
			which := keyID(d.key)
			if revoked == "its twin" {
				which = id
			}
			d.must(d.install(d.bundle("2.0.0", func(c *bundle.Contents) { c.Key, c.Revoke, c.Release = d.new, []string{which}, 6 }), installOptions{}))
			d.confirm()
			if !strings.Contains(d.log.String(), keyID(d.key)) || !strings.Contains(d.log.String(), id) {
				t.Errorf("the log does not name both: %s", d.log.String())
			}
			if !strings.Contains(d.log.String(), "are one key") {
				t.Errorf("the log does not say that both are one key: %s", d.log.String())
			}
			for _, gone := range []string{"", "etc/keys/old.pub", "etc/keys/twin.pub"} {
				if gone != "" {
					kept, err := os.ReadFile(d.path(gone))
					d.must(err)
					d.must(os.Remove(d.path(gone)))
					defer d.write(gone, string(kept))
				}
				for name, bundle := range map[string]string{"the key": d.bundle("6.6.6", nil), "its twin": asTwin("6.6.7")} {
					err := d.install(bundle, installOptions{})
					if bootcheck.Exit(err) != bootcheck.ExitRefused || bootcheck.ReportCode(err) != bootcheck.CodeSignatureInvalid || d.runs() != "2.0.0" {
						t.Errorf("without %q: install of what %s signed: %v, %s runs", gone, name, err, d.runs())
					}
				}
			}
		})
	}
}

// A bundle cannot revoke the key that signs it under another ID of that key either.
func TestRevokesItsOwnTwin(t *testing.T) {
	d := newDevice(t)
	text, err := d.key.Public().(minisign.PublicKey).MarshalText()
	d.must(err)
	var pub, twin minisign.PublicKey
	d.must(pub.UnmarshalText(text))
	d.must(twin.UnmarshalText(under(t, text)))
	b := d.huge()
	b.manifest.RevokedKeys = []string{trust.KeyID(otherID)}
	data, _ := b.bake(t)
	head, err := bundle.ReadHead(bytes.NewReader(data), -1)
	d.must(err)
	if _, _, err := head.Verify(trust.These(pub)); err != nil {
		t.Errorf("an unknown ID is revoked: %v", err)
	}
	if _, _, err := head.Verify(trust.These(pub, twin)); bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(err.Error(), "with which it is signed") {
		t.Errorf("it revokes the key that signed it, under another ID: %v", err)
	}
}

// A signature over the manifest itself, and not over its hash, is refused.
func TestLegacySignature(t *testing.T) {
	d := newDevice(t)
	b := d.huge()
	b.sign = func(raw, sig []byte) []byte { return minisign.Sign(d.key, raw) }
	head, _ := b.bake(t)
	d.refused(d.install(d.write("2.0.0.ota", string(head)), installOptions{force: true, allowDowngrade: true}), bootcheck.ExitRefused, "is of the legacy kind")
}

// The name of a version that was confirmed here and is kept is not given to other content.
func TestNameOfAConfirmedVersion(t *testing.T) {
	d := newDevice(t)
	for i, version := range []string{"1.1.0", "1.2.0", "1.3.0"} {
		d.must(d.install(d.bundle(version, func(c *bundle.Contents) { c.Release = 6 + int64(i) }), installOptions{}))
		d.confirm()
	}
	d.write("tree-1.1.0/bin/other", "other content")
	twin := d.bundle("1.1.0", func(c *bundle.Contents) { c.Release = 50 })
	for _, o := range []installOptions{{}, {noActivate: true}, {atReboot: true}, {force: true, allowDowngrade: true}} {
		err := d.install(twin, o)
		if _, statErr := os.Stat(d.path("versions/v1.1.0/bin/other")); bootcheck.Exit(err) != bootcheck.ExitRefused || statErr == nil || d.runs() != "1.3.0" {
			t.Fatalf("install %+v: %v, %s runs", o, err, d.runs())
		}
	}
	// What is damaged is no version to go back to.
	d.write("versions/v1.1.0/bin/app", "rotten")
	d.must(d.install(twin, installOptions{noActivate: true}))
	if _, err := os.Stat(d.path("versions/v1.1.0/bin/other")); err != nil {
		t.Error(err)
	}
	// Nor is one that is gone, or that never was confirmed.
	d.must(os.RemoveAll(d.path("versions/v1.1.0")))
	d.must(d.install(twin, installOptions{noActivate: true}))
	d.write("tree-1.1.0/bin/third", "third content")
	d.must(d.install(d.bundle("1.1.0", func(c *bundle.Contents) { c.Release = 51 }), installOptions{noActivate: true}))
}

// A key that is revoked takes effect at once: on what waits for the next boot, on what is on trial,
// and where there is no room for the version that revokes it.
func TestRevokedAtOnce(t *testing.T) {
	revoking := func(d *device) string {
		return d.bundle("3.0.0", func(c *bundle.Contents) { c.Key, c.Revoke, c.Release = d.new, []string{keyID(d.key)}, 6 })
	}
	t.Run("the next version", func(t *testing.T) {
		d := newDevice(t)
		d.must(d.install(d.bundle("2.0.0", nil), installOptions{atReboot: true}))
		d.must(d.install(revoking(d), installOptions{noActivate: true}))
		d.commit(func(r *bootcheck.Record) {
			if r.Next != nil {
				t.Errorf("version %s waits for the next boot", r.Next.Version)
			}
		})
	})
	t.Run("a trial", func(t *testing.T) {
		d := newDevice(t)
		d.must(d.install(d.bundle("2.0.0", nil), installOptions{}))
		d.must(d.install(revoking(d), installOptions{noActivate: true}))
		a := &applier{cfg: d.cfg, out: io.Discard, log: &d.log}
		if err := a.activateVersion(t.Context(), "2.0.0", installOptions{}); bootcheck.Exit(err) != bootcheck.ExitRefused {
			t.Errorf("activate of the version on trial: %v, want it refused", err)
		}
	})
	t.Run("no room", func(t *testing.T) {
		d := newDevice(t)
		d.cfg.Reserve = 1 << 60
		if err := d.install(revoking(d), installOptions{}); bootcheck.Exit(err) != bootcheck.ExitNoSpace {
			t.Fatalf("the install ends with %v, want that there is no room", err)
		}
		d.cfg.Reserve = 0
		d.refused(d.install(d.bundle("2.0.0", nil), installOptions{}), bootcheck.ExitRefused, "which was revoked")
	})
}
