package crashpoint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// tree is what is in dir, a line a file, sorted. Files with several names have a
// number that says which are one.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	numbers := make(map[uint64]int)
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, failed error) (err error) {
		defer try.End(&err)
		try.Check(failed)
		info := try.Get(os.Lstat(path))
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprint(rel, " ", info.Mode())
		st := info.Sys().(*syscall.Stat_t)
		line += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data := try.Get(os.ReadFile(path))
			if numbers[st.Ino] == 0 {
				numbers[st.Ino] = len(numbers) + 1
			}
			line += fmt.Sprintf(" file %d of %d names: %q", numbers[st.Ino], st.Nlink, data)
		case info.Mode()&os.ModeSymlink != 0:
			target := try.Get(os.Readlink(path))
			line += " -> " + target
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(all)
	return all
}
