package docs

import (
	"fmt"
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

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/guardian"
	"github.com/tope-ota/ota/integration/try"
)

// TestPictures compares the generated parts of the documents with what the code
// says now; -update writes them. Such a part stands between two comments:
//
//	<!-- generated: NAME -->
//	<!-- end -->
func TestPictures(t *testing.T) {
	for _, p := range []struct {
		file, name string
		make       func(t *testing.T) string
	}{
		{"docs/ROLLBACK.md", "phases", phases},
	} {
		t.Run(p.name, func(t *testing.T) {
			defer try.Fatal(t)
			file := filepath.Join(root(t), p.file)
			data := try.Get(os.ReadFile(file))
			begin, end := "<!-- generated: "+p.name+" -->\n", "<!-- end -->\n"
			before, rest, ok := strings.Cut(string(data), begin)
			old, after, ok2 := strings.Cut(rest, end)
			if !ok || !ok2 {
				t.Fatalf("%s has no place for %q: want %q and %q", p.file, p.name, begin, end)
			}
			now := p.make(t)
			switch {
			case old == now:
			case *update:
				try.Check(os.WriteFile(file, []byte(before+begin+now+end+after), 0o644))
			default:
				t.Errorf("%s: %s is not what the code says now: go test ./integration/docs -run TestPictures -update\ngot\n%swant\n%s", p.file, p.name, old, now)
			}
		})
	}
}

// phases draws every way from one phase to another that Decide, Condemn, Leave,
// Absolve and Activate go, by asking them.
func phases(t *testing.T) string {
	ref := func(version string) *bootcheck.Ref {
		return &bootcheck.Ref{Version: version, Digest: "sha256:" + version}
	}
	budget := guardian.Budget{Hard: 3, Unclean: 6, Clean: 10, Streak: 5}
	order := []bootcheck.Phase{bootcheck.PhaseTrial, bootcheck.PhaseConfirmed, bootcheck.PhaseFallback, bootcheck.PhaseFactory, bootcheck.PhaseHold}
	ways := map[string][]string{} // "from to": why
	way := func(from, to bootcheck.Phase, why string) {
		key := fmt.Sprintf("%s %s", from, to)
		if from != to && !slices.Contains(ways[key], why) {
			ways[key] = append(ways[key], why)
		}
	}
	for _, phase := range order {
		for _, left := range []string{"", ", only factory is left", ", nothing else is left"} {
			if phase == bootcheck.PhaseFactory && left == ", only factory is left" {
				continue // that is what runs
			}
			record := func() *bootcheck.Record {
				r := &bootcheck.Record{Schema: bootcheck.Schema, Phase: phase, Current: ref("3.0")}
				switch left {
				case "":
					r.Previous, r.Factory = ref("2.0"), ref("1.0")
					r.Confirmed = []bootcheck.Ref{*ref("1.0"), *ref("2.0")}
				case ", only factory is left":
					r.Factory = ref("1.0")
				}
				if phase.Counted() {
					r.Trial = &bootcheck.Trial{BootID: "before"}
				}
				if phase == bootcheck.PhaseFallback || phase == bootcheck.PhaseFactory {
					r.Previous = nil
					r.LastRollback = &bootcheck.Rollback{From: "4.0", Check: "answers"}
				}
				return r
			}
			decided := func(d guardian.Decision, why string) {
				if d.Next != nil {
					way(phase, d.Next.Phase, why+left)
				}
			}
			// By boots.
			for _, last := range []guardian.LastBoot{guardian.LastClean, guardian.LastUnclean, guardian.LastHard} {
				boot := guardian.Boot{ID: "now", Last: last, Budget: budget}
				for n := range 12 {
					r := record()
					if r.Trial != nil {
						r.Trial.Hard, r.Trial.Unclean, r.Trial.Clean = n, n, n
					} else if phase == bootcheck.PhaseConfirmed {
						for i := range n {
							r.HardStreak = append(r.HardStreak, strconv.Itoa(i))
						}
					}
					d := guardian.Decide(r, guardian.Disk{}, boot)
					if d.Next != nil && d.Next.LastRollback != nil {
						decided(d, string(d.Next.LastRollback.Cause))
					} else {
						decided(d, "a boot")
					}
				}
				decided(guardian.Decide(record(), guardian.Disk{Damaged: map[string]string{"3.0": "x"}}, boot), string(bootcheck.CauseDamaged))
			}
			if phase.Counted() {
				d := guardian.Decide(record(), guardian.Disk{Refused: map[string]string{"3.0": "x"}}, guardian.Boot{ID: "now", Budget: budget})
				decided(d, string(bootcheck.CauseRevoked))
			}
			// By health.
			decided(guardian.Absolve(record(), 1), "health is good")
			if phase.Judged() {
				for _, f := range []guardian.Failure{
					{Cause: bootcheck.CauseHealth, Check: "another"},
					{Cause: bootcheck.CauseCrash, Check: "another"},
				} {
					decided(guardian.Condemn(record(), guardian.Disk{}, "now", f), string(f.Cause))
				}
				d := guardian.Condemn(record(), guardian.Disk{}, "now", guardian.Failure{Cause: bootcheck.CauseHealth, Check: "answers"})
				if d.Next != nil && d.Next.HoldReason == bootcheck.HoldEnvironment {
					decided(d, "the same check fails")
				}
			}
			// By people.
			if left == "" {
				whole := func(*bootcheck.Ref) bool { return true }
				way(phase, record().Activate(ref("5.0"), "now", nil, whole).Phase, "a version is installed")
				decided(guardian.Leave(record(), guardian.Disk{}, "now", ref("2.0"), bootcheck.LevelPrevious), string(bootcheck.CauseOperator))
				decided(guardian.Leave(record(), guardian.Disk{}, "now", ref("1.0"), bootcheck.LevelFactory), string(bootcheck.CauseOperator))
			}
		}
	}
	var b strings.Builder
	var none *bootcheck.Record
	fmt.Fprintf(&b, "```mermaid\nstateDiagram-v2\n    [*] --> %s: a version is installed\n",
		none.Activate(ref("1.0"), "now", nil, nil).Phase)
	for _, from := range order {
		for _, to := range order {
			if why := ways[fmt.Sprintf("%s %s", from, to)]; len(why) > 0 {
				fmt.Fprintf(&b, "    %s --> %s: %s\n", from, to, strings.Join(shorter(why), " / "))
			}
		}
	}
	b.WriteString("```\n")
	return b.String()
}

// shorter leaves out what happens anyway ("x, only factory is left" beside "x"),
// and says once what is the same for several.
func shorter(why []string) []string {
	var all []string
	rest := map[string][]string{} // what is left: causes
	var order []string
	for _, w := range why {
		base, left, is := strings.Cut(w, ", ")
		switch {
		case !is:
			all = append(all, w)
		case !slices.Contains(why, base):
			if rest[left] == nil {
				order = append(order, left)
			}
			rest[left] = append(rest[left], base)
		}
	}
	for _, left := range order {
		all = append(all, strings.Join(rest[left], " or ")+", "+left)
	}
	return all
}

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
	code, err := os.ReadFile(filepath.Join(root(t), "guardian/events.go"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range events.FindAllStringSubmatch(string(code), -1) {
		ids = append(ids, m[1])
	}
	if len(ids) == 0 {
		t.Fatal("guardian/events.go: no events: the code has moved, and this test looks at nothing")
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
