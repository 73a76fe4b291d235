// Bench measures whole installs against what people do without an updater:
//
//	curl -s URL | zstd -d | tar x && sync -f .
//
// on the same bytes, in the same run, over HTTP on the loopback interface, from a
// cold cache until all is durable. It prints a table in Markdown. Run it as root,
// which may drop caches:
//
//	go run ./integration/cmd/bench [-runs 5] [-dir /var/tmp] [-only small,large,update,switch,downtime]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == measured {
		runMeasured(os.Args[2:])
		return
	}
	runs := flag.Int("runs", 5, "how often each is measured; the median counts")
	dir := flag.String("dir", "/var/tmp", "a directory on the disk that is measured")
	only := flag.String("only", "small,large,update,switch,downtime", "what is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *runs, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, runs int, only []string) error {
	b, err := newBench(ctx, dir, runs)
	if err != nil {
		return err
	}
	defer b.close()
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"small", func(ctx context.Context) error { return b.installs(ctx, "small", small) }},
		{"large", func(ctx context.Context) error { return b.installs(ctx, "large", large) }},
		{"update", func(ctx context.Context) error { return b.updates(ctx, "large", large) }},
		{"switch", b.switches},
		{"downtime", b.downtime},
	} {
		if slices.Contains(only, part.name) {
			if err := part.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	return nil
}
