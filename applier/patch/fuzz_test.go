package patch

import (
	"bytes"
	"context"
	"testing"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// Any bytes as a patch: no panic, and nothing comes of them without a signature.
func FuzzOpen(f *testing.F) {
	p := smallPair(f)
	f.Add(p.raw)
	f.Add(p.raw[:PrefixSize])
	f.Add(bytes.Replace(p.raw, []byte("OTP1"), []byte("OTP2"), 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := open(t, context.Background(), bytes.NewReader(raw), p.old)
		if err != nil {
			if exit := bootcheck.Exit(err); exit != bootcheck.ExitDamaged && exit != bootcheck.ExitRefused {
				t.Fatalf("%v: exit %d", err, exit)
			}
			return
		}
		if l, _ := parsePrefix(p.raw); !bytes.Contains(raw, p.raw[PrefixSize+l.signature:][:l.head]) {
			t.Fatal("a head without a signature is accepted")
		}
		if bundle.Sum(x.Manifest) != recipeOf(t, p.raw).head.To {
			t.Fatal("another manifest is made")
		}
	})
}

// Any bytes as a signed head: no panic, and what is taken is within bounds.
func FuzzHead(f *testing.F) {
	p := smallPair(f)
	h := recipeOf(f, p.raw).head
	l, err := parsePrefix(p.raw)
	if err != nil {
		f.Fatal(err)
	}
	old, err := bootcheck.ParseManifest(p.old)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mustJSON(f, h))
	f.Add([]byte(`{"format":1,"manifest":1,"frames":[{"out":[0,0,9223372036854775807]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := parseHead(raw, l, int64(len(p.old)))
		if err != nil {
			return
		}
		if checkFrames(h.Frames[h.Manifest:], fileSize(old), fileSize(p.m)) != nil {
			return
		}
		for i := range h.Frames {
			f := &h.Frames[i]
			if f.Window.total() > maxWindow || f.Out.total() > maxOut || f.Length > maxLength || f.Size > maxSize {
				t.Fatalf("frame %d: %+v", i, f)
			}
		}
	})
}

// Any bytes as a difference: no panic, and what is made is what makeDiff's would make.
func FuzzDiff(f *testing.F) {
	window := noise(1, 1000)
	f.Add(makeDiff(noise(2, 500), window).stream(0), uint16(500))
	f.Add(makeDiff(append(bytes.Clone(window[100:]), window...), window).stream(0), uint16(1900))
	f.Add(diff([]int64{5, 10, 2, -3, 20, 0}, []uint64{3, 4}, "ab", "cd"), uint16(32))
	f.Fuzz(func(t *testing.T, b []byte, n uint16) {
		out := make([]byte, n)
		if applyDiff(out, window, b) != nil {
			return
		}
		again := make([]byte, n)
		d := makeDiff(out, window)
		if err := applyDiff(again, window[d.first:d.end], d.stream(d.first)); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%v", err)
		}
	})
}
