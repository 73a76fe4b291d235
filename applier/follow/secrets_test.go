package follow_test

import (
	"bytes"
	"crypto/rand"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tope-ota/ota/integration/fleet/fake"
)

// Row 18: what a token or a signed address says is in the files that hold it, and nowhere
// else: no command line and no environment, which other users can read, no file of the
// store, the spool and the run directory, no output. It is looked for while the server is
// asked, for anything, and after a success, a failure and a server that refuses.
func TestSecretsAreNowhere(t *testing.T) {
	d := newDevice(t)
	token, signature := "marker-"+rand.Text(), "marker-"+rand.Text()
	d.server.Token("TargetToken " + token)
	d.write("token", token+"\n", 0o600)
	holders := []string{d.path("token"), d.path("run/.follow-url")}

	var mu sync.Mutex
	seen, held := map[string]bool{}, map[string]bool{}
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		names, err := filepath.Glob("/proc/[0-9]*/cmdline")
		d.check(err)
		for _, name := range names {
			names = append(names, filepath.Join(filepath.Dir(name), "environ"))
		}
		_ = filepath.WalkDir(d.dir, func(name string, e fs.DirEntry, _ error) error {
			if e != nil && e.Type().IsRegular() {
				names = append(names, name)
			}
			return nil
		})
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil || !bytes.Contains(data, []byte(token)) && !bytes.Contains(data, []byte(signature)) {
				continue
			}
			if seen[name] = true; slices.Contains(holders, name) {
				held[name] = true
				if info, err := os.Stat(name); err == nil && info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %v", name, info.Mode())
				}
			}
		}
	}
	d.server.Before(func(w http.ResponseWriter, r *http.Request) bool {
		look()
		if strings.Contains(r.URL.Path, "/files/") && r.URL.Query().Get("sig") != signature {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	url := func(version string) string { return d.server.URL + "/files/" + version + ".ota?sig=" + signature }
	d.server.Assign(fake.Action{ID: "7", Version: "1.1.0", URL: url("1.1.0")})
	d.once(0)
	d.run(0, "ota-guardian", "confirm")
	d.once(0)
	d.current("1.1.0")
	d.server.Assign(fake.Action{ID: "8", Version: "2.0.0", URL: url("2.0.0")}) // for another model
	d.once(4)
	d.server.Assign(fake.Action{ID: "9", Version: "1.2.0", URL: url("1.2.0") + "x"}) // expired
	d.once(6)
	if strings.Contains(d.out.String(), "marker-") {
		t.Errorf("it is said:\n%s", &d.out)
	}
	d.server.Token("TargetToken other")
	d.once(6)
	look()
	for name := range seen {
		if !slices.Contains(holders, name) {
			t.Errorf("it is in %s", name)
		}
	}
	if len(held) != len(holders) {
		t.Errorf("it was looked for where it is not: seen in %v, want %q", held, holders)
	}
}
