package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tope-ota/ota/applier/channel"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/daemon"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// A channelFleet is a release with a channel key, nginx with what they published, and devices.
type channelFleet struct {
	release
	*testing.T
	polls   int
	stores  string // of the devices: in memory, if there is any, as a sync costs nothing there
	url     string // of nginx
	devices []*device
}

func newChannelFleet(t *testing.T) *channelFleet {
	f := &channelFleet{T: t, release: newRelease(t), stores: t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "ota-fleet-"); err == nil {
		f.stores = dir
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	try.Check(os.Mkdir(f.path("www"), 0o755))
	f.must("ota-bundle", "keygen", "--no-password", "ci")
	f.must("ota-bundle", "channel", "delegate", "--key", "k.key", "--name", "stable", "--to", "ci.pub", "--not-after", "2099-01-01", "-o", "stable.delegation")
	f.must("ota-bundle", "channel", "init", "--delegation", "stable.delegation", "--key", "ci.key", "www/stable.channel")
	f.nginx()
	return f
}

// nginx serves the directory www, as docs/CHANNEL.md has it. Each of its answers is a line of
// the file access: the status, the bytes that were sent and received, the address.
func (f *channelFleet) nginx() {
	root := try.Get(debian.Tools(f.Context(), "nginx", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"))
	doc := try.Get(os.ReadFile("../../docs/CHANNEL.md"))
	conf := string(regexp.MustCompile(`(?m)^server \{.*\}$`).Find(doc))
	address := daemon.Address()
	f.url = "http://" + address
	for old, new := range map[string]string{"443 ssl": address, "/srv/www": f.path("www")} {
		if strings.Count(conf, old) != 1 {
			f.Fatalf("docs/CHANNEL.md has no server for nginx with %q: %q", old, conf)
		}
		conf = strings.Replace(conf, old, new, 1)
	}
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += kind + "_temp_path " + f.path("temporary") + ";\n"
	}
	try.Check(os.WriteFile(f.path("nginx.conf"), fmt.Appendf(nil, "daemon off;\nmaster_process off;\npid %s;\nevents {}\nhttp {\n%slog_format bytes '$status $bytes_sent $request_length $uri';\naccess_log %s bytes;\n%s\n}\n",
		f.path("pid"), temporary, f.path("access"), conf), 0o644))
	cmd := exec.Command(root+"/lib64/ld-linux-x86-64.so.2", "--library-path", root+"/lib/x86_64-linux-gnu:"+root+"/usr/lib/x86_64-linux-gnu",
		root+"/usr/sbin/nginx", "-p", string(f.release), "-e", "stderr", "-c", f.path("nginx.conf"))
	cmd.Env = []string{}
	log, stop := daemon.Start(cmd, address)
	f.Cleanup(func() {
		stop()
		if f.Failed() {
			f.Logf("nginx: %s", log)
		}
	})
}

// publish makes a bundle. 1.0.0 is not in the channel: the devices have it from the factory.
func (f *channelFleet) publish(version string, number int, file string, add ...string) {
	f.bundle("www", version, number, file)
	if version != "1.0.0" {
		f.must("ota-bundle", append([]string{"channel", "add", "--key", "ci.key", "www/stable.channel", "www/" + version + ".ota"}, add...)...)
	}
}

// device adds one that runs 1.0.0.
func (f *channelFleet) device(id string, sick bool) *device {
	d := newDevice(f.release, id, filepath.Join(f.stores, id), "channel", f.url+"/stable.channel", sick)
	if len(f.devices) > 0 {
		d.like(f.devices[0])
	} else {
		d.begin("www/1.0.0.ota")
	}
	f.devices = append(f.devices, d)
	return d
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
	try.Check(os.Chtimes(f.path("www/stable.channel"), at, at))
	var mu sync.Mutex
	try.Check(each(f.devices, func(d *device) (err error) {
		defer try.End(&err)
		before := d.current()
		try.Check(d.ota("ota-apply", "follow", "--once"))
		if d.current() == before {
			return nil
		}
		confirmed := d.ota("ota-guardian", "confirm")
		code := exit(confirmed)
		if code != 8 {
			try.Check(confirmed)
		}
		if told := d.ota("ota-apply", "follow", "--once"); exit(told) != code {
			return fmt.Errorf("told of exit %d: %v", code, told)
		}
		by := w.confirmed
		if code == 8 { // the version before is confirmed again
			try.Check(d.ota("ota-guardian", "confirm"))
			by = w.rolledBack
		}
		mu.Lock()
		defer mu.Unlock()
		by[d.name] = true
		return nil
	}))
}

// job is that of the release side, between two polls: it promotes version, or stops it, by what w tells.
func (f *channelFleet) job(version string, w *wave, code int) {
	f.Helper()
	try.Check(os.WriteFile(f.path("fleet.csv"), fmt.Appendf(nil, "version,installed,rolled_back\n%s,%d,%d\n", version, len(w.confirmed), len(w.rolledBack)), 0o644))
	if err := run(f.command("ota-bundle", "channel", "promote", "--key", "ci.key", "--waves", "1,5,25,100", "--unless-rollbacks", "2%", "--from", "fleet.csv", "www/stable.channel", version)); exit(err) != code {
		f.Errorf("promote ended with %d, want %d: %v", exit(err), code, err)
	}
}

const size = 200

// highest is the highest release of the channel.
func (f *channelFleet) highest() channel.Release {
	data := try.Get(os.ReadFile(f.path("www/stable.channel")))
	file := try.Get(channel.Read(data))
	return file.Channel.Releases[0]
}

// answers are those of nginx up to the one for the address end, which it has no file for, and
// from which on they are counted the next time.
func (f *channelFleet) answers(end string) []string {
	resp := try.Get(http.Get(f.url + end))
	resp.Body.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		text := try.Get(os.ReadFile(f.path("access")))
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
	defer try.Fatal(t)
	f := newChannelFleet(t)
	f.publish("1.0.0", 1, "app")
	f.publish("1.1.0", 2, "bad")
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
		if bad.confirmed[d.name] {
			want = "1.1.0"
		}
		if got := d.current(); got != want || d.sick && got != "1.0.0" {
			t.Errorf("device %s runs %s, want %s", d.name, got, want)
		}
	}

	f.publish("1.1.1", 3, "app")
	good := &wave{map[string]bool{}, map[string]bool{}}
	for _, percent := range []int{1, 5, 25, 100} {
		if percent == 1 || good.exposed() > 0 {
			f.job("1.1.1", good, 0)
		} else { // none of 200 may be in the first 1 %
			f.job("1.1.1", good, 1)
			f.must("ota-bundle", "channel", "promote", "--key", "ci.key", "www/stable.channel", "1.1.1", fmt.Sprint(percent))
		}
		f.poll(good)
		release := f.highest()
		for _, d := range f.devices {
			if in := release.InWave(d.name); release.Percent != percent || in != good.confirmed[d.name] || in != (d.current() == "1.1.1") {
				t.Errorf("at %d %%, and %d in the channel: device %s is in the wave: %t; it runs %s", percent, release.Percent, d.name, in, d.current())
			}
		}
	}
	if len(good.confirmed) != size || len(good.rolledBack) != 0 {
		t.Errorf("%d devices took the good version and %d rolled back, want %d and 0", len(good.confirmed), len(good.rolledBack), size)
	}

	// What a poll without news costs.
	before := len(f.answers("/begin"))
	try.Check(f.devices[0].ota("ota-apply", "follow", "--once"))
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
	defer try.Fatal(t)
	f := newChannelFleet(t)
	f.publish("1.0.0", 1, "app")
	f.publish("1.2.0", 3, "app", "--percent", "100", "--barrier")
	f.publish("1.4.0", 5, "app", "--percent", "100")
	d := f.device("X1-000042", false)
	try.Check(os.WriteFile(d.path("run/follow.json"), []byte("{}"), 0o644)) // it is not the first poll of the boot, which waits
	follower := d.command("ota-apply", "follow")
	var log bytes.Buffer
	follower.Stdout, follower.Stderr = &log, &log
	try.Check(follower.Start())
	ended := make(chan error, 1)
	go func() { ended <- follower.Wait() }()
	var walk []string
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline) && (len(walk) == 0 || walk[len(walk)-1] != "1.4.0 confirmed"); time.Sleep(100 * time.Millisecond) {
		var history struct{ Generations []bootcheck.Record }
		try.Check(json.Unmarshal(try.Get(d.command("ota-guardian", "history", "--json").Output()), &history))
		walk = nil
		for _, r := range history.Generations {
			walk = append(walk, r.Current.Version+" "+string(r.Phase))
		}
		if walk = slices.Compact(walk); strings.HasSuffix(walk[len(walk)-1], " trial") {
			try.Check(d.ota("ota-guardian", "confirm"))
		}
	}
	try.Check(follower.Process.Signal(syscall.SIGTERM))
	err := <-ended
	want := []string{"1.0.0 trial", "1.0.0 confirmed", "1.2.0 trial", "1.2.0 confirmed", "1.4.0 trial", "1.4.0 confirmed"}
	if err != nil || !slices.Equal(walk, want) {
		t.Errorf("the device went %q, want %q (%v)\n%s", walk, want, err, &log)
	}
}
