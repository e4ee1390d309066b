package registry

import (
	"fmt"
	"slices"
	"strings"
)

// plan finds what an operator should know before applying the rules: rules
// that can collide, shadow each other, match nothing, or match everything.
func (ids *Identities) plan() []Warning {
	var out []Warning
	warn := func(r *compiledIdentity, kind WarningKind, format string, args ...any) {
		out = append(out, Warning{Path: "identities." + r.rule.Name, Kind: kind, Detail: fmt.Sprintf(format, args...)})
	}
	for _, r := range ids.rules {
		if why := r.matchesNothing(ids.classes); why != "" {
			warn(r, Nothing, "matches nothing: %s", why)
		}
		if !slices.ContainsFunc(r.needs, func(name string) bool { return strings.HasPrefix(name, workloadScope) }) {
			warn(r, Broad, "requires nothing of the workload: every process of these nodes gets the ID")
		}
		if slices.Contains(r.needs, pathAttr) || slices.Contains(r.needs, sha256Attr) {
			warn(r, Local, "path and sha256 are those of the process on the socket; they cannot name an app behind kith run or a proxy")
		}
	}
	for i, a := range ids.rules {
		for _, b := range ids.rules[i+1:] {
			if _, ok := sharedClasses(a.rule.Nodes, b.rule.Nodes); ok {
				switch {
				case a.covers(b):
					warn(b, Shadowed, "rule %s gives the same ID whenever this one does", a.rule.Name)
					continue
				case b.covers(a):
					warn(a, Shadowed, "rule %s gives the same ID whenever this one does", b.rule.Name)
					continue
				}
			}
			if example := ids.collision(a, b); example != "" {
				warn(a, Collides, "can mint the same ID as rule %s: %s", b.rule.Name, example)
			}
		}
	}
	return out
}

// matchesNothing says why no workload can ever match, or "".
func (r *compiledIdentity) matchesNothing(classes []string) string {
	if len(classes) > 0 {
		var unknown []string
		for _, class := range r.rule.Nodes {
			if !slices.Contains(classes, class) {
				unknown = append(unknown, class)
			}
		}
		if len(unknown) > 0 && len(unknown) == len(r.rule.Nodes) {
			return "no node rule " + strings.Join(unknown, ", ") + didYouMean(unknown[0], classes)
		}
	}
	if r.require != nil && len(r.require.attributes) == 0 && len(r.require.optional) == 0 {
		if ok, err := r.require.holds(nil); err != nil || !ok {
			return "its requirement is always false"
		}
	}
	for _, s := range r.template.segments {
		for _, p := range s {
			if p.attr == pathAttr && p.keepsSlash() {
				return pathAttr + " always holds a /; filter it with slug or hash"
			}
		}
	}
	return ""
}

// keepsSlash reports whether no filter of the slot removes slashes.
func (p part) keepsSlash() bool {
	return !slices.ContainsFunc(p.filters, func(f filter) bool { return f.name == "slug" || f.name == "hash" })
}

// covers reports whether a gives b's ID whenever b matches: same template, all
// of b's classes, and no requirement that b does not have.
func (a *compiledIdentity) covers(b *compiledIdentity) bool {
	if a.rule.ID != b.rule.ID {
		return false
	}
	if a.rule.Require != b.rule.Require && a.require != nil {
		return false
	}
	if len(a.rule.Nodes) == 0 {
		return true
	}
	if len(b.rule.Nodes) == 0 {
		return false
	}
	return !slices.ContainsFunc(b.rule.Nodes, func(class string) bool { return !slices.Contains(a.rule.Nodes, class) })
}

// collision is the shape of an ID that both rules can give, or "". It errs
// towards naming one: values are assumed to be anything a segment can hold.
func (ids *Identities) collision(a, b *compiledIdentity) string {
	for _, classA := range ids.classesOf(a) {
		for _, classB := range ids.classesOf(b) {
			if shape := unify(a.template, classA, b.template, classB); shape != "" {
				return shape
			}
		}
	}
	return ""
}

func (ids *Identities) classesOf(r *compiledIdentity) []string {
	if len(r.rule.Nodes) > 0 {
		return r.rule.Nodes
	}
	return ids.classes
}

// unify is the common shape of two templates with their classes filled in, or
// "" when some segment cannot be equal.
func unify(a *template, classA string, b *template, classB string) string {
	if len(a.segments) != len(b.segments) {
		return ""
	}
	var shape strings.Builder
	for i := range a.segments {
		x, y := a.segments[i].shape(classA), b.segments[i].shape(classB)
		both, ok := x.meet(y)
		if !ok {
			return ""
		}
		shape.WriteString("/" + both)
	}
	return shape.String()
}

// segmentShape is what a segment can be: prefix, anything if varying, suffix.
type segmentShape struct {
	prefix, suffix string
	varying        bool
}

func (s segment) shape(class string) segmentShape {
	var out segmentShape
	for _, p := range s {
		literal := p.literal
		if p.attr == classAttr {
			literal = p.filtered(class)
		} else if p.attr != "" {
			out.varying, out.suffix = true, ""
			continue
		}
		if out.varying {
			out.suffix += literal
		} else {
			out.prefix += literal
		}
	}
	return out
}

// filtered is what the slot's filters make of a value.
func (p part) filtered(value string) string {
	for _, f := range p.filters {
		value = f.apply(value)
	}
	return value
}

// meet is a text both shapes allow, with * for what varies.
func (s segmentShape) meet(o segmentShape) (string, bool) {
	switch {
	case !s.varying && !o.varying:
		return s.prefix, s.prefix == o.prefix
	case !s.varying:
		return s.prefix, o.allows(s.prefix)
	case !o.varying:
		return o.prefix, s.allows(o.prefix)
	}
	prefix, suffix := longer(s.prefix, o.prefix), longer(s.suffix, o.suffix)
	ok := strings.HasPrefix(prefix, s.prefix) && strings.HasPrefix(prefix, o.prefix) &&
		strings.HasSuffix(suffix, s.suffix) && strings.HasSuffix(suffix, o.suffix)
	return prefix + "*" + suffix, ok
}

func (s segmentShape) allows(text string) bool {
	return len(text) > len(s.prefix)+len(s.suffix) && strings.HasPrefix(text, s.prefix) && strings.HasSuffix(text, s.suffix)
}

func longer(a, b string) string {
	if len(b) > len(a) {
		return b
	}
	return a
}
