package docs

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// constants are the string constants of one type, or whose name begins with
// prefix, in a file of the repository.
func constants(t *testing.T, file, typ, prefix string) []string {
	t.Helper()
	f := try.Get(parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), file), nil, 0))
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
	defer try.Fatal(t)
	events := regexp.MustCompile(`Event\{ID: "([0-9a-f]{32})"`)
	var ids []string
	for _, file := range []string{"guardian/events.go", "applier/unit.go"} {
		code := try.Get(os.ReadFile(filepath.Join(root(t), file)))
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
		text := try.Get(os.ReadFile(filepath.Join(root(t), tt.document)))
		for _, word := range tt.words {
			if !strings.Contains(string(text), "\n| `"+word+"` |") {
				t.Errorf("%s has no row for the %s %q", tt.document, tt.what, word)
			}
		}
	}
}

// banned are words that this project does not use, each with the one that it uses: a
// term has one name, in messages, documents and comments.
var banned = map[string]string{
	`folders?`:                            "directory",
	`mend(s|ed|ing)?`:                     "repair",
	`heal(s|ed|ing)?`:                     "repair",
	`cures?`:                              "hint, repair",
	`last resort`:                         "factory version, last fallback",
	`pro(ve|ves|ved) (itself|themselves)`: "be confirmed",
	`condemn(s|ed|ing)?`:                  "roll back",
	`absolve[sd]?`:                        "confirm",
	`believ(e|es|ed|ing)`:                 "trust",
	`(a )?persons?`:                       "operator, people",
	`what runs`:                           "the current version",
	`the version that runs`:               "the current version",
	`strikes?`:                            "boot count",
	`budgets?`:                            "limit",
	`again and again`:                     "repeatedly",
	`was left for`:                        "was rolled back to",
	`whoever`:                             "the caller, the operator, a program that",
	`somebody`:                            "the operator, another process",
	`gets? on`:                            "progress",
	`put right`:                           "repair",
	`ta(ke|kes|ken) back`:                 "roll back",
	`the way back`:                        "the version to roll back to",
	`without a verdict`:                   "unconfirmed",
	`stands? still`:                       "be on hold, wait",
	`left-overs?`:                         "leftovers",
	`and the like`:                        "such as",
	`(go|goes|going|went) on`:             "continue, resume",
	`(no|any|every)body`:                  "no caller, a process, every user",
	`whatever`:                            "any, also if, all that",
	`anew`:                                "again",
	`verdicts?`:                           "outcome, result, end of the trial",
	`judg(e|es|ed|ements?|ments?)`:        "check, decide, compare",
	`(fall(s|ing|en)?|fell)[ -]back`:      "roll back",
	`(of|none of) ours`:                   "of this project, of ota-guardian",
	`shall`:                               "must",
	`excus(es|ed|ing)`:                    "baseline, is no reason",
	`he|his|him`:                          "the operator, they",
	`the like`:                            "such as",
}

// exempt are files that quote what was, or what is not of this project, and what a word
// of the list means something else in.
var exempt = regexp.MustCompile(`^(LICENSE|docs/NOTICE|docs/CHANGELOG\.md|integration/docs/words_test\.go|go\.(mod|sum)|\.lint/.*|.*/testdata/(fuzz|golden).*|.*\.(key|pub|ota|svg|png|po))$`)

// TestWords finds banned words in the texts and comments of all files: in Go files in
// comments and in strings of more than one word, elsewhere in every line.
func TestWords(t *testing.T) {
	defer try.Fatal(t)
	out := try.Output(exec.Command("git", "-C", root(t), "ls-files"))
	// Not as a part of a name, a path or a flag.
	anyOf := func(words []string) *regexp.Regexp {
		return regexp.MustCompile(`(?i)(?:^|[^\w"'` + "`" + `./$()=-])(` + strings.Join(words, "|") + `)(?:$|[^\w"/=()-])`)
	}
	re := anyOf(slices.Sorted(maps.Keys(banned)))
	files := 0
	for name := range strings.Lines(out) {
		name = strings.TrimSpace(name)
		text, err := os.ReadFile(filepath.Join(root(t), name))
		if exempt.MatchString(name) || err != nil {
			continue
		}
		files++
		look := func(line int, text string) {
			for part := range strings.Lines(text) {
				if m := re.FindStringSubmatch(part); m != nil {
					t.Errorf("%s:%d: %q is not a word of this project: %s", name, line, m[1], strings.TrimSpace(part))
				}
				line++
			}
		}
		if !strings.HasSuffix(name, ".go") {
			look(1, string(text))
			continue
		}
		fset := token.NewFileSet()
		file := fset.AddFile(name, -1, len(text))
		var s scanner.Scanner
		s.Init(file, text, nil, scanner.ScanComments)
		for pos, tok, lit := s.Scan(); tok != token.EOF; pos, tok, lit = s.Scan() {
			line := file.Line(pos)
			if text, err := strconv.Unquote(lit); tok == token.STRING && err == nil && strings.Contains(lit, " ") {
				look(line, text)
			} else if tok == token.COMMENT {
				look(line, lit)
			}
		}
	}
	if files < 300 {
		t.Errorf("%d files: this test looks at nothing", files)
	}
}
