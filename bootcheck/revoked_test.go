package bootcheck

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func keyIDs(n int) []string {
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("%016X", i+1))
	}
	return ids
}

func TestRevokedKeys(t *testing.T) {
	a, b := "00000000000000AA", "00000000000000BB"
	whole := fmt.Sprintf(`{"schema":1,"keys":[%q],"seal":%q}`, a, seal([]string{a}))
	for _, row := range []struct {
		name   string
		file   string // empty: none
		record []string
		want   []string
		err    string
		lost   bool // nothing can be trusted
	}{
		{name: "no key was revoked"},
		{name: "the file alone: a device without a record, or whose records were lost", file: whole, want: []string{a}},
		{name: "the record alone: the file was lost", record: []string{a}, want: []string{a}},
		{name: "both, and they differ", file: whole, record: []string{b}, want: []string{a, b}},
		{name: "a record with what is no ID", record: []string{"../x", b, ""}, want: []string{b}},
		{name: "a file of a newer program", file: strings.Replace(whole, "{", `{"why":"stolen",`, 1), want: []string{a}},
		{name: "a file that is cut off, and a record", file: whole[:20], record: []string{b}, want: []string{b}, err: "is damaged"},
		{name: "a file that is cut off", file: whole[:20], err: "is damaged", lost: true},
		{name: "a file with a flipped bit", file: strings.Replace(whole, "AA", "AB", 1), err: "not those that were sealed", lost: true},
		{name: "a file without keys", file: fmt.Sprintf(`{"schema":1,"keys":[],"seal":%q}`, seal(nil)), err: "not those that were sealed", lost: true},
		{name: "a file that is too long", file: whole + strings.Repeat(" ", 64<<10), err: "larger than", lost: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, err := Create(t.TempDir() + "/versions")
			if err != nil {
				t.Fatal(err)
			}
			if row.file != "" {
				if err := os.WriteFile(s.path(revokedFile), []byte(row.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var record *Record
			if row.record != nil {
				record = &Record{RevokedKeys: row.record}
			}
			got, err := s.RevokedKeys(record)
			if !slices.Equal(got, row.want) || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
				t.Errorf("RevokedKeys = %q, %v, want %q, %q", got, err, row.want, row.err)
			}
			if errors.Is(err, ErrRevokedUnknown) != row.lost {
				t.Errorf("%v: ErrRevokedUnknown %v, want %v", err, !row.lost, row.lost)
			}
			// One key more repairs what can be repaired, and forgets nothing.
			c := "00000000000000CC"
			_, err = s.Revoke(record, []string{c}, nil)
			if row.lost {
				if !errors.Is(err, ErrRevokedUnknown) {
					t.Errorf("Revoke: %v, want ErrRevokedUnknown", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.RevokedKeys(nil); err != nil || !slices.Equal(got, append(row.want, c)) {
				t.Errorf("after Revoke the file has %q, %v, want %q", got, err, append(row.want, c))
			}
		})
	}
}

func TestRevoke(t *testing.T) {
	s, err := Create(t.TempDir() + "/versions")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revoke(nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.path(revokedFile)); err == nil {
		t.Error("there is a list although no key was revoked")
	}
	// What a power cut left.
	if err := os.WriteFile(s.path(revokedFile+".new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revoke(nil, keyIDs(2), nil); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(s.path(revokedFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revoke(&Record{RevokedKeys: keyIDs(1)}, keyIDs(2), nil); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(s.path(revokedFile)); err != nil || !os.SameFile(before, after) || before.Mode().Perm() != 0o644 {
		t.Errorf("nothing is new, and the file was written again, or has the mode %v, want 0644 (%v)", before.Mode(), err)
	}
}

// A list that is full of made-up IDs protects no key that the device trusts, and no
// later flood drops a key that was trusted when it was revoked.
func TestRevokeInFullList(t *testing.T) {
	s, err := Create(t.TempDir() + "/versions")
	if err != nil {
		t.Fatal(err)
	}
	made := func(from, n int) []string {
		var ids []string
		for i := range n {
			ids = append(ids, fmt.Sprintf("%016X", from+i))
		}
		return ids
	}
	record := &Record{}
	revoke := func(trusted []string, keys ...string) {
		t.Helper()
		all, err := s.Revoke(record, keys, trusted)
		if err != nil {
			t.Fatal(err)
		}
		record.AddRevoked(all)
		if known, err := s.RevokedKeys(record); err != nil || len(all) > MaxRevokedKeys || len(record.RevokedKeys) > MaxRevokedKeys || len(known) > 2*MaxRevokedKeys {
			t.Fatalf("%d returned, %d in the record, %d read, %v: want at most %d", len(all), len(record.RevokedKeys), len(known), err, MaxRevokedKeys)
		}
	}
	const early, stolen, other = "AAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBB", "CCCCCCCCCCCCCCCC"
	trusted := []string{early, stolen, other}
	revoke(trusted, early)
	for i := range 20 {
		revoke(trusted, made(i*64, 64)...)
	}
	revoke(trusted, stolen)
	revoke([]string{other}, made(100_000, 64)...) // the revoked keys are taken out of the directory
	revoke([]string{other}, made(200_000, 2000)...)
	revoke([]string{other}, other)
	for name, r := range map[string]*Record{"the file and the record": record, "the file alone": nil} {
		got, err := s.RevokedKeys(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{early, stolen, other} {
			if !slices.Contains(got, id) {
				t.Errorf("%s: key %s is trusted again", name, id)
			}
		}
	}
	for _, id := range []string{early, stolen, other} {
		if !slices.Contains(record.RevokedKeys, id) {
			t.Errorf("the record alone: key %s is trusted again", id)
		}
	}
}

// A list that this process may not read for a moment is not replaced by what the record
// knows: what only the list has would be forgotten.
func TestRevokeKeepsWhatItCannotRead(t *testing.T) {
	s := newStore(t)
	first, second, third := "00000000000000AA", "00000000000000BB", "00000000000000CC"
	if _, err := s.Revoke(nil, []string{first, second}, nil); err != nil {
		t.Fatal(err)
	}
	above := filepath.Dir(s.dir)
	if err := errors.Join(os.Chmod(s.path(revokedFile), 0), os.Chmod(s.dir, 0o777), os.Chmod(above, 0o711), os.Chmod(filepath.Dir(above), 0o711)); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		if keys, err := s.Revoke(&Record{RevokedKeys: []string{first}}, []string{third}, nil); !errors.Is(err, os.ErrPermission) {
			t.Errorf("Revoke = %v, %v; want permission denied", keys, err)
		}
	})
	if err := os.Chmod(s.path(revokedFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if keys, err := s.RevokedKeys(nil); !slices.Contains(keys, second) {
		t.Errorf("RevokedKeys = %v, %v: one that only the list had is forgotten", keys, err)
	}
}

// asNobody calls do without the rights of root over files.
func asNobody(t *testing.T, do func()) {
	if os.Geteuid() == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Fatal(err)
		}
		defer unix.SetfsuidRetUid(0)
	}
	do()
}
