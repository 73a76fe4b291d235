package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// A keeper keeps the newest state in a file. It writes in a goroutine of its own:
// a disk that is busy with what the install unpacks holds nobody up.
type keeper struct {
	name    string
	newest  func() State
	wrong   func(error)   // is told of each write that failed
	wake    chan struct{} // there is a newer state
	closing chan struct{} // there will be no newer one
	ended   chan struct{}
	there   *os.File // what is at name: open, as it is locked
}

// keepPause is between two states that are written: nobody looks more often.
const keepPause = 20 * time.Millisecond

func newKeeper(name string, newest func() State, wrong func(error)) *keeper {
	k := &keeper{name: name, newest: newest, wrong: wrong,
		wake: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{})}
	go k.run()
	return k
}

func (k *keeper) run() {
	defer close(k.ended)
	// What a process left that was killed in the middle of a write.
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(k.name), k.temporary()))
	for _, name := range left {
		os.Remove(name)
	}
	var written State
	for last := false; !last; {
		select {
		case <-k.wake:
		case <-k.closing:
			last = true
		}
		if s := k.newest(); s != written {
			written = s
			if err := k.write(s); err != nil {
				k.wrong(err)
			}
		}
		select {
		case <-time.After(keepPause):
		case <-k.closing:
		}
	}
	if k.there != nil {
		k.there.Close()
	}
}

// temporary is the pattern of the names of files that are not yet at theirs.
func (k *keeper) temporary() string { return "." + filepath.Base(k.name) + ".*" }

// write replaces the file as a whole (mode 0644; its folder is made if missing).
// Nothing is synced: the file tells about this boot only, and after a power cut
// an empty one says as much as none.
func (k *keeper) write(s State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	dir := filepath.Dir(k.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, k.temporary())
	if err != nil {
		return err
	}
	// Locked before anybody can see it: see bootcheck.Operation.
	err = bootcheck.LockOperation(f)
	if err == nil {
		_, err = f.Write(append(data, '\n'))
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), k.name)
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return err
	}
	// Only now: a reader that finds the file before unlocked sees that there is
	// another.
	if k.there != nil {
		k.there.Close()
	}
	k.there = f
	return nil
}
