package report

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkInstall is 10,000 reports in an install of 40 MiB in 300 files (hashed,
// written, synced), to every endpoint that could hold it up, in turn. For each it
// gives the time that the caller spent in the calls beyond that without an endpoint,
// in percent of the install's time: medians of seven runs. What a real install tells
// is a hundred reports.
func BenchmarkInstall(b *testing.B) {
	rows := []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request, n int)
	}{
		{name: "nobody"},
		{name: "dead"},
		{"quick", func(w http.ResponseWriter, r *http.Request, n int) {}},
		{"hanging", func(w http.ResponseWriter, r *http.Request, n int) { <-r.Context().Done() }},
		{"1B/s", aByteASecond},
		{"redirecting", func(w http.ResponseWriter, r *http.Request, n int) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}},
		{"1GB", oneGigabyte},
	}
	data := make([]byte, 40<<20/300)
	rand.NewChaCha8([32]byte{}).Read(data)
	totals, calls := []float64{}, make([][]float64, len(rows))
	const rounds = 7
	for b.Loop() {
		for range rounds {
			for i, row := range rows {
				url, state := "", filepath.Join(stateDir(b), "progress.json")
				switch {
				case row.answer != nil:
					url = newEndpoint(b, row.answer).URL
				case row.name == "dead":
					url = deadAddress(b)
				default:
					state = ""
				}
				r := New(url, state)
				total, spent := work(b, r, data)
				calls[i] = append(calls[i], spent.Seconds())
				if i == 0 {
					totals = append(totals, total.Seconds())
				}
				r.Close(b.Context())
			}
		}
	}
	b.ReportMetric(0, "ns/op") // the time of all of them says nothing
	for i, row := range rows[1:] {
		b.ReportMetric(100*(median(calls[i+1])-median(calls[0]))/median(totals), row.name+"-%")
	}
	b.ReportMetric(1000*median(totals), "ms/install")
}

// work is an install that makes 10,000 reports, and how long it was in them.
func work(b *testing.B, r *Reporter, data []byte) (total, spent time.Duration) {
	const files, reports = 300, 10_000
	dir := b.TempDir()
	told := 0
	begin := time.Now()
	for i := range files {
		sum := sha256.Sum256(data)
		name := filepath.Join(dir, fmt.Sprintf("%d-%x", i, sum[:4]))
		if err := os.WriteFile(name, data, 0o644); err != nil {
			b.Fatal(err)
		}
		now := time.Now()
		for ; told < reports*(i+1)/files; told++ {
			r.Stage(all[told%len(all)], told%100, "unpacking version 1.2.0")
		}
		spent += time.Since(now)
	}
	d, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		b.Fatal(err)
	}
	total = time.Since(begin)
	os.RemoveAll(dir)
	return total, spent
}

// stateDir is in memory, as /run is.
func stateDir(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "ota-bench-")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}
