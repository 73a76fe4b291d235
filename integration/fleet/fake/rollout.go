package fake

import "fmt"

// A Rollout asks groups of devices for the same, one group after the other. The next group
// is asked when all of one have closed their actions, unless more than Threshold percent of
// it failed: then the rollout stops. hawkBit does so with a success threshold of 100.
type Rollout struct {
	Action    Action     // without ID and Device
	Groups    [][]string // of devices
	Threshold int        // percent

	Asked   []*Action // of the groups that were asked
	Stopped bool
	groups  int // of them
}

// Start begins r.
func (s *Server) Start(r *Rollout) {
	s.Do(func() {
		s.rollouts = append(s.rollouts, r)
		r.advance(s)
	})
}

// advance asks the next group, if it may be asked.
func (r *Rollout) advance(s *Server) {
	for !r.Stopped && r.groups < len(r.Groups) {
		if r.groups > 0 {
			last := len(r.Groups[r.groups-1])
			closed, failed := 0, 0
			for _, a := range r.Asked[len(r.Asked)-last:] {
				if a.Closed != "" {
					closed++
				}
				if a.Closed == "failure" {
					failed++
				}
			}
			if r.Stopped = failed*100 > r.Threshold*last; r.Stopped || closed < last {
				return
			}
		}
		for _, device := range r.Groups[r.groups] {
			a := r.Action
			a.ID, a.Device = fmt.Sprint(len(s.actions)+1), device
			s.actions = append(s.actions, &a)
			r.Asked = append(r.Asked, &a)
		}
		r.groups++
	}
}
