// Package dashboard asks a Prometheus what docs/dashboard.json would, and draws the
// answers as Grafana lays them out. It knows as much of Grafana as that file uses: a
// type of panel, a unit, a colour or a calculation that is new there is an error until
// somebody draws it. Keys that only matter to who clicks are not read.
package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/integration/prometheus"
)

// A Dashboard is what this package knows of the file.
type Dashboard struct {
	Title  string
	Time   struct{ From, To string }
	Panels []Panel
}

// A Panel is one of its pictures.
type Panel struct {
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []Target
	FieldConfig              struct {
		Defaults  Field
		Overrides []struct {
			Matcher    struct{ ID, Options string }
			Properties []struct {
				ID    string
				Value struct{ Mode, FixedColor string }
			}
		}
	}
	Options struct {
		Legend struct {
			DisplayMode, Placement string
			Calcs                  []string
		}
		ColorMode, GraphMode, TextMode string
		Orientation, DisplayMode       string
		SortBy                         []struct {
			DisplayName string
			Desc        bool
		}
	}
	Transformations []struct {
		ID      string
		Options struct {
			ExcludeByName map[string]bool
			IndexByName   map[string]int
			RenameByName  map[string]string
		}
	}
}

// A Target is a query.
type Target struct {
	Expr, LegendFormat string
	Instant, Range     bool
	Format             string
}

// A Field is how values are shown.
type Field struct {
	Unit       string
	Decimals   int
	Thresholds struct {
		Steps []struct {
			Color string
			Value *float64
		}
	}
	Custom struct {
		DrawStyle, ShowPoints  string
		FillOpacity, LineWidth float64
		Stacking               struct{ Mode string }
	}
}

// Load reads the file.
func Load(file string) (*Dashboard, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var d Dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &d, nil
}

// A Window is the time that is shown, and how finely.
type Window struct {
	From, To       time.Time
	Step           time.Duration // of a line
	ScrapeInterval time.Duration // that the data source is set to
}

// variable is what Grafana puts into a query.
var variable = regexp.MustCompile(`\$\{?[A-Za-z_]+\}?`)

// Expand puts in what Grafana would for all jobs and this time.
func (w Window) Expand(expr string) (string, error) {
	values := map[string]string{
		"$job":        ".*", // its allValue
		"$__range":    seconds(w.To.Sub(w.From)),
		"$__interval": seconds(w.Step),
		// https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
		"$__rate_interval": seconds(max(w.Step+w.ScrapeInterval, 4*w.ScrapeInterval)),
	}
	var err error
	// $1 of label_replace is no variable.
	expr = variable.ReplaceAllStringFunc(expr, func(v string) string {
		value, ok := values[v]
		if !ok {
			err = fmt.Errorf("nobody knows the variable %s", v)
		}
		return value
	})
	return expr, err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }

// An Answer is what a target gives, with the names that the legend has for it.
type Answer struct {
	Name   string
	Labels map[string]string
	Points []prometheus.Point
}

// Last is the value that was last there.
func (a Answer) Last() float64 { return a.Points[len(a.Points)-1].Value }

// Max is the highest.
func (a Answer) Max() float64 {
	most := a.Points[0].Value
	for _, p := range a.Points {
		most = max(most, p.Value)
	}
	return most
}

// Ask puts the questions of a panel.
func (p *Panel) Ask(ctx context.Context, s *prometheus.Server, w Window) ([]Answer, error) {
	var all []Answer
	for _, t := range p.Targets {
		expr, err := w.Expand(t.Expr)
		if err != nil {
			return nil, fmt.Errorf("the panel %q: %w", p.Title, err)
		}
		if t.Instant == t.Range {
			return nil, fmt.Errorf("the panel %q asks neither for one moment nor for a time", p.Title)
		}
		var results []prometheus.Result
		if t.Instant {
			results, err = s.Query(ctx, expr, w.To)
		} else {
			results, err = s.QueryRange(ctx, expr, w.From, w.To, w.Step)
		}
		if err != nil {
			return nil, fmt.Errorf("the panel %q: %s: %w", p.Title, expr, err)
		}
		// Of one moment they come in no order.
		slices.SortFunc(results, func(a, b prometheus.Result) int { return strings.Compare(fmt.Sprint(a.Labels), fmt.Sprint(b.Labels)) })
		for _, r := range results {
			all = append(all, Answer{legend(t.LegendFormat, r.Labels), r.Labels, r.Points})
		}
	}
	return all, nil
}

var inLegend = regexp.MustCompile(`\{\{ *([a-z_]+) *\}\}`)

// legend is the name of a line.
func legend(format string, labels map[string]string) string {
	return strings.TrimSpace(inLegend.ReplaceAllStringFunc(format, func(v string) string {
		return labels[inLegend.FindStringSubmatch(v)[1]]
	}))
}
