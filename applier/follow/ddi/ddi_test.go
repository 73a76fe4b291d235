package ddi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/applier/follow"
)

// client is a device of the server h.
func client(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/hal+json")
		h(w, r)
	}))
	t.Cleanup(s.Close)
	base, err := New(s.URL, "DEFAULT", "printer 7")
	if err != nil {
		t.Fatal(err)
	}
	return &Client{Base: base, HTTP: &http.Client{Timeout: 2 * time.Second}, Parts: []string{"bApp"}}
}

// Row 14: a pause is HH:MM:SS, and nothing else is one.
func TestParseSleep(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"00:05:00": 5 * time.Minute, "23:59:59": 24*time.Hour - time.Second, "00:00:30": 30 * time.Second, "00:00:00": 0,
		"": 0, "5": 0, "24:00:00": 0, "00:60:00": 0, "-1:00:00": 0, "00:00:00.5": 0, "0:00:30": 0, "00:00:30 ": 0, "PT30S": 0, "aa:bb:cc": 0,
	} {
		if got := parseSleep(text); got != want {
			t.Errorf("parseSleep(%q) = %v, want %v", text, got, want)
		}
	}
}

const goodRoot = `{"config":{"polling":{"sleep":"00:01:00"}},"_links":{"deploymentBase":{"href":"/DEFAULT/controller/v1/printer%207/deploymentBase/7?c=-1"}}}`

func deploymentOf(text string) string { return `{"id":"7","deployment":` + text + `}` }

const artifact = `{"filename":"a.ota","hashes":{"sha1":"x"},"_links":{"download-http":{"href":"http://cdn.example/a.ota"}}}`

func chunks(artifacts string) string {
	return `[{"part":"bApp","version":"1","name":"n","artifacts":[` + artifacts + `]}]`
}

// What a server may answer that is wrong: an error, a pause of 0, an order that cannot be
// done, or none. Nothing of it ends the follower or takes more than a MiB.
func TestMisbehaviour(t *testing.T) {
	const (
		fails   = "an error"
		noOrder = "no order"
		cannot  = "an order with a problem"
		waits   = "an order that may not be activated"
		fine    = "an order"
	)
	for _, tt := range []struct {
		name, root, action string // empty: a good one
		want               string
	}{
		{"nothing at all", " ", "", fails},
		{"half an object", `{"config":`, "", fails},
		{"a list", `[]`, "", fails},
		{"a number", `7`, "", fails},
		{"null", `null`, "", noOrder},
		{"an empty object", `{}`, "", noOrder},
		{"HTML", `<html>captive portal</html>`, "", fails},
		{"binary", "\x00\x01\x02", "", fails},
		{"a pause that is a number", `{"config":{"polling":{"sleep":300}}}`, "", fails},
		{"links that are a list", `{"_links":[]}`, "", fails},
		{"a link that is a text", `{"_links":{"deploymentBase":"x"}}`, "", fails},
		{"a link to nothing", `{"_links":{"deploymentBase":{"href":""}}}`, "", fails},
		{"a link without an address", `{"_links":{"deploymentBase":{}}}`, "", fails},
		{"a link to another API", `{"_links":{"deploymentBase":{"href":"/rest/v1/targets"}}}`, "", fails},
		{"a link to a file", `{"_links":{"deploymentBase":{"href":"file:///etc/shadow"}}}`, "", fails},
		{"a link that is no address", `{"_links":{"deploymentBase":{"href":"http://[::1"}}}`, "", fails},
		{"a link that is not known", `{"_links":{"selfDestruct":{"href":"/x"}}}`, "", noOrder},
		{"deep nesting", `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, "", fails},
		{"two MiB", `{"x":"` + strings.Repeat("a", 2<<20) + `"}`, "", fails},
		{"keys twice", `{"config":{"polling":{"sleep":"00:00:10"}},"config":{"polling":{"sleep":"00:00:20"}}}`, "", noOrder},
		{"an action that is empty", "", `{}`, fails},
		{"an action that is null", "", `null`, fails},
		{"an action without a deployment", "", `{"id":"7"}`, fails},
		{"a deployment that is a text", "", deploymentOf(`"x"`), fails},
		{"an id that is an object", "", `{"id":{},"deployment":{}}`, fails},
		{"an id that is long", "", `{"id":"` + strings.Repeat("7", 200) + `","deployment":{}}`, fails},
		{"an id that leads upwards", "", `{"id":"..","deployment":{}}`, fails},
		{"an id that is a number", "", `{"id":7,"deployment":{"download":"forced","update":"forced","chunks":` + chunks(artifact) + `}}`, fine},
		{"no chunks", "", deploymentOf(`{"download":"forced","update":"forced"}`), cannot},
		{"chunks that are an object", "", deploymentOf(`{"chunks":{}}`), fails},
		{"no artifacts", "", deploymentOf(`{"download":"forced","update":"forced","chunks":` + chunks("") + `}`), cannot},
		{"two bundles", "", deploymentOf(`{"download":"forced","update":"forced","chunks":` + chunks(artifact+","+artifact) + `}`), cannot},
		{"a bundle and a note", "", deploymentOf(`{"download":"forced","update":"forced","chunks":` + chunks(`{"filename":"README"},`+artifact) + `}`), fine},
		{"no hashes", "", deploymentOf(`{"download":"forced","update":"forced","chunks":` + chunks(strings.Replace(artifact, `"hashes":{"sha1":"x"},`, "", 1)) + `}`), fine},
		{"no link", "", deploymentOf(`{"download":"forced","update":"forced","chunks":` + chunks(`{"filename":"a.ota"}`) + `}`), cannot},
		{"a link to a file on the device", "", deploymentOf(`{"download":"forced","update":"forced","chunks":` + chunks(strings.Replace(artifact, "http://cdn.example/a.ota", "file:///a.ota", 1)) + `}`), cannot},
		{"a link with a password", "", deploymentOf(`{"download":"forced","update":"forced","chunks":` + chunks(strings.Replace(artifact, "http://cdn", "http://joe:pw@cdn", 1)) + `}`), cannot},
		{"another module besides", "", deploymentOf(`{"download":"forced","update":"forced","chunks":[{"part":"os"},` + chunks(artifact)[1:] + `}`), cannot},
		{"an update of an unknown kind", "", deploymentOf(`{"download":"forced","update":"maybe","chunks":` + chunks(artifact) + `}`), waits},
		{"an update of no kind", "", deploymentOf(`{"download":"forced","chunks":` + chunks(artifact) + `}`), waits},
		{"forced in a closed window", "", deploymentOf(`{"download":"forced","update":"forced","maintenanceWindow":"unavailable","chunks":` + chunks(artifact) + `}`), waits},
		{"all as it should be", "", deploymentOf(`{"download":"attempt","update":"attempt","chunks":` + chunks(artifact) + `}`), fine},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, func(w http.ResponseWriter, r *http.Request) {
				text := tt.root
				if text == "" {
					text = goodRoot
				}
				if strings.Contains(r.URL.Path, "deploymentBase") {
					text = tt.action
				}
				fmt.Fprint(w, text)
			})
			a, err := c.Ask(t.Context(), nil)
			got := fails
			switch {
			case err != nil:
				inWords(t, err)
			case len(a.Orders) == 0:
				got = noOrder
			case a.Orders[0].Problem != "":
				got = cannot
			case !a.Orders[0].Activate:
				got = waits
			default:
				got = fine
			}
			if got != tt.want {
				t.Errorf("Ask = %s (%+v, %v), want %s", got, a, err, tt.want)
			}
		})
	}
}

// inWords holds that an error is for people who do not know Go.
func inWords(t *testing.T, err error) {
	t.Helper()
	for _, text := range []string{"unmarshal", "Go struct", "Go value", "context deadline", "Client.Timeout"} {
		if strings.Contains(err.Error(), text) {
			t.Errorf("%v: %q is for those who know Go", err, text)
		}
	}
}

// An answer that is none of 2xx, or not JSON, or does not come.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		denied bool
		after  time.Duration
	}{
		{name: "401", answer: func(w http.ResponseWriter) { w.WriteHeader(401) }, denied: true},
		{name: "403", answer: func(w http.ResponseWriter) { w.WriteHeader(403) }, denied: true},
		{name: "404, as of a device that was deleted", answer: func(w http.ResponseWriter) { w.WriteHeader(404) }, denied: true},
		{name: "429", answer: func(w http.ResponseWriter) { w.Header().Set("Retry-After", "120"); w.WriteHeader(429) }, after: 2 * time.Minute},
		{name: "503, for a year", answer: func(w http.ResponseWriter) { w.Header().Set("Retry-After", "31536000"); w.WriteHeader(503) }, after: 7 * 24 * time.Hour},
		{name: "503, for a negative time", answer: func(w http.ResponseWriter) { w.Header().Set("Retry-After", "-5"); w.WriteHeader(503) }},
		{name: "500", answer: func(w http.ResponseWriter) { w.WriteHeader(500) }},
		{name: "a page", answer: func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html"); fmt.Fprint(w, "{}") }},
		{name: "a redirect in a circle", answer: func(w http.ResponseWriter) { w.Header().Set("Location", "/"); w.WriteHeader(302) }},
		{name: "a cut connection", answer: func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		{name: "silence", answer: func(http.ResponseWriter) { time.Sleep(3 * time.Second) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := client(t, func(w http.ResponseWriter, _ *http.Request) { tt.answer(w) }).Ask(t.Context(), nil)
			if err == nil {
				t.Fatal("no error")
			}
			inWords(t, err)
			if got := errors.Is(err, follow.ErrDenied); got != tt.denied {
				t.Errorf("denied is %v, want %v: %v", got, tt.denied, err)
			}
			if e, ok := errors.AsType[*follow.StatusError](err); ok && e.After != tt.after {
				t.Errorf("try again after %v, want %v", e.After, tt.after)
			}
		})
	}
}

// What a message is worth to the server: 410 and other refusals of it are for ever.
func TestUnwanted(t *testing.T) {
	for code, unwanted := range map[int]bool{200: false, 410: true, 404: true, 400: true, 409: false, 429: false, 500: false, 401: false} {
		c := client(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		err := c.Tell(t.Context(), &follow.Message{Action: "7", Outcome: follow.Done})
		if errors.Is(err, follow.ErrUnwanted) != unwanted || (err == nil) != (code == 200) {
			t.Errorf("%d: %v, want unwanted %v", code, err, unwanted)
		}
	}
}

// Behind a proxy a server links to a name that is none here: the configured host is asked.
func TestLinksToAnotherHost(t *testing.T) {
	asked := false
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "deploymentBase") {
			asked = r.URL.RawQuery == "c=-1"
			fmt.Fprint(w, deploymentOf(`{"download":"attempt","update":"attempt","chunks":`+chunks(artifact)+`}`))
			return
		}
		fmt.Fprint(w, strings.Replace(goodRoot, `"/DEFAULT`, `"http://inside.invalid/DEFAULT`, 1))
	})
	if _, err := c.Ask(t.Context(), nil); err != nil || !asked {
		t.Errorf("asked is %v, %v", asked, err)
	}
}

// Row 20: polls and messages go over one connection.
func TestOneConnection(t *testing.T) {
	hosts := map[string]bool{}
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		hosts[r.RemoteAddr] = true
		if r.Method == http.MethodGet {
			fmt.Fprint(w, "{}")
		}
	})
	for range 5 {
		_, err := c.Ask(context.Background(), nil)
		if err := errors.Join(err, c.Tell(t.Context(), &follow.Message{Action: "7"}), c.Attributes(t.Context(), nil, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if len(hosts) != 1 {
		t.Errorf("%d connections, want 1", len(hosts))
	}
}

func TestReadToken(t *testing.T) {
	for _, tt := range []struct {
		text, want, fails string
		mode              os.FileMode
	}{
		{text: "abc\n", mode: 0o600, want: "TargetToken abc"},
		{text: "GatewayToken abc", mode: 0o400, want: "GatewayToken abc"},
		{text: "abc", mode: 0o640, fails: "others can read it (mode 0640)"},
		{text: " \n", mode: 0o600, fails: "it is empty"},
		{text: "marker\nmarker", mode: 0o600, fails: "more than one line"},
		{text: strings.Repeat("marker", 1000), mode: 0o600, fails: "larger than 4 KiB"},
	} {
		file := filepath.Join(t.TempDir(), "token")
		if err := errors.Join(os.WriteFile(file, []byte(tt.text), tt.mode), os.Chmod(file, tt.mode)); err != nil {
			t.Fatal(err)
		}
		got, err := ReadToken(file)
		if got != tt.want || (err == nil) != (tt.fails == "") || err != nil && (!strings.Contains(err.Error(), tt.fails) || strings.Contains(err.Error(), "marker")) {
			t.Errorf("ReadToken of %q, mode %o = %q, %v; want %q, %q", tt.text, tt.mode, got, err, tt.want, tt.fails)
		}
	}
	if got, err := ReadToken("/nowhere/token"); got != "" || err != nil {
		t.Errorf("no file: %q, %v", got, err)
	}
	if _, err := ReadToken(t.TempDir()); err == nil {
		t.Error("a directory is a token")
	}
}

// TestNameOfTheBundle holds that an order is called as the module with the bundle is, also where
// the distribution has others.
func TestNameOfTheBundle(t *testing.T) {
	module := func(name, artifacts string) string {
		return `{"part":"bApp","name":"` + name + `","version":"1","artifacts":[` + artifacts + `]}`
	}
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		text := goodRoot
		if strings.Contains(r.URL.Path, "deploymentBase") {
			text = deploymentOf(`{"download":"forced","update":"forced","chunks":[` + module("notes", "") + "," + module("app", artifact) + "," + module("more", "") + `]}`)
		}
		fmt.Fprint(w, text)
	})
	a, err := c.Ask(t.Context(), nil)
	if err != nil || len(a.Orders) != 1 || a.Orders[0].Name != "app" || a.Orders[0].Problem != "" {
		t.Errorf("Ask = %+v, %v, want an order for app", a, err)
	}
}
