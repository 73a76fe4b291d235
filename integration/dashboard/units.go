package dashboard

import (
	"fmt"
	"strconv"
	"strings"
)

// show is a value as its unit wants it.
func (f *Field) show(v float64) (string, error) {
	scaled := func(v, by float64, units ...string) string {
		i := 0
		for i+1 < len(units) && (v >= by || v <= -by) {
			v, i = v/by, i+1
		}
		decimals := f.Decimals
		if i > 0 {
			decimals = max(decimals, 1) // 1.5 GiB, not 2
		}
		return trim(strconv.FormatFloat(v, 'f', decimals, 64), f.Decimals) + units[i]
	}
	switch f.Unit {
	case "short":
		return scaled(v, 1000, "", " K", " Mil", " Bil"), nil
	case "percentunit":
		return strconv.FormatFloat(100*v, 'f', f.Decimals, 64) + "%", nil
	case "bytes":
		return scaled(v, 1024, " B", " KiB", " MiB", " GiB", " TiB"), nil
	case "s":
		switch {
		case v >= 3600:
			return strconv.FormatFloat(v/3600, 'f', f.Decimals, 64) + " hours", nil
		case v >= 60:
			return strconv.FormatFloat(v/60, 'f', f.Decimals, 64) + " mins", nil
		}
		return strconv.FormatFloat(v, 'f', f.Decimals, 64) + " s", nil
	}
	return "", fmt.Errorf("nobody knows how to show the unit %q", f.Unit)
}

// trim removes zeros behind the point, as far as nobody asked for them.
func trim(s string, decimals int) string {
	if decimals > 0 || !strings.Contains(s, ".") {
		return s
	}
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

// ticks are the values of an axis from 0 to at least top: three to six, round ones.
func (f *Field) ticks(top float64) []float64 {
	base := 10.0
	if f.Unit == "bytes" {
		base = 2
	}
	if top <= 0 {
		top = 1
	}
	step := 1.0
	for step > top/2 {
		step /= base
	}
	var factors []float64
	if base == 2 {
		factors = []float64{1, 2}
	} else {
		factors = []float64{1, 2, 5, 10}
	}
search:
	for {
		for _, k := range factors {
			if top/(step*k) <= 5 {
				step *= k
				break search
			}
		}
		step *= base
	}
	if f.Unit == "short" && f.Decimals == 0 {
		step = max(step, 1)
	}
	ticks := []float64{0}
	for ticks[len(ticks)-1] < top {
		ticks = append(ticks, float64(len(ticks))*step)
	}
	return ticks
}
