// Package screen looks at the page for the device's own screen with a real browser.
package screen

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/try"
)

var update = flag.Bool("update", false, "write the pictures of docs/SCREEN.md")

var sizes = []size{{480, 320}, {800, 480}, {1280, 800}}

// badVersion is the evidence of a rollback from 1.2.0.
func badVersion(r *bootcheck.Record) {
	r.RolledBack(&bootcheck.Rollback{From: "1.2.0", To: "1.1.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseHealth,
		Check: "device-api answers", Output: "http://127.0.0.1:9080/health answers 500 Internal Server Error", Attempts: 1})
}

// states are what a device can be in, and what the page says then.
var states = []struct {
	name   string
	set    func(d *device) (end func())
	en, zh []string // of the lines
	bar    float64  // below 0: none
	shot   string   // the languages in which there is a picture of it
}{
	{"idle", func(d *device) func() {
		d.state(func(*bootcheck.Record) {})
		return nil
	}, []string{"Confirmed", "1.1.0 is running"}, []string{"已确认", "1.1.0 正在运行"}, -1, "en"},
	{"downloading", (*device).download,
		[]string{"Confirmed", "Downloading 1.2.0", "? %", "? MiB of 400 MiB, ? MiB/s, 0:? left", "Current version: 1.1.0"},
		[]string{"已确认", "正在下载 1.2.0", "? %", "? MiB / 400 MiB，? MiB/秒，剩余 0:?", "当前版本：1.1.0"}, 45, "en zh"},
	{"trial", func(d *device) func() {
		d.state(func(r *bootcheck.Record) { r.Phase, r.Current = bootcheck.PhaseTrial, &bootcheck.Ref{Version: "1.2.0"} })
		d.installs().Stage(report.StageRebooting, 38, "watching 1.2.0: healthy for 23 of 60 s")
		try.Check((&bootcheck.Watching{Version: "1.2.0", Healthy: 23, Stable: 60, Check: "device-api answers", OK: true}).Keep(d.run))
		return nil
	}, []string{"On trial", "Testing 1.2.0", "23 of 60 s", "healthy: confirmed after 60 s"}, []string{"试运行", "正在试运行 1.2.0", "23 / 60 秒", "运行正常，满 60 秒后确认"}, 38, "en"},
	{"trial-bad", func(d *device) func() {
		d.state(func(r *bootcheck.Record) { r.Phase, r.Current = bootcheck.PhaseTrial, &bootcheck.Ref{Version: "1.2.0"} })
		try.Check((&bootcheck.Watching{Version: "1.2.0", Stable: 60, Check: "device-api answers", Why: "nothing listens on 127.0.0.1:9080"}).Keep(d.run))
		return nil
	}, []string{"On trial", "Testing 1.2.0", "0 of 60 s", "“device-api answers” is bad: nothing listens on 127.0.0.1:9080"},
		[]string{"试运行", "正在试运行 1.2.0", "0 / 60 秒", "“device-api answers”未通过：nothing listens on 127.0.0.1:9080"}, 0, ""},
	{"rolled-back", func(d *device) func() {
		d.state(badVersion)
		return nil
	}, []string{"Confirmed", "1.1.0 is running", "Rolled back from 1.2.0 to 1.1.0: check “device-api answers” failed (? s ago)", "http://127.0.0.1:9080/health answers 500 Internal Server Error"},
		[]string{"已确认", "1.1.0 正在运行", "已从 1.2.0 回退到 1.1.0：检查“device-api answers”未通过（? 秒前）", "http://127.0.0.1:9080/health answers 500 Internal Server Error"}, -1, "en"},
	{"hold", func(d *device) func() {
		d.state(func(r *bootcheck.Record) {
			badVersion(r)
			r.Phase, r.HoldReason, r.LastRollback.Level, r.LastRollback.To, r.LastRollback.From = bootcheck.PhaseHold, bootcheck.HoldExhausted, bootcheck.LevelNone, "", "1.1.0"
		})
		return nil
	}, []string{"On hold", "Call the operator", "1.1.0: no version is left to roll back to", "1.1.0 failed: check “device-api answers” failed (? s ago)", "http://127.0.0.1:9080/health answers 500 Internal Server Error"},
		[]string{"已暂停", "请联系操作员", "1.1.0：没有可以回退的版本", "1.1.0 失败：检查“device-api answers”未通过（? 秒前）", "http://127.0.0.1:9080/health answers 500 Internal Server Error"}, -1, "en"},
	{"failed", func(d *device) func() {
		d.state(func(*bootcheck.Record) {})
		r := d.installs()
		r.Stage(report.StageDownloading, 0, "")
		r.Fail(bootcheck.Errorf(bootcheck.ExitDownloadFailed, bootcheck.CodeDownloadFailed, "cannot download http://updates.example.com/1.2.0.ota: 404 Not Found"))
		return nil
	}, []string{"Confirmed", "1.1.0 is running", "The last install failed: download failed", "cannot download http://updates.example.com/1.2.0.ota: 404 Not Found"},
		[]string{"已确认", "1.1.0 正在运行", "上次安装失败：下载失败", "cannot download http://updates.example.com/1.2.0.ota: 404 Not Found"}, -1, ""},
}

// lines are those that the page shows.
const lines = `Array.from(document.querySelectorAll('p, h1, li')).filter(e => e.offsetHeight > 0).map(e => e.textContent)`

// problems are what is wrong with how the page looks: each line that is shown is on the
// screen, whole if whole is said, above the next one, large enough, and light enough on its ground.
const problems = `(function (whole) {
	const u = Math.min(innerHeight / 100, innerWidth * .006), found = [];
	const light = c => c.match(/\d+/g).slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
	const ground = light(getComputedStyle(document.body).backgroundColor);
	let below = 0;
	if (document.documentElement.scrollWidth > innerWidth || document.documentElement.scrollHeight > innerHeight) found.push('the page scrolls');
	for (const e of Array.from(document.querySelectorAll('p, h1, progress, li')).filter(e => e.offsetHeight > 0 && (e.tagName !== 'LI' || e.getBoundingClientRect().left < e.parentElement.getBoundingClientRect().right - 1))) {
		const r = e.getBoundingClientRect(), style = getComputedStyle(e), name = e.id || e.textContent;
		if (r.left < 0 || r.right > innerWidth || r.top < below - .5 || r.bottom > innerHeight) found.push(name + ' is at ' + JSON.stringify(r) + ', below ' + below);
		below = r.bottom;
		if (e.tagName === 'PROGRESS') continue;
		if (e.scrollWidth > e.clientWidth || whole && e.scrollHeight > e.clientHeight + 1) found.push(name + ' is cut: ' + [e.scrollWidth, e.clientWidth, e.scrollHeight, e.clientHeight]);
		const want = e.id === 'head' ? (e.className ? 7.4 : 12.9) : e.id === 'big' ? 14.9 : 5.9, is = parseFloat(style.fontSize) / u;
		if (is < want) found.push(name + ' is ' + style.fontSize);
		const contrast = (light(style.color) + .05) / (ground + .05);
		if (contrast < 7) found.push(name + ' has a contrast of ' + contrast);
	}
	return found;
})`

// matches reports whether each line is as wanted, in which ? stands for digits and a point.
func matches(got, want []string) bool {
	return slices.EqualFunc(got, want, func(got, want string) bool {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(want), `\?`, `[0-9.]*`)
		return regexp.MustCompile("^" + pattern + "$").MatchString(got)
	})
}

// TestStates holds what the page says of every state, in both languages, and that it can be
// read on three screens.
func TestStates(t *testing.T) {
	defer try.Fatal(t)
	d := newDevice(t)
	b := newBrowser(t)
	for _, language := range []string{"en", "zh"} {
		b.open(d.url + "?lang=" + language)
		for _, s := range states {
			end := s.set(d)
			want := s.en
			if language == "zh" {
				want = s.zh
			}
			b.says(s.name+", "+language, want...)
			var bar float64
			if b.eval("document.querySelector('progress').hidden ? -1 : document.querySelector('progress').value", &bar); bar < s.bar-5 || bar > s.bar+5 {
				t.Errorf("%s: the bar is at %v, want %v", s.name, bar, s.bar)
			}
			for _, size := range sizes {
				b.size(size)
				var found []string
				if b.eval(problems+"(true)", &found); len(found) > 0 {
					t.Errorf("%s, %s, %v: %q", s.name, language, size, found)
				}
			}
			b.size(sizes[0])
			if *update && strings.Contains(s.shot, language) {
				b.shot(filepath.Join("../../docs/screen", s.name+"-"+language+".png"))
			}
			if end != nil {
				end()
			}
		}
	}
}

// says waits until the page shows the lines of want, in which ? stands for a number.
func (b *browser) says(what string, want ...string) {
	b.t.Helper()
	var got []string
	for end := time.Now().Add(limit); !matches(got, want) && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		b.eval(lines, &got)
	}
	if !matches(got, want) {
		b.t.Errorf("%s: the page says\n%q, want\n%q", what, got, want)
	}
}

// TestReplaced holds that a page that is open continues when the server is killed, is away
// for a while, and when another ota-apply with another page takes its place.
func TestReplaced(t *testing.T) {
	defer try.Fatal(t)
	d := newDevice(t)
	b := newBrowser(t)
	b.open(d.url)
	b.says("at first", "Confirmed", "1.1.0 is running")
	d.kill()
	d.state(func(r *bootcheck.Record) { r.Phase, r.HoldReason = bootcheck.PhaseHold, bootcheck.HoldEnvironment })
	b.says("after the server was killed", "On hold", "Call the operator", "1.1.0: the same check fails with two versions")

	back := d.away()
	b.says("while there is no server", "No answer for ? s", "Call the operator", "1.1.0: the same check fails with two versions")
	d.state(func(r *bootcheck.Record) { r.Next = &bootcheck.Next{Ref: bootcheck.Ref{Version: "1.2.0"}} })
	back()
	b.says("when it is back", "Confirmed", "1.1.0 is running", "1.2.0 runs from the next boot on")

	var same bool
	b.eval("window.same = true", &same)
	d.build(append(try.Get(os.ReadFile("../../applier/screen/page.html")), "<!-- another one -->"...))
	d.kill()
	b.wait("!window.same")
	b.says("the other page", "Confirmed", "1.1.0 is running", "1.2.0 runs from the next boot on")
}

// TestHostile holds that text of others is text, and that none of it leaves the screen.
func TestHostile(t *testing.T) {
	defer try.Fatal(t)
	d := newDevice(t)
	b := newBrowser(t)
	const evil = `</li></script><script>alert(1)</script><img src=x onerror=alert(1)>"'&lt;`
	const start = "[31m" + evil + " "
	d.state(func(r *bootcheck.Record) {
		r.Current = &bootcheck.Ref{Version: longest}
		r.Phase = bootcheck.PhaseFallback
		r.RolledBack(&bootcheck.Rollback{From: longest, To: longest, Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseHealth,
			Check: evil, Output: "\x1b[31m" + evil + "\u202e\x00 " + strings.Repeat("WWWWWWWWWW", 500), Attempts: 1})
	})
	try.Check((&bootcheck.Watching{Version: longest, Stable: 60, Check: evil, Why: evil + strings.Repeat("m", 500)}).Keep(d.run))
	b.open(d.url + "?lang=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
	b.says("text of others", "Rolled back", "Testing "+longest, "0 of 60 s", "“"+evil+"” is bad: "+evil+strings.Repeat("m", 500),
		"Rolled back from "+longest+" to "+longest+": check “"+evil+"” failed (? s ago)",
		start+strings.Repeat("W", 200-len(start)-len("…"))+"…")
	var elements int
	if b.eval("document.querySelectorAll('img, li script, script + script').length", &elements); elements != 0 {
		t.Errorf("text of others became %d elements", elements)
	}
	for _, size := range append(sizes, size{320, 480}, size{1920, 1080}) {
		b.size(size)
		var found []string
		if b.eval(problems+"(false)", &found); len(found) > 0 {
			t.Errorf("%v: %q", size, found)
		}
	}
}

// TestPolicy holds that no script can be put into the page, and that it reaches no other server.
func TestPolicy(t *testing.T) {
	defer try.Fatal(t)
	d := newDevice(t)
	b := newBrowser(t)
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	b.open(d.url)
	b.expected = "Content Security Policy"
	var done bool
	b.eval(fmt.Sprintf(`(function (url) {
		var s = document.createElement('script');
		s.textContent = 'window.injected = true';
		document.body.appendChild(s);
		var other = document.createElement('script');
		other.src = url;
		document.body.appendChild(other);
		var i = new Image();
		i.src = url;
		var x = new XMLHttpRequest();
		x.onloadend = function () { window.ended = true; };
		x.open('GET', url);
		x.send();
		return true;
	})(%q)`, other.URL), &done)
	b.wait("window.ended")
	var injected bool
	if b.eval("Boolean(window.injected)", &injected); injected || asked.Load() > 0 {
		t.Errorf("a script was injected: %v; another server was asked %d times", injected, asked.Load())
	}
}

// TestAcceptLanguage holds that the browser's language is that of the page.
func TestAcceptLanguage(t *testing.T) {
	defer try.Fatal(t)
	d := newDevice(t)
	b := newBrowser(t)
	b.call("Network.enable", nil, nil)
	b.call("Network.setExtraHTTPHeaders", map[string]any{"headers": map[string]any{"Accept-Language": "fr, zh-CN;q=0.9, en;q=0.8"}}, nil)
	b.open(d.url)
	b.says("Chinese", "已确认", "1.1.0 正在运行")
}

// TestHours holds that a page that is open for hours, in which a second takes no time, keeps
// nothing.
func TestHours(t *testing.T) {
	defer try.Fatal(t)
	d := newDevice(t)
	b := newBrowser(t)
	end := d.download()
	defer end()
	b.open(d.url)
	var asked int
	b.eval(`(function (send) {
		window.asked = 0;
		XMLHttpRequest.prototype.send = function () { window.asked++; return send.apply(this, arguments); };
		return 0;
	})(XMLHttpRequest.prototype.send)`, &asked)
	after := func(hours float64) (heap, nodes, listeners float64) {
		b.call("Emulation.setVirtualTimePolicy", map[string]any{"policy": "pauseIfNetworkFetchesPending", "budget": hours * 3600 * 1000}, nil)
		b.event("Emulation.virtualTimeBudgetExpired")
		b.call("HeapProfiler.collectGarbage", nil, nil)
		var r struct {
			Metrics []struct {
				Name  string
				Value float64
			}
		}
		b.call("Performance.getMetrics", nil, &r)
		for _, m := range r.Metrics {
			switch m.Name {
			case "JSHeapUsedSize":
				heap = m.Value
			case "Nodes":
				nodes = m.Value
			case "JSEventListeners":
				listeners = m.Value
			}
		}
		return heap, nodes, listeners
	}
	heap, nodes, listeners := after(.1)
	heap2, nodes2, listeners2 := after(2)
	if b.eval("window.asked", &asked); asked < 7000 {
		t.Errorf("the page asked %d times in two hours: this proves nothing", asked)
	}
	t.Logf("%d requests; heap %.0f, then %.0f bytes, nodes %.0f, %.0f, listeners %.0f, %.0f", asked, heap, heap2, nodes, nodes2, listeners, listeners2)
	if heap2 > heap*1.1 || nodes2 > nodes+10 || listeners2 > listeners+2 {
		t.Errorf("it grows: heap from %.0f to %.0f bytes, nodes from %.0f to %.0f, listeners from %.0f to %.0f", heap, heap2, nodes, nodes2, listeners, listeners2)
	}
}

// shot writes a picture of the page in its 64 most frequent colours.
func (b *browser) shot(file string) {
	var r struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &r)
	data := try.Get(base64.StdEncoding.DecodeString(r.Data))
	full := try.Get(png.Decode(bytes.NewReader(data)))
	seen := map[color.Color]int{}
	for y := range full.Bounds().Max.Y {
		for x := range full.Bounds().Max.X {
			seen[full.At(x, y)]++
		}
	}
	palette := color.Palette(slices.SortedFunc(maps.Keys(seen), func(a, b color.Color) int { return seen[b] - seen[a] }))
	palette = palette[:min(len(palette), 64)]
	small := image.NewPaletted(full.Bounds(), palette)
	for y := range small.Rect.Max.Y {
		for x := range small.Rect.Max.X {
			small.Set(x, y, full.At(x, y))
		}
	}
	var out bytes.Buffer
	try.Check((&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, small))
	try.Check(os.WriteFile(file, out.Bytes(), 0o644))
	b.t.Logf("%s: %d bytes", file, out.Len())
}
