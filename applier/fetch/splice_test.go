package fetch

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// TestNeverSpliced holds that from two nodes with two files of one length comes one
// of them, or none: in any order of answers, breaks and damage.
func TestNeverSpliced(t *testing.T) {
	file, other := twins(900_000)
	var gotten [3]atomic.Int32
	t.Run("seeds", func(t *testing.T) {
		for seed := range 60 {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(1, uint64(seed)))
				var mu sync.Mutex
				roll := func(n int) int {
					mu.Lock()
					defer mu.Unlock()
					return random.IntN(n)
				}
				s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
					b, cut := file, 0
					if roll(3) == 0 {
						b = other
					}
					if roll(4) == 0 {
						b = bytes.Clone(b)
						b[roll(len(b))] ^= 1
					}
					if roll(2) == 0 {
						cut = 1 + roll(400_000)
					}
					serveAs(validators["two strong ETags"], w, r, n, b, cut)
				})
				opt := quick(spoolDir(t))
				for range 3 { // a later call continues with what an earlier one left
					f, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x"}, opt, file, other)
					if err != nil {
						gotten[2].Add(1)
						continue
					}
					got, err := io.ReadAll(f)
					f.Close()
					switch {
					case err != nil:
						t.Fatal(err)
					case bytes.Equal(got, file):
						gotten[0].Add(1)
					case bytes.Equal(got, other):
						gotten[1].Add(1)
					default:
						t.Fatal("the file is neither of the two")
					}
				}
			})
		}
	})
	t.Logf("%d of the one, %d of the other, %d failed", gotten[0].Load(), gotten[1].Load(), gotten[2].Load())
}
