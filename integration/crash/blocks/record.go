package blocks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// tail is what the disk has behind the file system: a mark is a write to it.
const tail = 4096

// markPrefix begins the text of a mark on the disk.
const markPrefix = "ota-crash: "

// A Recording is all that was written to a disk while something ran on it.
type Recording struct {
	FS      string   // of the disk
	Size    int64    // of that, in bytes
	Base    *os.File // the disk as it was before
	Entries []Entry  // in the order in which the disk completed them
}

// Mark is the number of the entries up to and with the mark text; 0: there is none.
func (r *Recording) Mark(text string) int {
	for i, e := range r.Entries {
		if e.Flags&Mark != 0 && string(e.Data) == text {
			return i + 1
		}
	}
	return 0
}

// Record mounts a copy of base at dir, calls run, unmounts it and returns all that
// was written meanwhile. mark makes a note in the log: all that was completed before
// it returns comes before the note.
func Record(ctx context.Context, fs string, size int64, base *os.File, dir string, run func(mark func(text string) error) error) (_ *Recording, err error) {
	defer try.End(&err)
	d := try.Get(serve(ctx, size, base))
	defer d.stop()
	try.Check(mount(d.export, size, fs, dir))
	err = run(func(text string) error {
		// Linux writes through to the one that serves the file: when this returns,
		// the write is in the log.
		sector := make([]byte, 512)
		copy(sector, markPrefix+text)
		_, err := d.export.WriteAt(sector, size)
		return err
	})
	try.Check(errors.Join(err, unmount(dir)))
	entries := try.Get(d.log())
	for i, e := range entries {
		if e.Offset >= size && e.Data != nil {
			text, ok := bytes.CutPrefix(bytes.TrimRight(e.Data, "\x00"), []byte(markPrefix))
			if !ok {
				return nil, fmt.Errorf("entry %d of the log is behind the end of the file system and no mark: %q", i+1, text)
			}
			entries[i] = Entry{Flags: Mark, Data: text}
		}
	}
	return &Recording{fs, size, base, entries}, nil
}

// A disk is a file whose every write is logged by the program that serves it.
type disk struct {
	dir    string
	server *exec.Cmd
	ended  chan error
	stderr bytes.Buffer
	export *os.File // the disk
}

// serve starts a disk with a copy of base. It dies with this process, or by stop.
func serve(ctx context.Context, size int64, base *os.File) (_ *disk, err error) {
	d := &disk{ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			d.stop()
		}
	}()
	defer try.End(&err)
	program := try.Get(debian.LookTool("qemu-storage-daemon"))
	d.dir = try.Get(os.MkdirTemp("", "ota-blocks-"))
	f := try.Get(os.Create(filepath.Join(d.dir, "disk")))
	defer f.Close()
	try.Check(copyDisk(f, base))
	try.Check(f.Truncate(size + tail))
	// What the loop device shows as its file is what it is found by.
	export := filepath.Join(d.dir, filepath.Base(d.dir)+".disk")
	for _, name := range []string{export, filepath.Join(d.dir, "log")} {
		try.Check(os.WriteFile(name, nil, 0o600))
	}
	d.server = exec.Command(program,
		"--blockdev", "driver=file,node-name=disk,filename=disk",
		"--blockdev", "driver=file,node-name=log,filename=log",
		"--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log",
		"--export", "type=fuse,id=export,node-name=logged,mountpoint="+export+",writable=on")
	d.server.Dir = d.dir
	d.server.Stderr = &d.stderr
	try.Check(startApart(d.server))
	go func() { d.ended <- d.server.Wait() }()
	// It is there when something is mounted on the file, as the server sees it.
	export = filepath.Join("/proc", strconv.Itoa(d.server.Process.Pid), "root", export)
	for {
		var st unix.Statfs_t
		if err := unix.Statfs(export, &st); err != nil {
			return nil, &os.PathError{Op: "statfs", Path: export, Err: err}
		}
		if st.Type == unix.FUSE_SUPER_MAGIC {
			break
		}
		select {
		case err := <-d.ended:
			d.ended <- err
			return nil, fmt.Errorf("qemu-storage-daemon ended: %v: %s", err, strings.TrimSpace(d.stderr.String()))
		case <-ctx.Done():
			return nil, fmt.Errorf("qemu-storage-daemon does not serve the disk: %w", context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
	d.export, err = os.OpenFile(export, os.O_RDWR, 0)
	return d, err
}

// log ends the disk and reads all that was written to it.
func (d *disk) log() (_ []Entry, err error) {
	defer try.End(&err)
	// The number of entries is written with a flush.
	try.Check(d.export.Sync())
	d.end()
	f := try.Get(os.Open(filepath.Join(d.dir, "log")))
	defer f.Close()
	return readLog(f)
}

// end kills the server: what it wrote is in the kernel, and nothing is in it. Its
// mount goes with it.
func (d *disk) end() {
	if d.export != nil {
		d.export.Close()
		d.export = nil
	}
	if d.server != nil && d.server.Process != nil {
		_ = d.server.Process.Kill()
		err := <-d.ended
		d.ended <- err
	}
}

func (d *disk) stop() {
	d.end()
	os.RemoveAll(d.dir)
}
