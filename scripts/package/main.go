// Command package makes a package of what nfpm.yaml says: nfpm as a library, in a module
// of its own, so that what it needs is no dependency of the product.
//
//	usage: go run . FORMAT DIR   (scripts/package.sh sets what nfpm.yaml takes from the environment)
//
// FORMAT is deb, rpm, apk or ipk, or image for a container image of ota-bundle. It prints the name of the file in DIR.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/apk"
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/ipk"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: package FORMAT DIR")
		os.Exit(2)
	}
	file, err := build(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintf(os.Stderr, "package: cannot make a %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	fmt.Println(file)
}

// yocto has the names of the processors in the ipk that opkg takes on an image of Yocto:
// another one than those of Debian, and for 32 bits the calling convention is in it.
var yocto = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm7": "armv7ahf-vfp"}

// build makes the file in dir.
func build(format, dir string) (file string, err error) {
	if format == "image" {
		return image(dir)
	}
	text, err := os.ReadFile("nfpm.yaml")
	if err != nil {
		return "", err
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return "", err
	}
	// nfpm puts variables only into some of the fields.
	config, err := nfpm.ParseWithEnvMapping(strings.NewReader(os.ExpandEnv(string(text))), os.Getenv)
	if err != nil {
		return "", err
	}
	info, err := config.Get(format)
	if err != nil {
		return "", err
	}
	info = nfpm.WithDefaults(info)
	info.IPK.Arch = yocto[info.Arch]
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return "", err
	}
	file = filepath.Join(dir, packager.ConventionalFileName(info))
	out, err := os.Create(file + ".new")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	if err := errors.Join(packager.Package(info, out), out.Close()); err != nil {
		return "", err
	}
	return file, os.Rename(out.Name(), file)
}
