package applier

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A device is a store, a configuration and two trusted keys in a directory, without
// systemd. Version 1.0.0, release 5, is installed and confirmed on it.
type device struct {
	t        *testing.T
	dir      string
	cfg      *config.Config
	key, new minisign.PrivateKey // both trusted
	clock    time.Time           // zero: the real one
	log      bytes.Buffer        // of the last install
}

func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{t: t, dir: t.TempDir()}
	d.key, d.new = d.trust("old"), d.trust("new")
	text := "root = \"" + d.path("versions") + "\"\nrun = \"" + d.path("run") + "\"\nmodel = \"x1\"\nservices = []\nreserve = 0\nreport.url = \"\"\n" +
		"[[check]]\nname = \"fine\"\nscript = \"/bin/true\"\n"
	d.write("etc/ota.toml", text)
	var err error
	if d.cfg, err = config.Load(d.path("etc/ota.toml")); err != nil {
		t.Fatal(err)
	}
	d.must(d.install(d.bundle("1.0.0", nil), installOptions{}))
	d.confirm()
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) write(name, content string) string {
	d.t.Helper()
	d.must(os.MkdirAll(filepath.Dir(d.path(name)), 0o755))
	d.must(os.WriteFile(d.path(name), []byte(content), 0o600))
	return d.path(name)
}

func (d *device) read(name string) []byte {
	d.t.Helper()
	data, err := os.ReadFile(name)
	d.must(err)
	return data
}

// trust makes a key and puts its public half into the device's directory of keys.
func (d *device) trust(name string) minisign.PrivateKey {
	d.t.Helper()
	pub, key, err := minisign.GenerateKey(nil)
	d.must(err)
	text, err := pub.MarshalText()
	d.must(err)
	d.write("etc/keys/"+name+".pub", string(text)+"\n")
	return key
}

// bundle makes the bundle of a version, for x1, release 5, that the old key signs.
func (d *device) bundle(version string, change func(c *bundle.Contents)) string {
	d.t.Helper()
	tree := "tree-" + version
	d.write(tree+"/bin/app", "#!/bin/sh\necho "+version+"\n")
	c := bundle.Contents{Dir: d.path(tree), Version: version, Models: []string{"x1"}, Release: 5, Overwrite: true, Key: d.key, Level: bundle.LevelFast}
	if change != nil {
		change(&c)
	}
	out := d.path(version + ".ota")
	_, err := bundle.Create(d.t.Context(), out, c)
	d.must(err)
	return out
}

// install is `ota-apply install` without the hand-over to systemd.
func (d *device) install(from string, o installOptions) error {
	return d.installCtx(d.t.Context(), from, o)
}

func (d *device) installCtx(ctx context.Context, from string, o installOptions) error {
	d.log.Reset()
	a := &applier{cfg: d.cfg, out: io.Discard, log: &d.log}
	if !d.clock.IsZero() {
		a.clock = func() time.Time { return d.clock }
	}
	return a.install(ctx, from, o)
}

// commit changes the record.
func (d *device) commit(change func(r *bootcheck.Record)) {
	d.t.Helper()
	s, err := bootcheck.Open(d.cfg.Root)
	d.must(err)
	active, err := s.Active()
	d.must(err)
	next := active.Record.Clone()
	change(next)
	d.must(s.Commit(next))
}

// confirm is what the guardian does with a version that is healthy.
func (d *device) confirm() {
	d.t.Helper()
	s, err := bootcheck.Open(d.cfg.Root)
	d.must(err)
	d.commit(func(r *bootcheck.Record) {
		snapshot, err := s.Snapshot(r.Current.Version)
		d.must(err)
		r.Phase, r.Trial = bootcheck.PhaseConfirmed, nil
		r.Confirm(*r.Current)
		r.Floor = max(r.Floor, snapshot.Manifest.Release)
	})
}

// runs is the version that the link current leads to.
func (d *device) runs() string {
	d.t.Helper()
	dir, err := filepath.EvalSymlinks(d.path("versions/current"))
	d.must(err)
	return strings.TrimPrefix(filepath.Base(dir), "v")
}

// refused checks how an install ended, and that nothing of it is on the device.
func (d *device) refused(err error, exit bootcheck.ExitCode, want string) {
	d.t.Helper()
	if err == nil {
		d.t.Fatalf("it was installed, want it refused: %s", want)
	}
	if got := bootcheck.Exit(err); got != exit || !strings.Contains(err.Error(), want) {
		d.t.Errorf("%v (exit %d), want exit %d and %q in it", err, got, exit, want)
	}
	if got := d.runs(); got != "1.0.0" {
		d.t.Errorf("version %s runs, want 1.0.0", got)
	}
	d.must(filepath.WalkDir(d.cfg.Root, func(name string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(d.cfg.Root, name)
		if strings.HasPrefix(rel, ".staging/") || strings.HasPrefix(rel, ".trash/") || strings.HasSuffix(rel, ".part") ||
			strings.HasPrefix(rel, "v") && !strings.HasPrefix(rel, "v1.0.0") {
			d.t.Errorf("%s is left", rel)
		}
		return err
	}))
}

// A hugeBundle is the head of a bundle of 600 MB. Its payload is made up: it is
// zeros, and no good one would ever be asked for.
type hugeBundle struct {
	manifest bootcheck.Manifest
	key      minisign.PrivateKey
	json     func(raw []byte) []byte      // before it is signed
	sign     func(raw, sig []byte) []byte // the signature that goes into the bundle
	head     func(raw, sig []byte) []byte // prefix and head
}

const hugePayload = 600 << 20

func (d *device) huge() *hugeBundle {
	const frame = bootcheck.MaxFrameSize
	sum := strings.Repeat("ab", 32)
	m := bootcheck.Manifest{
		Format: bootcheck.ManifestFormat, Models: []string{"x1"}, Version: "2.0.0", Release: 6,
		Size:    hugePayload - 512,
		Entries: []bootcheck.Entry{{Path: "data", Type: bootcheck.TypeFile, Mode: 0o644, Size: hugePayload - 512, SHA256: sum}},
	}
	for at := int64(0); at < hugePayload; at += frame {
		m.Frames = append(m.Frames, bootcheck.Frame{Offset: at, Length: frame, Size: frame, SHA256: sum})
	}
	m.Frames = append(m.Frames, bootcheck.Frame{Offset: hugePayload, Length: 20, Size: 1024, SHA256: sum})
	return &hugeBundle{manifest: m, key: d.key}
}

func (b *hugeBundle) bake(t *testing.T) (head []byte, digest string) {
	t.Helper()
	raw, err := json.Marshal(b.manifest)
	if err != nil {
		t.Fatal(err)
	}
	if b.json != nil {
		raw = b.json(raw)
	}
	sig := bundle.Sign(b.key, raw, bundle.Comment(b.manifest.Version))
	if b.sign != nil {
		sig = b.sign(raw, sig)
	}
	if b.head != nil {
		return b.head(raw, sig), bootcheck.Digest(raw)
	}
	head, err = bundle.EncodeHead(raw, sig)
	if err != nil {
		t.Fatal(err)
	}
	return head, bootcheck.Digest(raw)
}

// zeros is a file of size bytes that begins with head.
type zeros struct {
	head []byte
	size int64
	at   int64
}

func (z *zeros) Read(p []byte) (int, error) {
	if z.at >= z.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.size-z.at))
	clear(p[:n])
	if z.at < int64(len(z.head)) {
		copy(p[:n], z.head[z.at:])
	}
	z.at += int64(n)
	return n, nil
}

func (z *zeros) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += z.at
	case io.SeekEnd:
		offset += z.size
	}
	z.at = offset
	return offset, nil
}

// A countingServer serves one file and counts the bytes that leave it, headers
// and all.
type countingServer struct {
	url  string
	sent atomic.Int64
}

func newCountingServer(t *testing.T, head []byte, size int64, ranges bool) *countingServer {
	t.Helper()
	s := &countingServer{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"huge"`)
		if !ranges {
			r.Header.Del("Range")
		}
		http.ServeContent(w, r, "", time.Time{}, &zeros{head: head, size: size})
	}))
	server.Listener = countingListener{server.Listener, s}
	server.Start()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	s.url = server.URL + "/huge.ota"
	return s
}

type countingListener struct {
	net.Listener
	s *countingServer
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	// What lies in the server's own buffer has not left it.
	if err := c.(*net.TCPConn).SetWriteBuffer(16 << 10); err != nil {
		return nil, err
	}
	return &countingConn{c, l.s}, nil
}

type countingConn struct {
	net.Conn
	s *countingServer
}

func (c *countingConn) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n, err := c.Conn.Write(p[sent:min(len(p), sent+16<<10)])
		sent += n
		c.s.sent.Add(int64(n))
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

func keyID(key minisign.PrivateKey) string { return trust.KeyID(key.ID()) }

func mkdir(dir string) error { return os.MkdirAll(dir, 0o700) }
