package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tope-ota/ota/integration/switchtest"
	"github.com/tope-ota/ota/integration/try"
)

// switches measures the switch and the durable commit.
func (b *bench) switches(ctx context.Context) {
	const rounds = 300
	figures := try.Get(switchtest.Measure(ctx, b.fresh(), rounds))
	fmt.Printf("\nSwitch and commit, %d times each, in turns\n\n| | median | p99 |\n|---|---|---|\n", rounds)
	for _, f := range figures {
		fmt.Printf("| %s | %.3f ms | %.3f ms |\n", f.Name, ms(f.Median), ms(f.P99))
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
