package bootcheck

import (
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
)

// maxWorkers is how many work at once in Parallel, at most: one that hashes needs a buffer.
const maxWorkers = 16

// Parallel has work done by several goroutines at once: each gets a share of the numbers
// below n, one after the other. There are more of them than cores, as each waits for the
// disk, too; a disk wants to be asked for several things at once.
func Parallel(n int, work func(share iter.Seq[int])) {
	workers := min(8*morePlaces(), maxWorkers, n)
	defer fewerPlaces()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			work(func(yield func(int) bool) {
				for i := int(next.Add(1)) - 1; i < n && yield(i); i = int(next.Add(1)) - 1 {
				}
			})
		})
	}
	wg.Wait()
}

// places counts who works in parallel; cores is GOMAXPROCS without them.
var places struct {
	sync.Mutex
	callers, cores int
}

// morePlaces sees that each goroutine of Parallel has a place of GOMAXPROCS of its own, until
// fewerPlaces: one that waits for the disk keeps its place until Go sees that, which takes
// longer than to read a file.
func morePlaces() (cores int) {
	places.Lock()
	defer places.Unlock()
	if places.callers++; places.callers == 1 {
		places.cores = runtime.GOMAXPROCS(0)
		if places.cores == runtime.NumCPU() { // else a test wants the same order each time
			runtime.GOMAXPROCS(max(places.cores, maxWorkers))
		}
	}
	return places.cores
}

func fewerPlaces() {
	places.Lock()
	defer places.Unlock()
	if places.callers--; places.callers == 0 {
		runtime.GOMAXPROCS(places.cores)
	}
}
