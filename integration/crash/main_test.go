package crash

import (
	"context"
	"flag"
	"os"
	"testing"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/tier"
)

var (
	pointFlag  = flag.Int("crash.point", 0, "only this point of -crash.flow, with its log")
	readFlag   = flag.Bool("crash.read", false, "the point is a call that looks at the disk")
	errnoFlag  = flag.String("crash.errno", "", "at the point the call fails with this, as EIO; empty: all is killed")
	onFlag     = flag.Bool("crash.on", false, "with -crash.errno: every later call fails, too")
	byFlag     = flag.String("crash.by", "", "after the kill, kill this, too: boot, or again for the same command")
	secondFlag = flag.Int("crash.second", 1, "with -crash.by: the point of the second kill")
	procsFlag  = flag.Int("crash.procs", 1, "GOMAXPROCS of the programs")
)

// nightly: all points, not a sample.
var nightly = tier.Nightly

func TestMain(m *testing.M) { os.Exit(flows.Main(m)) }

var lab *Lab

// theLab is one for all tests here, in memory: what is tested is no disk.
func theLab(t *testing.T) *Lab {
	t.Helper()
	machine.Require(t, "supervisor", crashpoint.Missing())
	if w := flows.Shared(t); lab == nil {
		lab = NewLab(w)
		lab.doubts = tier.Of(0, 0, 10)
	}
	return lab
}

// inParallel calls f for each of all, perCore at once, until one fails.
func inParallel[T any](t *testing.T, perCore int, all []T, f func(context.Context, T) error) {
	t.Helper()
	if err := each(machine.Context(t), perCore, all, f); err != nil {
		t.Fatal(err)
	}
}
