package cuts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/vm"
)

// A Cut is the disk that a power cut left.
type Cut struct {
	Story *Story
	Seed  uint64
	N     int           // of this run, from 1
	At    time.Duration // since ota-apply was started
	Why   string        // what the moment was chosen for
	File  string        // the delta from the World's disk to the one that was cut

	Started bool // the new version had said that it answers, or systemd that it failed
	Exit    int  // how ota-apply had ended; running: it had not

	// What Judge found.
	Disk     *Disk
	Stage    Stage
	Problems []invariants.Problem
}

func (c *Cut) String() string {
	line := fmt.Sprintf("story=%s seed=%d cut=%d at=%s why=%q", c.Story.Name, c.Seed, c.N, c.At.Round(time.Millisecond), c.Why)
	if c.Disk != nil {
		line += fmt.Sprintf(" stage=%s generation=%d %v verdict=%s", c.Stage, c.Disk.Found.Generation, c.Disk.Found.State, invariants.Verdict(c.Problems))
	}
	for _, p := range c.Problems {
		line += "\n\t" + p.String()
	}
	return line
}

// Run lets the story happen once on a machine of its own and calls take for each
// cut, in their order and with its file, which is take's to remove. It is seed that
// chooses the moments: after each mark that the device made (a report, a phase, a
// line on its console), and at random ones between. The last cut is a real one: the
// machine is killed.
func (w *World) Run(ctx context.Context, s *Story, seed uint64, dir string, take func(*Cut) error) error {
	m, d, err := w.resume(ctx, dir, "")
	if err != nil {
		return err
	}
	defer m.Stop()
	r := &run{World: w, story: s, seed: seed, vm: m, device: d, dir: dir, take: take, random: rand.New(rand.NewPCG(seed, 0)), exit: running}
	if err := r.follow(ctx); err != nil {
		return fmt.Errorf("story %q, seed %d: %w\nthe machine's log:\n%s", s.Name, seed, err, m.Log())
	}
	return nil
}

type run struct {
	*World
	story  *Story
	seed   uint64
	random *rand.Rand
	vm     *vm.VM
	device *device.Device
	dir    string
	take   func(*Cut) error

	began time.Time
	exit  int // of ota-apply
	cuts  int
	still int // random cuts since a mark was seen last
	seen  marks
}

// marks are what could be seen of the device so far.
type marks struct {
	stage   string // told last
	phase   string
	started bool
	well    bool // all checks are good: the next that happens is that it is confirmed
	fails   bool // systemd gave the service up: the next that happens is that it is left
}

// slow is how many operations a second the disk is good for at these marks: as
// cheap flash is under load, so that what takes a moment can be met.
func (m *marks) slow() int {
	switch {
	case m.waits():
		return 300 // services are being restarted, which have time-outs
	case m.stage == "":
		return 0
	case m.well, m.fails:
		return 10 // one commit comes, of some dozens of them
	}
	return 20
}

// waits: nothing happens soon but that services start, and fail.
func (m *marks) waits() bool {
	return (m.phase == "trial" || m.phase == "fallback") && !m.well && !m.fails
}

// gap is the mean of the time between two random cuts.
func (m *marks) gap() time.Duration {
	if m.well || m.fails || m.stage == "verifying" || m.stage == "toInstall" || m.stage == "installing" && m.phase == "confirmed" {
		return 150 * time.Millisecond // a commit, or a stage that is soon over
	}
	if m.stage == "" {
		return 4 * time.Second
	}
	return time.Second
}

// afterEnd is how long a run goes on when ota-apply has ended: until the fallback is
// confirmed, at most.
const afterEnd = 10

// shortest is between two looks: a stage that lasts less is met by chance.
const shortest = 20 * time.Millisecond

func (r *run) follow(ctx context.Context) error {
	type end struct {
		machine.Result
		err error
	}
	url := machine.BundleAt + "/" + r.story.Version.Name + ".ota"
	ended := make(chan end, 1)
	install, cancel := context.WithCancel(ctx)
	defer cancel()
	r.began = time.Now()
	go func() {
		res, err := r.device.Exec(install, "ota-apply", "install", url)
		ended <- end{res, err}
	}()
	limit := time.After(limits.Wait)
	random := time.Now().Add(r.next())
	rest := afterEnd // looks after the end
	pause := shortest
	for rest > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return fmt.Errorf("waited %s for the end of ota-apply", limits.Wait)
		case e := <-ended:
			if e.err != nil {
				return e.err
			}
			if r.exit = e.Code; r.exit != r.story.Exit {
				return fmt.Errorf("ota-apply install: %s; want exit %d", e.Result, r.story.Exit)
			}
		case <-time.After(pause):
		}
		looked := time.Now()
		now, err := r.look(ctx)
		if err != nil {
			return err
		}
		pause = shortest
		if now.waits() {
			// On a host that is slow, to be looked at would be all that the guest does.
			pause = max(shortest, 3*time.Since(looked))
		}
		what := now.news(r.seen)
		if now.slow() != r.seen.slow() {
			if err := r.vm.SlowDisk(ctx, now.slow()); err != nil {
				return err
			}
		}
		r.seen = now
		switch {
		case what != "":
			r.still = 0
			random = time.Now().Add(r.next())
			time.Sleep(time.Duration(r.random.Int64N(int64(40 * time.Millisecond))))
			err = r.cut(ctx, what)
		case time.Now().After(random):
			r.still++
			random = time.Now().Add(r.next())
			err = r.cut(ctx, "random")
		}
		if err != nil {
			return err
		}
		if r.exit != running && now.phase == "confirmed" {
			rest--
		}
	}
	return r.kill()
}

// next is how long to wait for the next random cut: any time, so that no rhythm of
// the device's is met again and again. The longer a stage lasts, the longer: on a
// host that is slow there would be hundreds, each of which makes it slower.
func (r *run) next() time.Duration {
	return time.Duration(r.random.ExpFloat64() * float64(r.seen.gap()) * (1 + float64(r.still)/4))
}

// look asks the device for its marks, by reading files: to run a program there
// would cost more than what is looked for takes.
func (r *run) look(ctx context.Context) (m marks, err error) {
	text, err := r.device.ReadFile(ctx, deviceapi.State+"/reports.jsonl")
	if err != nil {
		return m, err
	}
	reports := parseReports(text)
	if n := len(r.base.Reports); len(reports) > n {
		m.stage = reports[len(reports)-1].Stage
	}
	text, err = r.device.ReadFile(ctx, machine.Store+"/.active/record.json")
	if err != nil {
		return m, err
	}
	record, err := bootcheck.ParseRecord(text)
	if err != nil {
		return m, err
	}
	m.phase = string(record.Phase)
	log := r.vm.Log()
	// The saved machine has printed nothing here: what is on the console is new.
	_, switched, _ := strings.Cut(log, "Stopped device-api.service")
	m.started = strings.Contains(switched, "device-api "+r.story.Version.Name+" answers") || strings.Contains(switched, "device-api.service: Main process exited")
	if _, watched, ok := cutLast(log, "guardian: watching "+record.Current.Version+" ("+m.phase+")"); ok {
		m.well = m.phase != "confirmed" && strings.Contains(watched, "device-api answers: good") && strings.Contains(watched, "device-api runs: good")
	}
	m.fails = m.phase == "trial" && strings.Contains(switched, "Starting ota-recover")
	return m, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// news names what is to be seen now and was not in old; empty: nothing.
func (m *marks) news(old marks) string {
	var news []string
	if m.stage != old.stage {
		news = append(news, "told "+m.stage)
	}
	if m.phase != old.phase && old.phase != "" {
		news = append(news, m.phase)
	}
	for text, is := range map[string]bool{"started": m.started && !old.started, "well": m.well && !old.well, "fails": m.fails && !old.fails} {
		if is {
			news = append(news, text)
		}
	}
	return strings.Join(news, ", ")
}

// new is the next cut of the run, at this moment.
func (r *run) new(why string) *Cut {
	r.cuts++
	return &Cut{Story: r.story, Seed: r.seed, N: r.cuts, At: time.Since(r.began), Why: why, Exit: r.exit, Started: r.seen.started,
		File: filepath.Join(r.dir, fmt.Sprintf("cut-%d.img", r.cuts))}
}

func (r *run) cut(ctx context.Context, why string) error {
	c := r.new(why)
	thaw, err := r.vm.Freeze(ctx)
	if err != nil {
		return err
	}
	err = writeDelta(r.disk(), r.vm.Disk(), c.File)
	thaw()
	if err != nil {
		return err
	}
	return r.take(c)
}

// kill ends the machine as a power cut does.
func (r *run) kill() error {
	c := r.new("killed")
	if err := r.vm.PowerOff(); err != nil {
		return err
	}
	return errors.Join(writeDelta(r.disk(), r.vm.Disk(), c.File), r.take(c))
}
