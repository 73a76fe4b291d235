package cuts

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine/machinetest"
	"github.com/tope-ota/ota/integration/vm"
)

func TestStories(t *testing.T) {
	told := func(stages ...string) (all []deviceapi.Report) {
		for _, s := range stages {
			r := deviceapi.Report{Stage: s}
			if s == "failed" {
				r.Error = "ROLLED_BACK_TO_PREVIOUS: 1.3.0 failed"
			}
			all = append(all, r)
		}
		return all
	}
	for _, test := range []struct {
		name       string
		story      *Story
		state      int // index in States, nowhere: one that is none of them
		committing bool
		told       []deviceapi.Report
		started    bool
		exit       int
		stage      Stage
		lie        bool
	}{
		{"before the first word", Update, 0, false, nil, false, running, Nothing, false},
		{"while it is downloaded", Update, 0, false, told("downloading"), false, running, Downloading, false},
		{"while it is unpacked", Update, 0, false, told("downloading", "verifying", "toInstall", "installing"), false, running, Installing, false},
		{"while the switch is written", Update, 0, true, told("installing"), false, running, Switching, false},
		{"after the switch, before a word of it", Update, 1, false, told("installing"), false, running, Rebooting, false},
		{"restarting was told, and nothing is switched", Update, 0, false, told("rebooting"), false, running, "rebooting", true},
		{"on trial", Update, 1, false, told("rebooting"), true, running, Trial, false},
		{"while it is being confirmed", Update, 1, true, told("rebooting"), true, running, Confirming, false},
		{"confirmed, before a word of it", Update, 2, false, told("rebooting"), true, running, Confirmed, false},
		{"success", Update, 2, false, told("rebooting", "success"), true, 0, Success, false},
		{"success was told, and it is on trial", Update, 1, false, told("rebooting", "success"), true, running, Trial, true},
		{"ota-apply ended well, and it is on trial", Update, 1, false, told("rebooting"), true, 0, Trial, true},
		{"failed was told of a good version", Update, 2, false, told("failed"), true, running, Failed, true},
		{"another version runs", Update, nowhere, false, told("rebooting"), true, running, "nowhere", true},

		{"a bad version on trial", TakenBack, 1, false, told("rebooting"), true, running, Trial, false},
		{"while it is being left", TakenBack, 1, true, told("rebooting"), true, running, Leaving, false},
		{"previous runs again", TakenBack, 2, false, told("rebooting", "failed"), true, 8, Fallback, false},
		{"while that is being confirmed", TakenBack, 2, true, told("rebooting", "failed"), true, 8, Confirming, false},
		{"and it is", TakenBack, 3, false, told("rebooting", "failed"), true, 8, Failed, false},
		{"it was told to be taken back, and is on trial", TakenBack, 1, false, told("rebooting", "failed"), true, running, Trial, true},
		{"ota-apply said so, and it is on trial", TakenBack, 1, false, told("rebooting"), true, 8, Trial, true},
		{"success was told of a bad version", TakenBack, 3, false, told("success"), true, running, Success, true},
		{"restarting was told, and the rollback is not on record", TakenBack, 0, false, told("rebooting"), true, running, "rebooting", true},
	} {
		s := test.story
		d := &Disk{Found: &invariants.Found{}, Committing: test.committing, Reports: test.told}
		if test.state == nowhere {
			d.Found.State = invariants.State{Phase: "trial", Current: "9.9.9"}
		} else {
			d.Found.State = s.States[test.state]
			if s.Left > 0 && test.state >= s.Left {
				d.Left, d.Blocked = s.Version.Name, []string{s.Version.Name}
			}
		}
		if got := s.stage(d, test.told, test.started); got != test.stage {
			t.Errorf("%s: the stage is %s, want %s", test.name, got, test.stage)
		}
		w := &World{base: &Disk{}}
		if problems := w.honest(s, d, test.exit); (len(problems) > 0) != test.lie {
			t.Errorf("%s: problems %v, want some: %v", test.name, problems, test.lie)
		}
	}
}

// What a disk may not hold is found on it.
func TestHarmIsFound(t *testing.T) {
	w := world(t)
	ctx := machinetest.Context(t)
	reports := func(root string, change func([]byte) []byte) error {
		file := filepath.Join(root, reportsOnDisk)
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return os.WriteFile(file, change(text), 0o644)
	}
	for _, test := range []struct {
		name string
		harm func(root string) error
		want string
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"a byte of the version that runs", func(root string) error {
			return flip(filepath.Join(root, storeOnDisk, "v1.1.0/lib/tope/1/core.so"))
		}, "torn: version 1.1.0"},
		{"a byte of factory", func(root string) error {
			return flip(filepath.Join(root, storeOnDisk, "v1.0.0/lib/version.txt"))
		}, "torn: factory was touched"},
		{"a file of factory that was replaced by the same", func(root string) error {
			file := filepath.Join(root, storeOnDisk, "v1.0.0/lib/version.txt")
			text, err := os.ReadFile(file)
			if err == nil {
				err = os.Remove(file)
			}
			if err == nil {
				err = os.WriteFile(file, text, 0o444)
			}
			return err
		}, "torn: factory was touched"},
		{"the link that is the switch", func(root string) error {
			link := filepath.Join(root, storeOnDisk, ".active")
			if err := os.Remove(link); err != nil {
				return err
			}
			return os.Symlink(".generations/1", link)
		}, "lie: no state on the way"},
		{"reports of long ago", func(root string) error {
			return reports(root, func(text []byte) []byte { return text[:len(text)/2] })
		}, "lie: device-api has lost"},
		{"success that was told of nothing", func(root string) error {
			return reports(root, func(text []byte) []byte {
				return fmt.Appendf(bytes.TrimSpace(text), "\n{\"report\":{\"stage\":\"success\"}}\n")
			})
		}, "lie: device-api was told"},
	} {
		err := w.mounted(ctx, func(image string) error { return vm.CopySparse(w.disk(), image) }, func(root string) error {
			if err := test.harm(root); err != nil {
				return err
			}
			_, problems, err := w.judge(ctx, Update, root, running)
			var all []string
			for _, p := range problems {
				all = append(all, p.String())
			}
			got := strings.Join(all, "\n")
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%s: found %q, want %q", test.name, got, test.want)
			}
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
	}
	// And a disk that nobody can mount.
	err := w.mounted(ctx, func(image string) error { return os.WriteFile(image, make([]byte, 1<<20), 0o644) }, func(string) error { return nil })
	if err == nil {
		t.Error("a disk of zeros was mounted")
	}
}

// flip changes a bit in the middle of a file, whatever its mode says.
func flip(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, info.Size()/2); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b, info.Size()/2)
	return err
}
