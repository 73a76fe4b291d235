package channel

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"
)

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// release is one that every device of model x1 takes.
func release(n int64, change ...func(*Release)) Release {
	r := Release{
		Version: fmt.Sprintf("1.%d.0", n), Release: n, Models: []string{"x1"}, Manifest: digest(int(n)),
		Bundle: []string{fmt.Sprintf("1.%d.0.ota", n)}, Size: 1, Percent: 100,
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func barrier(r *Release)               { r.Barrier = true }
func from(n int64) func(*Release)      { return func(r *Release) { r.FromRelease = n } }
func percent(n int) func(*Release)     { return func(r *Release) { r.Percent = n } }
func model(m ...string) func(*Release) { return func(r *Release) { r.Models = m } }

func TestChoose(t *testing.T) {
	inTenth := "" // a device in the first 10 % of release 3, and none of the first 9
	for i := 0; inTenth == ""; i++ {
		id := fmt.Sprint(i)
		r9, r10 := release(3, percent(9)), release(3, percent(10))
		if !r9.InWave(id) && r10.InWave(id) {
			inTenth = id
		}
	}
	all := func(r ...Release) []Release { return r }
	for _, tt := range []struct {
		name     string
		releases []Release
		stop     []int
		device   Device
		blocked  int64
		want     int64
	}{
		{"nothing is published", nil, nil, Device{Release: 1}, 0, 0},
		{"the highest", all(release(2), release(3), release(1)), nil, Device{Release: 1}, 0, 3},
		{"it runs already", all(release(2), release(3)), nil, Device{Release: 3}, 0, 0},
		{"the device has a newer one", all(release(2)), nil, Device{Release: 3}, 0, 0},
		{"the current one is not counted", all(release(1)), nil, Device{}, 0, 1},
		{"nothing is installed", all(release(2)), nil, Device{Empty: true}, 0, 2},
		{"for another model", all(release(2), release(3, model("x2"))), nil, Device{Release: 1}, 0, 2},
		{"for several models", all(release(2), release(3, model("x2", "x1"))), nil, Device{Release: 1}, 0, 3},
		{"a device without a model", all(release(3, model("x2"))), nil, Device{Model: "-", Release: 1}, 0, 3},
		{"stopped: the next lower", all(release(2), release(3)), []int{3}, Device{Release: 1}, 0, 2},
		{"stopped, and it runs here: it stays", all(release(2), release(3)), []int{3}, Device{Release: 3}, 0, 0},
		{"blocked here: the next lower", all(release(2), release(3)), nil, Device{Release: 1}, 3, 2},
		{"below the lowest accepted release", all(release(2), release(3)), nil, Device{Release: 1, Floor: 4}, 0, 0},
		{"not in its wave", all(release(2), release(3, percent(9))), nil, Device{ID: inTenth, Release: 1}, 0, 2},
		{"in its wave", all(release(2), release(3, percent(10))), nil, Device{ID: inTenth, Release: 1}, 0, 3},
		{"at 0 %", all(release(3, percent(0))), nil, Device{Release: 1}, 0, 0},
		{"the current one is too old for it", all(release(2), release(3, from(2))), nil, Device{Release: 1}, 0, 2},
		{"the current one is just new enough", all(release(2), release(3, from(2))), nil, Device{Release: 2}, 0, 3},
		{"too old, and nothing is installed", all(release(3, from(2))), nil, Device{Empty: true}, 0, 3},
		{"a barrier first", all(release(4), release(2, barrier)), nil, Device{Release: 1}, 0, 2},
		{"then on", all(release(4), release(2, barrier)), nil, Device{Release: 2}, 0, 4},
		{"two barriers, one after the other", all(release(5), release(4, barrier), release(2, barrier)), nil, Device{Release: 1}, 0, 2},
		{"a barrier is walked to in steps", all(release(2), release(4, barrier, from(2))), nil, Device{Release: 1}, 0, 2},
		{"a barrier whose wave has not come holds", all(release(4), release(3, barrier, percent(9))), nil, Device{ID: inTenth, Release: 1}, 0, 0},
		{"a barrier that is blocked here holds", all(release(4), release(3, barrier)), nil, Device{Release: 1}, 3, 0},
		{"a barrier of another model", all(release(4), release(2, barrier, model("x2"))), nil, Device{Release: 1}, 0, 4},
		{"a barrier, and nothing is installed", all(release(4), release(2, barrier)), nil, Device{Empty: true}, 0, 4},
		{"a barrier that is stopped holds", all(release(4), release(2, barrier)), []int{2}, Device{Release: 1}, 0, 0},
		{"another barrier takes its place", all(release(5), release(4, barrier), release(2, barrier)), []int{2}, Device{Release: 1}, 0, 4},
		{"and what lies between is not passed to", all(release(4, barrier, percent(0)), release(3), release(2, barrier)), []int{2}, Device{Release: 1}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Channel{Releases: tt.releases}
			for _, n := range tt.stop {
				c.Stop = append(c.Stop, digest(n))
			}
			d := tt.device
			switch d.Model {
			case "":
				d.Model = "x1"
			case "-":
				d.Model = ""
			}
			d.Blocked = func(r *Release) bool { return r.Release == tt.blocked }
			for range 2 { // in any order
				got := int64(0)
				if r := c.Choose(&d); r != nil {
					got = r.Release
				}
				if got != tt.want {
					t.Errorf("Choose = release %d, want %d", got, tt.want)
				}
				slices.Reverse(c.Releases)
			}
		})
	}
}

// Of 1,000,000 devices, a wave has its share within 0.2 % of all; a device that is in stays in; and the
// first devices of one version are no more likely than others among the first of the next.
func TestWaves(t *testing.T) {
	const devices = 1_000_000
	waves := []int{1, 5, 25, 50}
	var counts [2][100]int // of each bucket, for two versions
	var both [4]int        // devices that are in a wave for both
	one, two := release(1), release(2)
	for i := range devices {
		id := strconv.Itoa(i)
		a, b := one.bucket(id), two.bucket(id)
		counts[0][a]++
		counts[1][b]++
		for w, p := range waves {
			if a < p && b < p {
				both[w]++
			}
		}
		if i%10_000 == 0 {
			for p := range 101 {
				if r := release(1, percent(p)); r.InWave(id) != (a < p) {
					t.Fatalf("device %s of bucket %d is in at %d %%: %v", id, a, p, r.InWave(id))
				}
			}
		}
	}
	for w, p := range waves {
		var in [2]float64
		for v := range in {
			for _, n := range counts[v][:p] {
				in[v] += float64(n)
			}
			if share := 100 * in[v] / devices; math.Abs(share-float64(p)) > 0.2 {
				t.Errorf("version %d at %d %%: %.3f %% take it", v+1, p, share)
			}
		}
		n, x, y := float64(devices), in[0], in[1]
		if r := (n*float64(both[w]) - x*y) / math.Sqrt(x*(n-x)*y*(n-y)); math.Abs(r) >= 0.01 {
			t.Errorf("at %d %% the devices of two versions correlate: r = %.4f", p, r)
		}
	}
}

// The bucket is a format: another program, or a later version, must come to the same. These
// are of Python: int.from_bytes(sha256(manifest + device).digest()[:8], "big") * 100 >> 64.
func TestBuckets(t *testing.T) {
	r := release(3)
	got := []int{r.bucket("X1-000042"), r.bucket("0123456789abcdef0123456789abcdef"), r.bucket("")}
	if want := []int{96, 34, 26}; !slices.Equal(got, want) {
		t.Errorf("the buckets are %v, want %v", got, want)
	}
}
