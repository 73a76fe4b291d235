package dashboard

import (
	"bytes"
	"fmt"
	"html"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Measures of the picture, in pixels. A grid of 24 columns is Grafana's.
const (
	columns   = 24
	pageWidth = 1160.0
	margin    = 12.0
	gap       = 8.0
	rowHeight = 36.0 // with the gap
	headline  = 52.0
	padding   = 10.0
	titleRoom = 32.0
	fontSize  = 12.0
)

// Colours, of a dark theme.
const (
	background = "#111217"
	surface    = "#181b1f"
	border     = "#2a2e36"
	gridLine   = "#2a2d33"
	text       = "#d0d1da"
	faint      = "#9a9ca6"
	linked     = "#6e9fff"
)

// palette has the colours of lines that have none of their own.
var palette = []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#c0a0ff", "#56d9c9", "#ffb357"}

// named are the colours that the file names.
var named = map[string]string{"green": "#73bf69", "yellow": "#f2cc0c", "orange": "#ff9830", "red": "#f2495c",
	"blue": "#5794f2", "purple": "#b877d9", "gray": "#8e8e8e"}

func colour(name string) (string, error) {
	if c := named[name]; c != "" {
		return c, nil
	}
	return "", fmt.Errorf("nobody knows the colour %q", name)
}

// A canvas is a part of the picture. The first error is kept.
type canvas struct {
	bytes.Buffer
	err error
}

func (c *canvas) put(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

func (c *canvas) do(err error) {
	if c.err == nil {
		c.err = err
	}
}

// num is a coordinate, to a tenth of a pixel.
func num(v float64) string {
	v = math.Round(v*10) / 10
	if v == 0 {
		v = 0 // not -0
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// words writes s at (x, y); anchor is start, middle or end, style what differs.
func (c *canvas) words(x, y float64, anchor, fill, style, s string) {
	if anchor != "start" {
		style += ` text-anchor="` + anchor + `"`
	}
	if fill != text {
		style += ` fill="` + fill + `"`
	}
	c.put(`<text x="%s" y="%s"%s>%s</text>`, num(x), num(y), style, html.EscapeString(s))
}

// width is about how wide s is, whatever the font.
func width(s string, size float64) float64 {
	w := 0.0
	for _, r := range s {
		switch {
		case strings.ContainsRune("iljtfr.,:;|!'() -", r):
			w += 0.36
		case r >= 'A' && r <= 'Z' || strings.ContainsRune("mwMW_%", r):
			w += 0.72
		default:
			w += 0.57
		}
	}
	return w * size * 1.08 // some fonts are wider
}

// fit is s, cut to a width.
func fit(s string, room, size float64) string {
	if width(s, size) <= room {
		return s
	}
	r := []rune(s)
	for len(r) > 1 && width(string(r)+"…", size) > room {
		r = r[:len(r)-1]
	}
	return string(r) + "…"
}

// Draw is the picture, with the answers of each panel, as SVG.
func (d *Dashboard) Draw(answers [][]Answer, w Window) ([]byte, error) {
	height := 0
	for _, p := range d.Panels {
		height = max(height, p.GridPos.Y+p.GridPos.H)
	}
	c := &canvas{}
	pageHeight := headline + float64(height)*rowHeight + margin - gap
	c.put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" font-family="Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif" font-size="%s" fill="%s">`,
		num(pageWidth), num(pageHeight), num(fontSize), text)
	c.put(`<title>%s</title>`, html.EscapeString(d.Title))
	c.put(`<rect width="100%%" height="100%%" fill="%s"/>`, background)
	c.words(margin+4, 33, "start", text, ` font-size="18" font-weight="600"`, d.Title)
	c.words(pageWidth-margin-4, 32, "end", faint, "", fmt.Sprintf("Job: All   ·   %s to %s UTC", w.From.Format("Mon 2 Jan 2006, 15:04"), w.To.Format("Mon 2 Jan, 15:04")))
	cell := (pageWidth - 2*margin + gap) / columns
	for i := range d.Panels {
		p := &d.Panels[i]
		g := p.GridPos
		box := frame{c, p, cell*float64(g.W) - gap, rowHeight*float64(g.H) - gap}
		c.put(`<g transform="translate(%s %s)">`, num(margin+cell*float64(g.X)), num(headline+rowHeight*float64(g.Y)))
		c.put(`<rect width="%s" height="%s" rx="3" fill="%s" stroke="%s"/>`, num(box.w), num(box.h), surface, border)
		c.words(padding, 21, "start", text, ` font-weight="600"`, fit(p.Title, box.w-2*padding, fontSize))
		c.do(box.draw(answers[i], w))
		c.put("</g>")
		if c.err != nil {
			return nil, fmt.Errorf("the panel %q: %w", p.Title, c.err)
		}
	}
	c.put("</svg>")
	return c.Bytes(), nil
}

// A frame is the place of a panel.
type frame struct {
	*canvas
	p    *Panel
	w, h float64
}

func (f frame) draw(answers []Answer, w Window) error {
	if len(answers) == 0 {
		f.words(f.w/2, f.h/2+10, "middle", faint, "", "No data")
		return nil
	}
	switch f.p.Type {
	case "stat":
		return f.stat(answers)
	case "timeseries":
		return f.timeseries(answers, w)
	case "bargauge":
		return f.bargauge(answers)
	case "table":
		return f.table(answers)
	}
	return fmt.Errorf("nobody knows how to draw a %q", f.p.Type)
}

// threshold is the colour of a value.
func (f frame) threshold(v float64) string {
	name := ""
	for _, s := range f.p.FieldConfig.Defaults.Thresholds.Steps {
		if s.Value == nil || v >= *s.Value {
			name = s.Color
		}
	}
	c, err := colour(name)
	f.do(err)
	return c
}

func (f frame) shown(v float64) string {
	s, err := f.p.FieldConfig.Defaults.show(v)
	f.do(err)
	return s
}

func (f frame) stat(answers []Answer) error {
	o := f.p.Options
	if len(answers) != 1 || o.ColorMode != "value" || o.GraphMode != "none" || o.TextMode != "value" {
		return fmt.Errorf("a stat with %d answers and the options %q, %q, %q", len(answers), o.ColorMode, o.GraphMode, o.TextMode)
	}
	a := answers[0]
	f.words(f.w/2, f.h/2+30, "middle", f.threshold(a.Last()), ` font-size="46" font-weight="600"`, f.shown(a.Last()))
	return nil
}

func (f frame) bargauge(answers []Answer) error {
	if o := f.p.Options; o.Orientation != "horizontal" || o.DisplayMode != "basic" {
		return fmt.Errorf("a bargauge that is %q and %q", o.Orientation, o.DisplayMode)
	}
	names, values, most := 0.0, 0.0, 0.0
	for _, a := range answers {
		names = max(names, width(a.Name, fontSize))
		values = max(values, width(f.shown(a.Last()), 18)) // bold
		most = max(most, a.Last())
	}
	each := (f.h - titleRoom - padding) / float64(len(answers))
	left := padding + names + 12
	room := f.w - left - padding - values - 12
	for i, a := range answers {
		y, v := titleRoom+each*float64(i), a.Last()
		tall := min(each-8, 30)
		top := y + (each-tall)/2
		fill := f.threshold(v)
		f.words(left-12, top+tall/2+4, "end", text, "", a.Name)
		f.put(`<rect x="%s" y="%s" width="%s" height="%s" rx="2" fill="#22252b"/>`, num(left), num(top), num(room), num(tall))
		if most > 0 {
			f.put(`<rect x="%s" y="%s" width="%s" height="%s" rx="2" fill="%s" fill-opacity=".75"/>`, num(left), num(top), num(max(room*v/most, 1)), num(tall), fill)
		}
		f.words(f.w-padding, top+tall/2+6, "end", fill, ` font-size="16" font-weight="600"`, f.shown(v))
	}
	return nil
}

// table has a row for each answer and a column for each label, and one for the value.
func (f frame) table(answers []Answer) error {
	var heads []string // before they are renamed
	for _, a := range answers {
		for name := range a.Labels {
			if !slices.Contains(heads, name) {
				heads = append(heads, name)
			}
		}
	}
	slices.Sort(heads)
	heads = append(append([]string{"Time"}, heads...), "Value")
	title := func(head string) string { return head }
	for _, t := range f.p.Transformations {
		if t.ID != "organize" {
			return fmt.Errorf("nobody knows the transformation %q", t.ID)
		}
		heads = slices.DeleteFunc(heads, func(h string) bool { return t.Options.ExcludeByName[h] })
		slices.SortStableFunc(heads, func(a, b string) int { return t.Options.IndexByName[a] - t.Options.IndexByName[b] })
		title = func(head string) string {
			if s := t.Options.RenameByName[head]; s != "" {
				return s
			}
			return head
		}
	}
	content := func(a Answer, head string) string {
		if head == "Value" {
			return f.shown(a.Last())
		}
		return a.Labels[head]
	}
	slices.SortStableFunc(answers, func(a, b Answer) int { return strings.Compare(fmt.Sprint(a.Labels), fmt.Sprint(b.Labels)) })
	for _, by := range f.p.Options.SortBy {
		i := slices.IndexFunc(heads, func(h string) bool { return title(h) == by.DisplayName })
		if i < 0 {
			return fmt.Errorf("the table is sorted by %q, which it has not", by.DisplayName)
		}
		slices.SortStableFunc(answers, func(a, b Answer) int {
			order := strings.Compare(content(a, heads[i]), content(b, heads[i]))
			if heads[i] == "Value" {
				order = int(math.Copysign(1, a.Last()-b.Last()))
				if a.Last() == b.Last() {
					order = 0
				}
			}
			if by.Desc {
				return -order
			}
			return order
		})
	}
	// Each column takes what it needs, and the rest goes to all of them.
	widths := make([]float64, len(heads))
	rest := f.w - 2*padding
	for i, h := range heads {
		widths[i] = width(title(h), fontSize) + 16
		for _, a := range answers {
			widths[i] = max(widths[i], width(content(a, h), fontSize)+16)
		}
		rest -= widths[i]
	}
	const line = 28.0
	y := titleRoom + 18
	visible := int((f.h - titleRoom - line - 4) / line)
	x := padding
	for i, h := range heads {
		widths[i] += rest / float64(len(heads))
		f.words(x+6, y, "start", linked, ` font-weight="600"`, fit(title(h), widths[i]-10, fontSize))
		x += widths[i]
	}
	for n, a := range answers {
		if n >= visible {
			return fmt.Errorf("there is room for %d rows, and %d answers", visible, len(answers))
		}
		y += line
		f.put(`<path d="M%s %sH%s" stroke="%s"/>`, num(padding), num(y-line/2-5), num(f.w-padding), gridLine)
		x := padding
		for i, h := range heads {
			f.words(x+6, y, "start", text, "", fit(content(a, h), widths[i]-10, fontSize))
			x += widths[i]
		}
	}
	return nil
}

// calcs are the columns of a legend.
var calcs = map[string]struct {
	title string
	of    func(Answer) float64
}{
	"lastNotNull": {"Last", Answer.Last},
	"max":         {"Max", Answer.Max},
}

// Reads is what a reader gets from an answer: what it is called, and the values that
// stand beside it.
func (p *Panel) Reads(a Answer) (name, values string, err error) {
	names := []string{a.Name}
	if a.Name == "" {
		names = nil
		for _, l := range slices.Sorted(maps.Keys(a.Labels)) {
			names = append(names, a.Labels[l])
		}
	}
	all := p.Options.Legend.Calcs
	if len(all) == 0 {
		all = []string{"lastNotNull"}
	}
	var shown []string
	for _, calc := range all {
		c, ok := calcs[calc]
		if !ok {
			return "", "", fmt.Errorf("nobody knows how to calculate %q", calc)
		}
		s, err := p.FieldConfig.Defaults.show(c.of(a))
		if err != nil {
			return "", "", err
		}
		shown = append(shown, s)
	}
	return strings.Join(names, " | "), strings.Join(shown, ", "), nil
}

func (f frame) timeseries(answers []Answer, w Window) error {
	o, field := f.p.Options, f.p.FieldConfig.Defaults
	style := field.Custom
	if style.DrawStyle != "line" || style.ShowPoints != "never" {
		return fmt.Errorf("lines that are %q with points %q", style.DrawStyle, style.ShowPoints)
	}
	colours, err := f.colours(answers)
	if err != nil {
		return err
	}
	var right, bottom float64 // where the legend begins
	switch o.Legend.DisplayMode + " " + o.Legend.Placement {
	case "table right":
		bottom = f.h
		right, err = f.legendTable(answers, colours)
	case "list bottom":
		right = f.w - padding
		bottom, err = f.legendList(answers, colours)
	default:
		err = fmt.Errorf("the legend is a %q at the %q", o.Legend.DisplayMode, o.Legend.Placement)
	}
	if err != nil {
		return err
	}

	// What is drawn: the lines, on each other if they are stacked.
	steps := int(w.To.Sub(w.From)/w.Step) + 1
	stacked := style.Stacking.Mode == "normal"
	low, high := make([][]float64, len(answers)), make([][]float64, len(answers))
	below := make([]float64, steps)
	top := 0.0
	for n, a := range answers {
		low[n], high[n] = slices.Clone(below), make([]float64, steps)
		for i := range high[n] {
			high[n][i] = math.NaN()
		}
		for _, p := range a.Points {
			i := int(p.At.Sub(w.From) / w.Step)
			high[n][i] = low[n][i] + p.Value
			top = max(top, high[n][i])
			if stacked {
				below[i] = high[n][i]
			}
		}
	}

	// The axes.
	ticks := field.ticks(top)
	labels := 0.0
	for _, t := range ticks {
		labels = max(labels, width(f.shown(t), 11))
	}
	x0, x1 := padding+labels+8, right-14
	y0, y1 := bottom-26, titleRoom+6
	at := func(v float64) float64 { return y0 - (y0-y1)*v/ticks[len(ticks)-1] }
	when := func(t time.Time) float64 { return x0 + (x1-x0)*float64(t.Sub(w.From))/float64(w.To.Sub(w.From)) }
	for _, t := range ticks {
		f.put(`<path d="M%s %sH%s" stroke="%s"/>`, num(x0), num(at(t)), num(x1), gridLine)
		f.words(x0-6, at(t)+4, "end", faint, ` font-size="11"`, f.shown(t))
	}
	const every = 4 * time.Hour
	for t := w.From.Truncate(every); !t.After(w.To); t = t.Add(every) {
		if t.Before(w.From) {
			continue
		}
		f.put(`<path d="M%s %sV%s" stroke="%s"/>`, num(when(t)), num(y1), num(y0), gridLine)
		label := t.Format("15:04")
		if label == "00:00" {
			label = t.Format("01/02")
		}
		f.words(when(t), y0+16, "middle", faint, ` font-size="11"`, label)
	}

	for n := range answers {
		for i := 0; i < steps; i++ {
			if math.IsNaN(high[n][i]) {
				continue
			}
			end := i
			for end+1 < steps && !math.IsNaN(high[n][end+1]) {
				end++
			}
			if end == i {
				continue // a point is no line
			}
			var over, under []string
			for k := i; k <= end; k++ {
				x := when(w.From.Add(time.Duration(k) * w.Step))
				over = append(over, num(x)+" "+num(at(high[n][k])))
				under = append(under, num(x)+" "+num(at(low[n][k])))
			}
			over, under = straight(over), straight(under)
			if style.FillOpacity > 0 {
				slices.Reverse(under)
				f.put(`<path d="M%sL%sZ" fill="%s" fill-opacity="%s"/>`, strings.Join(over, "L"), strings.Join(under, "L"), colours[n], num(style.FillOpacity/100))
			}
			f.put(`<path d="M%s" fill="none" stroke="%s" stroke-width="%s"/>`, strings.Join(over, "L"), colours[n], num(style.LineWidth*1.3))
			i = end
		}
	}
	return nil
}

// legendTable is right of the lines; it begins at left.
func (f frame) legendTable(answers []Answer, colours []string) (left float64, err error) {
	const columnWidth, line = 58.0, 19.0
	wanted := f.p.Options.Legend.Calcs
	names := 0.0
	for _, a := range answers {
		names = max(names, width(a.Name, fontSize))
	}
	names = min(names, f.w*0.3)
	left = f.w - padding - columnWidth*float64(len(wanted)) - names - 4
	row := func(n int) float64 { return titleRoom + 32 + line*float64(n) }
	if row(len(answers)-1) > f.h-4 {
		return 0, fmt.Errorf("there is no room for %d lines in the legend", len(answers))
	}
	for i, calc := range wanted {
		c, ok := calcs[calc]
		if !ok {
			return 0, fmt.Errorf("nobody knows how to calculate %q", calc)
		}
		x := f.w - padding - columnWidth*float64(len(wanted)-1-i)
		f.words(x, titleRoom+12, "end", linked, ` font-weight="600"`, c.title)
		for n, a := range answers {
			f.words(x, row(n), "end", text, "", f.shown(c.of(a)))
		}
	}
	for n, a := range answers {
		f.swatch(left-16, row(n), colours[n])
		f.words(left, row(n), "start", text, "", fit(a.Name, names, fontSize))
	}
	return left - 16, nil
}

// legendList is below the lines; it begins at top.
func (f frame) legendList(answers []Answer, colours []string) (top float64, err error) {
	const line = 19.0
	type entry struct {
		x   float64
		row int
		s   string
	}
	var entries []entry
	x, row := padding, 0
	for _, a := range answers {
		s := a.Name
		for _, calc := range f.p.Options.Legend.Calcs {
			c, ok := calcs[calc]
			if !ok {
				return 0, fmt.Errorf("nobody knows how to calculate %q", calc)
			}
			s += "   " + c.title + ": " + f.shown(c.of(a))
		}
		room := 16 + width(s, fontSize) + 14
		if x > padding && x+room > f.w {
			x, row = padding, row+1
		}
		entries = append(entries, entry{x, row, s})
		x += room
	}
	top = f.h - line*float64(row+1) - 2
	for n, e := range entries {
		y := top + 12 + line*float64(e.row)
		f.swatch(e.x, y, colours[n])
		f.words(e.x+16, y, "start", text, ` xml:space="preserve"`, e.s)
	}
	return top, nil
}

// swatch is the colour of a line in a legend.
func (f frame) swatch(x, y float64, colour string) {
	f.put(`<rect x="%s" y="%s" width="12" height="4" rx="1" fill="%s"/>`, num(x), num(y-6), colour)
}

// straight leaves out the points at which a level line only goes on.
func straight(points []string) []string {
	level := func(p string) string { _, y, _ := strings.Cut(p, " "); return y }
	var all []string
	for i, p := range points {
		if i > 0 && i+1 < len(points) && level(points[i-1]) == level(p) && level(p) == level(points[i+1]) {
			continue
		}
		all = append(all, p)
	}
	return all
}

// colours are those of the answers: what the file says, else one after the other.
func (f frame) colours(answers []Answer) ([]string, error) {
	own := map[string]string{}
	for _, o := range f.p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			if o.Matcher.ID != "byName" || property.ID != "color" || property.Value.Mode != "fixed" {
				return nil, fmt.Errorf("nobody knows the override of %q by %q", property.ID, o.Matcher.ID)
			}
			c, err := colour(property.Value.FixedColor)
			if err != nil {
				return nil, err
			}
			own[o.Matcher.Options] = c
		}
	}
	taken := slices.Collect(maps.Values(own))
	free := slices.DeleteFunc(slices.Clone(palette), func(c string) bool { return slices.Contains(taken, c) })
	var all []string
	n := 0
	for _, a := range answers {
		c := own[a.Name]
		if c == "" {
			c = free[n%len(free)]
			n++
		}
		all = append(all, c)
	}
	return all, nil
}
