package policy

import (
	"regexp"
	"slices"
	"strings"
)

// lintRule looks at one rule by itself: whom it names, and what its condition
// asks.
func (v *validation) lintRule(r Rule, out *finder) {
	at := "rules." + r.Name
	if len(r.Except) > 0 && !slices.ContainsFunc(r.From, func(from string) bool { return from == "any" || !v.underGiven(from, r.Except) }) {
		out.add(lintNobody, Warning, at+".except", "", "frees every source of the rule, so it denies nobody")
	}
	if len(r.Allow) > 0 {
		v.lintSources(r, out)
		if !r.ToOne() {
			out.add(lintUnscopedTo, Note, at+".to", "a rule to each service by its name", "allows on every service with an identity like %s, those yet to come too", r.To)
		}
	}
	if c := v.conditions[r.When]; c != nil {
		lintCondition(r, c, out)
	}
}

// lintSources looks at whom an allow lets in.
func (v *validation) lintSources(r Rule, out *finder) {
	for i, text := range r.From {
		at := index("rules."+r.Name+".from", i)
		src, err := parseSource(text)
		if err != nil {
			continue
		}
		switch {
		case src.kind == anonymous:
			out.add(lintAnonymous, Warning, at, "name who calls, or any for every authenticated caller", "lets in whoever connects without an identity")
		case src.kind == anyPeer:
			out.add(lintUnscoped, Note, at, "name the services that call", "lets in every authenticated caller of the trust domain")
		case src.kind != identities || src.path[0].kind == literal:
		case !src.td.IsZero() && src.td != v.set.TrustDomain:
			out.add(lintUnscoped, Warning, at, "as in spiffe://"+src.td.String()+"/their/service", "%s lets in callers of trust domain %s by no more than the shape of their ID", text, src.td)
		case len(src.path) > 1:
			out.add(lintUnscoped, Warning, at, "begin with a class, as in /eks/shop/*", "%s begins with a wildcard, so nodes of every class can mint such an ID", text)
		default:
			out.add(lintUnscoped, Note, at, "begin with a class, as in /eks/shop/*", "%s lets in callers from nodes of every class", text)
		}
	}
}

// foreignVariable is how other routers spell a variable.
var foreignVariable = regexp.MustCompile(`^(:[A-Za-z_]\w*|<[^>]*>|\[[^\]]*\]|\(.*\)|\$\{?\w+\}?|.*\.\*.*)$`)

// lintTemplate warns of a path that means something else than it seems to.
func (v *validation) lintTemplate(l linted, out *finder) {
	if l.action.protocol != HTTP {
		return
	}
	_, path, _ := cutFields(l.text)
	seen := map[string]bool{}
	for s := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if foreignVariable.MatchString(s) {
			out.add(lintAmbiguous, Warning, l.at, "{name} for one segment, {**} for any number", "segment %s stands for itself and for nothing else", s)
		}
	}
	for _, p := range l.action.path {
		if p.kind == one && p.text != "" && seen[p.text] {
			out.add(lintAmbiguous, Warning, l.at, "give each its own name", "{%s} stands twice, and the two need not be the same", p.text)
		}
		seen[p.text] = true
	}
}

// lintRuledOut warns of an action whose methods or path the condition rules out.
func (v *validation) lintRuledOut(l linted, out *finder) {
	c := v.conditions[l.rule.When]
	if c == nil || l.action.protocol == TCP {
		return
	}
	for _, clause := range c.clauses {
		if len(clause.ops) != 1 {
			continue
		}
		switch o := clause.ops[0]; {
		case o.kind != opEquals || o.compare != equal:
		case o.ref.on == onMethod && l.action.methods != nil && !slices.Contains(l.action.methods, o.text):
			out.add(lintNever, Warning, l.at, "", "can never match: the condition wants method %s", o.text).Inert = true
		case o.ref.on == onPath && l.action.without(o.text):
			out.add(lintNever, Warning, l.at, "", "can never match: the condition wants path %s", o.text).Inert = true
		}
	}
}

// without is true if an action is surely about no request with a path.
func (a Action) without(path string) bool {
	if strings.ContainsAny(path, "%*{}") {
		return false // which other spellings match, templates say another way
	}
	only, err := ParseAction("* " + path)
	return err == nil && a.disjoint(only)
}

// unanchored finds matches() on names; its argument is a regular expression.
var unanchored = regexp.MustCompile(`(request\.(?:path|host|sni)|peer\.id)\.matches\("((?:[^"\\]|\\.)*)"\)`)

// lintCondition looks for conditions that are wider than they read, and for
// those that nothing meets.
func lintCondition(r Rule, c *condition, out *finder) {
	at := "rules." + r.Name + ".when"
	var equals []op
	for _, clause := range c.clauses {
		for i := range clause.ops {
			lintOp(at, &clause.ops[i], out)
		}
		for _, found := range unanchored.FindAllStringSubmatch(clause.text, -1) {
			if !strings.HasPrefix(found[2], "^") || !strings.HasSuffix(found[2], "$") {
				out.add(lintSubstring, Warning, at, "begin it with ^ and end it with $", "matches(%q) finds its pattern anywhere in %s", found[2], found[1])
			}
		}
		if len(clause.ops) == 1 {
			o := clause.ops[0]
			if o.kind == opAlways && !o.always {
				never(r, at, "it says false", out)
			}
			if o.kind == opEquals && o.compare == equal {
				equals = append(equals, o)
			}
		}
	}
	for i, a := range equals {
		for _, b := range equals[:i] {
			if a.ref.spelt == b.ref.spelt && a.text != b.text {
				never(r, at, a.ref.spelt+" cannot be both "+b.text+" and "+a.text, out)
			}
		}
	}
}

// never says that a condition cannot hold. An allow with it is inert; a deny
// still denies what cannot be evaluated.
func never(r Rule, at, why string, out *finder) {
	what := "can never hold: " + why
	if len(r.Deny)+len(r.Boundary) > 0 {
		out.add(lintNever, Warning, at, "", "%s; a deny with it denies only where it is not known", what)
		return
	}
	out.add(lintNever, Warning, at, "kith rules rm "+r.Name, "%s", what).Inert = true
}

// lintOp warns of a comparison with part of a name that ends within a segment.
func lintOp(at string, o *op, out *finder) {
	path := o.ref.on == onPath || o.ref.on == onPeerID
	host := o.ref.on == onHost || o.ref.on == onSNI
	switch {
	case o.kind == opPrefix && path && !strings.HasSuffix(o.text, "/"):
		out.add(lintPrefix, Warning, at, o.ref.spelt+`.startsWith("`+o.text+`/")`, "%s.startsWith(%q) also matches %sx", o.ref.spelt, o.text, o.text)
	case o.kind == opPrefix && host:
		out.add(lintPrefix, Warning, at, o.ref.spelt+` == "…" or .endsWith(".…")`, "%s.startsWith(%q) also matches %s.evil.example", o.ref.spelt, o.text, strings.TrimSuffix(o.text, "."))
	case o.kind == opSuffix && host && !strings.HasPrefix(o.text, "."):
		out.add(lintPrefix, Warning, at, o.ref.spelt+`.endsWith(".`+o.text+`")`, "%s.endsWith(%q) also matches evil%s", o.ref.spelt, o.text, o.text)
	case o.kind == opContains && (path || host):
		out.add(lintSubstring, Warning, at, "say which segment: a template in the action, or peer.path[0]", "%s.contains(%q) finds it anywhere", o.ref.spelt, o.text)
	}
}

// lintTeams warns of teams that could each name the other's workloads.
func (v *validation) lintTeams(out *finder) {
	names := v.set.teamNames()
	for i, name := range names {
		for _, other := range names[:i] {
			for _, a := range v.set.Teams[name].Identities {
				if slices.ContainsFunc(v.set.Teams[other].Identities, func(b string) bool { return v.meet(a, b) }) {
					out.add(lintTeams, Warning, "teams."+name+".identities", "", "%s meets IDs of team %s", a, other)
				}
			}
		}
	}
}

// meet is true if two patterns of IDs have one in common.
func (v *validation) meet(a, b string) bool {
	x, err1 := parseSource(a)
	y, err2 := parseSource(b)
	if err1 != nil || err2 != nil {
		return false
	}
	for _, s := range []*source{&x, &y} {
		if s.td.IsZero() {
			s.td = v.set.TrustDomain
		}
	}
	return x.td == y.td && overlap(x.path, y.path)
}
