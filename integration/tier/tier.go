// Package tier is how much of the tests a run makes.
package tier

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
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

// A Tally is how many of each kind there were in each row, as of a flow. Several may add to
// it at once.
type Tally struct {
	mu   sync.Mutex
	rows map[string]map[string]int
}

// Add counts one more of a kind in a row, and in the row "all". A nil tally counts nothing.
func (t *Tally) Add(row, kind string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil {
		t.rows = make(map[string]map[string]int)
	}
	for _, row := range []string{row, "all"} {
		if t.rows[row] == nil {
			t.rows[row] = make(map[string]int)
		}
		t.rows[row][kind]++
	}
}

// All is how many of these kinds there were.
func (t *Tally) All(kinds ...string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, kind := range kinds {
		n += t.rows["all"][kind]
	}
	return n
}

// Table has a line for each row, the last is of all, and a column for each of kinds.
func (t *Tally) Table(kinds ...string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%s\t\n", strings.Join(kinds, "\t"))
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(t.rows)), func(row string) bool { return row == "all" })
	for _, row := range append(names, "all") {
		fmt.Fprintf(w, "%s\t", row)
		for _, kind := range kinds {
			fmt.Fprintf(w, "%d\t", t.rows[row][kind])
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // into memory
	return b.String()
}
