// Package tier is how much of the tests a run makes.
package tier

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// OTA_TESTS in the environment says how much of what there is much of a run makes:
//
//	check    what every device goes through, and a small sample of the rest
//	deep     more of it, and of the rest a larger sample; also if it is not set
//	nightly  all, for hours
var (
	Check   = os.Getenv("OTA_TESTS") == "check"
	Nightly = os.Getenv("OTA_TESTS") == "nightly"
)

// Of is how much this run makes of something.
func Of(check, deep, nightly int) int {
	switch {
	case Check:
		return check
	case Nightly:
		return nightly
	}
	return deep
}

// Seed is that of the samples of this run: the same all day (UTC), so that a failure is
// there when it is looked for, and others the next day. OTA_SEED in the environment, a
// number, is another one.
func Seed(t testing.TB) uint64 {
	t.Helper()
	y, m, d := time.Now().UTC().Date()
	seed := uint64(y*10000 + int(m)*100 + d)
	if text := os.Getenv("OTA_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("OTA_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("OTA_SEED=%d", seed)
	return seed
}

// Sum prints what an engine made, in a line that is added up over a tier: made of all
// points there are, some of which failed, since began.
func Sum(engine string, made, all, failed int, began time.Time) {
	fmt.Printf("crash: %s: %d of %d points, %d failed, %.0f s\n", engine, made, all, failed, time.Since(began).Seconds())
}
