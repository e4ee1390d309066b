package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/kith-id/kith/internal/fault"
)

// Severity says what to do about a finding.
type Severity uint8

// The severities, the least first.
const (
	Note    Severity = iota + 1 // worth knowing; may well be meant
	Warning                     // does not do what it seems to, or opens more than it says
)

// String is note or warning.
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "note"
}

// Finding is something about a sound rule or service that people should know.
type Finding struct {
	ID       string // one of Lints
	Severity Severity
	At       string // path: rules.web-reads.allow[0]
	What     string
	Fix      string // what to type, or ""
	// Service is the one it is about, where it is about one of several.
	Service string
	// Inert is true if the action at At has no effect on Service (on any, if that is
	// empty): without it, every decision is the same.
	Inert bool
}

// String is the finding in one line.
func (f Finding) String() string { return f.At + ": " + f.What + " (" + f.ID + ")" }

// LintKind is a kind of finding.
type LintKind struct {
	ID, Why string
}

// The kinds of findings.
const (
	lintAmbiguous   = "ambiguous-template"
	lintAnonymous   = "anonymous-access"
	lintNothing     = "binds-nothing"
	lintNobody      = "denies-nobody"
	lintDuplicate   = "duplicate-rule"
	lintMethodCase  = "method-case"
	lintMethod      = "method-never-occurs"
	lintNever       = "never-matches"
	lintOutside     = "outside-boundary"
	lintTeams       = "overlapping-teams"
	lintPrefix      = "prefix-without-boundary"
	lintShadowed    = "shadowed-by-deny"
	lintAudience    = "shared-audience"
	lintShared      = "shared-identity"
	lintStreams     = "streams-unsigned"
	lintSlash       = "trailing-slash-gap"
	lintUnfinished  = "unfinished"
	lintUnprovable  = "unprovable"
	lintUnscoped    = "unscoped-identity"
	lintUnscopedTo  = "unscoped-target"
	lintSubstring   = "unanchored-match"
	lintProof       = "weak-proof"
	lintWiderExists = "wider-rule-exists"
)

// Lints is every kind of finding and why it is one, by ID.
func Lints() []LintKind {
	return []LintKind{
		{lintAmbiguous, "people used to other routers read the template as something else than it is"},
		{lintAnonymous, "whoever reaches the port may do it: there is no identity to hold to account"},
		{lintNothing, "no service has such an identity, so the rule is about none"},
		{lintNobody, "a deny whose every source is excepted denies nobody"},
		{lintDuplicate, "another rule says the same, so changing one of them changes nothing"},
		{lintMethodCase, "methods are case-sensitive, and no client sends this one"},
		{lintMethod, "a method that the service's protocol never uses"},
		{lintNever, "no request can meet it"},
		{lintOutside, "no allow counts outside of a boundary of the platform"},
		{lintTeams, "two teams may each name a workload of the other as their service"},
		{lintPrefix, "a prefix without its boundary also matches names that only begin alike: /admin and /administrators"},
		{lintShadowed, "a deny beats every allow"},
		{lintAudience, "a proof that one service is shown is as good at the other, before it has ended"},
		{lintShared, "whoever has the identity is bound by the rules of both services"},
		{lintStreams, "a message of a stream comes after what would have to be signed"},
		{lintSlash, "a trailing slash is another path, and many back ends serve both alike"},
		{lintUnfinished, "the set is too large to compare every rule with every other one"},
		{lintUnprovable, "a proof is of a WIT-SVID, so without these a service lets nobody in by one, and nobody calls it through its load balancer"},
		{lintUnscoped, "a source that does not say which part of a trust domain: nodes of every class can mint such IDs"},
		{lintUnscopedTo, "an allow to a pattern opens services that do not exist yet"},
		{lintSubstring, "text found anywhere in a name is found in names nobody thought of"},
		{lintProof, "a Workload Proof Token binds the path alone, a signature the whole request"},
		{lintWiderExists, "a wider rule allows or denies all of it, so taking it away changes nothing"},
	}
}

// Lint is every finding about the set, those at the same place together. A set
// that is not sound is an Invalid error, as in Validate.
func (s Set) Lint() ([]Finding, error) {
	v := newValidation(s)
	if err := v.run(func(string) (Service, bool) { return Service{}, false }); err != nil {
		return nil, err
	}
	return v.findings(true), nil
}

// finder gathers findings.
type finder struct{ found []Finding }

func (f *finder) add(id string, severity Severity, at, fix, format string, args ...any) *Finding {
	f.found = append(f.found, Finding{ID: id, Severity: severity, At: at, What: fmt.Sprintf(format, args...), Fix: fix})
	return &f.found[len(f.found)-1]
}

func (f *finder) sorted() []Finding {
	slices.SortStableFunc(f.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.ID, b.ID), cmp.Compare(a.What, b.What))
	})
	return slices.CompactFunc(f.found, func(a, b Finding) bool { return a.At == b.At && a.ID == b.ID && a.What == b.What })
}

// warnings are the findings that are more than notes, in one line each.
func warningsOf(found []Finding) (out []string) {
	for _, f := range found {
		if f.Severity >= Warning {
			out = append(out, f.String())
		}
	}
	return out
}

// Refuse is the Invalid error for findings that are more than notes; nil if there
// are none.
func Refuse(found []Finding) error {
	if warnings := warningsOf(found); len(warnings) > 0 {
		return fault.Invalidf("%d warnings", len(warnings))
	}
	return nil
}
