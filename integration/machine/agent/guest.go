package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/tope-ota/ota/integration/try"
)

// guest is one session on the guest's side.
type guest struct {
	session string
	bootID  string
	cancels sync.Map // of the requests under way, by their IDs

	mu   sync.Mutex // of the writes to conn
	conn io.Writer
}

// Serve carries out the host's requests from conn until it ends or ctx does,
// and returns why. Programs that still run by then are killed. It closes conn.
func Serve(ctx context.Context, conn io.ReadWriteCloser, bootID string) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	g := &guest{session: rand.Text(), bootID: bootID, conn: conn}
	g.say(reply{})
	var tasks sync.WaitGroup
	err := readLines(conn, func(r request) {
		switch {
		case r.Op == "ping":
			g.say(reply{ID: r.ID})
		case r.To != g.session:
			// Meant for the boot or the agent before: the sender must learn that
			// they are gone.
			g.say(reply{})
		case r.Op == "cancel":
			if cancel, ok := g.cancels.Load(r.ID); ok {
				cancel.(context.CancelFunc)()
			}
		default:
			ctx, cancel := context.WithCancel(ctx)
			g.cancels.Store(r.ID, cancel)
			tasks.Go(func() {
				answer := execute(ctx, r)
				answer.ID = r.ID
				g.cancels.Delete(r.ID)
				cancel()
				g.say(answer)
			})
		}
	})
	cancel()
	tasks.Wait()
	return err
}

// say writes a line. That the stream broke is noticed by the reader.
func (g *guest) say(r reply) {
	r.Session, r.BootID = g.session, g.bootID
	line, err := encode(r)
	if err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conn.Write(line)
}

func execute(ctx context.Context, r request) (answer reply) {
	var err error
	switch r.Op {
	case "exec":
		answer, err = run(ctx, r.Argv)
	case "read":
		answer.Out, err = os.ReadFile(r.Path)
	case "write":
		err = writeFile(r.Path, fs.FileMode(r.Mode).Perm(), r.Data)
	default:
		err = fmt.Errorf("the agent does not know the operation %s", r.Op)
	}
	if err != nil {
		answer.Error = err.Error()
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			answer.Errno = int(errno)
		}
	}
	return answer
}

// A program of a test starts with this and nothing else: what the agent itself
// got from systemd (NOTIFY_SOCKET, INVOCATION_ID) would make it trust that it
// is the agent's service.
var cleanEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"LANG=C.UTF-8",
}

// outputDelay is how long the output of a program that ended is still waited
// for when something it left behind holds the pipe open. On a loaded machine what
// it wrote itself may take a second: then half a second lost it.
const outputDelay = 5 * time.Second

// run runs a program. Cancelled, it kills the program and everything in its process
// group.
func run(ctx context.Context, argv []string) (reply, error) {
	if len(argv) == 0 {
		return reply{}, errors.New("no program was named")
	}
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = cleanEnv
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputDelay
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return reply{}, err
	}
	// However Run ended, the program has, and no caller waits for one that ctx killed.
	code := cmd.ProcessState.ExitCode()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return reply{Out: out.Bytes(), Err: errOut.Bytes(), Code: code}, nil
}

// writeFile puts a file in its place. When it returns nil, its content, its mode
// and its name are on the disk.
func writeFile(path string, mode fs.FileMode, data []byte) (err error) {
	defer try.End(&err)
	if !filepath.IsAbs(path) {
		return fmt.Errorf("cannot write %q: the path is not absolute", path)
	}
	dir := filepath.Dir(path)
	try.Check(makeDirs(dir))
	f := try.Get(renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode)))
	defer f.Cleanup()
	try.Get(f.Write(data))
	try.Check(f.CloseAtomicallyReplace())
	return syncDir(dir)
}

// makeDirs makes dir and what is missing above it, each durable by the fsync of
// the directory that got the new name.
func makeDirs(dir string) (err error) {
	defer try.End(&err)
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		try.Check(makeDirs(filepath.Dir(dir)))
		err = os.Mkdir(dir, 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // a file of that name is found out by the command that makes something in it
	}
	try.Check(err)
	return syncDir(filepath.Dir(dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
