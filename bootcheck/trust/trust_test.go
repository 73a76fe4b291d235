package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/bootcheck"
)

func newKey(t testing.TB) (minisign.PublicKey, minisign.PrivateKey) {
	t.Helper()
	pub, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pub, key
}

func writePub(t testing.TB, file string, pub minisign.PublicKey) {
	t.Helper()
	text, err := pub.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLoadKeys(t *testing.T) {
	dir := t.TempDir()
	a, _ := newKey(t)
	b, _ := newKey(t)
	c, _ := newKey(t)
	writePub(t, filepath.Join(dir, "a.pub"), a)
	writePub(t, filepath.Join(dir, "b.pub"), b)
	writePub(t, filepath.Join(dir, "copy-of-a.pub"), a)
	writePub(t, filepath.Join(dir, "c.old"), c)
	file := filepath.Join(t.TempDir(), "any name")
	writePub(t, file, c)

	for _, row := range []struct {
		name  string
		paths []string
		want  int
	}{
		{"no paths", nil, 0},
		{"a directory that does not exist", []string{dir + "/no"}, 0},
		{"an empty directory", []string{t.TempDir()}, 0},
		{"a directory: only *.pub, a copy counts once", []string{dir}, 2},
		{"a file of any name", []string{file}, 1},
		{"all of it", []string{dir, file, dir + "/no"}, 3},
	} {
		if k := Load(row.paths); k.Len() != row.want || k.Skipped != nil {
			t.Errorf("%s: Load = %d keys, skipped %v, want %d", row.name, k.Len(), k.Skipped, row.want)
		}
	}
}

// TestLoadKeysDamaged holds that a file that is no key, or that others can change, is
// named and does not keep a device from trusting the others; an operator who names such a
// file has made a mistake.
func TestLoadKeysDamaged(t *testing.T) {
	pub, _ := newKey(t)
	other, _ := newKey(t)
	good, _ := pub.MarshalText()
	for name, make := range map[string]func(file string) error{
		"empty":       func(f string) error { return os.WriteFile(f, nil, 0o644) },
		"cut off":     func(f string) error { return os.WriteFile(f, good[:len(good)-8], 0o644) },
		"html":        func(f string) error { return os.WriteFile(f, []byte("<html>"), 0o644) },
		"very long":   func(f string) error { return os.WriteFile(f, append(good, make0(5000)...), 0o644) },
		"a FIFO":      func(f string) error { return syscall.Mkfifo(f, 0o644) },
		"a directory": func(f string) error { return os.Mkdir(f, 0o755) },
		"dangling":    func(f string) error { return os.Symlink("no", f) },
		"PEM":         func(f string) error { return os.WriteFile(f, []byte("-----BEGIN PUBLIC KEY-----\nMCow\n"), 0o644) },
		"a key that every user can write": func(f string) error {
			writePub(t, f, other)
			return os.Chmod(f, 0o666)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writePub(t, filepath.Join(dir, "a.pub"), pub)
			if err := make(filepath.Join(dir, "broken.pub")); err != nil {
				t.Fatal(err)
			}
			k := Load([]string{dir})
			if k.Len() != 1 || !k.byID[pub.ID()].Equal(pub) || len(k.Skipped) != 1 || !strings.Contains(k.Skipped[0].Error(), "broken.pub") {
				t.Errorf("Load: %d keys, skipped %v, want the good one and an error that names broken.pub", k.Len(), k.Skipped)
			}
			if _, err := Named([]string{dir}); !strings.Contains(name, "write") && (err == nil || !strings.Contains(err.Error(), "broken.pub")) {
				t.Errorf("Named: %v, want an error that names broken.pub", err)
			}
		})
	}
}

func make0(n int) []byte { return []byte(strings.Repeat("\n", n)) }

// prehashed signs as ota-bundle and `minisign -H` do.
func prehashed(key minisign.PrivateKey, raw []byte) []byte {
	r := minisign.NewReader(bytes.NewReader(raw))
	_, _ = io.Copy(io.Discard, r)
	return r.SignWithComments(key, "c", "u")
}

// withID is pub under another ID, as an edited key file gives it.
func withID(t *testing.T, pub minisign.PublicKey, id uint64) minisign.PublicKey {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(pub.String())
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint64(raw[2:], id)
	var twin minisign.PublicKey
	if err := twin.UnmarshalText([]byte(base64.StdEncoding.EncodeToString(raw))); err != nil {
		t.Fatal(err)
	}
	return twin
}

// Revoked is the key, not its ID.
func TestRevokeTwins(t *testing.T) {
	pub, key := newKey(t)
	other, otherKey := newKey(t)
	twin := withID(t, pub, 0x1234)
	raw := []byte(`{"format":1}`)
	asTwin := func(sig []byte) []byte {
		var s minisign.Signature
		if err := s.UnmarshalText(sig); err != nil {
			t.Fatal(err)
		}
		s.KeyID = twin.ID()
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, revoked := range map[string]string{"the key": KeyID(pub.ID()), "its twin": KeyID(twin.ID())} {
		keys := These(pub, twin, other)
		for _, sig := range [][]byte{prehashed(key, raw), asTwin(prehashed(key, raw))} {
			if _, err := keys.Verify(raw, sig); err != nil {
				t.Fatal(err)
			}
		}
		if got := keys.Twins([]string{revoked, "AAAAAAAAAAAAAAAA"}); len(got) != 3 {
			t.Errorf("%s: Twins = %q, want both IDs and the unknown one", name, got)
		}
		keys.Revoke([]string{revoked})
		for _, sig := range [][]byte{prehashed(key, raw), asTwin(prehashed(key, raw))} {
			if _, err := keys.Verify(raw, sig); err == nil || !strings.Contains(err.Error(), "was revoked") {
				t.Errorf("%s is revoked, and Verify = %v", name, err)
			}
		}
		if _, err := keys.Verify(raw, prehashed(otherKey, raw)); err != nil {
			t.Errorf("%s is revoked, and another key with it: %v", name, err)
		}
	}
}

func TestKeysVerify(t *testing.T) {
	pub, key := newKey(t)
	_, stranger := newKey(t)
	raw := []byte(`{"format":1}`)
	sig := prehashed(key, raw)
	keys := These(pub)
	other := prehashed(key, []byte("something else"))

	if id, err := keys.Verify(raw, sig); err != nil || id != KeyID(pub.ID()) {
		t.Errorf("Verify = %s, %v, want %s", id, err, KeyID(pub.ID()))
	}

	// A key with the ID of another: only the bytes of the key may decide.
	var s minisign.Signature
	if err := s.UnmarshalText(prehashed(stranger, raw)); err != nil {
		t.Fatal(err)
	}
	s.KeyID = pub.ID()
	impostor, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.UnmarshalText(sig); err != nil {
		t.Fatal(err)
	}
	s.TrustedComment = "another comment"
	comment, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	revoked := These(pub)
	revoked.Revoke([]string{KeyID(pub.ID())})
	untrusted := These()
	untrusted.Revoke([]string{KeyID(pub.ID())})
	missing := Load([]string{"/no/such/folder"})

	for _, row := range []struct {
		name string
		keys *Keys
		raw  []byte
		sig  []byte
		want string
	}{
		{"no keys", missing, raw, sig, "no trusted keys in /no/such/folder: every install is refused"},
		{"no keys and no signature", missing, raw, nil, "no trusted keys"},
		{"unsigned", keys, raw, nil, "is not signed"},
		{"a signature of spaces", keys, raw, []byte(" \n\n"), "is not signed"},
		{"a signature that is none", keys, raw, []byte("hello"), "signature is damaged"},
		{"a signature that is cut off", keys, raw, sig[:len(sig)/2], "signature is damaged"},
		{"a very long signature", keys, raw, append(append([]byte{}, sig...), make0(5000)...), "signature is damaged"},
		{"an unknown key", keys, raw, prehashed(stranger, raw), "signed with key " + KeyID(stranger.ID()) + ", which is not trusted here"},
		{"an unknown key with a trusted one's ID", keys, raw, impostor, "is wrong"},
		{"a legacy signature", keys, raw, minisign.Sign(key, raw), "is of the legacy kind"},
		{"a revoked key", revoked, raw, sig, "signed with key " + KeyID(pub.ID()) + ", which was revoked"},
		{"the signature of something else, with a revoked key", revoked, raw, other, "was revoked"},
		{"a revoked key, and no other", untrusted, raw, sig, "no trusted keys"},
		{"the signature of something else", keys, raw, other, "is wrong"},
		{"a manifest changed by one bit", keys, []byte(`{"format":0}`), sig, "is wrong"},
		{"an empty manifest", keys, nil, sig, "is wrong"},
		{"a changed trusted comment", keys, raw, comment, "is wrong"},
	} {
		t.Run(row.name, func(t *testing.T) {
			id, err := row.keys.Verify(row.raw, row.sig)
			if err == nil || id != "" || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("Verify = %q, %v, want %q", id, err, row.want)
			}
			if bootcheck.Exit(err) != bootcheck.ExitRefused || bootcheck.ReportCode(err) != bootcheck.CodeSignatureInvalid {
				t.Errorf("Verify: exit %d, code %s", bootcheck.Exit(err), bootcheck.ReportCode(err))
			}
		})
	}

	// Every bit counts.
	for i := range sig {
		bad := append([]byte(nil), sig...)
		bad[i] ^= 1
		if i < strings.Index(string(sig), "\n") {
			continue // the untrusted comment
		}
		if _, err := keys.Verify(raw, bad); err == nil && !sameSignature(bad, sig) {
			t.Errorf("Verify takes a signature with byte %d changed", i)
		}
	}
}

// sameSignature reports whether two texts are one signature: a line may end in
// one way or another.
func sameSignature(a, b []byte) bool {
	var x, y minisign.Signature
	return x.UnmarshalText(a) == nil && y.UnmarshalText(b) == nil &&
		x.KeyID == y.KeyID && x.Signature == y.Signature && x.CommentSignature == y.CommentSignature && x.TrustedComment == y.TrustedComment
}
