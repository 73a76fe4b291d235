package debian

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// A pkg is one Debian package at one version.
type pkg struct{ name, version string }

func (p pkg) String() string { return p.name + "=" + p.version }

// file finds the package in dir by the name that apt-get download gives it; empty: it
// is not there.
func (p pkg) file(dir string, a Arch) string {
	for _, of := range []string{a.String(), "all"} {
		name := p.name + "_" + strings.ReplaceAll(url.PathEscape(p.version), ":", "%3a") + "_" + of + ".deb"
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

// apt runs apt-get with a configuration, lists and (empty) package status of its
// own, so that neither the host's release nor its packages nor its hooks matter.
// Of the host's configuration only how to reach the network is taken over.
type apt struct {
	arch Arch
	dir  string // in the cache
	debs string // downloaded packages
}

// newApt makes the state folder and fetches the lists. They are always fetched
// anew: old ones name versions that the mirrors no longer have. The state folder is
// the caller's until it calls unlock.
func newApt(ctx context.Context, suite Suite, of Arch) (a *apt, unlock func(), err error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, nil, err
	}
	// The lists of one suite and processor do for no other.
	name := fmt.Sprintf("apt-%s-%s", suite, of)
	a = &apt{arch: of, dir: filepath.Join(cache, name), debs: filepath.Join(cache, "debs")}
	release, err := lock(ctx, filepath.Join(cache, ".apt.lock"))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	for _, d := range []string{a.debs, a.dir + "/lists/partial", a.dir + "/cache/archives/partial"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, nil, err
		}
	}
	left, _ := filepath.Glob(a.debs + "/.new*") // of a killed run
	for _, dir := range left {
		os.RemoveAll(dir)
	}
	mirror := strings.TrimSuffix(os.Getenv("OTA_DEBIAN_MIRROR"), "/")
	if mirror == "" {
		mirror = defaultMirror
	}
	var sources strings.Builder
	for _, s := range []string{"debian %s", "debian %s-updates", "debian-security %s-security"} {
		fmt.Fprintf(&sources, "deb [signed-by=%s arch=%s %s] %s/"+s+" main\n", keyring, of, suites[suite].options, mirror, suite)
	}
	// apt-config prints the host's settings in the syntax of apt.conf.
	network, err := exec.CommandContext(ctx, "apt-config", "dump", "--no-empty",
		"Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::ForceIPv4").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the host's apt configuration: %w", err)
	}
	conf := string(network) + fmt.Sprintf(`
Dir::State "%[1]s";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
`, a.dir, of)
	for name, text := range map[string]string{"apt.conf": conf, "sources.list": sources.String(), "status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			return nil, nil, err
		}
	}
	if _, err := a.run(ctx, a.dir, "update", "-qq"); err != nil {
		return nil, nil, err
	}
	return a, release, nil
}

// run starts apt-get in dir and returns its stdout. Ten minutes is for a mirror
// at 200 kB/s, the kernel's 70 MB included.
func (a *apt) run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.dir+"/apt.conf", "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// closure is names and all that they depend on, by an installation that is only
// simulated, into a system without any package; sorted by name.
func (a *apt) closure(ctx context.Context, names ...string) ([]pkg, error) {
	out, err := a.run(ctx, a.dir, append([]string{"install", "-s", "-qq"}, names...)...)
	if err != nil {
		return nil, err
	}
	var all []pkg
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		// Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) [other packages]
		f := strings.Fields(s.Text())
		if len(f) >= 3 && f[0] == "Inst" && strings.HasPrefix(f[2], "(") {
			all = append(all, pkg{f[1], f[2][1:]})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("apt-get -s install %s named no package; it said:\n%s", strings.Join(names, " "), out)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	return all, nil
}

// download gets what is not yet in the cache and returns the files, in the order
// of pkgs. apt has checked each against the signed lists before it has its name.
func (a *apt) download(ctx context.Context, pkgs []pkg) ([]string, error) {
	var want []string
	for _, p := range pkgs {
		if p.file(a.debs, a.arch) == "" {
			want = append(want, p.String())
		}
	}
	if len(want) > 0 {
		tmp, err := os.MkdirTemp(a.debs, ".new")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(tmp)
		if _, err := a.run(ctx, tmp, append([]string{"download", "-qq"}, want...)...); err != nil {
			return nil, err
		}
		got, err := os.ReadDir(tmp)
		if err != nil {
			return nil, err
		}
		for _, e := range got {
			if err := os.Rename(filepath.Join(tmp, e.Name()), filepath.Join(a.debs, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	files := make([]string, 0, len(pkgs))
	for _, p := range pkgs {
		file := p.file(a.debs, a.arch)
		if file == "" {
			return nil, fmt.Errorf("apt-get download left no file for %s, %s", p, a.arch)
		}
		files = append(files, file)
	}
	return files, nil
}

// list is pkgs as text, one a line: what packages.txt holds and what is hashed.
func list(pkgs []pkg) string {
	var b strings.Builder
	for _, p := range pkgs {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}
