package blocks

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/blocklog"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/machine/machinetest"
)

var (
	onlyFS    = flag.String("crash.fs", "", "only this file system: ext4, xfs, btrfs")
	onlyFlow  = flag.String("crash.flow", "", "only this flow")
	onlyPoint = flag.Int("crash.point", 0, "only the power cut after this entry of the log, with -crash.flow")
	seedFlag  = flag.Uint64("crash.seed", 0, "what chance does; with -crash.point: in that state")
	recording = flag.String("crash.recording", "", "a file that a failure left: its writes, not those of a new run")
)

// nightly is a run of all flows, of all prefixes; the other one is a sample of both.
var nightly = machinetest.Nightly

const (
	statesCI      = 80  // of a flow on a file system, half of them prefixes
	statesNightly = 450 // 25 flows make more than 10,000
	flowsCI       = 1   // by chance, beside core
)

// core are the flows of each run: what every device does, and the last resort.
var core = []string{"install-update", "confirm", "fallback", "factory-create"}

func require(t *testing.T) {
	t.Helper()
	machinetest.Require(t, "power cut of a file system", missing())
}

// One world for all tests of the process: it takes seconds to build.
var world struct {
	sync.Once
	*flows.World
	err error
}

func theWorld(t *testing.T) *flows.World {
	t.Helper()
	world.Do(func() {
		var dir string
		if dir, world.err = os.MkdirTemp("", "world-"); world.err == nil {
			world.World, world.err = flows.NewWorld(context.Background(), dir)
		}
	})
	if world.err != nil {
		t.Fatal(world.err)
	}
	return world.World
}

func closeWorld() {
	if world.World != nil {
		world.Close()
		os.RemoveAll(world.Dir)
	}
}

func theSeed(t *testing.T) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = 1 + rand.Uint64N(1<<32)
	}
	t.Logf("-crash.seed=%d", seed)
	return seed
}

// filesystems are those that were asked for.
func filesystems() []Filesystem {
	return slices.DeleteFunc(slices.Clone(Filesystems), func(fs Filesystem) bool {
		return *onlyFS != "" && *onlyFS != fs.Name
	})
}

// chosen are the flows of a run.
func chosen(t *testing.T, fs string, seed uint64) (all []*flows.Flow) {
	rest := slices.Clone(flows.All)
	switch {
	case *onlyFlow != "":
		f := flows.Find(*onlyFlow)
		if f == nil {
			t.Fatalf("there is no flow %q", *onlyFlow)
		}
		return []*flows.Flow{f}
	case nightly:
		return rest
	}
	for _, name := range core {
		i := slices.IndexFunc(rest, func(f *flows.Flow) bool { return f.Name == name })
		all = append(all, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	// Others on each file system: together they are more.
	rng := rand.New(rand.NewPCG(seed, uint64(len(fs))<<8|uint64(fs[0])))
	rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	return append(all, rest[:flowsCI]...)
}

// The power goes after any write of any flow, on each file system.
func TestPowerCuts(t *testing.T) {
	require(t)
	if *recording != "" {
		t.Skip("see TestRecording")
	}
	w := theWorld(t)
	seed := theSeed(t)
	var wg sync.WaitGroup
	for _, fs := range filesystems() {
		wg.Go(func() {
			t.Run(fs.Name, func(t *testing.T) {
				var sum Tally
				for _, f := range chosen(t, fs.Name, seed) {
					sum.Add(cut(t, w, f, fs, seed))
				}
				t.Logf("%s: %v", fs.Name, sum)
			})
		})
	}
	wg.Wait()
}

// cut records a flow, and judges what each power cut leaves.
func cut(t *testing.T, w *flows.World, f *flows.Flow, fs Filesystem, seed uint64) Tally {
	t.Helper()
	ctx := machinetest.Context(t)
	dir := filepath.Join(t.TempDir(), f.Name)
	defer os.RemoveAll(dir)
	start := time.Now()
	r, err := RecordFlow(ctx, w, f, fs.Name, fs.Size, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	recorded := time.Since(start)
	plan := r.Plan(statesCI, seed)
	if nightly {
		plan = r.Plan(max(statesNightly, 2*r.Points()), seed)
	}
	if *onlyPoint != 0 {
		plan = []State{{*onlyPoint, *seedFlag}}
	}
	tally := judge(t, r, plan)
	flushes := 0
	for _, e := range r.Entries {
		if e.Flags&blocklog.Flush != 0 {
			flushes++
		}
	}
	t.Logf("%-5s %-22s %3d entries, %2d flushes, recorded in %d ms: %v", fs.Name, f.Name, len(r.Entries), flushes, recorded.Milliseconds(), tally)
	return tally
}

// judge judges states of a run. The run is saved when one must not be.
func judge(t *testing.T, r *Run, plan []State) Tally {
	t.Helper()
	saved := *recording
	tally, err := r.Judge(machinetest.Context(t), plan, 40, func(f *Finding) bool {
		if f.Err != nil && f.torn {
			return true // it is counted: a disk that tears writes is not for this file system
		}
		var b strings.Builder
		fmt.Fprintln(&b, f.Line(r))
		for _, p := range f.Problems {
			fmt.Fprintf(&b, "\t%v\n", p)
		}
		if f.Err != nil {
			fmt.Fprintf(&b, "\t%v\n", f.Err)
		}
		if saved == "" {
			var err error
			// Not in the folder that is removed with all that a run made.
			if saved, err = r.Save(os.Getenv(inside)); err != nil {
				t.Errorf("cannot save the recording: %v", err)
			}
		}
		fmt.Fprintf(&b, "again: make crash RECORDING=%s POINT=%d SEED=%d", saved, f.Point, f.Seed)
		t.Error(b.String())
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return tally
}

// TestRecording judges states of a run that was saved: all of them, or the one that
// is asked for.
func TestRecording(t *testing.T) {
	if *recording == "" {
		t.Skip("no -crash.recording")
	}
	require(t)
	r, err := LoadRun(theWorld(t), *recording, filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plan := []State{{*onlyPoint, *seedFlag}}
	if *onlyPoint == 0 {
		plan = r.Plan(max(statesNightly, 2*r.Points()), theSeed(t))
	}
	t.Logf("%s %s: %v", r.FS, r.Flow.Name, judge(t, r, plan))
}

// What a file system promises holds in each state of it, what it does not promise
// does not, and the log is all that was written.
func TestRecord(t *testing.T) {
	require(t)
	for _, fs := range filesystems() {
		t.Run(fs.Name, func(t *testing.T) {
			dir := t.TempDir()
			base, err := Prepare(t.Context(), fs.Name, fs.Size, dir, func() error {
				return os.WriteFile(filepath.Join(dir, "before"), []byte("before"), 0o644)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			r, err := Record(t.Context(), fs.Name, base, dir, func(mark func(string) error) error {
				f, err := os.Create(filepath.Join(dir, "synced"))
				if err != nil {
					return err
				}
				defer f.Close()
				if _, err := f.WriteString("synced"); err != nil {
					return err
				}
				if err := f.Sync(); err != nil {
					return err
				}
				d, err := os.Open(dir)
				if err != nil {
					return err
				}
				defer d.Close()
				if err := d.Sync(); err != nil {
					return err
				}
				if err := mark("synced"); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, "unsynced"), []byte("unsynced"), 0o644); err != nil {
					return err
				}
				return mark("unsynced")
			})
			if err != nil {
				t.Fatal(err)
			}
			p, err := NewReplay(r)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			has := func(s State, name string) (has bool) {
				t.Helper()
				err := p.Mount(r.Set(s), dir, func() error {
					data, err := os.ReadFile(filepath.Join(dir, name))
					has = err == nil && string(data) == name
					return nil
				})
				if err != nil {
					t.Fatalf("%+v: %v: %v", s, r.Set(s), err)
				}
				return has
			}
			end := len(r.Entries)
			for _, test := range []struct {
				point int
				name  string
				want  bool
			}{
				{0, "before", true}, {0, "synced", false},
				{r.Mark("synced"), "synced", true}, {r.Mark("unsynced"), "synced", true},
				{r.Mark("unsynced"), "unsynced", false},
				{end, "before", true}, {end, "synced", true}, {end, "unsynced", true},
			} {
				if got := has(State{Point: test.point}, test.name); got != test.want {
					t.Errorf("after entry %d of %d (marks at %d, %d): %s is there: %v, want %v", test.point, end, r.Mark("synced"), r.Mark("unsynced"), test.name, got, test.want)
				}
			}
			for seed := range uint64(20) {
				// A superblock that is torn is for the file system to survive, or not.
				if s := (State{r.Mark("unsynced"), seed}); !r.Set(s).Torn && !has(s, "synced") {
					t.Errorf("%v: synced is lost", r.Set(s))
				}
			}
		})
	}
}

// hold is set where a test of this program is to be killed.
const hold = "OTA_BLOCKS_HOLD"

// TestHold waits, with a disk mounted, to be killed by TestKilled.
func TestHold(t *testing.T) {
	if os.Getenv(hold) == "" {
		t.Skip("only for TestKilled")
	}
	dir := t.TempDir()
	base, err := Prepare(t.Context(), "ext4", Filesystems[0].Size, dir, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	_, err = Record(t.Context(), "ext4", base, dir, func(func(string) error) error {
		// What is not written yet has to be when it is unmounted.
		if err := os.WriteFile(filepath.Join(dir, "unsynced"), make([]byte, 1<<20), 0o644); err != nil {
			return err
		}
		files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			return err
		}
		for _, name := range files {
			// Only this process has a disk of that name.
			if file, _ := os.ReadFile(name); strings.HasSuffix(strings.TrimSpace(string(file)), ".disk") && strings.Contains(string(file), os.Getenv("TMPDIR")) {
				fmt.Printf("loop device %s in %s\n", name, os.Getenv("TMPDIR"))
			}
		}
		select {}
	})
	t.Fatal(err)
}

// Nothing is left of a run that is killed, but files, and those until the next run.
func TestKilled(t *testing.T) {
	require(t)
	for _, who := range []string{"the outer process", "the inner process", "all at once"} {
		t.Run(who, func(t *testing.T) { testKilled(t, who) })
	}
}

func testKilled(t *testing.T, who string) {
	temp := t.TempDir()
	cmd := exec.CommandContext(machinetest.Context(t), "/proc/self/exe", "-test.run=^TestHold$", "-test.v")
	cmd.Env = append(os.Environ(), hold+"=1", inside+"=", "TMPDIR="+temp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var loop, dir string
	for lines := bufio.NewScanner(out); loop == "" && lines.Scan(); {
		t.Log(lines.Text())
		if rest, ok := strings.CutPrefix(lines.Text(), "loop device "); ok {
			loop, dir, _ = strings.Cut(rest, " in ")
		}
	}
	file, err := os.ReadFile(loop)
	if err != nil {
		t.Fatal(err)
	}
	daemons := named(t, "qemu-storage-da")
	if len(daemons) != 1 {
		t.Errorf("while it runs there are %d qemu-storage-daemons, want 1", len(daemons))
	}
	switch who {
	case "the outer process":
		_ = cmd.Process.Kill()
	case "the inner process":
		for _, pid := range named(t, "exe") {
			if pid != os.Getpid() && pid != cmd.Process.Pid {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	case "all at once":
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // its group: all that it started
	}
	_ = cmd.Wait()
	// The folder is its own, so is the path.
	is := func() bool {
		now, err := os.ReadFile(loop)
		return err == nil && string(now) == string(file)
	}
	deadline := time.Now().Add(time.Minute)
	for ; len(daemons) > 0 || is(); time.Sleep(10 * time.Millisecond) {
		daemons = named(t, "qemu-storage-da")
		if time.Now().After(deadline) {
			t.Fatalf("it was killed, and left qemu-storage-daemons %v and a loop device: %v", daemons, is())
		}
	}
	if _, err := os.Stat(dir); (err == nil) != (who != "the inner process") {
		t.Errorf("its folder: %v", err)
	}
	next := exec.Command("/proc/self/exe", "-test.run=^$")
	next.Env = append(os.Environ(), inside+"=", "TMPDIR="+temp)
	if out, err := next.CombinedOutput(); err != nil {
		t.Errorf("the next run: %v: %s", err, out)
	}
	if entries, err := os.ReadDir(temp); err != nil || len(entries) > 0 {
		t.Errorf("after the next run there is %v (%v), want nothing", entries, err)
	}
}

// named are the processes of that name, also those that were killed and are not gone
// yet. In this namespace, all are of this test.
func named(t *testing.T, name string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if comm, _ := os.ReadFile(file); strings.TrimSpace(string(comm)) == name {
			pid, err := strconv.Atoi(strings.Split(file, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}
