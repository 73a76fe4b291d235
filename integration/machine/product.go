package machine

import (
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// The key that signs the bundles of the tests. It is in the repository so that
// the same sources make the same bundles; no device may trust it.
//
//go:embed testdata/test.key
var testKey []byte

//go:embed testdata/test.pub
var testPub []byte

// model is what the bundles of the test machines are for.
const model = "test-machine"

// DeviceOverlay is what a device has more than a bare Debian: made by the real
// install.sh, so that what is tested is what is installed. It is made once; each caller
// gets its own.
func DeviceOverlay() (debian.Overlay, error) {
	o, err := deviceOverlay()
	return maps.Clone(o), err
}

var deviceOverlay = sync.OnceValues(func() (debian.Overlay, error) {
	return DeviceOverlayFor(context.Background(), debian.AMD64)
})

// DeviceOverlayFor is DeviceOverlay for a device that is not the usual one, with the programs as
// `make build` makes them for it.
func DeviceOverlayFor(ctx context.Context, a debian.Arch) (_ debian.Overlay, err error) {
	defer try.End(&err)
	repo := try.Get(debian.RepoDir())
	dir := try.Get(os.MkdirTemp("", "ota-install-"))
	defer os.RemoveAll(dir)
	bin, dest := filepath.Join(dir, "bin"), filepath.Join(dir, "root")
	for _, command := range [][]string{
		// One version for all commits: machines whose programs are the same share an image.
		{"make", "-s", "build-" + a.String(), "BIN=" + bin, "VERSION=test"},
		{"scripts/install.sh", "--destdir", dest, "--bin", filepath.Join(bin, a.String())},
	} {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Dir = repo
		try.Run(cmd)
	}
	overlay := try.Get(treeOverlay(dest))
	overlay.Add(ServiceOverlay())
	return overlay, nil
}

// ServiceOverlay is all that a device has before the product comes: the unit of its
// application.
func ServiceOverlay() debian.Overlay {
	o := debian.Overlay{"/etc/systemd/system/device-api.service": debian.Unit(deviceapi.Unit)}
	o.Enable("device-api.service", "multi-user.target")
	return o
}

// Deb makes the Debian package of a version, for amd64, in the directory dir; environment
// is added to that of scripts/package.sh.
func Deb(ctx context.Context, dir, version string, environment ...string) (file string, err error) {
	defer try.End(&err)
	cmd := exec.CommandContext(ctx, "scripts/package.sh", "amd64")
	cmd.Dir = try.Get(debian.RepoDir())
	cmd.Env = append(append(os.Environ(), "OUT="+dir, "BIN="+dir+"/bin", "VERSION="+version), environment...)
	try.Run(cmd)
	return filepath.Join(dir, "ota_"+version+"_amd64.deb"), os.RemoveAll(dir + "/bin")
}

// treeOverlay is the tree at dir, without what a guest has on its data disk.
func treeOverlay(dir string) (debian.Overlay, error) {
	overlay := debian.Overlay{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, failed error) (err error) {
		defer try.End(&err)
		try.Check(failed)
		rel := try.Get(filepath.Rel(dir, name))
		guest := "/" + rel
		switch {
		case guest == "/etc/ota" || guest == "/opt":
			return filepath.SkipDir
		case d.IsDir():
			return nil
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			overlay[guest] = debian.File{Link: target}
			return err
		case !d.Type().IsRegular():
			return fmt.Errorf("install.sh made %s, which is neither file nor link", guest)
		}
		info := try.Get(d.Info())
		data, err := os.ReadFile(name)
		overlay[guest] = debian.File{Mode: info.Mode().Perm(), Data: data}
		return err
	})
	return overlay, err
}

// Version is a version of device-api to make a bundle of.
type Version struct {
	Name    string // "1.2.0"
	Release int64
	Behave  deviceapi.Config // its way to be bad; zero: good
	Payload int              // bytes of content that does not compress

	// Script is a shell script in the place of the program; empty: the program.
	Script string
	// Spoil changes the version's tree before it is packed; nil: nothing does.
	Spoil func(dir string) error
}

// As is v, called otherwise.
func (v Version) As(name string, release int64) Version {
	v.Name, v.Release = name, release
	return v
}

// deviceAPI is the program in every version.
var deviceAPI = make(map[debian.Arch]func() ([]byte, error))

func init() {
	for _, a := range debian.Arches {
		deviceAPI[a] = sync.OnceValues(func() ([]byte, error) {
			return debian.ProgramFor(context.Background(), a, deviceapi.Package)
		})
	}
}

// Bundle makes the signed bundle of v for a device with that processor.
func Bundle(ctx context.Context, a debian.Arch, v Version) (_ []byte, err error) {
	defer try.End(&err)
	program := try.Get(deviceAPI[a]())
	dir := try.Get(os.MkdirTemp("", "ota-bundle-"))
	defer os.RemoveAll(dir)
	tree, out := filepath.Join(dir, "tree"), filepath.Join(dir, "x.ota")
	if v.Script != "" {
		program = []byte(v.Script)
	}
	try.Check(deviceapi.Tree(tree, v.Name, program, v.Behave, v.Payload))
	if v.Spoil != nil {
		try.Check(v.Spoil(tree))
	}
	var key minisign.PrivateKey
	try.Check(key.UnmarshalText(testKey))
	_, err = bundle.Create(ctx, out, bundle.Contents{
		Dir: tree, Version: v.Name, Models: []string{model}, Release: v.Release, Key: key,
		Level: bundle.LevelFast, // 40 times as fast as what a release gets, 10 % larger
	})
	try.Check(err)
	return os.ReadFile(out)
}
