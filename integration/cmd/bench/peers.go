package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/tope-ota/ota/integration/daemon"
	"github.com/tope-ota/ota/integration/try"
)

// peers are other programs that bring a version from 1.0.0 to 1.1.0, those that are
// installed; stop ends their servers.
func (b *bench) peers(p pair) (rows []row, stop func()) {
	if _, err := exec.LookPath("ostree"); err != nil {
		fmt.Println("\nostree is not measured, it is missing: scripts/packages.sh bench")
	} else {
		rows = append(rows, b.ostree(p)...)
	}
	if _, err := exec.LookPath("rsync"); err != nil {
		fmt.Println("\nrsync is not measured, it is missing: scripts/packages.sh bench")
		return rows, func() {}
	}
	r, stop := b.rsync(p)
	return append(rows, r), stop
}

// ostree pulls a commit over HTTP and checks it out as deployments do, with hard links
// to its repository; with and without a static delta, its patches.
func (b *bench) ostree(p pair) []row {
	remote := filepath.Join(b.memory, p.name)
	in := func(repo string, args ...string) string {
		return output("ostree", append([]string{"--repo=" + repo}, args...)...)
	}
	ids := filepath.Join(b.dir, p.name, "commits")
	if _, err := os.Stat(remote); err != nil {
		in(remote, "init", "--mode=archive")
		var commits [2]string
		for i, tree := range []string{p.old, p.new} {
			commits[i] = in(remote, "commit", "-b", "app", "--tree=dir="+tree, "--owner-uid=0", "--owner-gid=0", "--no-xattrs")
		}
		in(remote, "static-delta", "generate", "--from="+commits[0], "--to="+commits[1])
		in(remote, "summary", "-u")
		try.Check(os.WriteFile(ids, []byte(commits[0]+" "+commits[1]), 0o644))
	}
	var old, new string
	try.Get(fmt.Sscan(string(try.Get(os.ReadFile(ids))), &old, &new))
	pull := func(flag string) result {
		dir := b.fresh()
		repo := filepath.Join(dir, "repo")
		in(repo, "init", "--mode=bare")
		for name, addr := range map[string]string{"near": b.direct, "origin": b.addr} {
			in(repo, "remote", "add", "--no-gpg-verify", name, "http://"+addr+"/dir/"+p.name)
		}
		in(repo, "pull", "near", old)
		in(repo, "checkout", "-H", old, filepath.Join(dir, "1.0.0"))
		return b.measure(dir, `ostree --repo=repo pull `+flag+` origin "$1" && ostree --repo=repo checkout -H "$1" 1.1.0 && sync -f .`, new)
	}
	return []row{
		{"`ostree pull`, `checkout`, update", func() result { return pull("--disable-static-deltas") }},
		{"the same with a static delta", func() result { return pull("") }},
	}
}

// rsync makes a version beside the old one from a daemon. It trusts sizes and times and
// hashes only what it transfers.
func (b *bench) rsync(p pair) (_ row, stop func()) {
	address := daemon.Address()
	_, port, _ := net.SplitHostPort(address)
	config := b.path("rsyncd.conf")
	try.Check(os.WriteFile(config, fmt.Appendf(nil, "use chroot = no\nuid = 0\ngid = 0\n[new]\npath = %s\n", p.new), 0o644))
	cmd := exec.Command("rsync", "--daemon", "--no-detach", "--config", config, "--address=127.0.0.1", "--port="+port)
	_, end := daemon.Start(cmd, address)
	var rate int64
	var trip time.Duration
	if b.addr != b.direct {
		rate, trip = slowRate, slowTrip
	}
	k := newLink(address, rate, trip)
	stop = func() {
		k.Close()
		end()
	}
	return row{"`rsync -az --link-dest`, update", func() result {
		dir := b.fresh()
		output("cp", "-a", p.old, filepath.Join(dir, "1.0.0"))
		before := k.received.Load()
		r := b.measure(dir, `rsync -az --link-dest="$PWD/1.0.0" "rsync://$1/new/" 1.1.0/ && sync -f .`, k.Addr().String())
		r.bytes, r.requests = k.received.Load()-before, 0
		return r
	}}, stop
}
