package channel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// key is the same in each run: what a test reads is what it was written for.
func key(t testing.TB, n byte) minisign.PrivateKey {
	t.Helper()
	_, k, err := minisign.GenerateKey(rand.NewChaCha8([32]byte{n}))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pub(k minisign.PrivateKey) minisign.PublicKey { return k.Public().(minisign.PublicKey) }

func day(s string) time.Time {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return t
}

// A recipe makes a channel file; its functions spoil it.
type recipe struct {
	trusted                minisign.PublicKey // of the device
	releaseKey, channelKey minisign.PrivateKey
	d                      Delegation
	c                      Channel
	delegation, channel    func(text string) string // before they are signed
	file                   func(text string) string
}

func newRecipe(t testing.TB) *recipe {
	r := &recipe{releaseKey: key(t, 1), channelKey: key(t, 2)}
	r.trusted = pub(r.releaseKey)
	r.d = Delegation{Format: 1, Channel: "stable", Epoch: 2, Made: day("2026-11-01"), NotAfter: day("2027-11-01"), Keys: []string{pub(r.channelKey).String()}}
	r.c = Channel{Format: 1, Channel: "stable", Serial: 412, Made: day("2026-11-28"), NotAfter: day("2027-02-28"),
		Releases: []Release{release(14, percent(25), from(9)), release(12, barrier)}, Stop: []string{digest(13)}}
	return r
}

func (r *recipe) bake(t testing.TB) []byte {
	t.Helper()
	d, err := r.d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	edit := func(data []byte, f func(string) string) []byte {
		if f == nil {
			return data
		}
		return []byte(f(string(data)))
	}
	d, c = edit(d, r.delegation), edit(c, r.channel)
	file := bytes.Join([][]byte{
		Delegated(bundle.Sign(r.releaseKey, d, "c"), d), line(bundle.Sign(r.channelKey, c, "c")), c}, nil)
	return edit(file, r.file)
}

func (r *recipe) open(data []byte) (*File, error) {
	return Open(data, "stable", trust.These(r.trusted), nil)
}

func TestOpen(t *testing.T) {
	r := newRecipe(t)
	data := r.bake(t)
	f, err := r.open(data)
	if err != nil {
		t.Fatal(err)
	}
	if f.Channel.Serial != 412 || len(f.Channel.Releases) != 2 || f.Channel.Releases[0].Release != 14 || f.Delegation.Epoch != 2 ||
		f.KeyID != trust.KeyID(r.channelKey.ID()) || f.ReleaseKey != trust.KeyID(r.releaseKey.ID()) {
		t.Errorf("Open: %+v", f)
	}
	again, err := f.Channel.Encode()
	if err != nil || !bytes.HasSuffix(data, again) {
		t.Errorf("what was read is encoded in another way (%v):\n%s", err, again)
	}
	if unchecked, err := Read(data); err != nil || unchecked.KeyID != f.KeyID {
		t.Errorf("Read: %+v, %v", unchecked, err)
	}
	if d, id, err := ReadDelegation(f.Delegated); err != nil || id != f.ReleaseKey || d.Epoch != 2 {
		t.Errorf("ReadDelegation: %+v, %s, %v", d, id, err)
	}
	// A newer program may write more.
	r.channel = func(s string) string { return strings.Replace(s, `"serial"`, `"new":{"a":[1]},"serial"`, 1) }
	if _, err := r.open(r.bake(t)); err != nil {
		t.Errorf("a key that is not known: %v", err)
	}
}

// The classes of attacks on a channel: each is refused, or moves no device.
func TestAttacks(t *testing.T) {
	thief := key(t, 9)
	refusedBy := func(want string, change func(*recipe)) func(*testing.T) {
		return func(t *testing.T) {
			r := newRecipe(t)
			change(r)
			_, err := r.open(r.bake(t))
			if bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("Open = %v, exit %d, want %d and %q", err, bootcheck.Exit(err), bootcheck.ExitRefused, want)
			}
		}
	}
	good := func(t *testing.T, change func(*recipe)) *File {
		t.Helper()
		r := newRecipe(t)
		change(r)
		f, err := r.open(r.bake(t))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	seen := good(t, func(*recipe) {}).Seen()
	notAdmitted := func(want string, change func(*recipe)) func(*testing.T) {
		return func(t *testing.T) {
			err := seen.Admit(good(t, change))
			if bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("Admit = %v, want %q", err, want)
			}
		}
	}

	t.Run("arbitrary software: a key that the device does not have signed the delegation", refusedBy("not trusted here", func(r *recipe) { r.releaseKey, r.channelKey = thief, thief; r.d.Keys = []string{pub(thief).String()} }))
	t.Run("arbitrary software: a key that is not delegated", refusedBy("not trusted here", func(r *recipe) { r.channelKey = thief }))
	t.Run("a channel key delegates to another key", refusedBy("not trusted here", func(r *recipe) {
		r.releaseKey, r.channelKey = r.channelKey, thief
		r.d.Keys = []string{pub(thief).String()}
	}))
	t.Run("rollback of the serial", notAdmitted("serial 411", func(r *recipe) { r.c.Serial = 411 }))
	t.Run("rollback within one serial, which two jobs gave", notAdmitted("serial 412", func(r *recipe) { r.c.Made = r.c.Made.Add(-time.Second) }))
	t.Run("the old key after it was replaced", notAdmitted("epoch 1", func(r *recipe) { r.d.Epoch, r.c.Serial = 1, 9999 }))
	t.Run("freeze", func(t *testing.T) {
		f := good(t, func(*recipe) {})
		if err := f.Expired(f.Channel.NotAfter); err != nil {
			t.Error(err)
		}
		if err := f.Expired(f.Channel.NotAfter.Add(time.Second)); bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(err.Error(), "expired at 2027-02-28") {
			t.Errorf("Expired = %v", err)
		}
		f.Channel.NotAfter = day("2030-01-01")
		if err := f.Expired(day("2027-11-02")); err == nil || !strings.Contains(err.Error(), "the delegation") {
			t.Errorf("the delegation has expired: %v", err)
		}
	})
	t.Run("mix and match: another file's second part", func(t *testing.T) {
		r := newRecipe(t)
		a := r.bake(t)
		r.c.Releases[0].Percent = 100
		b := r.bake(t)
		cut := bytes.LastIndex(a, []byte("\n{")) + 1
		if _, err := r.open(append(bytes.Clone(a[:cut]), b[bytes.LastIndex(b, []byte("\n{"))+1:]...)); bootcheck.Exit(err) != bootcheck.ExitRefused {
			t.Errorf("Open = %v", err)
		}
	})
	t.Run("another channel of the same key", refusedBy(`channel "beta"`, func(r *recipe) { r.c.Channel = "beta" }))
	t.Run("a delegation for another channel", refusedBy(`channel "beta"`, func(r *recipe) { r.d.Channel, r.c.Channel = "beta", "beta" }))
	t.Run("another model", func(t *testing.T) {
		f := good(t, func(*recipe) {})
		if r := f.Channel.Choose(&Device{Model: "x2", Release: 12, Blocked: func(*Release) bool { return false }}); r != nil {
			t.Errorf("a device of another model takes %s", r.Version)
		}
	})
	t.Run("fast-forward of the serial ends with a new epoch", func(t *testing.T) {
		ahead := good(t, func(r *recipe) { r.c.Serial = maxNumber }).Seen()
		if err := ahead.Admit(good(t, func(r *recipe) { r.d.Epoch, r.c.Serial = 3, 1 })); err != nil {
			t.Error(err)
		}
	})
	t.Run("fast-forward of the date ends with the delegation", refusedBy("its key counts until", func(r *recipe) {
		r.c.Made, r.c.NotAfter = day("2027-11-02"), day("2099-01-01")
	}))
	t.Run("endless data", func(t *testing.T) {
		r := newRecipe(t)
		r.channel = func(s string) string { return s + strings.Repeat(" ", MaxSize) }
		if _, err := r.open(r.bake(t)); bootcheck.Exit(err) != bootcheck.ExitDamaged || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("Open = %v", err)
		}
	})
	t.Run("a revoked release key", func(t *testing.T) {
		r := newRecipe(t)
		keys := trust.These(pub(r.releaseKey))
		keys.Revoke(keys.IDs())
		if _, err := Open(r.bake(t), "stable", keys, nil); err == nil || !strings.Contains(err.Error(), "was revoked") {
			t.Errorf("Open = %v", err)
		}
	})
	t.Run("a revoked channel key", func(t *testing.T) {
		r := newRecipe(t)
		if _, err := Open(r.bake(t), "stable", trust.These(pub(r.releaseKey)), []string{trust.KeyID(r.channelKey.ID())}); err == nil || !strings.Contains(err.Error(), "was revoked") {
			t.Errorf("Open = %v", err)
		}
	})
	// What a key signed as something else is no part of a channel.
	t.Run("a manifest for a delegation", func(t *testing.T) {
		r := newRecipe(t)
		r.delegation = func(string) string {
			return `{"format":1,"models":["x1"],"version":"1","release":1,"size":1,"entries":[{"path":"a","type":"file","mode":"0644","size":1,"sha256":"` + strings.Repeat("0", 64) + `"}]}` + "\n"
		}
		if _, err := r.open(r.bake(t)); bootcheck.Exit(err) != bootcheck.ExitDamaged {
			t.Errorf("Open = %v", err)
		}
	})
	t.Run("a delegation for a manifest", func(t *testing.T) {
		d := newRecipe(t).d
		raw, _ := d.Encode()
		if _, err := bootcheck.ParseManifest(raw); err == nil {
			t.Error("it is taken")
		}
	})
	t.Run("a delegation for a channel, by one key", func(t *testing.T) {
		r := newRecipe(t)
		raw, _ := r.d.Encode()
		r.channel = func(string) string { return string(raw) }
		if _, err := r.open(r.bake(t)); bootcheck.Exit(err) != bootcheck.ExitDamaged {
			t.Errorf("Open = %v", err)
		}
	})
}

func TestAdmit(t *testing.T) {
	seen := Seen{"stable", 2, 412, day("2026-11-28")}
	for name, n := range map[string]Seen{
		"the same":                        seen,
		"the next serial":                 {"stable", 2, 413, day("2026-11-29")},
		"the next serial, by a bad clock": {"stable", 2, 413, day("2026-11-01")},
		"one serial given twice":          {"stable", 2, 412, day("2026-11-29")},
		"a new epoch":                     {"stable", 3, 1, day("2026-11-29")},
		"another channel":                 {"beta", 1, 1, day("2026-01-01")},
	} {
		f := &File{Delegation: &Delegation{Epoch: n.Epoch}, Channel: &Channel{Channel: n.Channel, Serial: n.Serial, Made: n.Made}}
		if err := seen.Admit(f); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := (Seen{}).Admit(f); err != nil {
			t.Errorf("%s, for a new device: %v", name, err)
		}
	}
}

// What may stand in a file that good keys have signed, and is refused.
func TestHostile(t *testing.T) {
	replace := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				panic(old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	must := func(r *recipe) Release { return r.c.Releases[0] }
	one, _ := json.Marshal(must(newRecipe(t)))
	first := string(one)
	channels := map[string]func(string) string{
		"empty":                    func(string) string { return "" },
		"no JSON":                  func(string) string { return "hello\n" },
		"a list":                   func(string) string { return "[]\n" },
		"cut off":                  func(s string) string { return s[:len(s)-3] },
		"twice":                    func(s string) string { return s + s },
		"not UTF-8":                replace(`1.14.0"`, "1.14.\xff\""),
		"no format":                replace(`"format":1,`, ""),
		"format 2":                 replace(`"format":1`, `"format":2`),
		"a key twice":              replace(`"serial"`, `"serial":1,"serial"`),
		"a key twice, deep":        replace(`"percent":25`, `"percent":0,"percent":25`),
		"upper case":               replace(`"percent":25`, `"Percent":100`),
		"a key that is escaped":    replace(`"percent":25`, `"percent":25,"\u0070ercent":100`),
		"nested too deep":          replace(`"serial"`, `"x":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+`,"serial"`),
		"no serial":                replace(`"serial":412,`, ""),
		"serial 0":                 replace(`412`, "0"),
		"serial -1":                replace(`412`, "-1"),
		"serial 2^53":              replace(`412`, "9007199254740992"),
		"serial beyond int64":      replace(`412`, "99999999999999999999"),
		"serial 1.5":               replace(`412`, "1.5"),
		"a serial in quotes":       replace(`412`, `"412"`),
		"no date":                  replace(`"made":"2026-11-28T00:00:00Z",`, ""),
		"a date without a zone":    replace(`2026-11-28T00:00:00Z`, "2026-11-28"),
		"a date of another zone":   replace(`2026-11-28T00:00:00Z`, "2026-11-28T00:00:00+14:00"),
		"a date of the year 1":     replace(`2026-11-28T00:00:00Z`, "0001-01-02T00:00:00Z"),
		"nanoseconds":              replace(`2026-11-28T00:00:00Z`, "2026-11-28T00:00:00.5Z"),
		"no end":                   replace(`,"not_after":"2027-02-28T00:00:00Z"`, ""),
		"its end before it":        replace(`2027-02-28`, "2026-02-28"),
		"no name":                  replace(`"channel":"stable"`, `"channel":""`),
		"a name that is a path":    replace(`"channel":"stable"`, `"channel":"../stable"`),
		"a version that is a path": replace(`"version":"1.14.0"`, `"version":"../1.14.0"`),
		"no version":               replace(`"version":"1.14.0"`, `"version":""`),
		"release 0":                replace(`"release":14`, `"release":0`),
		"release -1":               replace(`"release":14`, `"release":-1`),
		"no model":                 replace(`"models":["x1"]`, `"models":[]`),
		"models null":              replace(`"models":["x1"]`, `"models":null`),
		"an empty model":           replace(`"models":["x1"]`, `"models":[""]`),
		"a model with a NUL":       replace(`"models":["x1"]`, `"models":["x\u00001"]`),
		"a model twice":            replace(`"models":["x1"]`, `"models":["x1","x1"]`),
		"65 models":                replace(`"models":["x1"]`, `"models":["x0`+seq(64, func(i int) string { return fmt.Sprintf(`","y%d`, i) })+`"]`),
		"no manifest":              replace(digest(14), ""),
		"a short manifest":         replace(digest(14), digest(14)[:70]),
		"an upper-case manifest":   replace(digest(14), strings.ToUpper(digest(14))),
		"one manifest twice":       replace(digest(14), digest(12)),
		"one release twice":        replace(`"release":14`, `"release":12`),
		"one version twice":        replace(`1.14.0"`, `1.12.0"`),
		"no address":               replace(`"bundle":["1.14.0.ota"]`, `"bundle":[]`),
		"an empty address":         replace(`"bundle":["1.14.0.ota"]`, `"bundle":[""]`),
		"a file":                   replace(`"bundle":["1.14.0.ota"]`, `"bundle":["file:///etc/shadow"]`),
		"an address with a user":   replace(`"bundle":["1.14.0.ota"]`, `"bundle":["https://a:b@example.com/x"]`),
		"an address with a space":  replace(`"bundle":["1.14.0.ota"]`, `"bundle":["1.14.0.ota --force"]`),
		"an address of two lines":  replace(`"bundle":["1.14.0.ota"]`, `"bundle":["1.14.0.ota\nx"]`),
		"a host without a scheme":  replace(`"bundle":["1.14.0.ota"]`, `"bundle":["//example.com/x"]`),
		"no host":                  replace(`"bundle":["1.14.0.ota"]`, `"bundle":["https:1.14.0.ota"]`),
		"a long address":           replace(`"bundle":["1.14.0.ota"]`, `"bundle":["`+strings.Repeat("a", maxAddress+1)+`"]`),
		"9 addresses":              replace(`"bundle":["1.14.0.ota"]`, `"bundle":["a","a","a","a","a","a","a","a","a"]`),
		"size 0":                   replace(`"size":1`, `"size":0`),
		"size beyond a disk":       replace(`"size":1`, `"size":2199023255552`),
		"percent -1":               replace(`"percent":25`, `"percent":-1`),
		"percent 101":              replace(`"percent":25`, `"percent":101`),
		"percent 1.5":              replace(`"percent":25`, `"percent":1.5`),
		"from_release itself":      replace(`"from_release":9`, `"from_release":14`),
		"from_release -1":          replace(`"from_release":9`, `"from_release":-1`),
		"barrier 1":                replace(`"barrier":false`, `"barrier":1`),
		"stop is no digest":        replace(digest(13), "1.13.0"),
		"stop twice":               replace(`"`+digest(13)+`"`, `"`+digest(13)+`","`+digest(13)+`"`),
		"257 stops":                replace(`"`+digest(13)+`"`, `"`+digest(0)+`"`+seq(256, func(i int) string { return `,"` + digest(1000+i) + `"` })),
		"257 releases": replace(first, seq(255, func(i int) string {
			return `{"version":"` + fmt.Sprint(i+100) + `","release":` + fmt.Sprint(i+100) + `,"models":["x"],"manifest":"` + digest(i+100) + `","bundle":["a"],"size":1},`
		})+first),
	}
	files := map[string]func(string) string{
		"no file":                     func(string) string { return "" },
		"HTML":                        func(string) string { return "<html>\n" },
		"a bundle":                    func(string) string { return "\x50\x2a\x4d\x18\x10\x00\x00\x00" + strings.Repeat("\x00", 1000) },
		"only the first part":         func(s string) string { return s[:strings.Index(s, "}\n")+2] },
		"cut within the channel":      func(s string) string { return s[:strings.LastIndex(s, "\n{")+1] },
		"a signature without an end":  func(s string) string { return "untrusted comment: " + strings.Repeat("a", MaxSize/2) },
		"a delegation without an end": func(s string) string { return s[:strings.Index(s, "{")] + strings.Repeat("a", MaxSize/2) },
		"a byte before it":            func(s string) string { return "\n" + s },
	}
	delegations := map[string]func(string) string{
		"an unknown key":     replace(`"epoch"`, `"x":1,"epoch"`),
		"a key twice":        replace(`"epoch"`, `"epoch":9,"epoch"`),
		"upper case":         replace(`"epoch":2`, `"Epoch":2`),
		"no epoch":           replace(`"epoch":2,`, ``),
		"epoch 0":            replace(`"epoch":2`, `"epoch":0`),
		"no keys":            func(s string) string { return s[:strings.Index(s, `"keys"`)] + `"keys":[]}` + "\n" },
		"a key that is none": replace(`"keys":["`, `"keys":["RWQ`),
		"one key twice": func(s string) string {
			k := s[strings.Index(s, `["`)+1 : strings.Index(s, `"]`)+1]
			return strings.Replace(s, k, k+","+k, 1)
		},
		"no date":                   replace(`"made":"2026-11-01T00:00:00Z",`, ``),
		"its end before it":         replace(`2027-11-01`, `2025-11-01`),
		"a name that is a path":     replace(`"channel":"stable"`, `"channel":"/stable"`),
		"the delegation is no JSON": func(s string) string { return "hello\n" },
	}
	n := 0
	for kind, rows := range map[string]map[string]func(string) string{"channel": channels, "file": files, "delegation": delegations} {
		for name, spoil := range rows {
			n++
			t.Run(kind+"/"+name, func(t *testing.T) {
				r := newRecipe(t)
				switch kind {
				case "channel":
					r.channel = spoil
				case "file":
					r.file = spoil
				case "delegation":
					r.delegation = spoil
				}
				f, err := r.open(r.bake(t))
				if bootcheck.Exit(err) != bootcheck.ExitDamaged || f != nil {
					t.Errorf("Open = %v, exit %d, want %d", err, bootcheck.Exit(err), bootcheck.ExitDamaged)
				}
				if err != nil && len(err.Error()) > 1000 {
					t.Errorf("the error has %d bytes", len(err.Error()))
				}
			})
		}
	}
	if n < 60 {
		t.Errorf("%d hostile files, want 60 or more", n)
	}
}

func seq(n int, f func(int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(f(i))
	}
	return b.String()
}

// Any bytes as a channel: no panic, and nothing is taken that was not signed.
func FuzzOpen(f *testing.F) {
	r := newRecipe(f)
	good := r.bake(f)
	opened, err := r.open(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(opened.Delegated)
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := r.open(b)
		if err == nil && (!bytes.Equal(file.channel, opened.channel) || !bytes.Equal(file.delegation, opened.delegation)) {
			t.Fatalf("took what no trusted key signed: %q", b)
		}
		if code := bootcheck.Exit(err); err != nil && code != bootcheck.ExitDamaged && code != bootcheck.ExitRefused {
			t.Fatalf("%v: exit %d", err, code)
		}
	})
}

// Any bytes that a channel key signed: no panic, and what is taken is encoded and read again.
func FuzzChannel(f *testing.F) {
	r := newRecipe(f)
	raw, err := r.c.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"format":1,"channel":"a","serial":1,"made":"2026-11-28T00:00:00Z","not_after":"2027-11-28T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseChannel(b)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := parseChannel(again); err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, again)
		}
		_ = c.Choose(&Device{ID: "a", Blocked: func(*Release) bool { return false }})
	})
}
