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
func (b *bench) tree(ctx context.Context, name string, s shape) error {
	p, err := b.makePair(name, s)
	if err != nil {
		return err
	}
	return b.compare(ctx, p, "over the loopback interface")
}

// slow compares on the small tree over a slow link.
func (b *bench) slow(ctx context.Context) (err error) {
	defer try.End(&err)
	p := try.Get(b.makePair("small", small))
	k := try.Get(newLink(b.direct, slowRate, slowTrip))
	defer func() {
		b.addr = b.direct
		k.Close()
	}()
	b.addr = k.Addr().String()
	return b.compare(ctx, p, fmt.Sprintf("over %.0f Mbit/s, %d ms there and back", slowRate/1e6, slowTrip.Milliseconds()))
}

func (b *bench) smallSizes(ctx context.Context) (err error) {
	defer try.End(&err)
	try.Check(b.sizes(ctx, try.Get(b.makePair("small", small))))
	return b.rebuilt()
}

func (b *bench) largeSizes(ctx context.Context) (err error) {
	defer try.End(&err)
	return b.sizes(ctx, try.Get(b.makePair("large", large)))
}

// memoryOf500MB measures how much memory a file of 500 MB takes.
func (b *bench) memoryOf500MB(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, b.tidy()) }()
	defer try.End(&err)
	p := try.Get(b.makePair("memory", big))
	defer os.RemoveAll(b.path(p.name))
	try.Check(b.publish(p))
	return b.rows(ctx, "memory: one file of 500 MB, rebuilt", b.applyRows(p))
}

// goVersions are two versions of Go, whose distributions are modules. The repository
// made none of their files.
var goVersions = [2]string{"1.26.7", "1.26.8"}

// golang compares on the Go distribution.
func (b *bench) golang(ctx context.Context) (err error) {
	defer try.End(&err)
	p := pair{name: "go", old: b.path("go/old"), new: b.path("go/new")}
	p.what = fmt.Sprintf("the Go distribution for linux-%s, %s to %s", runtime.GOARCH, goVersions[0], goVersions[1])
	p.flags = []string{"--allow", "src/crypto/tls/testdata/example-key.pem", "--allow", "src/crypto/x509/platform_root_key.pem"} // public ones
	try.Check(os.MkdirAll(b.path("go"), 0o755))
	for i, tree := range []string{p.old, p.new} {
		module := fmt.Sprintf("golang.org/toolchain@v0.0.1-go%s.linux-%s", goVersions[i], runtime.GOARCH)
		out, err := exec.CommandContext(ctx, "go", "mod", "download", "-json", module).Output()
		var answer struct{ Dir, Error string }
		if err := errors.Join(json.Unmarshal(out, &answer), err); err != nil {
			return fmt.Errorf("cannot download %s: %w %s", module, err, answer.Error)
		}
		try.Get(output("cp", "-r", "--preserve=timestamps", answer.Dir, tree))
		try.Get(output("chmod", "-R", "u+w", tree))
	}
	return b.compare(ctx, p, "over the loopback interface")
}
