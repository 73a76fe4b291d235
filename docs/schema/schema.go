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
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed *.json
var files embed.FS

const base = "https://github.com/tope-ota/ota/docs/schema/"

// schemas are all of them, by their names. They are compiled together, before the first is
// used: a compiler is not for more than one goroutine, and tests of machines are many.
// Published they are open: a later version of a program may add keys. Here a key that a
// schema does not list is an error, or it would never be listed.
var schemas = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	names, err := fs.Glob(files, "*.json")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		data, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		closeObjects(doc)
		if err := c.AddResource(base+name, doc); err != nil {
			return nil, err
		}
	}
	all := make(map[string]*jsonschema.Schema)
	for _, name := range names {
		s, err := c.Compile(base + name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[strings.TrimSuffix(name, ".json")] = s
	}
	return all, nil
})

func closeObjects(doc any) {
	switch v := doc.(type) {
	case map[string]any:
		if _, ok := v["additionalProperties"]; v["type"] == "object" && v["properties"] != nil && !ok {
			v["additionalProperties"] = false
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
	all, err := schemas()
	if err != nil {
		return err
	}
	s := all[name]
	if s == nil {
		return fmt.Errorf("there is no docs/schema/%s.json", name)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err == nil {
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
