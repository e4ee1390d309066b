package policy

import (
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxFrom    = 512
	maxActions = 512
)

// Rule says what some sources may, or may never, do on a service.
type Rule struct {
	Name string
	// From is who: a service name, /a/b, /a/* (one segment), /a/** (any depth,
	// /a included), spiffe://other/…, any (every authenticated peer) or anonymous.
	// A source that says no trust domain means the own one. That holds for any in
	// an allow too; in a deny it binds the peers of every trust domain.
	From []string
	// To is a service name, or an ID, an ID pattern or any: then the rule binds
	// every service that has such an identity.
	To        string
	Allow     []string // actions, as in ParseAction
	Deny      []string // actions; they beat every allow
	Except    []string // sources the denies, or the boundary, of this rule do not bind
	Guardrail bool     // the platform's: denies only, reported as such
	// Boundary is the platform's guardrail turned inside out: actions outside of
	// which, or from other sources than From, no allow counts. A service that
	// several boundaries bind is bound by each.
	Boundary []string
	// When is a condition in CEL that must hold besides; empty holds always. Where
	// it cannot be evaluated an allow does not allow, and a deny denies.
	When  string
	Mode  Mode // Enforce or Shadow
	Owner string
}

// Mode says whether what is computed is enforced.
type Mode uint8

// The modes. The zero Mode enforces.
const (
	Enforce Mode = iota
	Shadow       // of a rule: computed and reported, never enforced
	Observe      // of a service: every decision but those of the platform is reported, not enforced
)

// String is the mode's word in YAML and on the wire; enforcing needs none.
func (m Mode) String() string {
	switch m {
	case Shadow:
		return "shadow"
	case Observe:
		return "observe"
	default:
		return ""
	}
}

// parseMode reads enforce, or other, the one other mode that can stand there.
func parseMode(s string, other Mode) (Mode, error) {
	switch s {
	case "", "enforce":
		return Enforce, nil
	case other.String():
		return other, nil
	default:
		return Enforce, fault.Hint(fault.Invalidf("unknown mode %q", clip(s)), "modes are enforce and %s", other)
	}
}

// misshapen is what is wrong with one field of a rule, whatever else there is.
type misshapen struct {
	field string // with its dot
	err   error
}

// shape is what a rule of this form could not mean; nil for a sound one.
func (r *Rule) shape() (wrong []misshapen) {
	switch {
	case len(r.Boundary) > 0 && (len(r.Allow) > 0 || len(r.Deny) > 0 || r.Guardrail):
		wrong = append(wrong, misshapen{".boundary", fault.Hint(fault.Invalidf("a boundary neither allows nor denies"), "put the rest in a rule of its own")})
	case len(r.Boundary)+len(r.Allow)+len(r.Deny) == 0:
		wrong = append(wrong, misshapen{"", fault.Hint(fault.Invalidf("neither allows nor denies anything"), `as in allow: ["GET /v1/orders/{**}"]`)})
	case r.Guardrail && len(r.Allow) > 0:
		wrong = append(wrong, misshapen{".allow", fault.Hint(fault.Invalidf("a guardrail only denies"), "put the allow in a rule of its own")})
	case len(r.Except) > 0 && len(r.Deny)+len(r.Boundary) == 0:
		wrong = append(wrong, misshapen{".except", fault.Hint(fault.Invalidf("there is no deny to except from"), "an allow lists who is allowed in from")})
	}
	if len(r.From) == 0 {
		wrong = append(wrong, misshapen{".from", fault.Hint(fault.Invalidf("empty"), "say any for every authenticated peer")})
	}
	if r.Mode > Shadow {
		wrong = append(wrong, misshapen{".mode", fault.Hint(fault.Invalidf("unknown mode"), "modes are enforce and shadow")})
	}
	return wrong
}

// ToOne is true if the rule binds the one service it names.
func (r Rule) ToOne() bool {
	return r.To != "any" && !strings.Contains(r.To, "/")
}

// target parses To of a rule that does not simply name a service.
func (r Rule) target() (source, error) {
	to, err := parseSource(r.To)
	if err != nil {
		return to, err
	}
	if to.kind == anonymous {
		return to, fault.Invalidf("a service always has an identity")
	}
	return to, nil
}

// binds reports whether the rule is to svc, whose identities are ids.
func (r Rule) binds(svc string, ids []spiffe.ID, own spiffe.TrustDomain) (bool, error) {
	if r.ToOne() {
		return r.To == svc, nil
	}
	to, err := r.target()
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		if to.matches(id, own) {
			return true, nil
		}
	}
	return false, nil
}

// services are the names in from and except.
func (r Rule) services() []string {
	var names []string
	for _, list := range [][]string{r.From, r.Except} {
		for _, s := range list {
			if src, err := parseSource(s); err == nil && src.kind == named {
				names = append(names, s)
			}
		}
	}
	return names
}
