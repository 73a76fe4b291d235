// Command tests runs a tier of the tests that need machines, and says at its end what
// that was, as a table in Markdown:
//
//	go run ./integration/cmd/tests check|deep|nightly
//
// What each tier is, parts.go says. The table is in .cache/tests/TIER.md, too, and
//
//	go run ./integration/cmd/tests counts docs/RELIABILITY.md
//
// puts that of the largest tier that was run into a document.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// atOnce is how many parts run at a time: most of them wait for timers and for machines
// that boot.
const atOnce = 2

// results is where the tables are.
const results = ".cache/tests"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tests:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "counts":
		return counts(args[1])
	case len(args) == 1 && tiers[args[0]] != nil:
		return runTier(ctx, args[0])
	}
	return errors.New("usage: tests check|deep|nightly, or tests counts FILE")
}

func runTier(ctx context.Context, name string) (err error) {
	defer try.End(&err)
	began := time.Now()
	parts := tiers[name]
	sums := make([]*sum, len(parts))
	var mu sync.Mutex // of standard output
	var wg sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				s := parts[i].run(ctx, name)
				mu.Lock()
				fmt.Print(s.failures.String())
				fmt.Printf("%s (%d of %d)\n", s, i+1, len(parts))
				mu.Unlock()
				sums[i] = s
			}
		})
	}
	for i := range parts {
		next <- i
	}
	close(next)
	wg.Wait()

	text := table(name, sums, time.Since(began))
	fmt.Printf("\n%s", text)
	try.Check(os.MkdirAll(results, 0o755))
	try.Check(os.WriteFile(filepath.Join(results, name+".md"), []byte(text), 0o644))
	for _, s := range sums {
		if s.failed > 0 || s.err != nil {
			return errors.New("there are failures: see above")
		}
	}
	return ctx.Err()
}

// table is what was made, how many of how many, of how many tiers it is the whole.
func table(tier string, sums []*sum, took time.Duration) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "| tier %s | made | failed | minutes |\n|---|---|---|---|\n", tier)
	for _, s := range sums {
		fmt.Fprintf(&b, "| %s | %s | %d | %.1f |\n", s.name, tests(s), s.failed, s.took.Minutes())
		for _, e := range s.engines {
			fmt.Fprintf(&b, "| %s | %d of %d points | %d | %.1f |\n", e.name, e.made, e.all, e.failed, e.took.Minutes())
		}
	}
	fmt.Fprintf(&b, "\n%.1f minutes, beside the unit tests.", took.Minutes())
	if tier != "nightly" {
		b.WriteString(" What is not \"N of N\" is a sample: `make nightly` makes all of it.")
	}
	b.WriteString("\n")
	return b.String()
}

func tests(s *sum) string {
	text := fmt.Sprintf("%d tests", s.tests)
	if s.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", s.skipped)
	}
	return text
}

// counts puts the table of the largest tier that was run between the marks of the
// document name.
func counts(name string) (err error) {
	defer try.End(&err)
	const begin, end = "<!-- counts: make counts -->\n", "<!-- end of counts -->\n"
	document := try.Get(os.ReadFile(name))
	head, rest, ok := strings.Cut(string(document), begin)
	_, tail, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return fmt.Errorf("%s has no lines %q and %q", name, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	for _, tier := range []string{"nightly", "deep", "check"} {
		text, err := os.ReadFile(filepath.Join(results, tier+".md"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		try.Check(err)
		return os.WriteFile(name, []byte(head+begin+string(text)+end+tail), 0o644)
	}
	return fmt.Errorf("nothing in %s: run `make nightly` first", results)
}
