// Command ota-test-fleet is a server with hawkBit's device API on a test machine, at its
// first argument. It assigns what the lines of the file assign in its second argument, a
// directory, say, "ID VERSION UPDATE URL", and keeps in the file said there what the device
// said, "ID EXECUTION/FINISHED DETAIL", a line each.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/integration/fleet/fake"
	"github.com/tope-ota/ota/integration/try"
)

func main() {
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "ota-test-fleet:", err)
		os.Exit(1)
	}
}

func serve(address, dir string) (err error) {
	defer try.End(&err)
	l := try.Get(net.Listen("tcp", address))
	s := fake.New(dir)
	s.Sleep("00:00:10")
	s.Token("TargetToken marker")
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := os.ReadFile(filepath.Join(dir, "assign"))
		var said strings.Builder
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			a := s.Find(f[0])
			if a == nil {
				a = s.Assign(fake.Action{ID: f[0], Version: f[1], Update: f[2], URL: f[3]})
			}
			for _, x := range s.Said(a) {
				for _, detail := range x.Details {
					fmt.Fprintf(&said, "%s %s/%s %s\n", a.ID, x.Execution, x.Finished, detail)
				}
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "said"), []byte(said.String()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		s.Config.Handler.ServeHTTP(w, r)
	}))
}
