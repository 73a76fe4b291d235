// Package daemon runs a real server on this machine for a test.
package daemon

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// Address is one of this machine's where nothing listens.
func Address() string {
	l := try.Get(net.Listen("tcp", "127.0.0.1:0"))
	try.Check(l.Close())
	return l.Addr().String()
}

// Start starts cmd and returns when something listens at address. The caller calls stop,
// which kills it; log is all that it has printed, valid after stop.
func Start(cmd *exec.Cmd, address string) (log *bytes.Buffer, stop func()) {
	log = new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = log, log
	try.Check(cmd.Start())
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return log, stop
		}
		if time.Now().After(end) {
			stop()
			try.Failf("%q does not answer at %s: %w\n%s", cmd.Args, address, err, fmt.Sprint(log))
		}
	}
}
