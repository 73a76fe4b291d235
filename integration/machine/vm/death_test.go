package vm_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/try"
)

// childDir makes this test binary the program that is killed: it starts a machine
// whose disk is in the folder, says so, and waits for its end.
const childDir = "OTA_VM_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	if _, err := vm.Start(context.Background(), vm.Options{Dir: dir}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

// running lists the processes that have path in their arguments.
func running(t *testing.T, path string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(path)) {
			found = append(found, f)
		}
	}
	return found
}

// A test binary that is killed, or that the deadline of `go test` ends, runs no
// clean-up at all.
func TestQEMUDiesWithItsProcess(t *testing.T) {
	defer try.Fatal(t)
	t.Parallel()
	machine.RequireVM(t, debian.AMD64)
	ctx := machine.Context(t)
	dir := t.TempDir()
	self := try.Get(os.Executable())
	child := exec.CommandContext(ctx, self)
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	out := try.Get(child.StdoutPipe())
	try.Check(child.Start())
	said, _ := bufio.NewReader(out).ReadString('\n')
	alive := running(t, dir)
	child.Process.Kill()
	child.Wait()
	if strings.TrimSpace(said) != "started" || len(alive) == 0 {
		t.Fatalf("the child said %q, and %q ran", said, alive)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // the kernel needs milliseconds
	defer cancel()
	err := machine.Poll(ctx, "QEMU to end with its process", func(context.Context) (bool, error) {
		return len(running(t, dir)) == 0, nil
	})
	if err != nil {
		t.Error(err)
	}
}
