//go:build goosebit

package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/daemon"
	"github.com/tope-ota/ota/integration/fleet/fake"
	"github.com/tope-ota/ota/integration/try"
)

// A goose is a real gooseBit, and what its API says.
type goose struct {
	url, token string
}

// newGoose starts gooseBit from the virtual environment in $OTA_GOOSEBIT, with the bundles
// as its software 1, 2, ….
func newGoose(t *testing.T, model string, bundles ...string) *goose {
	address := daemon.Address()
	_, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(os.Getenv("OTA_GOOSEBIT"), "bin", name), args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOOSEBIT_DB_URI=sqlite:///"+filepath.Join(dir, "db.sqlite3"), "GOOSEBIT_DEVICE_AUTH__ENABLE=true", "GOOSEBIT_DEVICE_AUTH__MODE=strict")
		return cmd
	}
	seed := try.Get(filepath.Abs("goosebit/seed.py"))
	try.Run(command("python", append([]string{seed, model}, bundles...)...))
	log, stop := daemon.Start(command("uvicorn", "goosebit:app", "--host", "127.0.0.1", "--port", port), address)
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("gooseBit:\n%s", log)
		}
	})
	r := try.Get(http.PostForm("http://"+address+"/setup", url.Values{"username": {"a@example.com"}, "password": {"p"}}))
	defer r.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	try.Check(json.NewDecoder(r.Body).Decode(&answer))
	return &goose{"http://" + address, answer.Token}
}

// call asks the API and puts its answer into out; nil: it is dropped.
func (g *goose) call(method, path string, in, out any) {
	req := try.Get(http.NewRequest(method, g.url+"/api/v1/"+path, bytes.NewReader(try.Get(json.Marshal(in)))))
	req.Header.Set("Authorization", "Bearer "+g.token)
	req.Header.Set("Content-Type", "application/json")
	r := try.Get(http.DefaultClient.Do(req))
	defer r.Body.Close()
	data := try.Get(io.ReadAll(r.Body))
	if r.StatusCode/100 != 2 {
		try.Check(fmt.Errorf("%s %s: %s\n%s", method, path, r.Status, data))
	}
	if out != nil {
		try.Check(json.Unmarshal(data, out))
	}
}

// rollout offers software to all devices.
func (g *goose) rollout(software int) {
	g.call("PUT", "rollouts", map[string]any{"name": fmt.Sprint(software), "feed": "default", "software_id": software}, nil)
}

// state is what gooseBit knows of a device: its state, its version, and its log.
func (g *goose) state(device string) (state, version, log string) {
	var all struct {
		Devices []struct {
			ID        string `json:"id"`
			LastState string `json:"last_state"`
			Version   string `json:"sw_version"`
		} `json:"devices"`
	}
	g.call("GET", "devices", nil, &all)
	var said struct {
		Log string `json:"log"`
	}
	g.call("GET", "devices/"+device+"/log", nil, &said)
	for _, d := range all.Devices {
		if d.ID == device {
			return d.LastState, d.Version, said.Log
		}
	}
	return "", "", ""
}

// counts are the successes and failures of a rollout.
func (g *goose) counts(software int) (success, failure int) {
	var all struct {
		Rollouts []struct {
			Name    string `json:"name"`
			Success int    `json:"success_count"`
			Failure int    `json:"failure_count"`
		} `json:"rollouts"`
	}
	g.call("GET", "rollouts", nil, &all)
	for _, r := range all.Rollouts {
		if r.Name == fmt.Sprint(software) {
			return r.Success, r.Failure
		}
	}
	return -1, -1
}

// looksLike fails where gooseBit, at url, answers a device that it has a version for in
// another form than the server of the other tests.
func looksLike(t *testing.T, url string, r release) {
	t.Helper()
	other := fake.New(string(r))
	defer other.Close()
	other.Token("TargetToken marker")
	other.Assign(fake.Action{ID: "1", Version: "1.2.0", Part: "os", Update: "forced"})
	forms := func(url string) (all []string) {
		get := func(url string) (answer map[string]any) {
			req := try.Get(http.NewRequest("GET", url, nil))
			req.Header.Set("Authorization", "TargetToken marker")
			resp := try.Get(http.DefaultClient.Do(req))
			defer resp.Body.Close()
			try.Check(json.NewDecoder(resp.Body).Decode(&answer))
			return answer
		}
		root := get(url + "/DEFAULT/controller/v1/x1-00")
		links := root["_links"].(map[string]any)
		delete(links, "configData") // the one asks once, the other until it was told
		return append(form("root", root), form("action", get(links["deploymentBase"].(map[string]any)["href"].(string)))...)
	}
	want, got := forms(url), forms(other.URL)
	for i := range got { // hawkBit has this one over http
		got[i] = strings.ReplaceAll(got[i], "download-http", "download")
	}
	if !slices.Equal(got, want) {
		t.Errorf("gooseBit answers in the form\n%s\nand the server of the tests\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// form is the keys and the types of v, which is at a place.
func form(place string, v any) (all []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			all = append(all, form(place+"."+key, value)...)
		}
	case []any:
		for _, value := range v {
			all = append(all, form(place+"[]", value)...)
		}
	default:
		all = []string{fmt.Sprintf("%s %T", place, v)}
	}
	slices.Sort(all)
	return all
}

// TestGooseBit follows a real gooseBit 0.2.12, a second server of hawkBit's device API, which
// knows nothing of the server of the other tests.
func TestGooseBit(t *testing.T) {
	defer try.Fatal(t)
	r := newRollout(t)
	g := newGoose(t, "x1", r.path("1.2.0.ota"), r.path("1.1.0.ota"))
	d := newDevice(r, "x1-00", t.TempDir(), "ddi", g.url, true)
	d.configure(string(try.Get(os.ReadFile(d.path("ota.toml")))) + fmt.Sprintf("parts = [\"os\"]\ntoken_file = %q\n", d.path("token")))
	d.begin("1.0.0.ota")
	follow := func(code int) {
		t.Helper()
		if err := d.ota("ota-apply", "follow", "--once"); exit(err) != code || err != nil && code == 0 {
			t.Fatalf("follow --once ended with %d, want %d: %v", exit(err), code, err)
		}
	}
	expect := func(state, version, log string) {
		t.Helper()
		if s, v, l := g.state(d.name); s != state || v != version || !strings.Contains(l, log) {
			t.Errorf("gooseBit knows of the state %q, version %q, want %q, %q, and %q in\n%s", s, v, state, version, log, l)
		}
	}

	// A device that has no token, or another one, is refused.
	follow(6)
	g.call("PUT", "devices", map[string]any{"devices": []string{d.name}, "auth_token": "marker"}, nil)
	follow(6)
	try.Check(os.WriteFile(d.path("token"), []byte("marker\n"), 0o600))
	follow(0)
	expect("Registered", "1.0.0", "")

	g.rollout(1)
	looksLike(t, g.url, r)

	// A good version: a success after the trial, and it is not offered again.
	follow(0)
	if d.current() != "1.2.0" {
		t.Fatalf("current is %s, want 1.2.0", d.current())
	}
	expect("Running", "1.0.0", "downloading")
	try.Check(d.ota("ota-guardian", "confirm"))
	follow(0)
	expect("Finished", "1.2.0", "version 1.2.0 is confirmed")
	follow(0)
	if success, failure := g.counts(1); success != 1 || failure != 0 {
		t.Errorf("the rollout of 1.2.0 has %d successes, %d failures, want 1, 0", success, failure)
	}

	// A bad one: a failure with its evidence; forced once more, under the same action, it is
	// answered at once.
	g.rollout(2)
	follow(0)
	if err := d.ota("ota-guardian", "confirm"); exit(err) != 8 {
		t.Fatalf("ota-guardian confirm: %v, want 8", err)
	}
	try.Check(d.ota("ota-guardian", "confirm"))
	follow(8)
	expect("Error", "1.2.0", "check: app is well")
	g.call("PUT", "devices", map[string]any{"devices": []string{d.name}, "force_update": true}, nil)
	follow(4)
	expect("Error", "1.2.0", "version 1.1.0 is blocked")
	if success, failure := g.counts(2); success != 0 || failure != 2 {
		t.Errorf("the rollout of 1.1.0 has %d successes, %d failures, want 0, 2", success, failure)
	}
	if d.current() != "1.2.0" {
		t.Errorf("current is %s, want 1.2.0", d.current())
	}
}
