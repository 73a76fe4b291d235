package bootcheck_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

func TestVerified(t *testing.T) {
	sum := strings.TrimPrefix(bootcheck.Digest([]byte("content")), "sha256:")
	other := strings.TrimPrefix(bootcheck.Digest([]byte("other")), "sha256:")
	written := time.Now().Truncate(time.Second)
	for _, row := range []struct {
		name  string
		after func(name string) error
		want  bool
	}{
		{"nobody wrote to it", func(string) error { return nil }, true},
		{"a hard link of it", func(name string) error { return os.Link(name, name+".too") }, true},
		{"it was made read-only", func(name string) error { return os.Chmod(name, 0o444) }, true},
		{"it was renamed", func(name string) error {
			if err := os.Rename(name, name+"2"); err != nil {
				return err
			}
			return os.Rename(name+"2", name)
		}, true},
		{"the same was written again", func(name string) error { return os.WriteFile(name, []byte("content"), 0) }, false},
		{"a byte was written to it", func(name string) error {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("K"), 0)
				f.Close()
			}
			return err
		}, false},
		{"it was cut", func(name string) error { return os.Truncate(name, 3) }, false},
		{"it was touched", func(name string) error { return os.Chtimes(name, written, written) }, false},
		{"it was exchanged", func(name string) error {
			os.Remove(name)
			return os.WriteFile(name, []byte("kontent"), 0o644)
		}, false},
	} {
		name := filepath.Join(t.TempDir(), "f")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("content"); err != nil {
			t.Fatal(err)
		}
		bootcheck.MarkVerified(f, sum, written)
		f.Close()
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bootcheck.IsVerified(info, sum) {
			t.Skipf("the file system of %s keeps no nanoseconds", t.TempDir())
		}
		if !info.ModTime().Truncate(time.Second).Equal(written) {
			t.Errorf("its time is %v, want the second of %v", info.ModTime(), written)
		}
		if bootcheck.IsVerified(info, other) || bootcheck.IsVerified(info, "") {
			t.Error("it is taken for a file with other content")
		}
		if err := row.after(name); err != nil {
			t.Fatal(err)
		}
		if info, err = os.Stat(name); err != nil {
			t.Fatal(err)
		}
		if got := bootcheck.IsVerified(info, sum); got != row.want {
			t.Errorf("%s: verified is %v, want %v", row.name, got, row.want)
		}
	}
}
