package bundle

import (
	"bytes"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// Any bytes as a bundle: no panic, no more memory than allowed, and nothing is
// taken without a signature.
func FuzzHead(f *testing.F) {
	good := baseRecipe().bake(f)
	f.Add(good)
	f.Add(good[:PrefixSize])
	f.Add(append(encodePrefix(20), zstdHeader(1<<30, 1<<20)...))
	f.Add(append(encodePrefix(len(zstdRLE(4096, 1<<20))), zstdRLE(4096, 1<<20)...))
	f.Add(append(encodePrefix(len(zstdNoSize())), zstdNoSize()...))
	keys := testKeys()
	goodHead, err := ReadHead(bytes.NewReader(good), -1)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ReadHead(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if bootcheck.Exit(err) != bootcheck.ExitDamaged {
				t.Fatalf("%v: exit %d", err, bootcheck.Exit(err))
			}
			return
		}
		if len(h.RawManifest) > bootcheck.MaxManifest || len(h.Signature) > bootcheck.MaxSignature {
			t.Fatalf("took %d and %d bytes", len(h.RawManifest), len(h.Signature))
		}
		m, _, err := h.Verify(keys)
		if err == nil && !bytes.Equal(h.RawManifest, goodHead.RawManifest) {
			t.Fatalf("took an unsigned manifest: %s", h.RawManifest)
		}
		if err == nil {
			_ = Check(t.Context(), bytes.NewReader(b), h, m, nil)
		}
	})
}

// Any bytes as the tar stream of a signed manifest's payload: only one is taken.
func FuzzTarMember(f *testing.F) {
	r := baseRecipe()
	var good []byte
	r.stream = func(s []byte) []byte { good = bytes.Clone(s); return s }
	h, err := ReadHead(bytes.NewReader(r.bake(f)), -1)
	if err != nil {
		f.Fatal(err)
	}
	m, _, err := h.Verify(testKeys())
	if err != nil {
		f.Fatal(err)
	}
	shares, err := planFrames(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(set(good, typeOffset, "1"))
	f.Add(set(good, fieldSize[0], "77777777777"))
	f.Add(append(header("././@PaxHeader", 'x', 20, ""), "19 size=4294967296\n"...))
	f.Add(make([]byte, len(good)))
	f.Fuzz(func(t *testing.T, tar []byte) {
		// As the head: all that is taken is what headMember makes of it.
		if raw, sig, err := splitHead(tar); err == nil {
			want := append(headMember(bootcheck.ManifestPath, raw), headMember(bootcheck.SignaturePath, sig)...)
			if !bytes.Equal(tar, want) {
				t.Fatalf("took a head that is written in another way")
			}
		}
		padded := make([]byte, len(good))
		copy(padded, tar)
		making := &making{newFiles(m, nil, make([]bool, len(m.Entries)), nil), h, shares}
		err := making.share(t.Context(), new(Worker), 0, padded)
		if (err == nil) != bytes.Equal(padded, good) {
			t.Fatalf("share: %v", err)
		}
		for i := range m.Entries {
			want := entryMember(&m.Entries[i])
			err := checkHeader(tar, want, m.Entries)
			if (err == nil) != bytes.HasPrefix(tar, want.appendHeader(nil)) {
				t.Fatalf("checkHeader: %v", err)
			}
		}
	})
}
