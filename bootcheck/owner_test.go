package bootcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckOwner holds that a file is trusted only if root, or the user of this
// program, alone can change it or what leads to it.
func TestCheckOwner(t *testing.T) {
	const stranger = 12345
	dir := t.TempDir()
	for _, row := range []struct {
		name string
		make func(dir string) error // makes dir/etc and dir/etc/file other than they are
		root bool                   // needs root
		want string                 // of the error; empty: none
	}{
		{"all is root's", func(string) error { return nil }, false, ""},
		{"every user can write it", func(dir string) error { return os.Chmod(dir+"/etc/file", 0o666) }, false, "mode 0666"},
		{"a group can write it", func(dir string) error { return chownMode(dir+"/etc/file", 0, stranger, 0o660) }, true, "mode 0660"},
		{"a user's", func(dir string) error { return os.Chown(dir+"/etc/file", stranger, -1) }, true, "owner 12345"},
		{"every user can write its directory", func(dir string) error { return os.Chmod(dir+"/etc", 0o777) }, false, "mode 0777"},
		{"a user's directory", func(dir string) error { return os.Chown(dir+"/etc", stranger, -1) }, true, "owner 12345"},
		{"every user can write a directory above", func(dir string) error { return os.Chmod(dir, 0o777) }, false, "mode 0777"},
		{"above it only entries of others are safe", func(dir string) error { return os.Chmod(dir+"/etc", 0o777|os.ModeSticky) }, false, ""},
		{"a link to a file of root", func(dir string) error { return fileLink(dir, dir+"/real") }, false, ""},
		{"a relative link", func(dir string) error { return fileLink(dir, "../real") }, false, ""},
		{"a link of a user", func(dir string) error {
			if err := fileLink(dir, dir+"/real"); err != nil {
				return err
			}
			return os.Lchown(dir+"/etc/file", stranger, -1)
		}, true, "owner 12345"},
		{"a link through a directory that every user can write", func(dir string) error {
			if err := os.Mkdir(dir+"/open", 0o755); err != nil {
				return err
			}
			if err := os.Symlink(dir+"/real", dir+"/open/link"); err != nil {
				return err
			}
			if err := fileLink(dir, dir+"/open/link"); err != nil {
				return err
			}
			return os.Chmod(dir+"/open", 0o777)
		}, false, "mode 0777"},
		{"a link to itself", func(dir string) error { return fileLink(dir, "file") }, false, "too many levels"},
		{"a link to nothing", func(dir string) error { return fileLink(dir, "nothing") }, false, "no such file"},
		{"not there", func(dir string) error { return os.Remove(dir + "/etc/file") }, false, "no such file"},
	} {
		if row.root && os.Geteuid() != 0 {
			continue // only root can give files away
		}
		here := filepath.Join(dir, strings.ReplaceAll(row.name, " ", "-"))
		for _, make := range []func() error{
			func() error { return os.MkdirAll(here+"/etc", 0o755) },
			func() error { return os.WriteFile(here+"/etc/file", nil, 0o644) },
			func() error { return os.WriteFile(here+"/real", nil, 0o644) },
			func() error { return row.make(here) },
		} {
			if err := make(); err != nil {
				t.Fatal(err)
			}
		}
		err := CheckOwner(here + "/etc/file")
		switch {
		case row.want == "" && err != nil:
			t.Errorf("%s: %v, want no error", row.name, err)
		case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: %v, want an error with %q", row.name, err, row.want)
		case strings.Contains(row.want, "mode") && (Exit(err) != ExitRefused || !strings.Contains(Advice(err), "chmod")):
			t.Errorf("%s: exit %d, advice %q, want a refusal with its hint", row.name, Exit(err), Advice(err))
		}
	}
}

func chownMode(name string, uid, gid int, mode os.FileMode) error {
	if err := os.Chown(name, uid, gid); err != nil {
		return err
	}
	return os.Chmod(name, mode)
}

// fileLink makes dir/etc/file a link to target.
func fileLink(dir, target string) error {
	if err := os.Remove(dir + "/etc/file"); err != nil {
		return err
	}
	return os.Symlink(target, dir+"/etc/file")
}
