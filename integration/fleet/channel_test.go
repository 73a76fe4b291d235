package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tope-ota/ota/applier/channel"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine/debian"
)

// A channelFleet is the programs as they are shipped, a release key and a channel key, nginx
// with what they published, and devices.
type channelFleet struct {
	polls int
	*testing.T
	dir     string
	stores  string // of the devices: in memory, if there is any, as a sync costs nothing there
	url     string // of nginx
	devices []*channelDevice
}

type channelDevice struct {
	id    string
	sick  bool   // 1.1.0 is bad on it
	dir   string // its store and its run directory
	check string // its health check
	conf  string
}

func newChannelFleet(t *testing.T) *channelFleet {
	f := &channelFleet{T: t, dir: t.TempDir()}
	var err error
	if f.stores, err = os.MkdirTemp("/dev/shm", "ota-fleet-"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(f.stores) })
	} else {
		f.stores = t.TempDir()
	}
	for _, dir := range []string{"bin", "www", "keys", "tree", "devices"} {
		f.check(os.Mkdir(f.path(dir), 0o755))
	}
	for name, pkg := range map[string]string{"ota-apply": "applier", "ota-bundle": "applier", "ota-guardian": "guardian"} {
		program, err := debian.Program(t.Context(), "./"+pkg+"/cmd/"+name)
		f.check(errors.Join(err, os.WriteFile(f.path("bin", name), program, 0o755)))
	}
	f.bundle("keygen", "--no-password", "release")
	f.bundle("keygen", "--no-password", "ci")
	f.check(os.Rename(f.path("release.pub"), f.path("keys/release.pub")))
	f.bundle("channel", "delegate", "--key", "release.key", "--name", "stable", "--to", "ci.pub", "--not-after", "2099-01-01", "-o", "stable.delegation")
	f.bundle("channel", "init", "--delegation", "stable.delegation", "--key", "ci.key", "www/stable.channel")
	f.nginx()
	return f
}

// nginx serves the directory www, as docs/CHANNEL.md has it. Each of its answers is a line of
// the file access: the status, the bytes that were sent and received, the address.
func (f *channelFleet) nginx() {
	root, err := debian.Tools(f.Context(), "nginx", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g")
	f.check(err)
	doc, err := os.ReadFile("../../docs/CHANNEL.md")
	f.check(err)
	server := string(regexp.MustCompile(`(?m)^server \{.*\}$`).Find(doc))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f.check(err)
	f.check(l.Close())
	f.url = "http://" + l.Addr().String()
	for old, new := range map[string]string{"443 ssl": l.Addr().String(), "/srv/www": f.path("www")} {
		if strings.Count(server, old) != 1 {
			f.Fatalf("docs/CHANNEL.md has no server for nginx with %q: %q", old, server)
		}
		server = strings.Replace(server, old, new, 1)
	}
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += kind + "_temp_path " + f.path("temporary") + ";\n"
	}
	f.check(os.WriteFile(f.path("nginx.conf"), fmt.Appendf(nil, "daemon off;\nmaster_process off;\npid %s;\nevents {}\nhttp {\n%slog_format bytes '$status $bytes_sent $request_length $uri';\naccess_log %s bytes;\n%s\n}\n",
		f.path("pid"), temporary, f.path("access"), server), 0o644))
	cmd := exec.Command(root+"/lib64/ld-linux-x86-64.so.2", "--library-path", root+"/lib/x86_64-linux-gnu:"+root+"/usr/lib/x86_64-linux-gnu",
		root+"/usr/sbin/nginx", "-p", f.dir, "-e", "stderr", "-c", f.path("nginx.conf"))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &log, &log, []string{}
	f.check(cmd.Start())
	f.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if f.Failed() {
			f.Logf("nginx: %s", &log)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
			return
		} else if time.Now().After(deadline) {
			f.Fatalf("nginx does not answer: %v", err)
		}
	}
}

func (f *channelFleet) path(name ...string) string {
	return filepath.Join(append([]string{f.dir}, name...)...)
}

func (f *channelFleet) check(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// command is one of the programs, for d if that is not nil.
func (f *channelFleet) command(d *channelDevice, args ...string) *exec.Cmd {
	cmd := exec.Command(f.path("bin", args[0]), args[1:]...)
	cmd.Dir = f.dir
	if d != nil {
		cmd.Env = append(os.Environ(), "OTA_CONFIG="+d.conf)
	}
	return cmd
}

// run runs one of the programs; its exit code is one of codes.
func (f *channelFleet) run(d *channelDevice, args []string, codes ...int) (code int, out string) {
	cmd := f.command(d, args...)
	text, _ := cmd.CombinedOutput()
	if code = cmd.ProcessState.ExitCode(); !slices.Contains(codes, code) {
		f.Errorf("%q ended with %d, want %v\n%s", args, code, codes, text)
	}
	return code, string(text)
}

func (f *channelFleet) bundle(args ...string) {
	f.Helper()
	f.run(nil, append([]string{"ota-bundle"}, args...), 0)
}

// publish makes a bundle. 1.0.0 is not in the channel: the devices have it from the factory.
func (f *channelFleet) publish(version string, release int, add ...string) {
	f.Helper()
	f.check(os.WriteFile(f.path("tree/app"), []byte("version "+version+"\n"), 0o755))
	f.bundle("create", "--dir", "tree", "--version", version, "--model", "x1", "--release", fmt.Sprint(release), "--key", "release.key", "-o", "www/"+version+".ota")
	if version != "1.0.0" {
		f.bundle(append([]string{"channel", "add", "--key", "ci.key", "www/stable.channel", "www/" + version + ".ota"}, add...)...)
	}
}

// device adds one that runs 1.0.0.
func (f *channelFleet) device(id string, sick bool) *channelDevice {
	f.Helper()
	d := &channelDevice{id: id, sick: sick, dir: filepath.Join(f.stores, id), check: f.path("devices", id+".check"), conf: f.path("devices", id+".toml")}
	script := "#!/bin/sh\n"
	if d.sick {
		script += "case $(readlink -f " + d.dir + "/versions/current) in *v1.1.0*) echo it is sick; exit 1 ;; esac\n"
	}
	f.check(os.WriteFile(d.check, []byte(script), 0o755))
	conf := fmt.Sprintf(`root = "%[1]s/versions"
model = "x1"
keys = [%[2]q]
reserve = 0
run = "%[1]s/run"
services = []
[report]
url = ""
[trial]
deadline = "60s"
stable = "1ms"
[[check]]
name = "app is well"
script = %[5]q
[follow]
source = "channel"
url = "%[3]s/stable.channel"
device_id = %[4]q
`, d.dir, f.path("keys"), f.url, d.id, d.check)
	f.check(os.WriteFile(d.conf, []byte(conf), 0o644))
	f.check(os.WriteFile(d.conf+".impatient", []byte(strings.Replace(conf, "60s", "300ms", 1)), 0o644))
	if len(f.devices) > 0 {
		f.check(exec.Command("cp", "-a", f.devices[0].dir, d.dir).Run())
	} else {
		f.check(errors.Join(os.MkdirAll(filepath.Join(d.dir, "run"), 0o755), os.Mkdir(filepath.Join(d.dir, "versions"), 0o755)))
		f.run(d, []string{"ota-apply", "install", "-q", "www/1.0.0.ota"}, 0)
		f.run(d, []string{"ota-guardian", "confirm"}, 0)
	}
	f.devices = append(f.devices, d)
	return d
}

// each does something on every device, as many at once as there are processors.
func (f *channelFleet) each(do func(d *channelDevice)) {
	var wg sync.WaitGroup
	next := make(chan *channelDevice)
	for range runtime.NumCPU() {
		wg.Go(func() {
			for d := range next {
				do(d)
			}
		})
	}
	for _, d := range f.devices {
		next <- d
	}
	close(next)
	wg.Wait()
}

func (f *channelFleet) current(d *channelDevice) string {
	to, err := filepath.EvalSymlinks(filepath.Join(d.dir, "versions", "current"))
	if err != nil {
		f.Error(err)
	}
	return strings.TrimPrefix(filepath.Base(to), "v")
}

// A wave is what a version has come to.
type wave struct{ confirmed, rolledBack map[string]bool } // by device

func (w *wave) exposed() int { return len(w.confirmed) + len(w.rolledBack) }

// poll lets each device ask once, and do what it finds.
//
// nginx makes the ETag of the second and the size: here two files may be of one second.
func (f *channelFleet) poll(w *wave) {
	f.polls++
	at := time.Now().Add(time.Duration(f.polls) * time.Minute)
	f.check(os.Chtimes(f.path("www/stable.channel"), at, at))
	var mu sync.Mutex
	f.each(func(d *channelDevice) {
		before := f.current(d)
		f.run(d, []string{"ota-apply", "follow", "--once"}, 0)
		if f.current(d) == before {
			return
		}
		conf := d.conf // a slow machine is no failure
		if d.sick && f.current(d) == "1.1.0" {
			conf += ".impatient"
		}
		code, _ := f.run(d, []string{"ota-guardian", "--config", conf, "confirm"}, 0, 8)
		f.run(d, []string{"ota-apply", "follow", "--once"}, code)
		mu.Lock()
		defer mu.Unlock()
		if code == 0 {
			w.confirmed[d.id] = true
		} else { // the version before is confirmed again
			f.run(d, []string{"ota-guardian", "confirm"}, 0)
			w.rolledBack[d.id] = true
		}
	})
}

// job is that of the release side, between two polls: it promotes version, or stops it, by what w tells.
func (f *channelFleet) job(version string, w *wave, code int) {
	f.Helper()
	f.check(os.WriteFile(f.path("fleet.csv"), fmt.Appendf(nil, "version,installed,rolled_back\n%s,%d,%d\n", version, len(w.confirmed), len(w.rolledBack)), 0o644))
	f.run(nil, []string{"ota-bundle", "channel", "promote", "--key", "ci.key", "--waves", "1,5,25,100", "--unless-rollbacks", "2%", "--from", "fleet.csv", "www/stable.channel", version}, code)
}

const size = 200

// highest is the highest release of the channel.
func (f *channelFleet) highest() channel.Release {
	data, err := os.ReadFile(f.path("www/stable.channel"))
	f.check(err)
	file, err := channel.Read(data)
	f.check(err)
	return file.Channel.Releases[0]
}

// answers are those of nginx up to the one for the address end, which it has no file for, and
// from which on they are counted the next time.
func (f *channelFleet) answers(end string) []string {
	resp, err := http.Get(f.url + end)
	f.check(err)
	resp.Body.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(f.path("access"))
		f.check(err)
		if before, rest, ok := strings.Cut(string(text), " "+end+"\n"); ok && rest == "" {
			lines := strings.Split(before, "\n")
			return lines[:len(lines)-1]
		}
		if time.Now().After(deadline) {
			f.Fatalf("nginx has not answered %s:\n%s", end, text)
		}
	}
}

// addDevices adds two devices for each percent of the waves of 1.1.0. It is bad on 30 % of them:
// on three of each ten, none of which is in the first wave of 1 %.
func (f *channelFleet) addDevices() {
	release := f.highest()
	var per [100]int
	ids := make([]string, size)
	for n, found := 0, 0; found < size; n++ {
		id := fmt.Sprintf("X1-%06d", n)
		release.Percent = 0
		for !release.InWave(id) {
			release.Percent++
		}
		if bucket := release.Percent - 1; per[bucket] < 2 {
			ids[2*bucket+per[bucket]] = id
			per[bucket]++
			found++
		}
	}
	for i, id := range ids {
		f.device(id, i%10 >= 4 && i%10 < 7)
	}
}

// A version that is bad on 30 % of the devices, in waves of 1, 5, 25 and 100 %, is stopped by
// the job after 5 % of them took it; all of these are on the old one again, by themselves. The
// version that corrects it then reaches all in the same waves.
func TestBadVersionInWaves(t *testing.T) {
	f := newChannelFleet(t)
	f.publish("1.0.0", 1)
	f.publish("1.1.0", 2)
	f.addDevices()
	bad := &wave{map[string]bool{}, map[string]bool{}}
	f.job("1.1.0", bad, 0) // from 0 to 1 %: no device can tell yet
	f.job("1.1.0", bad, 1) // no device told
	f.poll(bad)
	if len(bad.confirmed) != 2 || len(bad.rolledBack) != 0 {
		t.Fatalf("at 1 %%: %d of %d devices took it and %d rolled back, want 2 and 0", bad.exposed(), size, len(bad.rolledBack))
	}
	f.job("1.1.0", bad, 0)
	f.poll(bad)
	if len(bad.confirmed) != 7 || len(bad.rolledBack) != 3 {
		t.Fatalf("at 5 %%: %d confirmed it and %d rolled back, want 7 and 3", len(bad.confirmed), len(bad.rolledBack))
	}
	f.job("1.1.0", bad, 4) // stopped
	f.job("1.1.0", bad, 4) // and stays so
	f.poll(bad)
	if bad.exposed() != size*5/100 {
		t.Errorf("%d devices took the bad version, want 5 %% of %d", bad.exposed(), size)
	}
	for _, d := range f.devices {
		want := "1.0.0"
		if bad.confirmed[d.id] {
			want = "1.1.0"
		}
		if got := f.current(d); got != want || d.sick && got != "1.0.0" {
			t.Errorf("device %s runs %s, want %s", d.id, got, want)
		}
	}

	f.publish("1.1.1", 3)
	good := &wave{map[string]bool{}, map[string]bool{}}
	for _, percent := range []int{1, 5, 25, 100} {
		if percent == 1 || good.exposed() > 0 {
			f.job("1.1.1", good, 0)
		} else { // none of 200 may be in the first 1 %
			f.job("1.1.1", good, 1)
			f.bundle("channel", "promote", "--key", "ci.key", "www/stable.channel", "1.1.1", fmt.Sprint(percent))
		}
		f.poll(good)
		release := f.highest()
		for _, d := range f.devices {
			if in := release.InWave(d.id); release.Percent != percent || in != good.confirmed[d.id] || in != (f.current(d) == "1.1.1") {
				t.Errorf("at %d %%, and %d in the channel: device %s is in the wave: %t; it runs %s", percent, release.Percent, d.id, in, f.current(d))
			}
		}
	}
	if len(good.confirmed) != size || len(good.rolledBack) != 0 {
		t.Errorf("%d devices took the good version and %d rolled back, want %d and 0", len(good.confirmed), len(good.rolledBack), size)
	}

	// What a poll without news costs.
	before := len(f.answers("/begin"))
	f.run(f.devices[0], []string{"ota-apply", "follow", "--once"}, 0)
	news := f.answers("/end")[before+1:]
	var status, sent, received int
	var address string
	if _, err := fmt.Sscan(strings.Join(news, "\n"), &status, &sent, &received, &address); err != nil || len(news) != 1 || status != 304 || address != "/stable.channel" || sent > 500 {
		t.Fatalf("a poll without news is %q, want one answer 304 of at most 500 bytes", news)
	}
	t.Logf("%d of %d devices took the bad version, %d rolled back; a poll without news is an answer of %d bytes to %d; a day of 1,000,000 devices: 24,000,000 requests, %.1f GB, and %.1f GB of requests",
		bad.exposed(), size, len(bad.rolledBack), sent, received, float64(sent)*24e6/1e9, float64(received)*24e6/1e9)
}

// A device that was switched off for two releases walks to the newest one over the barrier,
// while `ota-apply follow` runs and asks by itself. Only ota-confirm.service is played.
func TestBarrier(t *testing.T) {
	f := newChannelFleet(t)
	f.publish("1.0.0", 1)
	f.publish("1.2.0", 3, "--percent", "100", "--barrier")
	f.publish("1.4.0", 5, "--percent", "100")
	d := f.device("X1-000042", false)
	f.check(os.WriteFile(filepath.Join(d.dir, "run/follow.json"), []byte("{}"), 0o644)) // it is not the first poll of the boot, which waits
	follower := f.command(d, "ota-apply", "follow")
	var log bytes.Buffer
	follower.Stdout, follower.Stderr = &log, &log
	f.check(follower.Start())
	ended := make(chan error, 1)
	go func() { ended <- follower.Wait() }()
	var walk []string
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline) && (len(walk) == 0 || walk[len(walk)-1] != "1.4.0 confirmed"); time.Sleep(100 * time.Millisecond) {
		_, text := f.run(d, []string{"ota-guardian", "history", "--json"}, 0)
		var history struct{ Generations []bootcheck.Record }
		f.check(json.Unmarshal([]byte(text), &history))
		walk = nil
		for _, r := range history.Generations {
			walk = append(walk, r.Current.Version+" "+string(r.Phase))
		}
		if walk = slices.Compact(walk); strings.HasSuffix(walk[len(walk)-1], " trial") {
			f.run(d, []string{"ota-guardian", "confirm"}, 0)
		}
	}
	f.check(follower.Process.Signal(syscall.SIGTERM))
	err := <-ended
	want := []string{"1.0.0 trial", "1.0.0 confirmed", "1.2.0 trial", "1.2.0 confirmed", "1.4.0 trial", "1.4.0 confirmed"}
	if err != nil || !slices.Equal(walk, want) {
		t.Errorf("the device went %q, want %q (%v)\n%s", walk, want, err, &log)
	}
}
