package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// figure is one line of the report: what was measured, and what for.
type figure struct {
	what   string
	value  float64
	unit   string
	beside string  // what else was measured in the same run
	anchor string  // what others were measured at before
	goal   float64 // 0: none
	atMost bool    // the goal is an upper bound, else a lower one
	note   string
}

// upTo is a figure whose goal is an upper bound.
func upTo(what string, value float64, unit string, goal float64, anchor, beside string) figure {
	return figure{what: what, value: value, unit: unit, goal: goal, atMost: true, anchor: anchor, beside: beside}
}

// atLeast is a figure whose goal is a lower bound.
func atLeast(what string, value float64, unit string, goal float64, anchor, beside string) figure {
	return figure{what: what, value: value, unit: unit, goal: goal, anchor: anchor, beside: beside}
}

// times is a figure as a multiple of another of the same run, which is what
// counts on a machine that has other work.
func times(what string, ours, other, goal float64, derived string) figure {
	return figure{what: what, value: ours / other, unit: "×", goal: goal, atMost: true, anchor: derived}
}

// plain is a figure without a goal.
func plain(what string, value float64, unit, anchor, beside string) figure {
	return figure{what: what, value: value, unit: unit, anchor: anchor, beside: beside}
}

func (f figure) met() bool {
	if f.atMost {
		return f.value <= f.goal
	}
	return f.value >= f.goal
}

func (f figure) goalText() string {
	switch {
	case f.goal == 0:
		return "–"
	case f.atMost:
		return "≤ " + number(f.goal)
	default:
		return "≥ " + number(f.goal)
	}
}

func (f figure) verdict() string {
	switch {
	case f.goal == 0:
		return "–"
	case f.met():
		return "met"
	default:
		return "**missed**"
	}
}

// section is one part of the report.
type section struct {
	title   string
	intro   string
	figures []figure
	table   string // markdown of its own
	charts  []chart
	notes   []string
}

// number prints three digits that count.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.Abs(v) >= 100:
		return grouped(int64(math.Round(v)))
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	text := strconv.FormatFloat(v, 'f', max(0, min(digits, 4)), 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	if n < 10_000 {
		return text
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}

func orDash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}

func (s section) markdown(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n", s.title, s.intro)
	if len(s.figures) > 0 {
		b.WriteString("| what | kith | in the same run | anchor | goal | |\n|---|---|---|---|---|---|\n")
		for _, f := range s.figures {
			fmt.Fprintf(&b, "| %s | %s %s | %s | %s | %s | %s |\n", f.what, number(f.value), f.unit,
				orDash(f.beside), orDash(f.anchor), f.goalText(), f.verdict())
		}
		b.WriteString("\n")
	}
	b.WriteString(s.table)
	for i, c := range s.charts {
		fmt.Fprintf(&b, "![%s](performance/%s-%d.svg)\n\n", c.title, name, i+1)
	}
	for _, note := range s.notes {
		fmt.Fprintf(&b, "* %s\n", note)
	}
	if len(s.notes) > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

// write puts the report at path and its plots into a directory beside it.
func write(path, head string, names []string, sections map[string]section) error {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(verdicts(names, sections))
	dir := strings.TrimSuffix(path, filepath.Ext(path))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		s, ok := sections[name]
		if !ok {
			continue
		}
		b.WriteString(s.markdown(name))
		for i, c := range s.charts {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d.svg", name, i+1)), []byte(c.svg()), 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(path, []byte(strings.TrimRight(b.String(), "\n")+"\n"), 0o644)
}

// verdicts is the page's first answer: how many goals, and which are missed.
func verdicts(names []string, sections map[string]section) string {
	goals, missed := 0, []string(nil)
	for _, name := range names {
		for _, f := range sections[name].figures {
			if f.goal == 0 {
				continue
			}
			goals++
			if !f.met() {
				missed = append(missed, fmt.Sprintf("* %s: %s – %s %s, goal %s", sections[name].title, f.what, number(f.value), f.unit, f.goalText()))
			}
		}
	}
	text := fmt.Sprintf("**%d of %d goals met.**", goals-len(missed), goals)
	if len(missed) > 0 {
		text += " Missed in this run:\n\n" + strings.Join(missed, "\n")
	}
	return text + "\n\n"
}
