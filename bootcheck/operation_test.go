package bootcheck

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadOperation holds what is trusted of progress.json, and that a writer
// that is gone is never taken for one that works.
func TestReadOperation(t *testing.T) {
	const downloading = `{"stage":"downloading","progress":40,"message":"m","error":""}`
	idle := Operation{Stage: StageIdle}
	busy := Operation{Stage: "downloading", Progress: 40, Message: "m"}
	killed := Operation{Stage: StageIdle, Message: "the last install was interrupted while downloading"}
	for _, row := range []struct {
		name    string
		content string
		lock    int16 // of another open file on it
		want    Operation
	}{
		{"an install that runs", downloading, unix.F_WRLCK, busy},
		{"an install that was killed", downloading, unix.F_UNLCK, killed},
		{"an install that was killed, and a user who may only read wants to hide it", downloading, unix.F_RDLCK, killed},
		{"an install that ended well", `{"stage":"success","progress":100}`, unix.F_UNLCK, Operation{Stage: "success", Progress: 100}},
		{"an install that failed", `{"stage":"failed","progress":7,"message":"m","error":"DISK_FULL: m"}`, unix.F_UNLCK,
			Operation{Stage: "failed", Progress: 7, Message: "m", Error: "DISK_FULL: m"}},
		{"an empty file", "", unix.F_WRLCK, idle},
		{"half a file", downloading[:20], unix.F_WRLCK, idle},
		{"no stage", "{}", unix.F_WRLCK, idle},
		{"another type", `{"stage":3}`, unix.F_WRLCK, idle},
	} {
		file := filepath.Join(t.TempDir(), "progress.json")
		if err := os.WriteFile(file, []byte(row.content), 0o644); err != nil {
			t.Fatal(err)
		}
		writer, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		lock := unix.Flock_t{Type: row.lock, Whence: io.SeekStart}
		if err := unix.FcntlFlock(writer.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
			t.Fatal(err)
		}
		if got := ReadOperation(file); got != row.want {
			t.Errorf("%s: ReadOperation = %+v, want %+v", row.name, got, row.want)
		}
		writer.Close()
	}

	// What a screen shows beside it.
	file := filepath.Join(t.TempDir(), "progress.json")
	if err := os.WriteFile(file, []byte(`{"stage":"failed","progress":7,"version":"1.2.0","bytes_done":3,"bytes_total":40,"exit":6}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := ReadInstall(file), (Install{Operation{Stage: "failed", Progress: 7}, "1.2.0", 3, 40}); got != want {
		t.Errorf("ReadInstall = %+v, want %+v", got, want)
	}

	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "there"), []byte(`{"stage":"success"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("there", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"missing", "fifo", "link", "."} {
		if got := ReadOperation(filepath.Join(dir, name)); got != idle {
			t.Errorf("ReadOperation of %s = %+v, want idle", name, got)
		}
	}
}
