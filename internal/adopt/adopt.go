// Package adopt reads authorization policies of other systems – Istio, Linkerd,
// Consul, Kubernetes NetworkPolicy – and writes them as rules of ours: exactly,
// or not at all and with the reason. It leaves out fetching them from anywhere.
package adopt

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
)

// File is one YAML file to read.
type File struct {
	Name string
	Data []byte
}

// Line says what became of one part of a policy.
type Line struct {
	At     string // file:line
	Object string // as in AuthorizationPolicy shop/orders
	Source string // the part in few words
	Rule   string // name of the rule it became; empty for none
	Text   string // that rule in one line, or why there is none
}

// Result is what could be adopted, and what could not.
type Result struct {
	Rules []policy.Rule // sorted by name
	// Providers sign the tokens that conditions of the rules read.
	Providers []usertoken.Provider
	// Lines explain each part that was adopted or that needs nothing here.
	Lines []Line
	// Refused is each part that cannot be said in rules. No rule is made for a
	// service that a refused part selects, because the rest would mean something
	// else without it.
	Refused []Line
	// Left is the services for which no rule was made for that reason.
	Left []string
}

// Systems are the words for what can be read.
func Systems() []string { return []string{"istio", "linkerd", "consul", "networkpolicy"} }

// Read adopts the policies of a system. The inventory says which services there
// are and what the system's names are here; files are read as one set. An error
// is a file or an inventory that cannot be read at all.
func Read(system string, inventory Inventory, files []File) (Result, error) {
	if err := inventory.check(system); err != nil {
		return Result{}, err
	}
	docs, err := documents(files)
	if err != nil {
		return Result{}, err
	}
	b := &book{
		inventory: inventory, seen: make(map[string]string), rules: make(map[string]policy.Rule),
		poisoned: make(map[string]bool), checked: make(map[string]bool),
	}
	switch system {
	case "istio":
		b.istio(docs)
	case "linkerd":
		b.linkerd(docs)
	case "consul":
		b.consul(docs)
	case "networkpolicy":
		b.networkPolicies(docs)
	default:
		err := fault.Invalidf("unknown system %q", system)
		return Result{}, fault.Hint(err, "one of %s", strings.Join(Systems(), ", "))
	}
	return b.result(), nil
}

// book gathers what comes of the documents.
type book struct {
	inventory Inventory
	seen      map[string]string // where an object stands, by kind and name
	rules     map[string]policy.Rule
	order     []string
	lines     []Line
	refused   []Line
	poisoned  map[string]bool // services about which something was refused
	providers []usertoken.Provider
	checked   map[string]bool // services whose bad tokens are refused
	foreign   []string        // trust domains other than ours that policies of Istio name
}

// origin is the part of a document that something comes of.
type origin struct {
	at, object, source string
	services           []string // that the document selects
}

func (o origin) part(n *node, source string) origin {
	o.source = source
	if n != nil {
		o.at = n.at()
	}
	return o
}

// refuse notes that a part cannot be said, and gives up its services.
func (b *book) refuse(o origin, format string, args ...any) {
	b.refused = append(b.refused, Line{At: o.at, Object: o.object, Source: o.source, Text: fmt.Sprintf(format, args...)})
	for _, s := range o.services {
		b.poisoned[s] = true
	}
}

// keep notes that a part has no counterpart here and goes on to be enforced where
// it is; the rest keeps its meaning without it.
func (b *book) keep(o origin, format string, args ...any) {
	o.services = nil
	b.refuse(o, format, args...)
}

// twice refuses an object that is in the files a second time: the cluster has one of
// them, and which the files do not say.
func (b *book) twice(o origin) bool {
	at, there := b.seen[o.object]
	if there {
		b.refuse(o, "it is here a second time, after %s: leave one out", at)
		return true
	}
	b.seen[o.object] = o.at
	return false
}

// note explains a part that needs no rule.
func (b *book) note(o origin, format string, args ...any) {
	b.lines = append(b.lines, Line{At: o.at, Object: o.object, Source: o.source, Text: fmt.Sprintf(format, args...)})
}

// add makes a rule of a part. Its name is made unique.
func (b *book) add(o origin, r policy.Rule) {
	r.Name = b.freeName(r.Name)
	b.rules[r.Name] = r
	b.order = append(b.order, r.Name)
	b.lines = append(b.lines, Line{At: o.at, Object: o.object, Source: o.source, Rule: r.Name, Text: oneLine(r)})
}

func (b *book) freeName(want string) string {
	return free(want, func(name string) bool { _, taken := b.rules[name]; return taken })
}

// free is the label that is wanted, with a number where it is taken.
func free(want string, taken func(name string) bool) string {
	base := label(want)
	for n := 1; ; n++ {
		name := base
		if n > 1 {
			suffix := fmt.Sprintf("-%d", n)
			name = strings.TrimRight(base[:min(len(base), maxName-len(suffix))], "-") + suffix
		}
		if !taken(name) {
			return name
		}
	}
}

const maxName = 63

// label makes a DNS label of any text.
func label(text string) string {
	keep := func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}
	name := strings.Trim(strings.Map(keep, text), "-")
	for strings.Contains(name, "--") {
		name = strings.ReplaceAll(name, "--", "-")
	}
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "r-" + name
	}
	return strings.TrimRight(name[:min(len(name), maxName)], "-")
}

// oneLine is a rule as kith allow and kith deny would say it.
func oneLine(r policy.Rule) string {
	verb, actions := "allow", r.Allow
	if len(r.Deny) > 0 {
		verb, actions = "deny", r.Deny
	}
	text := fmt.Sprintf("%s %s \"%s\" on %s", verb, strings.Join(r.From, ","), strings.Join(actions, `" "`), r.To)
	if len(r.Except) > 0 {
		text += " except " + strings.Join(r.Except, ",")
	}
	if r.When != "" {
		text += " when " + r.When
	}
	if r.Mode == policy.Shadow {
		text += " (shadow)"
	}
	return text
}

// result leaves out what belongs to services that were given up.
func (b *book) result() Result {
	out := Result{Refused: b.refused, Left: slices.Sorted(maps.Keys(b.poisoned))}
	for _, line := range b.lines {
		if line.Rule != "" && b.poisoned[b.rules[line.Rule].To] {
			line.Text = "left out, because another part about " + b.rules[line.Rule].To + " was refused: " + line.Text
			line.Rule = ""
		}
		out.Lines = append(out.Lines, line)
	}
	for _, p := range b.providers {
		p.Services = slices.DeleteFunc(slices.Clone(p.Services), func(s string) bool { return b.poisoned[s] })
		if len(p.Services) > 0 {
			out.Providers = append(out.Providers, p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.rules)) {
		if r := b.rules[name]; !b.poisoned[r.To] {
			out.Rules = append(out.Rules, r)
		}
	}
	return out
}
