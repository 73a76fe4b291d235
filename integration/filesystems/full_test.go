package filesystems

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A version on trial has filled the disk and takes all that becomes free. It is rolled back
// all the same, in each way in which a version is rolled back.
func TestFullDisk(t *testing.T) {
	needsRoot(t)
	defer try.Fatal(t)
	w := try.Get(flows.NewWorld(t.Context(), t.TempDir()))
	t.Cleanup(w.Close)
	// The trial of 1.2.0, with 1.1.0 behind it.
	begun := &flows.Flow{Name: "trial", Start: flows.Find("full-rollback").Start}
	back := flows.State{Phase: "fallback", Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0"}
	stays := flows.State{Phase: "trial", Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0"}
	for _, disk := range []struct {
		name  string
		mib   int64
		mkfs  []string
		files bool // the writer makes files, too, until no more can be made
	}{
		{"ext4", 64, []string{"mkfs.ext4"}, true},
		{"ext4 inodes", 64, []string{"mkfs.ext4", "-N", "512"}, true},
		{"xfs", 300, []string{"mkfs.xfs"}, true},
		{"btrfs mixed", 64, []string{"mkfs.btrfs", "--mixed"}, true},
		// With metadata of its own, of which files would take the last: then btrfs renames nothing.
		{"btrfs", 160, []string{"mkfs.btrfs"}, false},
	} {
		for _, way := range []struct {
			name  string
			sick  bool
			calls [][]string
			exits []int // of the last call
			want  flows.State
		}{
			{"confirm", true, [][]string{{"confirm"}}, []int{8}, back},
			{"recover", true, [][]string{{"recover"}}, []int{8}, back},
			{"rollback", true, [][]string{{"rollback"}}, []int{0}, back},
			{"boots", true, boots(3), []int{0}, back},
			{"boots that may still be confirmed", false, boots(2), []int{0, 7}, stays},
		} {
			t.Run(disk.name+"/"+way.name, func(t *testing.T) {
				defer try.Fatal(t)
				dir := mountOf(t, disk.mib, disk.mkfs...)
				site := try.Get(w.Build(t.Context(), begun, filepath.Join(t.TempDir(), "site"), filepath.Join(dir, "versions")))
				if way.sick {
					try.Check(os.WriteFile(filepath.Join(site.Dir, "sick"), nil, 0o644))
				}
				stop := fill(t, dir, disk.files)
				var last *invariants.Said
				for _, call := range way.calls {
					if call[0] == "boot" {
						try.Check(site.Reboot())
					}
					last = try.Get(site.Run(t.Context(), append([]string{"ota-guardian"}, call...)))
				}
				found := invariants.Look(site.Root)
				if !slices.Contains(way.exits, last.Exit) || found.State != way.want || len(found.Problems) > 0 {
					// A file system may have room for a count, and counts then.
					t.Errorf("exit %d, %v %v, want %v, %v\n%s", last.Exit, found.State, found.Problems, way.exits, way.want, last.Stderr)
				}
				stop()

				// With room again it continues as ever.
				if problems := try.Get(site.Aftermath(t.Context(), true)); len(problems) > 0 {
					t.Errorf("with room again: %v", problems)
				}
			})
		}
	}
}

// boots are n boots, each after a crash of the system.
func boots(n int) (calls [][]string) {
	for i := range n {
		calls = append(calls, []string{"boot", "--boot-id", fmt.Sprint("hard", i), "--last-boot", "hard"})
	}
	return calls
}

// fill takes all room of the disk at dir, and continues to take what becomes free until
// stop, which gives all of it back.
func fill(t *testing.T, dir string, files bool) (stop func()) {
	t.Helper()
	defer try.Fatal(t)
	at := filepath.Join(dir, "log")
	try.Check(os.Mkdir(at, 0o755))
	log := try.Get(os.Create(filepath.Join(at, "log")))
	n := 0
	// until the disk says that it is full, or ctx ends: a btrfs that is nearly full takes
	// byte after byte, each slowly.
	once := func(ctx context.Context) {
		for _, size := range []int{1 << 20, 64 << 10, 4 << 10, 512, 1} {
			for ctx.Err() == nil {
				if _, err := log.Write(make([]byte, size)); err != nil {
					break
				}
			}
		}
		for files && ctx.Err() == nil {
			n++
			if err := os.WriteFile(filepath.Join(at, fmt.Sprint(n)), []byte("x"), 0o600); err != nil {
				if !errors.Is(err, unix.ENOSPC) {
					t.Error(err)
				}
				return
			}
		}
	}
	for range 3 {
		once(t.Context())
		_ = unix.Syncfs(int(log.Fd()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			once(ctx)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		log.Close()
		if err := os.RemoveAll(at); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}
