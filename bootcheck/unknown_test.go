package bootcheck

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fullRecord has something in every field, of every struct that is in it.
func fullRecord(t *testing.T) *Record {
	t.Helper()
	var r Record
	n := 0
	fill(t, reflect.ValueOf(&r).Elem(), "Record", &n)
	r.Schema = Schema + 1 // whose phases this program does not know
	return &r
}

// fill gives v and all that is in it values that are not zero, each another one.
func fill(t *testing.T, v reflect.Value, at string, n *int) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fill(t, v.Field(i), at+"."+f.Name, n)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), at, n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0), at+"[0]", n)
		fill(t, v.Index(1), at+"[1]", n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, at+" key", n)
		fill(t, value, at+" value", n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	default:
		t.Fatalf("%s is a %s: the test cannot fill it", at, v.Kind())
	}
}

// A field that is written and not known when it is read, or read and not copied, would
// be put back to what it was by the next commit.
func TestEveryFieldOfTheRecordComesBack(t *testing.T) {
	r := fullRecord(t)
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back, cmp.AllowUnexported(Record{})); diff != "" {
		t.Errorf("written and read (-want +got):\n%s", diff)
	}
	next := back.Clone()
	if diff := cmp.Diff(back, next, cmp.AllowUnexported(Record{})); diff != "" {
		t.Errorf("cloned (-want +got):\n%s", diff)
	}
	n := 1000
	overwrite(t, reflect.ValueOf(next).Elem(), &n)
	if diff := cmp.Diff(r, back, cmp.AllowUnexported(Record{})); diff != "" {
		t.Errorf("a change of the clone changes what it was made of (-want +got):\n%s", diff)
	}
}

// overwrite changes all that v leads to, in its place.
func overwrite(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				overwrite(t, v.Field(i), n)
			}
		}
	case reflect.Pointer:
		overwrite(t, v.Elem(), n)
	case reflect.Slice:
		for i := range v.Len() {
			overwrite(t, v.Index(i), n)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			if value := v.MapIndex(key); value.Kind() == reflect.Map {
				overwrite(t, value, n)
			}
			v.SetMapIndex(key, reflect.Zero(v.Type().Elem()))
		}
	case reflect.Bool:
		v.SetBool(false)
	default:
		fill(t, v, "", n)
	}
}

// strange is the record of fullRecord with a key of a newer program in each object.
func strange(t *testing.T) (data []byte, objects int) {
	t.Helper()
	data, err := json.Marshal(fullRecord(t))
	if err != nil {
		t.Fatal(err)
	}
	var all any
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	var add func(v any, at string)
	add = func(v any, at string) {
		switch v := v.(type) {
		case []any:
			for i := range v {
				add(v[i], fmt.Sprintf("%s[%d]", at, i))
			}
		case map[string]any:
			for key, value := range v {
				if key != "baseline" && key != "rollbacks" { // objects of which every key is known
					add(value, at+"."+key)
				}
			}
			v["strange"] = map[string]any{"at": at, "list": []any{1.5, nil, "<&>"}}
			objects++
		}
	}
	add(all, "")
	if data, err = json.MarshalIndent(all, "", "  "); err != nil {
		t.Fatal(err)
	}
	return data, objects
}

// What a newer program wrote into any object of the record is written back.
func TestUnknownKeysBelow(t *testing.T) {
	data, objects := strange(t)
	if objects < 12 {
		t.Fatalf("the record has %d objects, want those of current, previous, factory, trial, confirmed, blocked, last_rollback, next", objects)
	}
	r, err := ParseRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // also of what was written back
		out, err := json.Marshal(r.Clone())
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("read and written (-want +got):\n%s", diff)
		}
		if r, err = ParseRecord(out); err != nil {
			t.Fatal(err)
		}
	}
}

// They go with what they say something about.
func TestUnknownKeysGoWithTheirObject(t *testing.T) {
	const text = `{"schema": 2, "phase": "trial",
		"current": {"version": "2.0", "digest": "sha256:2", "x": "2.0"},
		"previous": {"version": "1.0", "digest": "sha256:1", "x": "1.0"},
		"trial": {"boot_id": "a", "hard": 0, "unclean": 0, "clean": 0, "x": "trial"},
		"blocked": [{"version": "0.8", "digest": "sha256:8", "reason": "health", "check": "", "x": "0.8"},
			{"version": "0.9", "digest": "sha256:9", "reason": "health", "check": "", "x": "0.9"}],
		"last_rollback": {"from": "0.9", "to": "1.0", "cause": "health", "level": "previous", "attempts": 1, "x": "rollback"}}`
	three := &Ref{Version: "3.0", Digest: "sha256:3"}
	for _, tt := range []struct {
		name   string
		change func(r *Record) *Record
		want   string // x of: current, previous, trial, blocked, last_rollback
	}{
		{"nothing changes", func(r *Record) *Record { return r }, "2.0 1.0 trial 0.8,0.9 rollback"},
		{"a boot is counted", func(r *Record) *Record { r.Trial.Unclean++; r.Trial.BootID = "b"; return r }, "2.0 1.0 trial 0.8,0.9 rollback"},
		{"it is confirmed", func(r *Record) *Record { r.Phase, r.Trial = PhaseConfirmed, nil; return r }, "2.0 1.0 - 0.8,0.9 rollback"},
		{"a rollback is reported", func(r *Record) *Record { r.LastRollback.Reported = true; return r }, "2.0 1.0 trial 0.8,0.9 rollback"},
		{"a block is lifted", func(r *Record) *Record { r.Unblock("0.8"); return r }, "2.0 1.0 trial 0.9 rollback"},
		{"a block has another reason", func(r *Record) *Record { r.Blocked[0].Check = "y"; return r }, "2.0 1.0 trial 0.8,0.9 rollback"},
		{"another version is blocked", func(r *Record) *Record { r.Block(*three, CauseHealth, ""); return r }, "2.0 1.0 trial 0.8,0.9,- rollback"},
		{"another version is on trial", func(r *Record) *Record { r.Confirm(*r.Current); return r.Activate(three, "", "c", nil, nil) }, "- 2.0 - 0.8,0.9 rollback"},
		{"the trial is rolled back", func(r *Record) *Record {
			r.RolledBack(&Rollback{From: "2.0", To: "1.0", Level: LevelPrevious, Cause: CauseBoots})
			r.Phase, r.Current, r.Previous, r.Trial = PhaseFallback, r.Previous, nil, &Trial{BootID: "d"}
			return r
		}, "1.0 - - 0.8,0.9 -"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ParseRecord([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(tt.change(r.Clone()))
			if err != nil {
				t.Fatal(err)
			}
			type object struct{ X string }
			var got struct {
				Current, Previous, Trial object
				Blocked                  []object
				LastRollback             object `json:"last_rollback"`
			}
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			x := func(o object) string {
				if o.X == "" {
					return "-"
				}
				return o.X
			}
			var blocked []string
			for _, b := range got.Blocked {
				blocked = append(blocked, x(b))
			}
			is := strings.Join([]string{x(got.Current), x(got.Previous), x(got.Trial), strings.Join(blocked, ","), x(got.LastRollback)}, " ")
			if is != tt.want {
				t.Errorf("the keys are %s, want %s in\n%s", is, tt.want, data)
			}
		})
	}
}
