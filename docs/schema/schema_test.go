package schema

import (
	"flag"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/guardian"
)

// silent are the commands without --json: systemd runs them, and what they say is a log.
// What they decide, or follow asks for, is in status and history.
var silent = []string{
	"ota-guardian boot", "ota-guardian confirm", "ota-guardian recover", "ota-guardian shutdown",
	"ota-apply serve-progress", "ota-apply serve-install", "ota-apply follow",
}

// TestEveryCommand: each command of each program that prints takes --json.
func TestEveryCommand(t *testing.T) {
	for _, p := range []*cli.Program{guardian.Program(nil, nil), applier.Program(), bundlecmd.Program()} {
		for _, v := range p.Verbs {
			name := p.Name + " " + v.Name
			flags := flag.NewFlagSet(name, flag.ContinueOnError)
			if v.Flags != nil {
				v.Flags(flags)
			}
			if has, want := flags.Lookup("json") != nil, !slices.Contains(silent, name); has != want {
				t.Errorf("%s has --json: %v, want %v", name, has, want)
			}
		}
	}
}

// TestSchemas: each schema is one, and is named as its file.
func TestSchemas(t *testing.T) {
	names, err := fs.Glob(files, "*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d schemas: %v", len(names), err)
	}
	for _, name := range names {
		s, err := get(strings.TrimSuffix(name, ".json"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if id := s.Schema().ID; id != base+name {
			t.Errorf("%s has the $id %s", name, id)
		}
	}
}

// TestRecordKeys: the objects that keep the keys of a newer program, which Check takes, list
// all that this one writes.
func TestRecordKeys(t *testing.T) {
	for _, row := range []struct {
		schema string
		is     any
	}{
		{"record.json", bootcheck.Record{}}, {"record.json#/$defs/ref", bootcheck.Ref{}}, {"record.json#/$defs/next", bootcheck.Next{}},
		{"record.json#/$defs/trial", bootcheck.Trial{}}, {"record.json#/$defs/blocked", bootcheck.Blocked{}},
		{"last-rollback.json", bootcheck.Rollback{}}, {"last-rollback.json#/properties/skipped/items", bootcheck.Skipped{}},
	} {
		file, at, _ := strings.Cut(row.schema, "#/")
		s, err := load(file)
		if err != nil {
			t.Fatal(err)
		}
		switch name, def := strings.CutPrefix(at, "$defs/"); {
		case def && s.Defs[name] == nil:
			t.Errorf("%s is not there", row.schema)
			continue
		case def:
			s = s.Defs[name]
		case at != "":
			s = s.Properties["skipped"].Items
		}
		for _, f := range reflect.VisibleFields(reflect.TypeOf(row.is)) {
			if key, _, _ := strings.Cut(f.Tag.Get("json"), ","); key != "" && s.Properties[key] == nil {
				t.Errorf("%s lacks %q", row.schema, key)
			}
		}
	}
}

// TestCheckOutput: what does not fit is an error, and nothing else is.
func TestCheckOutput(t *testing.T) {
	const progress = `{"event":"progress","stage":"installing","progress":5,"message":"","schema":1}` + "\n"
	const result = `{"event":"result","exit":0,"stage":"success","version":"1","message":"","error":"","digest":null,"release":null,"size":null,"schema":1}` + "\n"
	listed := func(at string) string {
		return `{"schema":1,"versions":[{"version":"1","digest":null,"release":null,"size":null,"state":"staged","states":["staged"],"installed_at":` +
			at + `,"own_bytes":null,"shared_bytes":null}]}`
	}
	for _, row := range []struct {
		args, output, want string
	}{
		{"list --json", listed("null"), ""},
		{"list --json", listed(`"2026-02-03T04:05:06Z"`), ""},
		{"list --json", listed(`"2026-02-03T04:05:06+01:00"`), "pattern"},
		{"list --json", listed(`"3 Feb 2026Z"`), "pattern"},
		{"list --json", `{"schema":1,"versions":[]}`, ""},
		{"list", "VERSION", ""},
		{"list --json", "", ""},
		{"--root install list --json", `{"schema":1,"versions":[]}`, ""},
		{"list --json", `{"versions":[]}`, "schema"},
		{"list --json", `{"schema":2,"versions":[]}`, "schema"},
		{"list --json", `{"schema":1,"versions":[],"new":1}`, "new"},
		{"list --json", `{"schema":1,"versions":null}`, "versions"},
		{"list --json", `{"schema":1,"versions":[]} {}`, "invalid"},
		{"install --json x", progress + result, ""},
		{"activate --json x", progress, "no result"},
		{"rollback --json", `{"schema":1}`, "result.json"},
		{"factory verify --json", `{"schema":1}`, "result.json"},
		{"install --json --dry-run x", progress, "install-dry-run.json"},
	} {
		err := CheckOutput(strings.Fields(row.args), []byte(row.output))
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: CheckOutput = %v, want %q", row.args, err, row.want)
		}
	}
}
