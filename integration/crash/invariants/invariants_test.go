package invariants_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A store in which something is wrong is never taken for an intact one.
func TestLookFinds(t *testing.T) {
	defer try.Fatal(t)
	dir := t.TempDir()
	w := try.Get(flows.NewWorld(t.Context(), dir))
	defer w.Close()
	good := try.Get(w.Build(t.Context(), flows.Find("install-update"), filepath.Join(dir, "good"), ""))
	if found := invariants.Look(good.Root); len(found.Problems) > 0 || found.State.Current != "1.1.0" {
		t.Fatalf("a good store: %v, %v", found.State, found.Problems)
	}

	for _, row := range []struct {
		name string
		harm func(root string) error
		want string
	}{
		{"current is a link of its own", relink("current", "v1.1.0"), "the link current"},
		{"previous is a directory", func(root string) error {
			os.Remove(root + "/previous")
			return os.Mkdir(root+"/previous", 0o755)
		}, "previous is a d"},
		{"no factory link", remove("factory"), "factory"},
		{"the switch leads nowhere", relink(".active", ".generations/77"), "record.json"},
		{"the switch leads out", relink(".active", "../elsewhere"), `.active leads to "../elsewhere"`},
		{"the switch is gone", remove(".active"), "nothing is active"},
		{"the record is cut off", func(root string) error { return os.Truncate(active(root)+"/record.json", 50) }, "record of generation"},
		{"the record is empty", func(root string) error { return os.Truncate(active(root)+"/record.json", 0) }, "record of generation"},
		{"the backup of the record is cut off", func(root string) error { return os.Truncate(active(root)+"/record.backup.json", 50) }, "the two copies of the record"},
		{"the record has no backup", func(root string) error { return os.Remove(active(root) + "/record.backup.json") }, "the two copies of the record"},
		{"the seal is of another record", func(root string) error {
			text, err := os.ReadFile(active(root) + "/record.json")
			return errors.Join(err, os.WriteFile(active(root)+"/record.json", bytes.Replace(text, []byte(`"schema": 1`), []byte(`"schema": 3`), 1), 0o644))
		}, "the seal is"},
		{"the record is of another generation", edit("Generation", 3), "says generation 3"},
		{"the record has an unknown phase", edit("phase", "happy"), `phase "happy"`},
		{"the record runs nothing", edit("current", nil), "runs nothing"},
		{"a link of the generation leads elsewhere", func(root string) error {
			os.Remove(active(root) + "/current")
			return os.Symlink("../../v1.0.0", active(root)+"/current")
		}, "current leads to"},
		{"a link of the generation is missing", func(root string) error { return os.Remove(active(root) + "/previous") }, "previous leads to"},
		{"a link that the record does not have", edit("previous", nil), "the record has none"},
		{"the current version is gone", func(root string) error { return os.RemoveAll(root + "/v1.1.0") }, "not there whole"},
		{"a file of current is missing", remove("v1.1.0/bin/app"), `"bin/app" is`},
		{"a file of current is cut off", func(root string) error { return os.Truncate(root+"/v1.1.0/lib/deep/er/x.so", 4096) }, "x.so"},
		{"a bit of previous is wrong", flip("v1.0.0/lib/deep/er/x.so"), "x.so"},
		{"a link of current leads elsewhere", relink("v1.1.0/app", "bin/tool"), `"app" is`},
		{"a directory of current is missing", remove("v1.1.0/empty"), `"empty" is`},
		{"a file that no manifest lists", write("v1.1.0/extra"), "not in its manifest"},
		{"another manifest", flip("v1.1.0/.ota/manifest.json"), "manifest"},
		{"a file with another mode", func(root string) error { return os.Chmod(root+"/v1.1.0/bin/app", 0o777) }, "bin/app"},
		{"a factory that can be written to", func(root string) error { return os.Chmod(root+"/v1.0.0/share", 0o755) }, "it is the factory"},
		{"a version that is not current is half", func(root string) error { return os.MkdirAll(root+"/v3.0.0/bin", 0o755) }, "version 3.0.0"},
		{"an empty list of revoked keys", write(".revoked.json"), ".revoked.json is not intact"},
		{"a list of revoked keys with another key", func(root string) error {
			return os.WriteFile(root+"/.revoked.json", []byte(`{"schema":1,"keys":["0123456789ABCDEF"],"seal":"sha256:00"}`), 0o600)
		}, ".revoked.json is not intact"},
		{"a mark of a shutdown that is not intact", write(".clean-shutdown"), "the mark .clean-shutdown"},
		{"a file that the store does not know", write("v1.1.0.tmp"), "nothing that the store has"},
	} {
		t.Run(row.name, func(t *testing.T) {
			defer try.Fatal(t)
			site := try.Get(good.Clone(filepath.Join(t.TempDir(), "site")))
			try.Check(row.harm(site.Root))
			found := invariants.Look(site.Root)
			if invariants.Result(found.Problems) != "torn" || !strings.Contains(problems(found.Problems), row.want) {
				t.Errorf("%v, want one with %q", found.Problems, row.want)
			}
		})
	}
}

func TestHonestFinds(t *testing.T) {
	before := invariants.State{Phase: "confirmed", Current: "1.0.0"}
	after := invariants.State{Phase: "trial", Current: "1.1.0", Previous: "1.0.0"}
	other := invariants.State{Phase: "trial", Current: "1.1.0"}
	for _, row := range []struct {
		name  string
		said  invariants.Said
		found invariants.State
		want  string // of the lie; empty: none
	}{
		{"done, and so it is", invariants.Said{}, after, ""},
		{"done, and nothing changed", invariants.Said{}, before, "success was said"},
		{"killed before the switch", invariants.Said{Killed: true, Exit: -1}, before, ""},
		{"killed after it", invariants.Said{Killed: true, Exit: -1}, after, ""},
		{"killed, and half of it", invariants.Said{Killed: true, Exit: -1}, other, "no state on the way"},
		{"killed after success was reported", invariants.Said{Killed: true, Exit: -1, Stages: []string{"installing", "success"}}, before, "success was said"},
		{"killed after a screen showed success", invariants.Said{Killed: true, Exit: -1, Operation: "success"}, before, "success was said"},
		{"failed, and it did", invariants.Said{Exit: 1, Stderr: "ota-apply: no"}, before, ""},
		{"nothing changed, says exit 1, and it did", invariants.Said{Exit: 1, Stderr: "ota-apply: no"}, after, "says that nothing changed"},
		{"no space, and it switched", invariants.Said{Exit: 7, Stderr: "ota-apply: no"}, after, "says that nothing changed"},
		{"unknown, before", invariants.Said{Exit: 10, Stderr: "ota-apply: no"}, before, ""},
		{"unknown, after", invariants.Said{Exit: 10, Stderr: "ota-apply: no"}, after, ""},
		{"failed without a word", invariants.Said{Exit: 1}, before, "without a word"},
		{"an exit code of Go", invariants.Said{Exit: 66, Stderr: "x"}, before, "documented"},
		{"a panic", invariants.Said{Exit: 1, Stderr: "panic: x\n\ngoroutine 1 [running]:"}, before, "panicked"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := problems(invariants.Honest(&row.said, row.found, before, after, nil))
			if (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func problems(all []invariants.Problem) string {
	var lines []string
	for _, p := range all {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

func active(root string) string {
	dir, err := filepath.EvalSymlinks(root + "/.active")
	if err != nil {
		panic(err)
	}
	return dir
}

func relink(name, target string) func(string) error {
	return func(root string) error {
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			return err
		}
		return os.Symlink(target, filepath.Join(root, name))
	}
}

func remove(name string) func(string) error {
	return func(root string) error { return os.Remove(filepath.Join(root, name)) }
}

func write(name string) func(string) error {
	return func(root string) error { return os.WriteFile(filepath.Join(root, name), []byte("x"), 0o644) }
}

func flip(name string) func(string) error {
	return func(root string) error {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 1
		return os.WriteFile(filepath.Join(root, name), data, 0o644)
	}
}

// edit changes a key of the record.
func edit(key string, value any) func(string) error {
	return func(root string) (err error) {
		defer try.End(&err)
		name := active(root) + "/record.json"
		data := try.Get(os.ReadFile(name))
		record := make(map[string]any)
		try.Check(json.Unmarshal(data, &record))
		record[strings.ToLower(key)] = value
		delete(record, "seal")
		data = try.Get(json.MarshalIndent(record, "", "  "))
		return writeRecord(active(root), strings.TrimSuffix(string(data), "\n}"))
	}
}

// writeRecord makes both copies of a record, of which body is all but the end.
func writeRecord(dir, body string) error {
	sum := sha256.Sum256([]byte(body))
	text := fmt.Appendf(nil, "%s,\n  \"seal\": \"sha256:%x\"\n}\n", body, sum)
	return errors.Join(os.WriteFile(dir+"/record.json", text, 0o644), os.WriteFile(dir+"/record.backup.json", text, 0o644))
}

// plain makes what another updater leaves of three versions and one that no link leads to.
func plain(t *testing.T) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "versions")
	for _, version := range []string{"v0.8.0", "v0.9.0", "v1.0.0", "v1.1.0"} {
		dir := filepath.Join(root, version)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/app", []byte(version), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	link(t, root+"/current", "v1.1.0")
	link(t, root+"/previous", "v1.0.0")
	link(t, root+"/factory", "v0.9.0")
	return root
}

// half is plain in the midst of an adoption: the switch is made, and one of the links.
func half(t *testing.T) (root string) {
	t.Helper()
	defer try.Fatal(t)
	root = plain(t)
	dir := root + "/.generations/1"
	try.Check(errors.Join(os.MkdirAll(dir, 0o755), writeRecord(dir, `{"schema":1,"generation":1,"phase":"confirmed",
		"current":{"version":"1.1.0","digest":"none"},"previous":{"version":"1.0.0","digest":"none"},"factory":{"version":"0.9.0","digest":"none"}`)))
	link(t, dir+"/current", "../../v1.1.0")
	link(t, dir+"/previous", "../../v1.0.0")
	link(t, dir+"/factory", "../../v0.9.0")
	link(t, root+"/.active", ".generations/1")
	try.Check(relink("current", ".active/current")(root))
	return root
}

// whole is half when the adoption is done.
func whole(t *testing.T) (root string) {
	t.Helper()
	root = half(t)
	if err := errors.Join(relink("previous", ".active/previous")(root), relink("factory", ".active/factory")(root)); err != nil {
		t.Fatal(err)
	}
	return root
}

func link(t *testing.T, name, target string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// What a device may be in an adoption is no licence for anything else.
func TestLookAdoptedFinds(t *testing.T) {
	for phase, make := range map[string]func(*testing.T) string{invariants.Plain: plain, invariants.Adopting: half, "confirmed": whole} {
		root := make(t)
		want := invariants.State{Phase: phase, Current: "1.1.0", Previous: "1.0.0", Factory: "0.9.0"}
		if found := invariants.LookAdopted(root); len(found.Problems) > 0 || found.State != want {
			t.Errorf("%s: %v, %v, want %v", phase, found.State, found.Problems, want)
		}
		if found := invariants.Look(root); len(found.Problems) == 0 {
			t.Errorf("%s: versions without a manifest are taken for ours", phase)
		}
	}
	for _, row := range []struct {
		name string
		of   func(*testing.T) string
		harm func(root string) error
		want string
	}{
		{"current leads nowhere", plain, relink("current", "v7.7.7"), `current leads to "v7.7.7"`},
		{"current leads to what is no version", plain, relink("current", ".active"), `current leads to ".active"`},
		{"current leads out", plain, relink("current", "../elsewhere"), `current leads to "../elsewhere"`},
		{"current leads into a version", plain, relink("current", "v1.1.0/app"), `current leads to "v1.1.0/app"`},
		{"current is gone", plain, remove("current"), "current leads nowhere"},
		{"a link is made before there is what it leads to", plain, relink("current", ".active/current"), "current leads nowhere"},
		{"current is a directory", plain, func(root string) error {
			return errors.Join(os.Remove(root+"/current"), os.Mkdir(root+"/current", 0o755))
		}, "current is a d"},
		{"a version is emptied", plain, remove("v1.0.0/app"), "version 1.0.0: it has no manifest, and nothing else"},
		{"a version has the beginning of a manifest", plain, func(root string) error { return os.Mkdir(root+"/v1.0.0/.ota", 0o755) }, "version 1.0.0"},
		{"a link that was left", plain, func(root string) error { return os.Symlink("v1.0.0", root+"/current.new") }, "nothing that the store has"},
		{"the switch leads nowhere", plain, func(root string) error { return os.Symlink(".generations/1", root+"/.active") }, "record.json"},
		{"the record runs another version than the link", half, edit("current", map[string]string{"version": "1.0.0", "digest": "none"}), "does not lead to version 1.0.0"},
		{"a plain link leads to another version than the record says", half, relink("previous", "v0.9.0"), "previous does not lead to version 1.0.0"},
		{"a plain link of which the record has nothing", half, func(root string) error {
			return errors.Join(edit("factory", nil)(root), remove(".generations/1/factory")(root))
		}, "factory leads to version 0.9.0, the record has none"},
		{"a trial while links are plain", half, edit("phase", "trial"), "phase trial, while links are still plain"},
		{"the switch is lost", half, remove(".active"), "current leads nowhere"},
		{"the record is cut off", half, func(root string) error { return os.Truncate(active(root)+"/record.json", 50) }, "record of generation"},
		{"a manifest that is none", whole, edit("current", map[string]string{"version": "1.1.0", "digest": "sha256:00"}), "version 1.1.0 has the manifest none"},
		{"a version is gone", whole, func(root string) error { return os.RemoveAll(root + "/v1.0.0") }, "previous is version 1.0.0, which is not there"},
		{"nothing is active, and there are two generations", whole, func(root string) error {
			return errors.Join(remove(".active")(root), os.Mkdir(root+"/.generations/2", 0o755))
		}, "2 generations, and nothing is active"},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := row.of(t)
			if err := row.harm(root); err != nil {
				t.Fatal(err)
			}
			found := invariants.LookAdopted(root)
			if invariants.Result(found.Problems) != "torn" || !strings.Contains(problems(found.Problems), row.want) {
				t.Errorf("%v, %v, want one with %q", found.State, found.Problems, row.want)
			}
		})
	}
}

// Of an adoption it is checked whether each version stays what it was, and whether the
// one that ran continues to, also if the store knows nothing of it.
func TestAdoptionIsChecked(t *testing.T) {
	killed := &invariants.Said{Killed: true, Exit: -1}
	exit := func(code int) *invariants.Said { return &invariants.Said{Exit: code, Stderr: "ota-guardian: no"} }
	nothing := func(string) error { return nil }
	for _, row := range []struct {
		name string
		of   func(*testing.T) string
		harm func(root string) error
		said *invariants.Said
		want string // of the problem; empty: none
	}{
		{"killed before the switch", plain, nothing, killed, ""},
		{"killed between the links", half, nothing, killed, ""},
		{"killed after them", whole, nothing, killed, ""},
		{"failed, and nothing changed", plain, nothing, exit(1), ""},
		{"no space, and nothing changed", plain, nothing, exit(7), ""},
		{"unknown, and half of it is done", half, nothing, exit(10), ""},
		{"done", whole, nothing, exit(0), ""},
		{"done, and nothing changed", plain, nothing, exit(0), "success was said"},
		{"done, and half of it is", half, nothing, exit(0), "success was said"},
		{"failed, and half of it is done", half, nothing, exit(1), "a half of it is done"},
		{"no space, and half of it is done", half, nothing, exit(7), "a half of it is done"},
		{"failed, and it is done", whole, nothing, exit(1), "says that nothing changed"},
		{"another version runs", plain, relink("current", "v1.0.0"), nil, "is not what comes up"},
		{"another version is behind it", plain, relink("previous", "v0.8.0"), nil, "is not what comes up"},
		{"nothing runs", plain, remove("current"), nil, "is not what comes up"},
		{"a bit of the current version", half, flip("v1.1.0/app"), killed, "version 1.1.0 was touched"},
		{"a bit of what is behind it", whole, flip("v1.0.0/app"), exit(0), "version 1.0.0 was touched"},
		{"another mode in factory", whole, func(root string) error { return os.Chmod(root+"/v0.9.0/app", 0o555) }, exit(0), "version 0.9.0 was touched"},
		{"a file that was not there", plain, write("v1.1.0/.ota-new"), nil, "version 1.1.0 was touched"},
		{"a version to which nothing leads is gone", plain, func(root string) error { return os.RemoveAll(root + "/v0.8.0") }, nil, "version 0.8.0 was touched"},
		{"something beside the store", plain, write("../versions.new"), nil, "outside the store"},
	} {
		t.Run(row.name, func(t *testing.T) {
			defer try.Fatal(t)
			root := row.of(t)
			site := &flows.Site{Flow: flows.Find("adopt"), Dir: filepath.Dir(root), Root: root}
			try.Check(site.Remember())
			try.Check(row.harm(root))
			_, found := site.Check(row.said)
			if got := problems(found); (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
