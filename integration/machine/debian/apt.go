package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// aptConf is apt's configuration: lists, archives and an (empty) package status of its
// own, so that neither the host's release nor its packages nor its hooks matter.
const aptConf = `
Dir::State "%[1]s";
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
`

// unpackScript adds the files of packages to the tree $1, without those in the
// directories $2, and says in the status $3 (empty: nowhere) that they are installed. The
// tree has a merged /usr, which not all packages know of. apt has checked each package
// against the signed lists.
const unpackScript = `umask 022
root=$1 leftout=$2 status=$3
shift 3
for l in bin sbin lib lib64; do mkdir -p "$root/usr/$l"; ln -s "usr/$l" "$root/$l"; done
for deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x -p -C "$root" --keep-directory-symlink --no-same-owner -X "$leftout"
	[ -z "$status" ] || { dpkg-deb --field "$deb" | sed 's/^Package: .*/&\nStatus: install ok installed/'; echo; } >>"$status"
done`

// output is what a program prints; an error says what it complained about. Ten minutes
// are for a mirror at 200 kB/s, the kernel's 70 MB included.
func output(ctx context.Context, dir string, env []string, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	tool, err := LookTool(argv[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, tool, argv[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%.200s: %w\n%s", strings.Join(argv, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// fetch unpacks Debian packages into root: of all that names depend on, those that pick
// takes, as "libc6=2.36-9". The lists are always fetched again: old ones name versions
// that the mirrors no longer have. status: see unpackScript.
func fetch(ctx context.Context, v Variant, root string, names, leftOut []string, status string, pick func(all []string) []string) (_ []string, err error) {
	defer try.End(&err)
	dir := try.Get(os.MkdirTemp(filepath.Dir(root), "apt-"))
	defer os.RemoveAll(dir)
	mirror := strings.TrimSuffix(os.Getenv("OTA_DEBIAN_MIRROR"), "/")
	if mirror == "" {
		mirror = defaultMirror
	}
	var sources strings.Builder
	for _, s := range []string{"debian %s", "debian %s-updates", "debian-security %s-security"} {
		fmt.Fprintf(&sources, "deb [signed-by=%s arch=%s %s] %s/"+s+" main\n", keyring, v.Arch, suites[v.Suite].options, mirror, v.Suite)
	}
	// Of the host's configuration how to reach the network is taken over.
	network := try.Get(output(ctx, "", nil, "apt-config", "dump", "--no-empty",
		"Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::ForceIPv4"))
	for name, text := range map[string]string{
		"apt.conf": string(network) + fmt.Sprintf(aptConf, dir, v.Arch), "sources.list": sources.String(), "status": "",
		"lists/partial/.here": "", "cache/archives/partial/.here": "", "debs/.here": "", "left-out": strings.Join(leftOut, "\n") + "\n",
	} {
		try.Check(writeFile(filepath.Join(dir, name), 0o644, []byte(text)))
	}
	apt := func(args ...string) ([]byte, error) {
		return output(ctx, filepath.Join(dir, "debs"), []string{"APT_CONFIG=" + dir + "/apt.conf", "LC_ALL=C"}, append([]string{"apt-get", "-qq"}, args...)...)
	}
	try.Get(apt("update"))
	out := try.Get(apt(append([]string{"install", "-s"}, names...)...))
	var all []string
	for line := range strings.Lines(string(out)) {
		// Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) [other packages]
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "Inst" {
			all = append(all, f[1]+"="+strings.TrimPrefix(f[2], "("))
		}
	}
	slices.Sort(all)
	if all = pick(all); len(all) == 0 {
		return nil, fmt.Errorf("apt-get -s install %s named no package; it said:\n%s", strings.Join(names, " "), out)
	}
	try.Get(apt(append([]string{"download"}, all...)...))
	debs := try.Get(filepath.Glob(filepath.Join(dir, "debs", "*.deb")))
	_, err = output(ctx, "", nil, append([]string{"bash", "-euo", "pipefail", "-c", unpackScript, "unpack", root, filepath.Join(dir, "left-out"), status}, debs...)...)
	return all, err
}

// named are those of all whose names are, or are not, some.
func named(all []string, is bool, some ...string) []string {
	return slices.DeleteFunc(all, func(p string) bool {
		name, _, _ := strings.Cut(p, "=")
		return slices.Contains(some, name) != is
	})
}

// Tools returns a directory with the files of Debian packages of Debian 12 for amd64, without those
// that they depend on: programs for a test to run, on this machine or in a guest.
// Nothing is installed, so no service is started by it.
func Tools(ctx context.Context, packages ...string) (dir string, err error) {
	dir, err = Entry(ctx, "tools-"+Hash(packages...), func(ctx context.Context, dir string) error {
		_, err := fetch(ctx, Variant{}, filepath.Join(dir, "root"), packages, nil, "", func(all []string) []string { return named(all, true, packages...) })
		return err
	})
	return filepath.Join(dir, "root"), err
}
