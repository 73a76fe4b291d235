// Bench measures installs and updates against what people do without an updater:
//
//	curl URL | zstd -d | tar x && sync -f .
//
// and against ostree and rsync where they are installed: in turn, from a cold cache
// until all is durable. It prints tables in Markdown. Run it as root, which may drop caches:
//
//	go run ./integration/cmd/bench [-runs 5] [-dir /var/tmp] [-only small,slow,large]
//
// The parts:
//
//	small, large         a tree of 42 MB and 300 files, one of 630 MB and 6,000 files
//	go                   the Go distribution, at two versions
//	slow                 small over a slow link
//	sizes, sizes-large   the bundles of small and large at each level, the CPU time of a patch
//	memory               a file of 500 MB
//	switch, downtime     the switch, and how long device-api does not answer
//
// large needs 40 GB on the disk, 3 GB of memory. These are measured if they are named:
//
//	machines             installs and updates on small machines, or on the one of -machine
//	boot                 what ota-guardian adds to a boot
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
	"time"

	"github.com/tope-ota/ota/integration/try"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == measured {
		runMeasured(os.Args[2:])
		return
	}
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	all := strings.Join(names[:len(names)-apart], ",")
	runs := flag.Int("runs", 5, "how often each is measured; the median counts")
	dir := flag.String("dir", "/var/tmp", "a directory on the disk that is measured")
	only := flag.String("only", all, "what is measured")
	machine := flag.String("machine", "", "of machines: MiB of memory, cores, MB/s of its disk, as 64,1,10")
	flag.Parse()
	for name := range strings.SplitSeq(*only, ",") {
		if !slices.Contains(names, name) {
			fmt.Fprintf(os.Stderr, "bench: unknown part %q: there are %s\n", name, strings.Join(names, ","))
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *machine, *runs, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A part is one of the things that can be measured.
type part struct {
	name string
	run  func(*bench, context.Context)
}

// parts are all of them.
var parts = []part{
	{"small", func(b *bench, ctx context.Context) { b.tree(ctx, "small", small) }},
	{"large", func(b *bench, ctx context.Context) { b.tree(ctx, "large", large) }},
	{"go", (*bench).golang},
	{"slow", (*bench).slow},
	{"sizes", (*bench).smallSizes},
	{"sizes-large", (*bench).largeSizes},
	{"memory", (*bench).memoryOf500MB},
	{"switch", (*bench).switches},
	{"downtime", (*bench).downtime},
	{"machines", (*bench).machines},
	{"boot", (*bench).boot},
}

// apart are the last of parts, which are measured if they are named.
const apart = 2

func run(ctx context.Context, dir, machine string, runs int, only []string) (err error) {
	defer try.End(&err)
	b := &bench{runs: runs, machine: machine, server: server{files: map[string][]byte{}}}
	defer b.close()
	b.begin(dir)
	for _, part := range parts {
		if slices.Contains(only, part.name) {
			part.measure(ctx, b)
		}
	}
	return nil
}

func (p part) measure(ctx context.Context, b *bench) {
	defer try.Say("%s", p.name)
	began := time.Now()
	p.run(b, ctx)
	fmt.Fprintf(os.Stderr, "bench: %s took %.0f s\n", p.name, time.Since(began).Seconds())
}
