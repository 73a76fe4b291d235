package invariants_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
)

// A store in which something is wrong is never taken for a whole one.
func TestLookFinds(t *testing.T) {
	dir := t.TempDir()
	w, err := flows.NewWorld(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	good, err := w.Build(t.Context(), flows.Find("install-update"), filepath.Join(dir, "good"), "")
	if err != nil {
		t.Fatal(err)
	}
	if found := invariants.Look(good.Root); len(found.Problems) > 0 || found.State.Current != "1.1.0" {
		t.Fatalf("a good store: %v, %v", found.State, found.Problems)
	}

	for _, row := range []struct {
		name string
		harm func(root string) error
		want string
	}{
		{"current is a link of its own", relink("current", "v1.1.0"), "the link current"},
		{"previous is a folder", func(root string) error {
			os.Remove(root + "/previous")
			return os.Mkdir(root+"/previous", 0o755)
		}, "previous is a d"},
		{"no factory link", remove("factory"), "factory"},
		{"the switch leads nowhere", relink(".active", ".generations/77"), "record.json"},
		{"the switch leads out", relink(".active", "../elsewhere"), `.active leads to "../elsewhere"`},
		{"the switch is gone", remove(".active"), "nothing is active"},
		{"the record is cut off", func(root string) error { return os.Truncate(active(root)+"/record.json", 50) }, "record of generation"},
		{"the record is empty", func(root string) error { return os.Truncate(active(root)+"/record.json", 0) }, "record of generation"},
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
		{"a folder of current is missing", remove("v1.1.0/empty"), `"empty" is`},
		{"a file that no manifest lists", write("v1.1.0/extra"), "not in its manifest"},
		{"another manifest", flip("v1.1.0/.ota/manifest.json"), "manifest"},
		{"a file with another mode", func(root string) error { return os.Chmod(root+"/v1.1.0/bin/app", 0o777) }, "bin/app"},
		{"a factory that can be written to", func(root string) error { return os.Chmod(root+"/v1.0.0/share", 0o755) }, "it is the factory"},
		{"a version that nobody runs is half", func(root string) error { return os.MkdirAll(root+"/v3.0.0/bin", 0o755) }, "version 3.0.0"},
		{"an empty list of revoked keys", write(".revoked.json"), ".revoked.json is not whole"},
		{"a list of revoked keys with another key", func(root string) error {
			return os.WriteFile(root+"/.revoked.json", []byte(`{"schema":1,"keys":["0123456789ABCDEF"],"seal":"sha256:00"}`), 0o600)
		}, ".revoked.json is not whole"},
		{"a file that the store does not know", write("v1.1.0.tmp"), "nothing that the store has"},
	} {
		t.Run(row.name, func(t *testing.T) {
			site, err := good.Clone(filepath.Join(t.TempDir(), "site"))
			if err != nil {
				t.Fatal(err)
			}
			if err := row.harm(site.Root); err != nil {
				t.Fatal(err)
			}
			found := invariants.Look(site.Root)
			if invariants.Verdict(found.Problems) != "torn" || !strings.Contains(problems(found.Problems), row.want) {
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
	return func(root string) error {
		name := active(root) + "/record.json"
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		record := make(map[string]any)
		if err := json.Unmarshal(data, &record); err != nil {
			return err
		}
		record[strings.ToLower(key)] = value
		if data, err = json.Marshal(record); err != nil {
			return err
		}
		return os.WriteFile(name, data, 0o600)
	}
}
