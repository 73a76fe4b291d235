package screen

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// A browser is Debian's Chromium with one page, told what to do over two pipes by the
// DevTools protocol: a JSON object and a NUL each way.
type browser struct {
	t       *testing.T
	to      io.Writer
	answers chan answer
	session string         // of the page
	last    int            // request
	events  map[string]int // that came, and no caller waited for yet

	expected string // in what the page may complain about; empty: nothing
}

type answer struct {
	ID     int
	Error  *struct{ Message string }
	Result json.RawMessage
	Method string // of an event
	Params json.RawMessage
}

// limit is for one answer, on the slowest machine.
const limit = time.Minute

// newBrowser starts a browser that ends with the test. What its page complains about, such
// as a policy that was broken, is an error of the test.
func newBrowser(t *testing.T) *browser {
	program, err := exec.LookPath("chromium-headless-shell")
	if err != nil {
		program, err = exec.LookPath("chromium")
	}
	if err != nil {
		try.Failf("there is no Chromium: scripts/packages.sh installs it")
	}
	cmd := exec.CommandContext(t.Context(), program, "--headless", "--no-sandbox", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir(),
		"--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run", "--disable-background-networking", "--font-render-hinting=none")
	theirIn, to := pipe(t)
	from, theirOut := pipe(t)
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	var log bytes.Buffer
	cmd.Stderr = &log
	try.Check(cmd.Start())
	theirIn.Close()
	theirOut.Close()
	b := &browser{t: t, to: to, answers: make(chan answer, 1000), events: map[string]int{}}
	go func() {
		defer close(b.answers)
		for r := bufio.NewReader(from); ; {
			data, err := r.ReadBytes(0)
			if err != nil {
				return
			}
			var a answer
			if json.Unmarshal(data[:len(data)-1], &a) == nil {
				b.answers <- a
			}
		}
	}()
	t.Cleanup(func() {
		to.Close() // it ends
		for range b.answers {
		}
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s", &log)
		}
	})
	var target struct{ TargetID, SessionID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	b.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Performance"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

func pipe(t *testing.T) (r, w *os.File) {
	r, w, err := os.Pipe()
	try.Check(err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// call asks the browser, and puts what it answers into result; nil: it is dropped.
func (b *browser) call(method string, params map[string]any, result any) {
	defer try.Say("%s", method)
	b.last++
	request := map[string]any{"id": b.last, "method": method}
	if params != nil {
		request["params"] = params
	}
	if b.session != "" {
		request["sessionId"] = b.session
	}
	try.Get(b.to.Write(append(try.Get(json.Marshal(request)), 0)))
	for {
		a := b.next()
		switch {
		case a.ID == b.last && a.Error != nil:
			try.Failf("%s", a.Error.Message)
		case a.ID == b.last && result != nil:
			try.Check(json.Unmarshal(a.Result, result))
			return
		case a.ID == b.last:
			return
		}
	}
}

// event waits for an event.
func (b *browser) event(method string) {
	defer try.Say("%s", method)
	for b.events[method] == 0 {
		b.next()
	}
	b.events[method]--
}

// next is what the browser says next.
func (b *browser) next() (a answer) {
	var ok bool
	select {
	case a, ok = <-b.answers:
		if !ok {
			try.Failf("the browser has ended")
		}
		switch a.Method {
		case "":
		case "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled":
			b.complains(a.Params)
		default:
			b.events[a.Method]++
		}
	case <-time.After(limit):
		try.Failf("no answer in %v", limit)
	}
	return a
}

// complains is called for all that the page says on its console.
func (b *browser) complains(params json.RawMessage) {
	// Every browser asks for an icon.
	if !bytes.Contains(params, []byte("/favicon.ico")) && (b.expected == "" || !bytes.Contains(params, []byte(b.expected))) {
		b.t.Errorf("the page complains: %s", params)
	}
}

// eval puts the value of a JavaScript expression of the page into result.
func (b *browser) eval(expression string, result any) {
	defer try.Say("%s", expression)
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		try.Failf("%s", r.ExceptionDetails)
	}
	if err := json.Unmarshal(r.Result.Value, result); err != nil {
		try.Failf("%w: %s", err, r.Result.Value)
	}
}

// wait waits until the JavaScript expression, which says what, is true.
func (b *browser) wait(expression string) {
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		var yes bool
		if b.eval("Boolean("+expression+")", &yes); yes {
			return
		}
		if time.Now().After(end) {
			var is string
			b.eval("document.body ? document.body.innerText : document.URL", &is)
			try.Failf("never true in %v: %s; the page says %q", limit, expression, is)
		}
	}
}

// size makes the window as large as a screen of the device.
func (b *browser) size(s size) {
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": s.width, "height": s.height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

func (b *browser) open(url string) {
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	b.wait(`document.readyState === 'complete' && document.getElementById('phase') && document.getElementById('phase').textContent`)
}

type size struct{ width, height int }

func (s size) String() string { return fmt.Sprintf("%dx%d", s.width, s.height) }
