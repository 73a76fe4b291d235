package bootcheck

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// With anything in the place of a file, reading it ends, and is no reason for another try.
func TestReadRegular(t *testing.T) {
	dir := t.TempDir()
	for name, put := range map[string]func(name string) error{
		"nothing":     func(string) error { return nil },
		"a directory": func(name string) error { return os.Mkdir(name, 0o755) },
		"a FIFO":      func(name string) error { return unix.Mkfifo(name, 0o600) },
		"a link":      func(name string) error { return os.Symlink("/etc/passwd", name) },
		"too much":    func(name string) error { return os.WriteFile(name, make([]byte, 101), 0o600) },
	} {
		at := dir + "/" + name
		if err := put(at); err != nil {
			t.Fatal(err)
		}
		if data, err := ReadRegular(at, 100); err == nil || Inconclusive(err) {
			t.Errorf("%s: read %d bytes, %v; want an error that says what is there", name, len(data), err)
		}
	}
}
