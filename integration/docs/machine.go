package docs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// variant is a reader's device: it takes packages, and has a python3 and a curl.
var variant = debian.Variant{Dpkg: true, Packages: []string{"curl", "libpython3-stdlib", "python3-minimal"}}

// begin stands in the place of systemd: the root of the test machines is read-only,
// a reader's is not. What is written goes to the data disk and stays there.
const begin = `#!/bin/bash
for dir in usr etc root srv; do
	mkdir -p /data/root/$dir /data/root/.work/$dir
	mount -t overlay overlay -o lowerdir=/$dir,upperdir=/data/root/$dir,workdir=/data/root/.work/$dir /$dir ||
		echo "the machine of the documents: cannot make /$dir writable" >&2
done
mkdir -p /etc/ota /usr/local/bin /data/bundles /data/device-api
mount --bind /data/etc-ota /etc/ota
# dpkg's own: /var is new at each boot.
mkdir -p /data/dpkg/info /data/dpkg/updates /var/lib/dpkg
mount --bind /data/dpkg /var/lib/dpkg
if [ ! -e /var/lib/dpkg/status ]; then
	cp /usr/lib/dpkg-status /var/lib/dpkg/status
	for package in $(sed -n 's/^Package: //p' /var/lib/dpkg/status); do : >/var/lib/dpkg/info/$package.list; done
fi
exec /usr/lib/systemd/systemd.real "$@"
`

// bare is a machine that a reader could have: all of it can be written.
func bare(ctx context.Context) (_ debian.Overlay, err error) {
	defer try.End(&err)
	root := try.Get(variant.Root(ctx))
	systemd := try.Get(os.ReadFile(filepath.Join(root, "usr/lib/systemd/systemd")))
	status := try.Get(os.ReadFile(filepath.Join(root, "var/lib/dpkg/status")))
	return debian.Overlay{
		"/usr/lib/dpkg-status":          {Data: status},
		"/usr/lib/systemd/systemd.real": {Mode: 0o755, Data: systemd},
		"/usr/lib/systemd/systemd":      {Mode: 0o755, Data: []byte(begin)},
		"/usr/bin/rauc":                 {Mode: 0o755, Data: []byte("#!/bin/sh\n")}, // stands for the updater of the system
		// The agent serves the bundles.
		"/etc/hosts": {Data: []byte("127.0.0.1 localhost device updates.example.com\n::1 localhost\n")},
	}, nil
}

// quick is what makes the machine of a document quick: a version has to be well
// for a second, not for a minute.
const quick = `model = "x1"
reserve = "1MiB"
[trial]
stable = "1s"
deadline = "15s"
`

// prepare makes of m what the document's machine has to be. The application, the
// smallest device-api (testdata/tree), waits in tree/ on the workstation.
func prepare(ctx context.Context, m machine.Machine, w *workstation, kind string) (err error) {
	defer try.End(&err)
	repo := try.Get(debian.RepoDir())
	try.Check(os.CopyFS(filepath.Join(w.home, "tree"), os.DirFS(filepath.Join(repo, "integration/docs/testdata/tree"))))
	if kind != "device" {
		return nil
	}
	if r, err := m.Exec(ctx, "mkdir", "-p", machine.Store, machine.Etc+"/keys"); err != nil || r.Code != 0 {
		return fmt.Errorf("mkdir: %v, %s", err, r)
	}
	return m.WriteFile(ctx, machine.Etc+"/ota.toml", 0o644, []byte(quick))
}
