// Package debtest tests the Debian package: what is in it, and what the real dpkg
// and a real systemd make of it on a device that runs.
package debtest

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// build makes the package in a directory of its own.
func build(version string, environment ...string) (deb string, err error) {
	defer try.End(&err)
	dir := try.Get(os.MkdirTemp(scratch, "deb-"))
	return machine.Deb(context.Background(), dir, version, append([]string{"SOURCE_DATE_EPOCH=1700000000", "TZ=UTC"}, environment...)...)
}

// scratch is for the packages, which several tests share.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "ota-debtest-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// The two packages of the tests: what is installed, and what it is upgraded to.
var (
	older = sync.OnceValues(func() (string, error) { return build("1.0.0") })
	newer = sync.OnceValues(func() (string, error) { return build("1.1.0+4.g0123456789ab") })
)

// TestReproducible: another directory, another time zone, another umask, and the
// same bytes.
func TestReproducible(t *testing.T) {
	defer try.Fatal(t)
	first := try.Get(older())
	again := try.Get(build("1.0.0", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8"))
	var sums [2][sha256.Size]byte
	for i, file := range []string{first, again} {
		data := try.Get(os.ReadFile(file))
		sums[i] = sha256.Sum256(data)
	}
	if sums[0] != sums[1] {
		out, _ := exec.Command("sh", "-c", "for d in "+first+" "+again+"; do dpkg-deb --ctrl-tarfile $d | tar -tv; dpkg-deb -c $d; done").CombinedOutput()
		t.Errorf("two builds are not the same:\n%s", out)
	}
}

// TestContents: the package holds exactly what install.sh installs, and the
// control files what dpkg must know.
func TestContents(t *testing.T) {
	defer try.Fatal(t)
	deb := try.Get(older())
	for name, want := range map[string]string{"Package": "ota", "Version": "1.0.0", "Architecture": "amd64", "Depends": "systemd (>= 247)"} {
		if got := strings.TrimSpace(try.Output(exec.Command("dpkg-deb", "--field", deb, name))); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	control := members(deb, "--ctrl-tarfile")
	for _, name := range []string{"postinst", "prerm", "postrm"} {
		text := control[name].data
		if !strings.HasPrefix(text, "#!/bin/sh\n") || strings.Contains(text, "@") {
			t.Errorf("%s is no finished script:\n%s", name, text)
		}
		if control[name].mode != 0o755 {
			t.Errorf("%s has the mode %o", name, control[name].mode)
		}
	}
	if _, ok := control["conffiles"]; ok {
		t.Error("there are conffiles: an upgrade would ask the operator")
	}

	// What install.sh puts in place, with what the package adds and moves.
	repo := try.Get(debian.RepoDir())
	root, bin := t.TempDir(), t.TempDir()
	for _, dir := range []string{"amd64", "man", "completions"} {
		try.Check(os.Mkdir(filepath.Join(bin, dir), 0o755))
	}
	for _, name := range []string{"amd64/ota-apply", "amd64/ota-guardian", "amd64/ota-bundle", "completions/ota-apply", "completions/ota-guardian", "completions/ota-bundle", "completions/ota-apply.fish", "completions/ota-guardian.fish", "completions/ota-bundle.fish",
		"completions/_ota-apply", "completions/_ota-guardian", "completions/_ota-bundle", "completions/ota", "completions/ota.fish", "completions/_ota",
		"man/ota-apply.1", "man/ota-bundle.1", "man/ota.toml.5", "man/ota.7", "man/ota-guardian.8"} {
		try.Check(os.WriteFile(filepath.Join(bin, name), nil, 0o755))
	}
	try.Run(exec.Command(filepath.Join(repo, "scripts/install.sh"), "--destdir", root, "--bin", bin+"/amd64", "--no-enable"))
	want := map[string]bool{"usr/share/doc/ota/ota-apply.cdx.json.gz": true, "usr/share/doc/ota/ota-bundle.cdx.json.gz": true, "usr/share/doc/ota/ota-guardian.cdx.json.gz": true,
		"usr/share/doc/ota/copyright": true, "usr/share/doc/ota/changelog.gz": true, "usr/share/lintian/overrides/ota": true}
	try.Check(filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ = filepath.Rel(root, name)
		switch {
		case name == "etc/ota/ota.toml":
			name = "usr/share/doc/ota/examples/ota.toml"
		case strings.HasPrefix(name, "usr/share/man/"):
			name += ".gz"
		}
		want[name] = true
		return nil
	}))
	got := members(deb, "--fsys-tarfile")
	for name, m := range got {
		switch {
		case m.dir:
			if m.mode != 0o755 {
				t.Errorf("%s/ has the mode %o", name, m.mode)
			}
			continue
		case !want[name]:
			t.Errorf("the package has %s, which install.sh does not install", name)
		}
		mode := int64(0o644)
		if strings.HasPrefix(name, "usr/bin/") || strings.HasPrefix(name, "usr/lib/ota/") {
			mode = 0o755
		}
		if m.mode != mode || m.owner != "root:root 0:0" {
			t.Errorf("%s belongs to %s with the mode %o, want root with %o", name, m.owner, m.mode, mode)
		}
		if m.time != 1700000000 {
			t.Errorf("%s is of the time %d, not that of the commit", name, m.time)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("the package lacks %s", name)
	}
	for _, dir := range []string{"etc/ota/keys", "etc/ota/checks.d/required", "etc/ota/checks.d/wanted"} {
		if !got[dir].dir {
			t.Errorf("the package lacks the directory %s", dir)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "opt") {
			t.Errorf("the package owns %s: dpkg would remove it", name)
		}
	}
	// What the authors of what is linked want to be said.
	for _, module := range []string{"\nGo\n", "github.com/klauspost/compress v", "github.com/BurntSushi/toml v", "Redistribution and use"} {
		if !strings.Contains(got["usr/share/doc/ota/copyright"].data, module) {
			t.Errorf("the copyright file lacks %q", module)
		}
	}
}

// TestLintian: Debian's own checker finds nothing that scripts/package/lintian-overrides does
// not explain, and each line of that is still needed.
func TestLintian(t *testing.T) {
	defer try.Fatal(t)
	machine.Require(t, "package", debian.MissingTools("lintian"))
	lintian := func(deb string) (string, error) {
		cmd := exec.Command("lintian", "--no-cfg", "--profile", "debian", "--fail-on", "error,warning", "--display-info", "--tag-display-limit", "0", deb)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	deb := try.Get(older())
	if out, err := lintian(deb); err != nil || strings.Contains(out, "-override") {
		t.Errorf("lintian: %v\n%s", err, out)
	}

	// Without what explains it there is something to be said, so that it does look.
	root, bare := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "ota_1.0.0_amd64.deb")
	for _, args := range [][]string{
		{"dpkg-deb", "--raw-extract", deb, root},
		{"rm", "-r", root + "/usr/share/lintian", root + "/usr/bin"}, // the programs take it most of the time
		{"dpkg-deb", "--root-owner-group", "--build", root, bare},
	} {
		try.Run(exec.Command(args[0], args[1:]...))
	}
	if out, err := lintian(bare); err == nil || !strings.Contains(out, "W: ota: maintainer-script-calls-systemctl") {
		t.Errorf("lintian has nothing to say of a package that explains nothing: %v\n%s", err, out)
	}
}

type member struct {
	data, owner string
	mode, time  int64
	dir         bool
}

func members(deb, part string) map[string]member {
	out := try.Output(exec.Command("dpkg-deb", part, deb))
	all := map[string]member{}
	for r := tar.NewReader(strings.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		try.Check(err)
		data := try.Get(io.ReadAll(r))
		all[filepath.Clean(h.Name)] = member{
			data: string(data), owner: fmt.Sprintf("%s:%s %d:%d", h.Uname, h.Gname, h.Uid, h.Gid),
			mode: h.Mode & 0o7777, time: h.ModTime.Unix(), dir: h.Typeflag == tar.TypeDir,
		}
	}
}

// TestVersion: what scripts/version.sh makes of a history.
func TestVersion(t *testing.T) {
	defer try.Fatal(t)
	repo := try.Get(debian.RepoDir())
	dir := t.TempDir()
	script := filepath.Join(dir, "scripts/version.sh")
	run := func(command string) string {
		cmd := exec.Command("sh", "-ec", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x@x", "GIT_COMMITTER_NAME=x", "GIT_COMMITTER_EMAIL=x@x",
			"GIT_AUTHOR_DATE=2026-11-26T23:30:00Z", "GIT_COMMITTER_DATE=2026-11-26T23:30:00Z", "TZ=Asia/Tokyo")
		return strings.TrimSpace(try.Run(cmd))
	}
	run("mkdir scripts && cp " + repo + "/scripts/version.sh scripts/")
	var versions []string
	for _, row := range []struct{ what, do, want string }{
		{"no git", "true", "0~unknown"},
		{"no tag", "git init -q . && git add . && git commit -qm x", "0~20261126."},
		{"a change that is not committed", "echo x >>scripts/x; git add .", ".dirty"},
		{"a candidate", "git commit -qm y && git tag v1.2.0-rc1", "1.2.0~rc1"},
		{"after it", "git commit --allow-empty -qm z", "1.2.0~rc1+1.g"},
		{"a release", "git tag v1.2.0", "1.2.0"},
		{"after it", "git commit --allow-empty -qm z; git commit --allow-empty -qm z", "1.2.0+2.g"},
		{"another tag", "git commit --allow-empty -qm z; git tag nightly", "1.2.0+3.g"},
	} {
		run(row.do)
		got := run(script)
		if row.want != got && !(strings.HasSuffix(row.want, "g") || strings.HasSuffix(row.want, ".")) && row.want != ".dirty" || !strings.Contains(got, row.want) {
			t.Errorf("%s: %q, want %q", row.what, got, row.want)
		}
		if out, err := exec.Command("dpkg", "--validate-version", got).CombinedOutput(); err != nil {
			t.Errorf("%s: dpkg does not take %q: %s", row.what, got, out)
		}
		if len(versions) > 1 && row.what != "a change that is not committed" {
			last := versions[len(versions)-1]
			if err := exec.Command("dpkg", "--compare-versions", last, "lt", got).Run(); err != nil {
				t.Errorf("%s: dpkg says that %s is not newer than %s", row.what, got, last)
			}
		}
		versions = append(versions, got)
	}
	if got := run(script + " --time"); got != "1795735800" {
		t.Errorf("the time of the commit is %s", got)
	}
}

// TestArguments: one clear line for what is wrong, before anything is built.
func TestArguments(t *testing.T) {
	defer try.Fatal(t)
	repo := try.Get(debian.RepoDir())
	for _, row := range []struct{ arg, version, want string }{
		{"mips", "1.0.0", "error: unknown architecture mips"},
		{"amd64", "v1.0", "error: the version of a package begins with a digit, not v1.0"},
		{"amd64", "1.0-1", "error: 1.0-1 cannot be the version of a package"},
	} {
		cmd := exec.Command(filepath.Join(repo, "scripts/package.sh"), row.arg)
		cmd.Env = append(os.Environ(), "VERSION="+row.version, "OUT="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.HasPrefix(string(out), row.want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("package.sh %s, version %s: %v, %q; want %q", row.arg, row.version, err, out, row.want)
		}
	}
}
