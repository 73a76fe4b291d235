package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// The slow link of the part slow.
const (
	slowRate = 20e6
	slowTrip = 50 * time.Millisecond
)

// tree compares on a tree that is made.
func (b *bench) tree(ctx context.Context, name string, s shape) {
	b.compare(ctx, b.makePair(name, s), "over the loopback interface")
}

// slow compares on the small tree over a slow link.
func (b *bench) slow(ctx context.Context) {
	p := b.makePair("small", small)
	k := newLink(b.direct, slowRate, slowTrip)
	defer func() {
		b.addr = b.direct
		k.Close()
	}()
	b.addr = k.Addr().String()
	b.compare(ctx, p, fmt.Sprintf("over %.0f Mbit/s, %d ms there and back", slowRate/1e6, slowTrip.Milliseconds()))
}

func (b *bench) smallSizes(ctx context.Context) {
	b.sizes(ctx, b.makePair("small", small))
	b.rebuilt()
}

func (b *bench) largeSizes(ctx context.Context) { b.sizes(ctx, b.makePair("large", large)) }

// memoryOf500MB measures how much memory a file of 500 MB takes.
func (b *bench) memoryOf500MB(ctx context.Context) {
	defer b.tidy()
	p := b.makePair("memory", big)
	defer os.RemoveAll(b.path(p.name))
	try.Check(b.publish(p))
	b.rows(ctx, "memory: one file of 500 MB, rebuilt", b.applyRows(p))
}

// goVersions are two versions of Go, whose distributions are modules. The repository
// made none of their files.
var goVersions = [2]string{"1.26.7", "1.26.8"}

// golang compares on the Go distribution.
func (b *bench) golang(ctx context.Context) {
	p := pair{name: "go", old: b.path("go/old"), new: b.path("go/new")}
	p.what = fmt.Sprintf("the Go distribution for linux-%s, %s to %s", runtime.GOARCH, goVersions[0], goVersions[1])
	p.flags = []string{"--allow", "src/crypto/tls/testdata/example-key.pem", "--allow", "src/crypto/x509/platform_root_key.pem"} // public ones
	try.Check(os.MkdirAll(b.path("go"), 0o755))
	for i, tree := range []string{p.old, p.new} {
		module := fmt.Sprintf("golang.org/toolchain@v0.0.1-go%s.linux-%s", goVersions[i], runtime.GOARCH)
		out, err := exec.CommandContext(ctx, "go", "mod", "download", "-json", module).Output()
		var answer struct{ Dir, Error string }
		if err := errors.Join(json.Unmarshal(out, &answer), err); err != nil {
			try.Failf("cannot download %s: %w %s", module, err, answer.Error)
		}
		output("cp", "-r", "--preserve=timestamps", answer.Dir, tree)
		output("chmod", "-R", "u+w", tree)
	}
	b.compare(ctx, p, "over the loopback interface")
}
