// Package schema checks what the programs print with --json against the schemas beside
// it, docs/schema/*.json (JSON Schema, draft 2020-12). The tests use it; no program does.
//
// A schema is named for its command (factory-create.json), or for a shape that several
// have (version.json). Commands that only say how they ended share result.json.
package schema

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/google/jsonschema-go/jsonschema"
)

//go:embed *.json
var files embed.FS

const base = "https://github.com/tope-ota/ota/docs/schema/"

// dateTime is what the format date-time of the schemas says, which the library does not look at:
// RFC 3339, in UTC as their patterns want it.
const dateTime = `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`

// load reads one. Published they are open: a later version of a program may add keys. Here a
// key that a schema does not list is an error, or it would never be listed.
func load(file string) (*jsonschema.Schema, error) {
	data, err := files.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	closeObjects(doc)
	if data, err = json.Marshal(doc); err != nil {
		return nil, err
	}
	s := new(jsonschema.Schema)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

var (
	mu       sync.Mutex
	resolved = make(map[string]*jsonschema.Resolved) // by name
)

// get returns the schema of a name.
func get(name string) (*jsonschema.Resolved, error) {
	mu.Lock()
	defer mu.Unlock()
	if r := resolved[name]; r != nil {
		return r, nil
	}
	s, err := load(name + ".json")
	if err != nil {
		return nil, err
	}
	r, err := s.Resolve(&jsonschema.ResolveOptions{Loader: func(u *url.URL) (*jsonschema.Schema, error) {
		return load(strings.TrimPrefix(u.String(), base))
	}})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	resolved[name] = r
	return r, nil
}

func closeObjects(doc any) {
	switch v := doc.(type) {
	case map[string]any:
		if _, ok := v["additionalProperties"]; v["type"] == "object" && v["properties"] != nil && !ok {
			v["additionalProperties"] = false
		}
		if v["format"] == "date-time" {
			v["pattern"] = dateTime
		}
		for _, e := range v {
			closeObjects(e)
		}
	case []any:
		for _, e := range v {
			closeObjects(e)
		}
	}
}

// Check says what is wrong with data, which must be one JSON value as name, "status",
// describes it. It may be called from many goroutines at once.
func Check(name string, data []byte) error {
	s, err := get(name)
	if err != nil {
		return err
	}
	var value any
	if err = json.Unmarshal(data, &value); err == nil {
		err = s.Validate(value)
	}
	if err != nil {
		return fmt.Errorf("docs/schema/%s.json: %w in %s", name, err, data)
	}
	return nil
}

// Has reports whether there is a schema of this name.
func Has(name string) bool {
	_, err := fs.Stat(files, name+".json")
	return err == nil
}

// Name is the schema of what the command line args (without the program's name) prints;
// empty: it is not one with --json.
func Name(args []string) string {
	var words []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--root" || args[i] == "--config" {
			i++ // its value
		} else if !strings.HasPrefix(args[i], "-") {
			words = append(words, args[i])
		}
	}
	if !slices.Contains(args, "--json") && (len(words) == 0 || words[0] != "index") || len(words) == 0 {
		return ""
	}
	switch name := words[0]; {
	case name == "install" && slices.Contains(args, "--dry-run"):
		return "install-dry-run"
	case name == "activate":
		return "install"
	case name == "channel": // channel.json is the file's
		return "channel-command"
	case Has(name):
		return name
	}
	return "result"
}

// CheckOutput says what is wrong with what the command line args printed to its stdout.
// Nothing is right: a command line that is wrong, or a store that cannot be opened, has
// an error on stderr only.
func CheckOutput(args []string, stdout []byte) error {
	name := Name(args)
	if name == "" || len(stdout) == 0 {
		return nil
	}
	if name != "install" {
		return Check(name, stdout)
	}
	var last struct{ Event string }
	for line := range bytes.Lines(stdout) {
		if err := Check(name, line); err != nil {
			return err
		}
		if err := json.Unmarshal(line, &last); err != nil {
			return err
		}
	}
	if last.Event != "result" {
		return fmt.Errorf("the last line is no result: %s", stdout)
	}
	return nil
}
