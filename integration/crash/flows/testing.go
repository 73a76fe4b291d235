package flows

import (
	"cmp"
	"context"
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Only is of each test that takes flows: see Chosen.
var Only = flag.String("crash.flow", "", "only these flows, with commas between them")

// Chosen are the flows that Only names; all, if it names none.
func Chosen(t testing.TB) (all []*Flow) {
	t.Helper()
	if *Only == "" {
		return slices.Concat(All, Odd)
	}
	for name := range strings.SplitSeq(*Only, ",") {
		f := Find(name)
		if f == nil {
			t.Fatalf("there is no flow %q", name)
		}
		all = append(all, f)
	}
	return all
}

var shared struct {
	sync.Once
	*World
	dir string
	err error
}

// Shared is one world for all tests of a program that calls Main, made when it is asked for.
func Shared(t testing.TB) *World {
	t.Helper()
	shared.Do(func() {
		if shared.dir, shared.err = Scratch(); shared.err == nil {
			shared.World, shared.err = NewWorld(context.Background(), shared.dir)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.World
}

// Main runs the tests, and removes what they shared.
func Main(m *testing.M) (code int) {
	code = m.Run()
	if shared.World != nil {
		shared.Close()
	}
	_ = os.RemoveAll(shared.dir)
	return code
}

// Scratch makes a directory for what is made and read many times: in memory, if it can
// be and TMPDIR says nothing else. The caller removes it.
func Scratch() (string, error) {
	if name, err := os.MkdirTemp(cmp.Or(os.Getenv("TMPDIR"), "/dev/shm"), "ota-crash-"); err == nil {
		return name, nil
	}
	return os.MkdirTemp("", "ota-crash-")
}
