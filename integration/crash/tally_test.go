package crash

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/tier"
)

// A tally counts what came of each flow's points.
type tally struct {
	mu     sync.Mutex
	counts map[string]map[string]int
}

func (c *tally) add(o *outcome) {
	kind := "killed"
	if o.by != "" {
		kind = "twice"
	} else if o.errno != 0 {
		kind = "failed"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, row := range []string{o.flow.Name, "all"} {
		if c.counts == nil {
			c.counts = make(map[string]map[string]int)
		}
		if c.counts[row] == nil {
			c.counts[row] = make(map[string]int)
		}
		c.counts[row][kind]++
		if len(o.problems) > 0 {
			c.counts[row]["bad "+kind]++
		}
		c.counts[row][invariants.Result(o.problems)]++
	}
}

// String is a table, a line for each flow.
func (c *tally) String() string {
	columns := []string{"killed", "failed", "twice", "ok", "torn", "lie", "stuck"}
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s", "")
	for _, column := range columns {
		fmt.Fprintf(&b, "%8s", column)
	}
	for _, row := range slices.Sorted(maps.Keys(c.counts)) {
		if row != "all" {
			b.WriteString(c.row(row, columns))
		}
	}
	b.WriteString(c.row("all", columns))
	return b.String()
}

func (c *tally) row(name string, columns []string) string {
	s := fmt.Sprintf("\n%-24s", name)
	for _, column := range columns {
		s += fmt.Sprintf("%8d", c.counts[name][column])
	}
	return s
}

// tell prints an outcome and counts it.
func (c *tally) tell(t *testing.T, o *outcome) {
	c.add(o)
	if len(o.problems) > 0 {
		t.Error(o.story())
		return
	}
	if !o.read { // there are too many
		t.Log(o)
	}
}

// sum prints what was made of one kind of all that there are.
func (c *tally) sum(engine, kind string, all int, began time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tier.Sum(engine, c.counts["all"][kind], all, c.counts["all"]["bad "+kind], began)
}
