package fetch

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestUndeletable holds that a partial file which cannot be deleted, nor written to,
// keeps no download: neither of the same file nor of another.
func TestUndeletable(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, for chattr")
		}
		t.Skip("needs root, for chattr")
	}
	file := content(fileSize, 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	opt, src := quick(spoolDir(t)), Source{URL: s.URL + "/x"}
	from, err := src.parse()
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(opt.Dir, from.name+partSuffix)
	if err := os.Mkdir(opt.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, part, file[:100])
	if out, err := exec.Command("chattr", "+i", part).CombinedOutput(); err != nil {
		t.Fatalf("chattr: %v %s", err, out)
	}
	defer func() { _ = exec.Command("chattr", "-i", part).Run() }()
	for _, url := range []string{"/x", "/y", "/x"} {
		src := Source{URL: s.URL + url}
		f, _, err := Fetch(t.Context(), src, opt)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		mustHave(t, f, file)
		f.Close()
		if err := Remove(opt.Dir, src); (err == nil) != (url == "/y") {
			t.Errorf("Remove of %s: %v", url, err)
		}
		if left := entries(t, opt.Dir); len(left) != 1 || left[0] != filepath.Base(part) {
			t.Errorf("after %s, %v are left", url, left)
		}
	}
}
