package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/integration/try"
)

// what go test -json writes of a package with a test that fails, one that passes, one
// that is skipped, and an engine.
const events = `
{"Action":"run","Package":"a/b","Test":"TestX"}
{"Action":"output","Package":"a/b","Test":"TestX","Output":"=== RUN   TestX\n"}
{"Action":"run","Package":"a/b","Test":"TestX/one (1)"}
{"Action":"output","Package":"a/b","Test":"TestX/one (1)","Output":"    x_test.go:1: wrong\n"}
{"Action":"output","Package":"a/b","Test":"TestX/one (1)","Output":"        in two lines\n"}
{"Action":"output","Package":"a/b","Test":"TestX/one (1)","Output":"    start.go:79: the container's log:\n"}
{"Action":"output","Package":"a/b","Test":"TestX/one (1)","Output":"        0.037 -- boot 1\n"}
{"Action":"fail","Package":"a/b","Test":"TestX/one (1)"}
{"Action":"run","Package":"a/b","Test":"TestX/two"}
{"Action":"output","Package":"a/b","Test":"TestX/two","Output":"not needed this\n"}
{"Action":"output","Package":"a/b","Test":"TestX/two","Output":"crash: kills: 12 of 345 points, 1 failed, 61 s\n"}
{"Action":"pass","Package":"a/b","Test":"TestX/two"}
{"Action":"run","Package":"a/b","Test":"TestX/three"}
{"Action":"skip","Package":"a/b","Test":"TestX/three"}
{"Action":"fail","Package":"a/b","Test":"TestX"}
{"Action":"fail","Package":"a/b"}
{"Action":"run","Package":"a/d","Test":"TestY"}
{"Action":"output","Package":"a/d","Test":"TestY","Output":"fatal error: concurrent map writes\n"}
{"Action":"output","Package":"a/d","Output":"FAIL\ta/d\t12.5s\n"}
{"Action":"fail","Package":"a/d"}
{"Action":"build-output","ImportPath":"a/c","Output":"c.go:1: undefined: x\n"}
{"Action":"build-fail","ImportPath":"a/c"}
`

func TestSum(t *testing.T) {
	defer try.Fatal(t)
	p := &part{name: "stories", env: []string{"OTA_SUITES=trixie"}}
	s := &sum{name: p.name}
	l := newLog(p, s)
	d := json.NewDecoder(strings.NewReader(events))
	for d.More() {
		var e event
		try.Check(d.Decode(&e))
		l.add(&e)
	}
	l.sum()
	s.took = 90 * time.Second
	if s.tests != 3 || s.failed != 3 || s.skipped != 1 {
		t.Errorf("%d tests, %d failed, %d skipped; want 3, 3 (one did not build, one died), 1", s.tests, s.failed, s.skipped)
	}
	for _, want := range []string{
		"the container's log:\n", "undefined: x\n", "TestY never ended; it printed:\nfatal error: concurrent map writes\n",
		"in short:\n    x_test.go:1: wrong\n        in two lines\nonce more:", "skipped: a/b TestX/three\n",
		`once more: OTA_SUITES=trixie go test -count=1 -v a/b -run '^TestX$/^one \(1\)$'` + "\n",
	} {
		if !strings.Contains(s.failures.String(), want) {
			t.Errorf("%q is not in what is told:\n%s", want, s.failures.String())
		}
	}
	if strings.Contains(s.failures.String(), "not needed") {
		t.Errorf("it tells what a test printed that passed:\n%s", s.failures.String())
	}
	want := `| tier check | made | failed | minutes |
|---|---|---|---|
| stories | 3 tests, 1 skipped | 3 | 1.5 |
| kills | 12 of 345 points | 1 | 1.0 |

2.0 minutes, beside the unit tests. What is not "N of N" is a sample: ` + "`make nightly`" + ` makes all of it.
`
	if diff := cmp.Diff(want, table("check", []*sum{s}, 2*time.Minute)); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
}

func TestCounts(t *testing.T) {
	defer try.Fatal(t)
	t.Chdir(t.TempDir())
	try.Check(os.WriteFile("doc.md", []byte("head\n<!-- counts: make counts -->\nold\n<!-- end of counts -->\ntail\n"), 0o644))
	if err := counts("doc.md"); err == nil {
		t.Error("no error where no tier was run")
	}
	try.Check(os.MkdirAll(results, 0o755))
	for _, tier := range []string{"check", "deep"} {
		try.Check(os.WriteFile(results+"/"+tier+".md", []byte("of "+tier+"\n"), 0o644))
	}
	try.Check(counts("doc.md"))
	got, _ := os.ReadFile("doc.md")
	if want := "head\n<!-- counts: make counts -->\nof deep\n<!-- end of counts -->\ntail\n"; string(got) != want {
		t.Errorf("the document is %q, want %q", got, want)
	}
}

// Nothing that is run nightly is in no tier of CI, by its packages.
func TestTiersNamePackagesOfNightly(t *testing.T) {
	named := func(of ...string) map[string]bool {
		all := make(map[string]bool)
		for _, tier := range of {
			for _, p := range tiers[tier] {
				for _, arg := range p.args {
					if strings.HasPrefix(arg, "./integration/") {
						all[arg] = true
					}
				}
			}
		}
		return all
	}
	if diff := cmp.Diff(named("nightly"), named("check", "deep")); diff != "" {
		t.Errorf("the packages of check and deep are not those of nightly:\n%s", diff)
	}
	defer try.Fatal(t)
	for _, d := range try.Get(os.ReadDir("../..")) {
		name := "./integration/" + d.Name()
		if all := named("nightly"); d.IsDir() && !all[name] && !all[name+"/..."] && !withoutTests[d.Name()] {
			t.Errorf("%s is in no tier", name)
		}
	}
}

// withoutTests are directories that have none, or whose tests `make test` runs.
var withoutTests = map[string]bool{"cmdtest": true, "deviceapi": true, "daemon": true, "tier": true, "try": true}
