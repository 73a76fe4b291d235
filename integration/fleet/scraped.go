package fleet

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Interval is how often Prometheus looks. Its default is a minute; a day of that are
// six million samples of this fleet, and the picture would be the same.
const Interval = 2 * time.Minute

// Job is the one that scrapes the devices.
const Job = "node"

// A Series is what was scraped of one metric of one device.
type Series struct {
	Labels  []Label // by name
	Samples []Sample
}

type Label struct{ Name, Value string }

type Sample struct {
	At    time.Time
	Value float64
}

// Stale is the value that Prometheus itself gives a series that is not there any
// more, so that no query finds it from then on.
var Stale = math.Float64frombits(0x7ff0000000000002) // value.StaleNaN of Prometheus

// Scraped are the devices as Prometheus sees them from a time on until another, not
// included. The devices are not all looked at in the same second, either.
func Scraped(all []*Device, from, until time.Time) ([]Series, error) {
	var series []Series
	for n, d := range all {
		var live map[string]int // where the series are that the last scrape found
		offset := time.Duration(n) * Interval / time.Duration(len(all))
		told := -1
		for at := Begin.Add(offset); at.Before(until); at = at.Add(Interval) {
			last := told
			for told+1 < len(d.Told) && !d.Told[told+1].At.After(at) {
				told++
			}
			if at.Before(from) {
				continue
			}
			if last != told || live == nil {
				found := map[string]int{}
				if last >= 0 && live == nil {
					// What was there before this call: it may be gone now.
					if err := d.Told[last].series(d.Instance, func(key string, labels []Label, _ float64) {
						found[key] = len(series)
						series = append(series, Series{Labels: labels})
					}); err != nil {
						return nil, err
					}
					live, found = found, map[string]int{}
				}
				if told >= 0 {
					if err := d.Told[told].series(d.Instance, func(key string, labels []Label, value float64) {
						i, ok := live[key]
						if !ok {
							i = len(series)
							series = append(series, Series{Labels: labels})
						}
						found[key] = i
						series[i].Samples = append(series[i].Samples, Sample{at, value})
					}); err != nil {
						return nil, err
					}
				}
				for key, i := range live {
					if _, ok := found[key]; !ok {
						series[i].Samples = append(series[i].Samples, Sample{at, Stale})
					}
				}
				live = found
				continue
			}
			for _, i := range live {
				s := &series[i]
				s.Samples = append(s.Samples, Sample{at, s.Samples[len(s.Samples)-1].Value})
			}
		}
	}
	return slices.DeleteFunc(series, func(s Series) bool { return len(s.Samples) == 0 }), nil
}

// series are those of the file.
func (t Told) series(instance string, is func(key string, labels []Label, value float64)) error {
	if t.File == nil {
		return nil
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(t.File))
	if err != nil {
		return fmt.Errorf("%s: Prometheus cannot read the file: %w", instance, err)
	}
	names := make([]string, 0, len(families))
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, m := range families[name].GetMetric() {
			labels := []Label{{"__name__", name}, {"instance", instance}, {"job", Job}}
			for _, l := range m.GetLabel() {
				labels = append(labels, Label{l.GetName(), l.GetValue()})
			}
			// An empty label is none.
			labels = slices.DeleteFunc(labels, func(l Label) bool { return l.Value == "" })
			slices.SortFunc(labels, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
			value := m.GetGauge().GetValue()
			if families[name].GetType() == dto.MetricType_COUNTER {
				value = m.GetCounter().GetValue()
			}
			is(fmt.Sprint(labels), labels, value)
		}
	}
	return nil
}
