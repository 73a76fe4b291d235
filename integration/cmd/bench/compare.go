package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/try"
)

// pair is two versions of a tree, packed and published.
type pair struct {
	name     string
	what     string   // for the title
	old, new string   // the trees
	one      string   // new with one small file changed; empty: there is none
	flags    []string // of ota-bundle create
}

// makePair makes the two versions of a tree.
func (b *bench) makePair(name string, s shape) pair {
	p := pair{name: name, old: b.path(name + "/old"), new: b.path(name + "/new")}
	if s.files > 1 {
		p.one = b.path(name + "/one")
	}
	if _, err := os.Stat(p.old); err != nil {
		m := newMaterial(seed, goroot(), "/usr/bin", "/usr/lib", "/usr/share")
		c := s.make(p.old, p.new, m, seed)
		if p.one != "" {
			fmt.Printf("\n%s: %d files are kept, %d patched, %d replaced, %d moved, %d removed, %d added.\n",
				name, c.kept, c.patched, c.replaced, c.moved, c.removed, c.added)
			editOne(p.new, p.one)
		}
	}
	p.what = fmt.Sprintf("%.0f MB, %d files, one seed", float64(s.bytes())/1e6, s.files)
	return p
}

// seed decides what the trees are.
const seed = 17

// pack makes a bundle of the pair, unless there is one.
func (b *bench) pack(p pair, version string) {
	if _, err := os.Stat(b.bundle(p, version)); err != nil {
		b.ota("ota-bundle", b.create(p, version, b.bundle(p, version))...)
	}
}

// create are the arguments of ota-bundle that make the bundle name.
func (b *bench) create(p pair, version, name string) []string {
	tree := map[string]string{"1.0.0": p.old, "1.1.0": p.new, "1.1.1": p.one}[version]
	return append([]string{"create", "--dir", tree, "--version", version, "--model", "x1", "--release", "0", "--key", b.path("release.key"), "-o", name}, p.flags...)
}

func (b *bench) bundle(p pair, version string) string {
	return b.path(p.name + "/" + version + ".ota")
}

// tarball is what the pipe unpacks.
func (b *bench) tarball(p pair) string { return b.path(p.name + "/new.tar.zst") }

func (b *bench) makeTarball(p pair) (err error) {
	defer try.End(&err)
	if _, err := os.Stat(b.tarball(p)); err != nil {
		output("bash", "-ec", `set -o pipefail; tar -C "$0" -c --sort=name . | zstd -q -19 -o "$1"`, p.new, b.tarball(p))
	}
	return nil
}

// patch makes the patch between two versions, unless there is one, and returns its name.
func (b *bench) patch(p pair, from, to string) string {
	pattern := b.bundle(p, to) + ".from/*.otp"
	names := try.Get(filepath.Glob(pattern))
	if len(names) == 0 {
		b.ota("ota-bundle", "patch", "--key", b.path("release.key"), b.bundle(p, from), b.bundle(p, to))
		names = try.Get(filepath.Glob(pattern))
	}
	if len(names) != 1 {
		try.Failf("patches of %s: %q", b.bundle(p, to), names)
	}
	return names[0]
}

// publish packs a pair and lets the server have it: with patches below /patched/,
// without below /plain/.
func (b *bench) publish(p pair) (err error) {
	defer try.End(&err)
	b.pack(p, "1.0.0")
	steps := [][2]string{{"1.0.0", "1.1.0"}}
	if p.one != "" {
		steps = append(steps, [2]string{"1.1.0", "1.1.1"})
	}
	for _, step := range steps {
		b.pack(p, step[1])
		patch := b.patch(p, step[0], step[1])
		data := try.Get(os.ReadFile(b.bundle(p, step[1])))
		b.server.publish("/plain/"+step[1]+".ota", data)
		b.server.publish("/patched/"+step[1]+".ota", data)
		b.server.publish("/patched/"+step[1]+".ota.from/"+filepath.Base(patch), try.Get(os.ReadFile(patch)))
	}
	return nil
}

// install measures an install of what is published into store.
func (b *bench) install(store, path string) result {
	return b.measure(store, `exec "$@"`, b.program("ota-apply"), "install", "--no-activate",
		"--config", b.path("ota.toml"), "--root", store, "http://"+b.addr+path)
}

// whole measures an install into an empty store.
func (b *bench) whole() result { return b.install(b.fresh(), "/plain/1.1.0.ota") }

// update measures an install into a store in which from is current.
func (b *bench) update(p pair, from, path string) result {
	dir := b.fresh()
	b.ota("ota-apply", "install", "--no-activate", "--config", b.path("ota.toml"), "--root", dir, b.bundle(p, from))
	confirm(dir, from)
	return b.install(dir, path)
}

// confirm makes version, which is in the store at root, the current version, confirmed.
func confirm(root, version string) {
	store := try.Get(bootcheck.Open(root))
	snapshot := try.Get(store.Snapshot(version))
	r := &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: &snapshot.Ref}
	r.Confirm(snapshot.Ref)
	try.Check(store.Commit(r))
}

// applyRows measure ota-apply.
func (b *bench) applyRows(p pair) []row {
	rows := []row{
		{"`ota-apply install`, whole", b.whole},
		{"the same, update", func() result { return b.update(p, "1.0.0", "/plain/1.1.0.ota") }},
		{"the same, update with a patch", func() result { return b.update(p, "1.0.0", "/patched/1.1.0.ota") }},
	}
	if p.one != "" {
		rows = append(rows, row{"the same, one small file changed", func() result { return b.update(p, "1.1.0", "/patched/1.1.1.ota") }})
	}
	return rows
}

// compare measures what brings a tree, or its next version, onto a disk; over is what
// is between server and disk.
func (b *bench) compare(ctx context.Context, p pair, over string) {
	defer b.tidy()
	packed := make(chan error)
	go func() { packed <- b.makeTarball(p) }() // on one core, for minutes
	try.Check(errors.Join(b.publish(p), <-packed))
	b.server.publish("/new.tar.zst", try.Get(os.ReadFile(b.tarball(p))))
	pipe := row{"`curl \\| zstd -d \\| tar x && sync -f .`, whole", func() result {
		return b.measure(b.fresh(), `curl -sSf "$1" | zstd -qdc | tar x && sync -f .`, "http://"+b.addr+"/new.tar.zst")
	}}
	peers, stop := b.peers(p)
	defer stop()
	title := fmt.Sprintf("%s: %s, %s, from a server in memory (Go's net/http), cold cache, until durable", p.name, p.what, over)
	b.rows(ctx, title, slices.Concat([]row{pipe}, b.applyRows(p), peers))
}
