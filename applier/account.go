package applier

import (
	"sync"
	"time"

	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/metrics"
)

// An account is what is remembered of an install for the fleet's figures.
type account struct {
	mu      sync.Mutex
	stage   string // that it is in; empty: none yet
	since   time.Time
	seconds map[string]float64 // by stage
	stats   fetch.Stats
}

// enter says that the install is in stage from now on.
func (c *account) enter(stage string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.seconds == nil {
		c.seconds = make(map[string]float64)
	}
	if c.stage != "" {
		c.seconds[c.stage] += now.Sub(c.since).Seconds()
	}
	c.stage, c.since = stage, now
}

func (c *account) fetched(stats fetch.Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Fetched += stats.Fetched
	c.stats.Requests += stats.Requests
	c.stats.Resumes += stats.Resumes
}

// close is the account of an install of version that ended with err.
func (c *account) close(version string, err error) metrics.Install {
	c.enter("")
	c.mu.Lock()
	defer c.mu.Unlock()
	i := metrics.Install{
		Version:    version,
		Result:     metrics.Success,
		Ended:      time.Now().Unix(),
		Downloaded: uint64(c.stats.Fetched),
		Resumes:    c.stats.Resumes,
		Seconds:    c.seconds,
	}
	if err != nil {
		i.Result, i.Exit = bootcheck.ReportCode(err), bootcheck.Exit(err)
	}
	return i
}

// publish tells the fleet's tools how the device is now.
func (a *applier) publish() { a.tellFleet((*metrics.Publisher).Publish) }

// publishEnd is publish for an install that ended with err.
func (a *applier) publishEnd(err error) {
	a.tellFleet(func(p *metrics.Publisher) error { return p.Ended(a.account.close(a.version.Version, err)) })
}

func (a *applier) tellFleet(tell func(*metrics.Publisher) error) {
	if a.store == nil {
		return // there is nothing to be told
	}
	if err := tell(metrics.New(a.cfg, a.store)); err != nil {
		a.logf("%v", err)
	}
}
