// Command deb makes a Debian package of what nfpm.yaml says.
//
// It is nfpm without its other formats, and a module of its own, so that what it
// needs is no dependency of the product: `go run` of all of nfpm takes three times
// as long to build, and modules that not every module proxy has.
//
//	usage: go run . FILE.deb   (scripts/deb.sh sets what nfpm.yaml takes from the environment)
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: deb FILE.deb")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		os.Remove(os.Args[1])
		fmt.Fprintf(os.Stderr, "deb: cannot make %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func write(file string) error {
	text, err := os.ReadFile("nfpm.yaml")
	if err != nil {
		return err
	}
	// nfpm puts variables only into some of the fields.
	config, err := nfpm.ParseWithEnvMapping(strings.NewReader(os.ExpandEnv(string(text))), os.Getenv)
	if err != nil {
		return err
	}
	info, err := config.Get("deb")
	if err != nil {
		return err
	}
	if err := nfpm.PrepareForPackager(nfpm.WithDefaults(info), "deb"); err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	err = deb.Default.Package(info, out)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}
