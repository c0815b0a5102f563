//go:build linux

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
)

// Geometry of a plot, in pixels.
const (
	plotWidth, plotHeight = 720, 400
	left, right           = 56, 120
	top, bottom           = 44, 40
	labelGap              = 16 // least distance of the labels at the lines' ends
)

// colours are legible on white and on GitHub's dark grey, and differ for those
// who do not tell red from green (after Okabe and Ito). The first is mpack's.
var colours = []string{"#d55e00", "#1f83c4", "#009e73", "#b07aa1", "#8c7a00"}

// plot draws a line a tool, its stored bytes over the versions, as an SVG file
// that takes its text's colour from the reader's light or dark mode.
func (s *stored) plot() []byte {
	var most int64
	for _, b := range s.bytes {
		most = max(most, slices.Max(b))
	}
	step, ticks := axis(float64(most) / 1e6)
	x := func(version int) float64 {
		return left + float64(version)*(plotWidth-left-right)/float64(max(1, len(s.what)-1))
	}
	y := func(mb float64) float64 {
		return plotHeight - bottom - mb/(step*float64(ticks))*(plotHeight-top-bottom)
	}

	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">`, plotWidth, plotHeight)
	p(`<title>%s</title>`, html.EscapeString(s.title))
	p(`<style>text{fill:#24292f}.grid{stroke:#8c959f;stroke-opacity:.35}@media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>`)
	p(`<text x="%d" y="20" font-size="14" font-weight="600">%s</text>`, left-40, html.EscapeString(s.title))
	for i := range ticks + 1 {
		mb := step * float64(i)
		p(`<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, left, plotWidth-right, y(mb), y(mb))
		p(`<text x="%d" y="%.1f" text-anchor="end">%g</text>`, left-8, y(mb)+4, mb)
	}
	p(`<text x="%d" y="%d" text-anchor="end">MB</text>`, left-8, top-12)
	for v := range s.what {
		p(`<text x="%.1f" y="%d" text-anchor="middle">%d</text>`, x(v), plotHeight-bottom+18, v+1)
	}
	p(`<text x="%d" y="%d" text-anchor="middle">version</text>`, (left+plotWidth-right)/2, plotHeight-6)

	type label struct {
		tool int
		at   float64
	}
	var labels []label
	for t := len(s.tools) - 1; t >= 0; t-- { // mpack above all others, and dashes show a line that another covers
		width, dashes := 2, "none"
		if t == 0 {
			width = 3
		} else if t == 1 {
			dashes = "8 6"
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="%d" stroke-dasharray="%s" stroke-linejoin="round" points="`, colours[t], width, dashes)
		for v, n := range s.bytes[t] {
			fmt.Fprintf(&b, "%.1f,%.1f ", x(v), y(float64(n)/1e6))
		}
		p(`"/>`)
		labels = append(labels, label{t, y(float64(s.bytes[t][len(s.what)-1]) / 1e6)})
	}
	// Labels keep their distance, the lowest one its place.
	slices.SortFunc(labels, func(a, b label) int { return cmp.Compare(b.at, a.at) })
	for i := range labels {
		if i > 0 {
			labels[i].at = min(labels[i].at, labels[i-1].at-labelGap)
		}
		t := labels[i].tool
		n := float64(s.bytes[t][len(s.what)-1]) / 1e6
		p(`<text x="%d" y="%.1f" style="fill:%s" font-weight="600">%s %.0f</text>`, plotWidth-right+8, labels[i].at+4, colours[t], html.EscapeString(s.tools[t]), n)
	}
	p(`</svg>`)
	return b.Bytes()
}

// axis returns a round step and how many of them reach over most.
func axis(most float64) (step float64, ticks int) {
	step = math.Pow(10, math.Floor(math.Log10(most)))
	switch {
	case most < 2*step:
		step /= 5
	case most < 5*step:
		step /= 2
	}
	return step, int(math.Ceil(most / step))
}
