package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// constants are the string constants of one type, or whose name begins with
// prefix, in a file of the repository.
func constants(t *testing.T, file, typ, prefix string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), file), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			name, isType := v.Type.(*ast.Ident)
			if typ != "" && (!isType || name.Name != typ) || !strings.HasPrefix(v.Names[0].Name, prefix) || len(v.Values) == 0 {
				continue
			}
			if lit, ok := v.Values[0].(*ast.BasicLit); ok && (lit.Kind == token.STRING || lit.Kind == token.INT) {
				text := lit.Value
				if lit.Kind == token.STRING {
					text, _ = strconv.Unquote(lit.Value)
				}
				found[text] = true
			}
		}
	}
	if len(found) < 2 {
		t.Fatalf("%s: %d constants of %s%s: the code has moved, and this test looks at nothing", file, len(found), typ, prefix)
	}
	return slices.Sorted(maps.Keys(found))
}

// TestNothingIsMissing finds what the code can say and a document does not explain:
// each has a row of a table that begins with it.
func TestNothingIsMissing(t *testing.T) {
	events := regexp.MustCompile(`Event\{ID: "([0-9a-f]{32})"`)
	var ids []string
	for _, file := range []string{"guardian/events.go", "applier/unit.go"} {
		code, err := os.ReadFile(filepath.Join(root(t), file))
		if err != nil {
			t.Fatal(err)
		}
		found := events.FindAllStringSubmatch(string(code), -1)
		if len(found) == 0 {
			t.Fatalf("%s: no events: the code has moved, and this test looks at nothing", file)
		}
		for _, m := range found {
			ids = append(ids, m[1])
		}
	}
	for _, tt := range []struct {
		document, what string
		words          []string
	}{
		{"docs/ROLLBACK.md", "phase", constants(t, "bootcheck/record.go", "Phase", "")},
		{"docs/ROLLBACK.md", "cause", constants(t, "bootcheck/record.go", "Cause", "")},
		{"docs/ROLLBACK.md", "reason of a hold", constants(t, "bootcheck/record.go", "", "Hold")},
		{"docs/ROLLBACK.md", "event", ids},
		{"docs/INTEGRATION.md", "exit code", constants(t, "bootcheck/errors.go", "ExitCode", "")},
		{"docs/INTEGRATION.md", "code of a report", constants(t, "bootcheck/errors.go", "", "Code")},
		{"docs/INTEGRATION.md", "stage", constants(t, "applier/report/report.go", "", "Stage")},
	} {
		text, err := os.ReadFile(filepath.Join(root(t), tt.document))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, word := range tt.words {
			if !strings.Contains(string(text), "\n| `"+word+"` |") {
				t.Errorf("%s has no row for the %s %q", tt.document, tt.what, word)
			}
		}
	}
}
