package vm

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/try"
)

// qemu is one run of QEMU, from power on to power off.
type qemu struct {
	qmp   *qmp
	agent net.Conn // the agent's virtio-serial port

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone and its output was read
	err   error         // how it ended; valid after ended
}

// startQEMU starts program with args and the three connections that they
// name: file descriptors fdSerial, fdQMP and fdAgent. They are socket pairs, not
// named sockets, as QEMU would have to make those before anyone can connect.
func startQEMU(program string, args []string, log *agent.Console, onEvent func(string, json.RawMessage)) (_ *qemu, err error) {
	defer try.End(&err)
	var ours, theirs []*os.File
	defer func() {
		for _, f := range append(ours, theirs...) {
			f.Close()
		}
	}()
	for range 3 {
		fds := try.Get(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
		ours = append(ours, os.NewFile(uintptr(fds[0]), "host"))
		theirs = append(theirs, os.NewFile(uintptr(fds[1]), "qemu"))
	}
	conns := make([]net.Conn, len(ours))
	for i, f := range ours {
		conns[i] = try.Get(net.FileConn(f)) // a copy: f is closed above
	}
	serial, control, port := conns[0], conns[1], conns[2]

	program = try.Get(exec.LookPath(program))
	q := &qemu{agent: port, cmd: exec.Command(program, args...), ended: make(chan struct{})}
	q.cmd.ExtraFiles = theirs // 3, 4, 5
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr := try.Get(q.cmd.StderrPipe())
	started := make(chan error)
	go func() {
		// Pdeathsig comes when the thread that started QEMU ends, not the process.
		// This one lives for as long as QEMU, and dies with this program at the latest.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := q.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		var output sync.WaitGroup
		output.Go(func() { log.Copy("", serial) })
		output.Go(func() { log.Copy("[qemu] ", stderr) })
		output.Wait() // Wait closes the pipe
		q.err = q.cmd.Wait()
		for _, c := range conns {
			c.Close()
		}
		log.Note("QEMU has ended: %s", q.cmd.ProcessState)
		close(q.ended)
	}()
	if err := <-started; err != nil {
		for _, c := range conns {
			c.Close()
		}
		return nil, fmt.Errorf("cannot start QEMU: %w", err)
	}
	q.qmp = newQMP(control, onEvent)
	return q, nil
}

// Where startQEMU puts its connections.
const fdSerial, fdQMP, fdAgent = 3, 4, 5

// kill takes the power away and returns when QEMU is gone. SIGKILL, so that
// nothing in QEMU has a chance to finish; what it wrote to its files is written.
func (q *qemu) kill() {
	q.cmd.Process.Kill() // an error says that it has ended
	<-q.ended
}

func (q *qemu) gone() bool {
	select {
	case <-q.ended:
		return true
	default:
		return false
	}
}

// escape makes a path the value of an option of QEMU, where a comma ends one.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
