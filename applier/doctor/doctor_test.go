package doctor

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
	"github.com/tope-ota/ota/bootcheck/trust"
	"github.com/tope-ota/ota/docs/schema"
)

// image is a device that is set up right, below a directory.
type image struct {
	t    *testing.T
	dir  string
	args Options

	mount string // what findmnt says of the store
}

func newImage(t *testing.T) *image {
	m := &image{t: t, dir: t.TempDir()}
	m.args = Options{Sysroot: m.dir, JSON: true}
	const units = "../../units"
	for _, name := range append(slices.Clone(ourUnits), "device-api.service.d/50-ota.conf") {
		data, err := os.ReadFile(filepath.Join(units, name))
		m.must(err)
		m.write("usr/lib/systemd/system/"+name, string(data))
	}
	for from, to := range map[string]string{
		"device-api.service.example":         "usr/lib/systemd/system/device-api.service",
		"system.conf.d/50-ota-watchdog.conf": "usr/lib/systemd/system.conf.d/50-ota-watchdog.conf",
	} {
		data, err := os.ReadFile(filepath.Join(units, from))
		m.must(err)
		m.write(to, string(data))
	}
	for _, name := range enabledUnits {
		m.link("etc/systemd/system/multi-user.target.wants/"+name, "/usr/lib/systemd/system/"+name)
	}
	for _, name := range []string{"ota-guardian", "ota-apply", "ota-bundle"} {
		m.program("usr/bin/" + name)
	}
	m.write("etc/ota/ota.toml", "model = \"x1\"\nreserve = \"1MiB\"\n")
	pub, _, err := minisign.GenerateKey(nil)
	m.must(err)
	text, err := pub.MarshalText()
	m.must(err)
	m.write("etc/ota/keys/release.pub", string(text))
	m.write("proc/self/mountinfo", "a kernel runs here\n")
	m.mount = "ext4 /opt/tope rw,noatime,data=ordered"
	m.write("proc/sys/kernel/panic", "10\n")
	m.write("proc/sys/kernel/panic_on_oops", "1\n")
	m.write("sys/module/pstore/parameters/backend", "ramoops\n")
	m.write("sys/class/watchdog/watchdog0/identity", "board watchdog\n")
	m.write("sys/class/watchdog/watchdog0/state", "active\n")
	m.write("sys/class/watchdog/watchdog0/timeout", "30\n")
	m.write("sys/class/watchdog/watchdog0/bootstatus", "32\n")
	m.link("proc/1/fd/9", "/dev/watchdog0")
	m.link("usr/local/bin/device-api", "/opt/tope/versions/current/bin/device-api")

	m.must(os.MkdirAll(filepath.Join(m.dir, "opt/tope"), 0o755))
	store, err := bootcheck.Create(filepath.Join(m.dir, "opt/tope/versions"))
	m.must(err)
	one, two := m.version("1.0.0"), m.version("1.1.0")
	_, _, err = store.Seal(context.Background(), one, false)
	m.must(err)
	m.must(store.Commit(&bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: two, Previous: one, Factory: one, Confirmed: []bootcheck.Ref{*one, *two}}))
	return m
}

// version makes a snapshot.
func (m *image) version(name string, more ...bootcheck.Entry) *bootcheck.Ref {
	dir := "opt/tope/versions/v" + name + "/"
	m.program(dir + "bin/device-api")
	data, err := os.ReadFile(filepath.Join(m.dir, dir, "bin/device-api"))
	m.must(err)
	sum := sha256.Sum256(data)
	raw, err := json.Marshal(bootcheck.Manifest{Format: bootcheck.ManifestFormat, Models: []string{"x1"}, Version: name, Size: int64(len(data)),
		Entries: append([]bootcheck.Entry{
			{Path: "bin", Type: bootcheck.TypeDir, Mode: 0o755},
			{Path: "bin/device-api", Type: bootcheck.TypeFile, Mode: 0o755, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])},
		}, more...)})
	m.must(err)
	m.write(dir+bootcheck.ManifestPath, string(raw))
	m.write(dir+bootcheck.SignaturePath, "signed")
	return &bootcheck.Ref{Version: name, Digest: bootcheck.Digest(raw)}
}

func (m *image) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *image) path(name string) string { return filepath.Join(m.dir, name) }

func (m *image) write(name, text string) {
	m.t.Helper()
	m.must(os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
	m.must(os.WriteFile(m.path(name), []byte(text), 0o644))
}

// follows names a server in the configuration.
func (m *image) follows(url string) {
	m.write("etc/ota/ota.toml", "model = \"x1\"\nreserve = \"1MiB\"\n[follow]\nsource = \"ddi\"\nurl = \""+url+"\"\n")
	m.write("etc/machine-id", strings.Repeat("7", 32)+"\n")
}

// certificate gives the device a client certificate that is good for so long.
func (m *image) certificate(left time.Duration) {
	m.t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	m.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().Add(left)}
	cert, err := x509.CreateCertificate(nil, template, template, public, key)
	m.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	m.must(err)
	m.write("etc/ota/device.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))+string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	m.must(os.Chmod(m.path("etc/ota/device.pem"), 0o600))
	m.write("etc/ota/ota.toml", "model = \"x1\"\nclient_certificate = \"/etc/ota/device.pem\"\n")
}

func (m *image) program(name string) {
	m.write(name, "#!/bin/sh\n")
	m.must(os.Chmod(m.path(name), 0o755))
}

func (m *image) link(name, target string) {
	m.t.Helper()
	m.must(os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
	_ = os.Remove(m.path(name))
	m.must(os.Symlink(target, m.path(name)))
}

func (m *image) remove(name string) { m.must(os.RemoveAll(m.path(name))) }

// edit replaces text in a file.
func (m *image) edit(name, old, new string) {
	m.t.Helper()
	data, err := os.ReadFile(m.path(name))
	m.must(err)
	if !strings.Contains(string(data), old) {
		m.t.Fatalf("%s does not hold %q", name, old)
	}
	m.write(name, strings.ReplaceAll(string(data), old, new))
}

// ask is the system's own systemctl, and a disk for the store.
func (m *image) ask(ctx context.Context, program string, args ...string) (string, error) {
	if program == "findmnt" {
		return m.mount, nil
	}
	return ask(ctx, program, args...)
}

// findings is what the doctor says of it that is not ok.
func (m *image) findings() (bad []finding, code bootcheck.ExitCode) {
	m.t.Helper()
	var out bytes.Buffer
	err := diagnose(m.t.Context(), &out, m.args, m.ask)
	var said struct {
		OK, Warn, Fail int
		Findings       []finding
	}
	if jsonErr := json.Unmarshal(out.Bytes(), &said); jsonErr != nil {
		m.t.Fatalf("%v, %v:\n%s", err, jsonErr, &out)
	}
	if err := schema.Check("doctor", out.Bytes()); err != nil {
		m.t.Error(err)
	}
	fails := 0
	for _, f := range said.Findings {
		if f.State == stateFail {
			fails++
		}
		if f.State != stateOK {
			bad = append(bad, f)
			if f.Hint == "" {
				m.t.Errorf("%+v has no hint", f)
			}
		}
	}
	if len(said.Findings) != said.OK+said.Warn+said.Fail || fails != said.Fail || (fails > 0) != (err != nil) {
		m.t.Errorf("%d ok, %d warn, %d fail of %d findings, error %v", said.OK, said.Warn, said.Fail, len(said.Findings), err)
	}
	return bad, bootcheck.Exit(err)
}

const (
	dropIn  = "usr/lib/systemd/system/device-api.service.d/50-ota.conf"
	service = "usr/lib/systemd/system/device-api.service"
	store   = "opt/tope/versions/"
)

// TestBroken breaks a setup in one way each: that is found, and its hint.
func TestBroken(t *testing.T) {
	m := newImage(t)
	// Only what depends on the machine of the test is said of one that is right.
	for _, f := range m.others(t) {
		t.Errorf("a setup that is right: %+v", f)
	}
	if t.Failed() {
		return
	}
	for _, row := range []struct {
		name  string
		harm  func(m *image)
		check string // the finding
		state string
		found string // in what was found
		hint  string // in the hint
	}{
		{"an unknown key in the configuration", func(m *image) { m.write("etc/ota/ota.toml", "model = \"x1\"\nmodell = 1\n") }, "configuration", stateFail, `unknown key "modell"`, "correct it"},
		{"no TOML at all", func(m *image) { m.write("etc/ota/ota.toml", "[[[") }, "configuration", stateFail, "line 1", "correct it"},
		{"no configuration", func(m *image) { m.remove("etc/ota/ota.toml") }, "configuration", stateWarn, "is not there", "install.sh"},
		{"a configuration that all can write", func(m *image) { m.must(os.Chmod(m.path("etc/ota/ota.toml"), 0o666)) }, "configuration", stateFail, "mode 0666", "chmod go-w"},
		{"a report to another machine", func(m *image) {
			m.write("etc/ota/ota.toml", "model = \"x1\"\n[report]\nurl = \"http://192.0.2.1/\"\n")
		}, "configuration", stateFail, "report.url", "correct it"},
		{"no model", func(m *image) { m.write("etc/ota/ota.toml", "") }, "model", stateWarn, "every model", "set model"},
		{"a check whose script is not there", func(m *image) {
			m.write("etc/ota/ota.toml", "model = \"x1\"\n[[check]]\nname = \"printer\"\nscript = \"/usr/bin/check-printer\"\n")
		}, "health check", stateFail, "/usr/bin/check-printer, which cannot be run", "chmod 0755 /usr/bin/check-printer"},
		{"a server without an address", func(m *image) { m.follows("") }, "server", stateFail, "[follow] has no url", "set url of [follow]"},
		{"a client certificate that is not there", func(m *image) {
			m.write("etc/ota/ota.toml", "model = \"x1\"\nclient_certificate = \"/etc/ota/device.pem\"\n")
		}, "client certificate", stateFail, "device.pem", "`client_certificate`"},
		{"a client certificate that has expired", func(m *image) { m.certificate(-time.Hour) }, "client certificate", stateFail, "it has expired", "write a new one"},
		{"a client certificate that expires soon", func(m *image) { m.certificate(29*24*time.Hour + time.Hour) }, "client certificate", stateWarn, "it expires in 29 days", "write a new one"},
		{"a client certificate that expired by the newest date that is certain", func(m *image) {
			m.certificate(365 * 24 * time.Hour)
			m.write("opt/tope/versions/.spool/"+calendar.FileName, time.Now().AddDate(2, 0, 0).Format(time.RFC3339))
		}, "client certificate", stateFail, "it has expired", "write a new one"},
		{"a clock that is behind what the image knows", func(m *image) {
			m.write("etc/ota/ota.toml", "model = \"x1\"\nspool = \"/var/lib/ota\"\n")
			m.write("var/lib/ota/"+calendar.FileName, time.Now().AddDate(2, 0, 0).Format(time.RFC3339))
		}, "clock", stateWarn, "and that is over", "timedatectl"},
		{"an authority that is not there", func(m *image) {
			m.write("etc/ota/ota.toml", "model = \"x1\"\nca = \"/etc/ota/ca.pem\"\n")
		}, "authorities", stateFail, "ca.pem", "`ca`"},
		{"a server without a token", func(m *image) { m.follows("https://u.example") }, "server", stateWarn, "there is no token in", "LoadCredential="},
		{"a token that all can read", func(m *image) {
			m.follows("https://u.example")
			m.write("etc/ota/follow-token", "marker")
		}, "server", stateFail, "others can read it", "mode 0600"},
		{"a token in clear", func(m *image) {
			m.follows("http://u.example")
			m.write("etc/ota/follow-token", "marker")
			m.must(os.Chmod(m.path("etc/ota/follow-token"), 0o600))
		}, "server", stateWarn, "in clear", "https://"},
		{"a channel that is none", func(m *image) {
			m.follows("https://u.example/x")
			m.write("etc/ota/ota.toml", "[follow]\nsource = \"channel\"\nurl = \"https://u.example/x\"\n")
		}, "server", stateFail, "not the address of a file NAME.channel", "correct it"},
		{"a device without a name", func(m *image) { m.follows("https://u.example"); m.remove("etc/machine-id") }, "server", stateFail, "no name for the server", "set device_id"},
		{"a server that refuses the device", func(m *image) {
			m.follows("https://u.example")
			m.write("run/ota/follow.json", `{"error":"the server answered 401 Unauthorized"}`)
		}, "server", stateWarn, "the last time it was asked: the server answered 401", "the token"},
		{"a follower that may not write the store", func(m *image) {
			m.follows("https://u.example")
			m.must(os.MkdirAll(m.path("data/versions"), 0o755))
			m.write("etc/ota/ota.toml", "model = \"x1\"\nroot = \"/data/versions\"\n[follow]\nsource = \"ddi\"\nurl = \"https://u.example\"\n")
			m.link("etc/systemd/system/multi-user.target.wants/ota-follow.service", "/usr/lib/systemd/system/ota-follow.service")
		}, "server", stateFail, "ota-follow.service may not write /data/versions", "systemctl edit ota-follow.service"},
		{"a server that nothing follows", func(m *image) { m.follows("https://u.example") }, "server", stateWarn, "so only `ota-apply follow` asks", "systemctl enable --now ota-follow.service"},
		{"no store", func(m *image) { m.remove("opt/tope/versions") }, "store", stateFail, "cannot open the version store", "setup_symlinks.sh"},
		{"a store that all can write", func(m *image) { m.must(os.Chmod(m.path("opt/tope/versions"), 0o777)) }, "store", stateFail, "mode 0777", "chmod go-w"},
		{"links of another updater", func(m *image) {
			m.remove(store + ".active")
			m.remove(store + ".generations")
			m.link(store+"current", "v1.1.0")
		},
			"links", stateFail, "another program keeps it", "setup_symlinks.sh"},
		{"a fixed link that is gone", func(m *image) { m.remove(store + "previous") }, "record", stateFail, "previous is not the link", "adopt"},
		{"links and record that disagree", func(m *image) { m.link(store+".generations/1/previous", "../../v1.1.0") }, "record", stateFail, "the link previous says 1.1.0, the record 1.0.0", "next boot"},
		{"a copy of the record that is damaged", func(m *image) { m.write(store+".generations/1/record.json", "") }, "record", stateFail, "generation 1: the record is damaged; using its backup", "repairs it"},
		{"a record that is lost", func(m *image) {
			m.write(store+".generations/1/record.json", "")
			m.write(store+".generations/1/record.backup.json", "")
		}, "record", stateFail, "the record of generation 1 is lost", "repairs it"},
		{"a current version without its program", func(m *image) { m.remove(store + "v1.1.0/bin/device-api") }, "current", stateFail, "bin/device-api: it is missing", "ota-guardian verify --repair current"},
		{"a current version with another program", func(m *image) { m.edit(store+"v1.1.0/bin/device-api", "sh", "ss") }, "current", stateFail, "bin/device-api", "ota-guardian verify --repair current"},
		{"a factory version that is writable", func(m *image) { m.must(os.Chmod(m.path(store+"v1.0.0"), 0o755)) }, "factory", stateFail, "is writable", "ota-guardian factory repair"},
		{"a device on hold", func(m *image) {
			m.remove(store + ".generations/1/record.backup.json")
			m.edit(store+".generations/1/record.json", `"confirmed",`, `"hold", "hold": "exhausted",`)
		}, "phase", stateFail, "on hold with version 1.1.0 (exhausted)", "ota-guardian rollback"},
		{"no factory version", func(m *image) {
			s, err := bootcheck.Open(m.path("opt/tope/versions"))
			m.must(err)
			a, err := s.Active()
			m.must(err)
			next := a.Record.Clone()
			next.Factory = nil
			m.must(s.Commit(next))
		}, "factory", stateWarn, "no factory version", "create_factory_version.sh"},
		{"no key", func(m *image) { m.remove("etc/ota/keys/release.pub") }, "keys", stateFail, "every install is refused", "copy NAME.pub"},
		{"a key that is none", func(m *image) { m.write("etc/ota/keys/release.pub", "ssh-ed25519 AAAA") }, "keys", stateFail, "not a minisign public key", "replace it"},
		{"the secret key on the device", func(m *image) { m.write("etc/ota/keys/release.key", "secret") }, "secret key", stateFail, "is on the device", "revoke"},
		{"a list of revoked keys that is damaged", func(m *image) { m.write(store+".revoked.json", "{}") }, "keys", stateFail, "it is not known which keys were revoked", "then remove the damaged file"},
		{"a key that was revoked", func(m *image) {
			s, err := bootcheck.Open(m.path(store))
			m.must(err)
			_, err = s.Revoke(nil, trust.Load([]string{m.path("etc/ota/keys")}).IDs(), nil)
			m.must(err)
		}, "keys", stateFail, "was revoked", "copy NAME.pub"},
		{"keys that all can write", func(m *image) { m.must(os.Chmod(m.path("etc/ota/keys"), 0o777)) }, "keys", stateFail, "mode 0777", "chmod go-w"},
		{"no ota-apply", func(m *image) { m.remove("usr/bin/ota-apply") }, "programs", stateFail, "nothing can be installed", "install.sh"},
		{"the guardian in the store", func(m *image) {
			m.remove("usr/bin/ota-guardian")
			m.program(store + "v1.1.0/bin/ota-guardian")
			m.link("usr/bin/ota-guardian", "../../opt/tope/versions/v1.1.0/bin/ota-guardian")
		}, "programs", stateFail, "an update could replace it", "install.sh"},
		{"a program that all can write", func(m *image) { m.must(os.Chmod(m.path("usr/bin/ota-guardian"), 0o777)) }, "programs", stateFail, "mode 0777", "chmod go-w"},
		{"a guardian that is not enabled", func(m *image) { m.remove("etc/systemd/system/multi-user.target.wants/ota-guardian.service") },
			"unit ota-guardian.service", stateFail, "it is disabled", "systemctl enable ota-guardian.service"},
		{"a masked unit", func(m *image) { m.link("etc/systemd/system/ota-confirm.service", "/dev/null") }, "unit ota-confirm.service", stateFail, "masked", "systemctl unmask ota-confirm.service"},
		{"a unit that is not there", func(m *image) { m.remove("usr/lib/systemd/system/ota-recover.service") }, "unit ota-recover.service", stateFail, "not-found", "install.sh"},
		{"downloads where the sandbox does not let write", func(m *image) { m.write("etc/ota/ota.toml", "model = \"x1\"\nspool = \"/data/spool\"\n") },
			"unit ota-install.service", stateFail, "may not write /data/spool", "ReadWritePaths=/data/spool"},
		{"metrics where the sandbox does not let write", func(m *image) {
			m.write("etc/ota/ota.toml", "model = \"x1\"\n[metrics]\nfile = \"/var/lib/node-exporter/ota.prom\"\n")
		}, "unit ota-recover.service", stateFail, "may not write /var/lib/node-exporter", "systemctl edit ota-recover.service"},
		{"a service without its drop-in", func(m *image) { m.remove(dropIn) }, "service device-api.service", stateFail, "before ota-guardian has decided", "50-ota.conf"},
		{"a service that is checked before it starts", func(m *image) { m.edit(dropIn, "Before=ota-confirm.service", "") }, "service device-api.service", stateFail, "confirmed before it has started", "50-ota.conf"},
		{"a service that crashes alone", func(m *image) { m.edit(dropIn, "OnFailure=ota-recover.service", "") }, "service device-api.service", stateFail, "nothing rolls back", "50-ota.conf"},
		{"a service that waits for another store", func(m *image) { m.edit(dropIn, "/opt/tope/versions/current", "/srv/versions/current") }, "service device-api.service", stateFail, "not started without /srv/versions/current", "ConditionPathExists="},
		{"a crash loop that never ends", func(m *image) { m.edit(dropIn, "RestartSec=1", "RestartSec=15s") }, "service device-api.service", stateFail, "a crash loop never ends", "50-ota.conf"},
		{"a service that starts from one version", func(m *image) { m.edit(service, "versions/current", "versions/v1.1.0") }, "service device-api.service", stateFail, "which no update changes", "/opt/tope/versions/current"},
		{"a service that starts from elsewhere", func(m *image) { m.edit(service, "/opt/tope/versions/current/bin", "/usr/bin") }, "service device-api.service", stateFail, "not in the store", "/opt/tope/versions/current"},
		{"a service whose program no version has", func(m *image) { m.edit(service, "current/bin/device-api", "current/bin/other") }, "service device-api.service", stateFail, "has no bin/other", "correct ExecStart="},
		{"a service without a unit", func(m *image) { m.write("etc/ota/ota.toml", "model = \"x1\"\nservices = [\"printer.service\"]\n") }, "service printer.service", stateFail, "not-found", "correct services"},
		{"a link to one version", func(m *image) { m.link("usr/local/bin/tool", "../../../opt/tope/versions/v1.0.0/bin/device-api") }, "link /usr/local/bin/tool", stateFail, "which no update changes", "setup_symlinks.sh"},
		{"a link to what no version has", func(m *image) { m.link("opt/tope/services/web", "/opt/tope/versions/current/services/web") }, "link /opt/tope/services/web", stateWarn, "has no services/web", "remove the link"},
		{"a store in memory", func(m *image) { m.mount = "tmpfs /opt/tope rw" }, "file system", stateFail, "lost at every reboot", "ext4"},
		{"a store on a memory card's file system", func(m *image) { m.mount = "vfat /opt/tope rw" }, "file system", stateFail, "holds no links", "ext4"},
		{"a store on another machine", func(m *image) { m.mount = "nfs4 /opt/tope rw" }, "file system", stateFail, "another machine", "ext4"},
		{"a store that is read-only", func(m *image) { m.mount = "ext4 /opt/tope ro,noatime" }, "mount option ro", stateFail, "nothing can be installed", "/etc/fstab"},
		{"a store from which nothing starts", func(m *image) { m.mount = "ext4 /opt/tope rw,noexec" }, "mount option noexec", stateFail, "no service can start", "/etc/fstab"},
		{"a disk without barriers", func(m *image) { m.mount = "ext4 /opt/tope rw,nobarrier" }, "mount option nobarrier", stateFail, "power cut", "/etc/fstab"},
		{"a journal that does not order data", func(m *image) { m.mount = "ext4 /opt/tope rw,data=writeback" }, "mount option data=writeback", stateWarn, "power cut", "data=ordered"},
		{"a store in /run", func(m *image) {
			m.must(os.MkdirAll(m.path("run"), 0o755))
			m.must(os.Rename(m.path("opt/tope/versions"), m.path("run/versions")))
			m.write("etc/ota/ota.toml", "model = \"x1\"\nroot = \"/run/versions\"\n")
		}, "place", stateFail, "emptied without asking", "move the store"},
		{"a disk that is full", func(m *image) { m.write("etc/ota/ota.toml", "model = \"x1\"\nreserve = \"1024GiB\"\n") }, "free space", stateFail, "1 TiB stay free (reserve), the largest version has 10 B: every install ends", "ota-apply cleanup"},
		{"a watchdog that was not asked for", func(m *image) { m.remove("usr/lib/systemd/system.conf.d/50-ota-watchdog.conf") }, "watchdog", stateFail, "not asked", "RuntimeWatchdogSec=30s"},
		{"no watchdog", func(m *image) { m.remove("sys/class/watchdog/watchdog0"); m.remove("proc/1/fd/9") }, "watchdog", stateFail, "there is none", "load the driver"},
		{"a watchdog that is not armed", func(m *image) { m.write("sys/class/watchdog/watchdog0/state", "inactive\n"); m.remove("proc/1/fd/9") }, "watchdog", stateFail, "is inactive", "time-out that it can do"},
		{"a watchdog with another time-out", func(m *image) { m.write("sys/class/watchdog/watchdog0/timeout", "10\n") }, "watchdog", stateFail, "gives 10s, systemd was asked for 30s", "time-out that it can do"},
		{"a watchdog that another program holds", func(m *image) {
			m.remove("proc/1/fd/9")
			m.link("proc/77/fd/3", "/dev/watchdog")
			m.write("proc/77/comm", "watchdogd\n")
		}, "watchdog", stateFail, "process 77 (watchdogd) holds it", "stop that program"},
		{"a watchdog that is a program", func(m *image) { m.write("sys/class/watchdog/watchdog0/identity", "Software Watchdog\n") }, "watchdog", stateWarn, "ends with the kernel", "board's own"},
		{"a kernel that panics for ever", func(m *image) { m.write("proc/sys/kernel/panic", "0\n") }, "kernel.panic", stateFail, "hangs for ever", "50-ota-panic.conf"},
		{"a kernel that continues after an oops", func(m *image) { m.write("proc/sys/kernel/panic_on_oops", "0\n") }, "kernel.panic_on_oops", stateWarn, "failed in part", "50-ota-panic.conf"},
		{"a panic that nothing keeps", func(m *image) { m.write("sys/module/pstore/parameters/backend", "(null)\n") }, "pstore", stateWarn, "counts as a power cut", "ramoops"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			m := newImage(t)
			row.harm(m)
			bad, code := m.findings()
			i := slices.IndexFunc(bad, func(f finding) bool {
				return f.Check == row.check && f.State == row.state && strings.Contains(f.Found, row.found)
			})
			if i < 0 {
				t.Fatalf("not found: %s %s %q; found were %+v", row.state, row.check, row.found, bad)
			}
			if !strings.Contains(string(bad[i].Hint), row.hint) {
				t.Errorf("the hint is %q, want %q in it", bad[i].Hint, row.hint)
			}
			if row.state == stateFail && code != bootcheck.ExitFailed {
				t.Errorf("exit code %d, want %d", code, bootcheck.ExitFailed)
			}
		})
	}
}

// others are the findings that are not about the machine of the test: its clock,
// its room, and that its /tmp, where the image is, is one file system with it.
func (m *image) others(t *testing.T) []finding {
	bad, _ := m.findings()
	return slices.DeleteFunc(bad, func(f finding) bool {
		if strings.HasPrefix(f.Check, "clock") || f.Check == "/tmp" {
			t.Logf("of this machine: %+v", f)
			return true
		}
		return false
	})
}

func TestText(t *testing.T) {
	m := newImage(t)
	m.args.JSON = false
	m.write("proc/sys/kernel/panic", "0\n")
	m.write("sys/class/watchdog/watchdog0/identity", "evil\x1b[2J\n")
	var out bytes.Buffer
	err := diagnose(t.Context(), &out, m.args, m.ask)
	if err == nil || !strings.Contains(err.Error(), "1 of ") {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{"fail  kernel.panic", "this boot began because the watchdog reset the machine", " 1 fail\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("not there: %q\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("what a device says reaches the terminal as it is")
	}
}

// A client certificate that is good for longer is no finding.
func TestClientCertificate(t *testing.T) {
	m := newImage(t)
	m.certificate(31 * 24 * time.Hour)
	for _, f := range m.others(t) {
		if f.Check == "client certificate" {
			t.Errorf("%+v", f)
		}
	}
}

// What systemd passes as a credential is not looked for in its file.
func TestCredentials(t *testing.T) {
	for _, how := range []string{"LoadCredential", "LoadCredentialEncrypted"} {
		m := newImage(t)
		m.follows("https://u.example")
		m.write("etc/ota/ota.toml", "client_certificate = \"/etc/ota/device.pem\"\n[follow]\nsource = \"ddi\"\nurl = \"https://u.example\"\n")
		m.write("etc/systemd/system/ota-install.service.d/credentials.conf", "[Service]\n"+how+"=device.pem:/etc/sealed/device\n"+how+"=follow-token\n")
		for _, f := range m.others(t) {
			if f.Check == "client certificate" || strings.Contains(f.Found, "token") {
				t.Errorf("%s: %+v", how, f)
			}
		}
	}
}

// Units are read as systemd reads them: spaces around "=", lines that continue, and times
// in other words.
func TestSyntaxOfUnits(t *testing.T) {
	m := newImage(t)
	m.edit(dropIn, "After=", "After = ")
	m.edit(dropIn, "OnFailure=", "OnFailure=other.service \\\n  ")
	m.edit(dropIn, "StartLimitIntervalSec=60", "StartLimitIntervalSec=1hour 30 min")
	m.edit(dropIn, "RestartSec=1", "RestartSec=1 sec")
	for _, f := range m.others(t) {
		t.Errorf("%+v", f)
	}
}

// Nothing is changed by looking.
func TestChangesNothing(t *testing.T) {
	m := newImage(t)
	m.remove(store + ".trash")
	m.findings()
	for _, name := range []string{".trash", ".lock", ".install.lock"} {
		if _, err := os.Lstat(m.path(store + name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
}

// Links that lead out of a version are shown, and not followed.
func TestExternalLinks(t *testing.T) {
	m := newImage(t)
	ref := m.version("1.2.0", bootcheck.Entry{Path: "bin/python3", Type: bootcheck.TypeLink, External: true, Target: "/usr/bin/python3"},
		bootcheck.Entry{Path: "data", Type: bootcheck.TypeLink, External: true, Target: "../../nowhere"})
	m.link(store+"v1.2.0/bin/python3", "/usr/bin/python3")
	m.link(store+"v1.2.0/data", "../../nowhere")
	m.link("usr/local/bin/tool", "/opt/tope/versions/current/data/tool")
	s, err := bootcheck.Open(m.path(store))
	m.must(err)
	m.must(s.Commit(&bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: ref, Confirmed: []bootcheck.Ref{*ref}}))
	m.args.JSON = false
	var out bytes.Buffer
	_ = Diagnose(t.Context(), &out, m.args)
	if want := "bin/python3 -> /usr/bin/python3, data -> ../../nowhere"; !strings.Contains(out.String(), want) {
		t.Errorf("not there: %q\n%s", want, &out)
	}
	if strings.Contains(out.String(), "has no data/tool") {
		t.Errorf("a link was followed:\n%s", &out)
	}
}
