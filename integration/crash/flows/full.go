package flows

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/try"
)

// fullDisk are the flows in which a version on trial has filled the disk, and takes
// all that becomes free.
var fullDisk = []*Flow{
	{
		Name:  "full-fallback", // what was prepared when the trial began is switched to
		Start: onTrial.with(step{"sick"}),
		Args:  runs("ota-guardian", "confirm"),
		Full:  true,
		Exit:  8,
		After: state("fallback", "1.1.0", "1.0.0", "1.0.0"),
	},
	{
		Name:  "full-rollback",
		Start: onTrial,
		Args:  runs("ota-guardian", "rollback"),
		Full:  true,
		After: state("fallback", "1.1.0", "1.0.0", "1.0.0"),
	},
}

// uncountedBoots are those of fullDisk that end otherwise on a real disk, where what is
// removed makes room for a count.
var uncountedBoots = []*Flow{
	{
		Name:  "full-boot", // which cannot be counted
		Start: onTrial,
		Args:  boots("hard"),
		Full:  true,
		Exit:  7,
		After: trial("1.2.0", "1.1.0"),
	},
	{
		Name:  "full-boots", // too many of which were not counted
		Start: onTrial.with(step{"remove", ".generations/6.fallback/boot-1"}, step{"remove", ".generations/6.fallback/boot-2"}),
		Args:  boots("hard"),
		Full:  true,
		After: state("fallback", "1.1.0", "1.0.0", "1.0.0"),
	},
}

// Plan is plan for the command of the flow: nil makes all calls, but for those that need
// room where the flow has none.
func (s *Site) Plan(plan crashpoint.Plan) crashpoint.Plan {
	if !s.Flow.Full || s.filled != "" {
		return plan
	}
	return func(c *crashpoint.Call) (v crashpoint.Action) {
		if plan != nil {
			v = plan(c)
		}
		if v == (crashpoint.Action{}) && strings.HasPrefix(c.File.Path, s.Root) && needsRoom(c) {
			v.Errno = unix.ENOSPC
		}
		return v
	}
}

func needsRoom(c *crashpoint.Call) bool {
	switch c.Name {
	case "mkdir", "symlink", "link", "write", "copy", "clone", "fallocate":
		return true
	case "open":
		return c.File.ID == crashpoint.ID{} && c.Flags&unix.O_CREAT != 0
	}
	return false
}

// fill takes all room of the file system that the store of s has for itself, until the
// site is cured.
func (s *Site) fill() (err error) {
	defer try.End(&err)
	s.filled = filepath.Join(filepath.Dir(s.Root), "full")
	try.Check(os.Mkdir(s.filled, 0o755))
	f := try.Get(os.Create(filepath.Join(s.filled, "log")))
	defer f.Close()
	end := int64(0)
	for size := int64(64 << 20); size >= 512; size /= 2 {
		for {
			err := unix.Fallocate(int(f.Fd()), 0, end, size)
			if err != nil && err != unix.ENOSPC {
				return err
			}
			if err != nil {
				break
			}
			end += size
		}
	}
	// The last of what is kept for names and small files.
	for n := 0; n < 10_000; n++ {
		err := os.WriteFile(filepath.Join(s.filled, fmt.Sprint(n)), []byte("x"), 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		try.Check(err)
	}
	d := try.Get(os.Open(s.filled))
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil && err != unix.ENOSPC {
		return err
	}
	return nil
}
