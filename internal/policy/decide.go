package policy

import "slices"

// Decide says whether the peer may do this, without allocating. The platform's
// denies and boundaries come first, then any deny, then any allow; what nobody
// allows is denied.
func (t *Table) Decide(p Peer, r Request) (d Decision) {
	t.decide(p, &r, &d)
	return d
}

// decide is Decide, into a d that is zero, as it is too large to be handed around; missed is the entry of an allow that only its condition keeps
// from allowing, 0 if there is none.
func (t *Table) decide(p Peer, r *Request, d *Decision) (missed uint32) {
	switch {
	case t == nil || t.protocol == 0:
		return 0
	case p.r == nil:
		d.Revision = t.revision
		return 0
	}
	who := p.r
	if who.table != t {
		who = t.current(p)
	}
	if t.protocol.carriesRequests() && r.Protocol.carriesRequests() && (r.Path == "" || r.Path[0] != '/') {
		d.Reason, d.Revision = PathNotCanonical, t.revision
		return 0
	}
	d.Revision = t.revision
	if !t.understands(r) {
		d.Reason = t.missing(who)
		return 0
	}
	if len(who.roots) == 0 && len(t.boundaries) == 0 {
		d.Reason = t.missing(who)
		t.observe(d)
		return 0
	}
	var q query
	peer := Peer{who}
	q.in = input{r: r, peer: &peer, forwarder: t.forwarder, hops: t.hops}
	q.table = t
	if t.protocol != TCP {
		q.mask = t.methodMask(r.Method)
		q.path = r.Path
	}
	platform := t.judge(&q, d)
	if t.shadows {
		t.foreshadow(&q, d)
	}
	if !platform {
		t.observe(d)
	}
	return q.missed
}

// understands is false for a request that no rule of this table could be about.
func (t *Table) understands(r *Request) bool {
	if t.protocol == TCP {
		return r.Protocol == TCP
	}
	return r.Protocol.carriesRequests() && r.Method != ""
}

// judge decides by the rules that are in force; platform says that one of the
// platform's does.
func (t *Table) judge(q *query, d *Decision) (platform bool) {
	p := q.in.peer.r
	if t.first(q, p.roots[:p.denies]) {
		t.denied(q, d, GuardrailDeny)
		return true
	}
	if len(t.boundaries) > 0 {
		if i := t.outside(q, false); i >= 0 {
			d.Reason, d.Rule = OutsideBoundary, t.boundaries[i].rule
			return true
		}
	}
	if t.first(q, p.roots[p.denies:p.allows]) {
		t.denied(q, d, DenyRule)
		return false
	}
	if t.first(q, p.roots[p.allows:p.shadows]) {
		d.Effect, d.Reason, d.Rule = Allow, AllowRule, t.ruleOf(q.found)
		return false
	}
	d.Reason = t.missing(p)
	if q.missed != 0 {
		d.Reason = q.why
	}
	return false
}

func (t *Table) denied(q *query, d *Decision, reason Reason) {
	d.Reason, d.Rule = reason, t.ruleOf(q.found)
	if q.unsure {
		d.Reason = CondError
	}
}

// first finds the first entry below roots that matches.
func (t *Table) first(q *query, roots []root) bool {
	for i := range roots {
		if t.matches(q, roots[i].node, roots[i].tier) {
			return true
		}
	}
	return false
}

// matches finds the first entry below a root that matches. What cannot be known
// of a request counts against it: it meets no allow and every deny.
func (t *Table) matches(q *query, node uint32, at tier) bool {
	q.denies = !at.gives()
	q.weighs = at == tierAllow
	if t.protocol == TCP {
		return t.connects(q, node)
	}
	return t.actions.walk(q, node, 1)
}

// connects is walk for TCP, where an entry's mask is its port.
func (t *Table) connects(q *query, node uint32) bool {
	port := uint32(q.in.r.Port)
	for i := t.actions.nodes[node].first; i != 0; i = t.actions.entries[i].next {
		e := &t.actions.entries[i]
		fits := e.mask == 0 || e.mask == port || q.denies && port == 0
		if fits && (!e.bound || q.binds(&t.actions.details[i], i)) {
			q.found = i
			return true
		}
	}
	return false
}

// foreshadow says what rules in shadow mode would have made of d, where that is
// another effect.
func (t *Table) foreshadow(q *query, d *Decision) {
	p := q.in.peer.r
	guardrails, denies, allows := p.first(tierShadowGuardrail), p.first(tierShadowDeny), p.first(tierShadowAllow)
	if d.Effect == Deny && (d.Rule != "" || allows == len(p.roots)) {
		return // nothing that allows could change it
	}
	var s Shadowed
	missed, why := q.missed, q.why
	switch i := -1; {
	case t.first(q, p.roots[guardrails:denies]):
		s = Shadowed{Rule: t.ruleOf(q.found), Reason: GuardrailDeny}
	default:
		if i = t.outside(q, true); i >= 0 {
			s = Shadowed{Rule: t.boundaries[i].rule, Reason: OutsideBoundary}
			break
		}
		if t.first(q, p.roots[denies:allows]) {
			s = Shadowed{Rule: t.ruleOf(q.found), Reason: DenyRule}
			break
		}
		if t.first(q, p.roots[allows:]) {
			s = Shadowed{Effect: Allow, Rule: t.ruleOf(q.found), Reason: AllowRule}
		}
	}
	q.missed, q.why = missed, why
	if s.Rule != "" && s.Effect != d.Effect {
		d.Shadow = s
	}
}

// observe makes d what holds, the platform's rules aside: where a service is only
// observed, nothing is denied.
func (t *Table) observe(d *Decision) {
	if t.observed && d.Effect == Deny {
		d.Effect, d.Observed = Allow, true
	}
}

// Refuse is a denial that no rule made, for a request that was never decided.
func (t *Table) Refuse(reason Reason) Decision {
	if t == nil {
		return Decision{Reason: reason}
	}
	return Decision{Reason: reason, Revision: t.revision}
}

// missing is why the default deny stood.
func (t *Table) missing(p *resolved) Reason {
	switch {
	case p.allows < p.shadows:
		return NoRule
	case !p.anonymous && p.id.TrustDomain() != t.own:
		return UnknownTrustDomain
	default:
		return NoSource
	}
}

// methodMask is the bit of the method, that of all others if no rule names it.
func (t *Table) methodMask(m string) uint32 {
	if bit, ok := methodBit(m); ok {
		return bit
	}
	if i := slices.Index(t.methods, m); i >= 0 {
		return 1 << (knownMethods + i)
	}
	return otherMethods
}
