package scriptstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// A directory of programs with a space in its name, as scripts/package.sh has one in such a
// checkout, is one directory. Here go only says what it was asked for.
func TestMakeInDirectoryWithSpace(t *testing.T) {
	defer try.Fatal(t)
	tools, bin := t.TempDir(), filepath.Join(t.TempDir(), "my programs")
	try.Check(os.WriteFile(filepath.Join(tools, "go"), []byte("#!/bin/sh\nprintf '<%s>' \"$@\"\n"), 0o755))
	cmd := exec.Command("make", "-s", "-C", "../..", "build-amd64", "man", "VERSION=1", "BIN="+bin)
	cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"))
	out := string(try.Get(cmd.Output()))
	if _, err := os.Stat(bin + "/amd64"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out, "<"+bin+"/amd64/>"); n != 2 || !strings.Contains(out, "<"+bin+">") {
		t.Errorf("go is asked for %s", out)
	}
}
