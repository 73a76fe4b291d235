package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// sizes prints how large the bundle of a tree is at each level, against what tar and
// zstd -19 make of it, and what processor time that and a patch take.
func (b *bench) sizes(ctx context.Context, p pair) {
	try.Check(b.makeTarball(p))
	tar := try.Get(os.Stat(b.tarball(p))).Size()
	fmt.Printf("\n%s: %s, what is made of it\n\n| | bytes | ratio | CPU time | ratio |\n|---|---|---|---|---|\n| `tar \\| zstd -19` | %s | 1.000 | | |\n",
		p.name, p.what, megabytes(tar))
	var standard time.Duration
	for _, level := range []string{"", "fast", "default", "best", "max"} { // first as it is, which the others are compared with
		try.Check(ctx.Err())
		name, args := b.path(p.name+"/level.ota"), []string(nil)
		if level != "" {
			args = []string{"--level", level}
		}
		took := processorTime(b.program("ota-bundle"), append(b.create(p, "1.1.0", name), args...)...)
		if level == "" {
			standard, level = took, "unset"
		}
		size := try.Get(os.Stat(name)).Size()
		fmt.Printf("| `create`, level %s | %s | %.3f | %.1f s | %.2f |\n", level, megabytes(size), float64(size)/float64(tar),
			took.Seconds(), float64(took)/float64(standard))
		try.Check(os.Remove(name))
	}
	took, size := b.timePatch(p)
	fmt.Printf("| `patch` | %s | %.3f | %.1f s | %.2f |\n", megabytes(size), float64(size)/float64(tar), took.Seconds(), float64(took)/float64(standard))
}

// timePatch makes the patch of a pair, and says what it took and how large it is.
func (b *bench) timePatch(p pair) (took time.Duration, size int64) {
	b.pack(p, "1.0.0")
	b.pack(p, "1.1.0")
	try.Check(os.RemoveAll(b.bundle(p, "1.1.0") + ".from"))
	took = processorTime(b.program("ota-bundle"), "patch", "--key", b.path("release.key"), b.bundle(p, "1.0.0"), b.bundle(p, "1.1.0"))
	return took, try.Get(os.Stat(b.patch(p, "1.0.0", "1.1.0"))).Size()
}

// processorTime runs a command and returns the time of processors that it and its
// children took.
func processorTime(name string, args ...string) time.Duration {
	cmd := exec.Command(name, args...)
	try.Run(cmd)
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// rebuilt prints how large the patch of a Go program is that was built again after a
// small change: ota-apply with one more function.
func (b *bench) rebuilt() {
	p := pair{name: "rebuilt", old: b.path("rebuilt/old"), new: b.path("rebuilt/new")}
	try.Check(os.MkdirAll(p.old, 0o755))
	source, overlay := b.path("rebuilt/source"), b.path("rebuilt/overlay")
	try.Check(os.WriteFile(source, []byte(oneMoreFunction), 0o644))
	place := try.Get(filepath.Abs("applier/fetch/added_by_bench.go"))
	try.Check(os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace": {%q: %q}}`, place, source), 0o644))
	build := exec.Command("make", "-s", "build-"+runtime.GOARCH, "BIN="+b.path("rebuilt/bin"), "VERSION=bench2")
	build.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay)
	try.Run(build)
	output("cp", b.program("ota-apply"), p.old)
	try.Check(os.Mkdir(p.new, 0o755))
	output("cp", b.path("rebuilt/bin/"+runtime.GOARCH+"/ota-apply"), p.new)
	took, size := b.timePatch(p)
	fmt.Printf("\nrebuilt: ota-apply, %s, built again with one more function: a bundle of %s, a patch of %s, made in %.1f s of CPU time.\n",
		megabytes(try.Get(os.Stat(p.new+"/ota-apply")).Size()), megabytes(try.Get(os.Stat(b.bundle(p, "1.1.0"))).Size()), megabytes(size), took.Seconds())
}

// oneMoreFunction is the small change. The linker keeps what an init may call.
const oneMoreFunction = `package fetch

import (
	"fmt"
	"os"
	"strings"
)

func init() {
	if len(os.Args) > 1000 {
		fmt.Fprintln(os.Stderr, describe(os.Args))
	}
}

func describe(args []string) string {
	var all []string
	for i, a := range args {
		if strings.HasPrefix(a, "-") {
			all = append(all, fmt.Sprintf("argument %d is a flag: %q", i, a))
		}
	}
	return strings.Join(all, ", ")
}
`
