package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// bar is one bar of a chart.
type bar struct {
	label string
	value float64
	ours  bool
}

// group is bars under one heading, with the goal that holds for ours.
type group struct {
	heading string
	bars    []bar
	goal    float64
}

// chart is horizontal bars; log spreads values over powers of ten.
type chart struct {
	title  string
	unit   string
	log    bool
	groups []group
}

const (
	chartWidth = 760
	labelWidth = 250
	plotWidth  = chartWidth - labelWidth - 90
	barHeight  = 18
	barGap     = 5
	headHeight = 26
)

// svg draws the chart. It reads on white and on black: the paper is its own.
func (c chart) svg() string {
	height := 50.0
	for _, g := range c.groups {
		height += headHeight + float64(len(g.bars))*(barHeight+barGap) + 6
	}
	scale := c.scale()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%d" height="%.0f" font-family="system-ui, sans-serif" font-size="13" role="img">`,
		chartWidth, height, chartWidth, height)
	fmt.Fprintf(&b, "\n<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", html.EscapeString(c.title))
	fmt.Fprintf(&b, "<text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"600\" fill=\"#1b1f24\">%s</text>\n", html.EscapeString(c.title))
	scaleName := c.unit
	if c.log {
		scaleName = strings.TrimPrefix(scaleName+", log scale", ", ")
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"24\" text-anchor=\"end\" fill=\"#57606a\">%s</text>\n", chartWidth-12, html.EscapeString(scaleName))
	y := 38.0
	for _, g := range c.groups {
		y = g.draw(&b, y, scale)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (g group) draw(b *strings.Builder, y float64, scale func(float64) float64) float64 {
	if g.heading != "" {
		fmt.Fprintf(b, "<text x=\"12\" y=\"%.0f\" font-weight=\"600\" fill=\"#1b1f24\">%s</text>\n", y+17, html.EscapeString(g.heading))
	}
	y += headHeight
	top := y
	for _, bar := range g.bars {
		fill := "#c4ccd4"
		if bar.ours {
			fill = "#2f6feb"
			if g.goal > 0 && bar.value > g.goal {
				fill = "#d1720f"
			}
		}
		width := math.Max(1, scale(bar.value))
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%.0f\" text-anchor=\"end\" fill=\"#1b1f24\">%s</text>\n", labelWidth-8, y+14, html.EscapeString(bar.label))
		fmt.Fprintf(b, "<rect x=\"%d\" y=\"%.0f\" width=\"%.1f\" height=\"%d\" rx=\"2\" fill=\"%s\"/>\n", labelWidth, y, width, barHeight, fill)
		at := labelWidth + width
		if g.goal > 0 {
			if line := labelWidth + scale(g.goal); at < line && at+45 > line-2 {
				at = line // the goal's line is no place for a number
			}
		}
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.0f\" fill=\"#1b1f24\">%s</text>\n", at+6, y+14, number(bar.value))
		y += barHeight + barGap
	}
	if g.goal > 0 {
		x := labelWidth + scale(g.goal)
		fmt.Fprintf(b, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\" stroke=\"#1a7f37\" stroke-width=\"2\"/>\n", x, x, top-5, y)
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\" font-size=\"11\" fill=\"#1a7f37\">goal %s</text>\n", x, top-8, number(g.goal))
	}
	return y + 6
}

// scale maps a value to a length.
func (c chart) scale() func(float64) float64 {
	low, high := math.Inf(1), 0.0
	for _, g := range c.groups {
		values := []float64{}
		for _, bar := range g.bars {
			values = append(values, bar.value)
		}
		if g.goal > 0 {
			values = append(values, g.goal)
		}
		for _, v := range values {
			if v > 0 {
				low, high = math.Min(low, v), math.Max(high, v)
			}
		}
	}
	if high == 0 {
		return func(float64) float64 { return 0 }
	}
	if !c.log {
		return func(v float64) float64 { return v / high * plotWidth }
	}
	floor := math.Log10(low) - 0.3
	return func(v float64) float64 {
		if v <= 0 {
			return 0
		}
		return (math.Log10(v) - floor) / (math.Log10(high) - floor) * plotWidth
	}
}
