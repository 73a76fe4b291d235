package scriptstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// A run of one fuzz target that ends as each row says: what go test printed then, and
// what scripts/fuzz.sh must make of it. The tree has a second target, which passes.
func TestFuzzScript(t *testing.T) {
	const progress = "fuzz: elapsed: 30s, execs: 420115 (11429/sec), new interesting: 1 (total: 137)\n"
	tests := []struct {
		name, output string
		code         int  // of go test
		fails        bool // the script, before the second target
	}{
		{"no fault", progress + "PASS\nok  \texample.org/a\t30.2s\n", 0, false},
		{"the time was up", progress + "--- FAIL: FuzzA (30.14s)\n    context deadline exceeded\nFAIL\nexit status 1\nFAIL\texample.org/a\t30.191s\n", 1, false},
		{"an input that fails", progress + "--- FAIL: FuzzA (0.02s)\n    --- FAIL: FuzzA (0.00s)\n        a_test.go:9: wrong\n    \n    Failing input written to testdata/fuzz/FuzzA/582528ddfad69eb5\n" +
			"    To re-run:\n    go test -run=FuzzA/582528ddfad69eb5\nFAIL\nexit status 1\nFAIL\texample.org/a\t0.03s\n", 1, true},
		{"an input that fails at the end of the time", progress + "--- FAIL: FuzzA (30.14s)\n    context deadline exceeded\nFAIL\n    Failing input written to testdata/fuzz/FuzzA/582528ddfad69eb5\n", 1, true},
		{"a target that says the same of its own", progress + "--- FAIL: FuzzA (30.14s)\n    a_test.go:9: context deadline exceeded\nFAIL\n", 1, true},
		{"a seed that fails", "--- FAIL: FuzzA (0.00s)\n    --- FAIL: FuzzA/seed#0 (0.00s)\n        a_test.go:9: wrong\nFAIL\nexit status 1\n", 1, true},
		{"a test that cannot be built", "# example.org/a\n./a_test.go:9:2: undefined: x\nFAIL\texample.org/a [build failed]\n", 1, true},
		{"a worker that hangs", progress + "--- FAIL: FuzzA (30.00s)\n    fuzzing process hung or terminated unexpectedly: exit status 2\nFAIL\n", 1, true},
	}
	defer try.Fatal(t)
	script := try.Get(filepath.Abs("../../scripts/fuzz.sh"))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer try.Fatal(t)
			dir := t.TempDir()
			write := func(name, text string, mode os.FileMode) {
				try.Check(os.WriteFile(filepath.Join(dir, name), []byte(text), mode))
			}
			write("a_test.go", "func FuzzA(f *testing.F) {}\n", 0o644)
			write("z_test.go", "func FuzzZ(f *testing.F) {}\n", 0o644)
			write("output", tt.output, 0o644)
			write("code", map[int]string{0: "0", 1: "1"}[tt.code], 0o644)
			write("go", "#!/bin/sh\ncase \"$*\" in *FuzzA*) cat output; exit $(cat code) ;; esac\necho \"ran $*\"\n", 0o755)
			cmd := exec.Command(script, "30s")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			if fails := err != nil; fails != tt.fails {
				t.Errorf("ended with %v, want a failure: %v\n%s", err, tt.fails, out)
			}
			if next := strings.Contains(string(out), "ran test . -run ^$ -fuzz ^FuzzZ$ -fuzztime 30s"); next == tt.fails {
				t.Errorf("the next target ran: %v\n%s", next, out)
			}
		})
	}
}
