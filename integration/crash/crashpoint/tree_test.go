package crashpoint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"testing"
)

// tree is what is in dir, a line a file, sorted. Files with several names have a
// number that says which are one.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	numbers := make(map[uint64]int)
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprint(rel, " ", info.Mode())
		st := info.Sys().(*syscall.Stat_t)
		line += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if numbers[st.Ino] == 0 {
				numbers[st.Ino] = len(numbers) + 1
			}
			line += fmt.Sprintf(" file %d of %d names: %q", numbers[st.Ino], st.Nlink, data)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
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
