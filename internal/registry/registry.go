// Package registry says which nodes belong to a trust domain and which
// identities their workloads may have: attributes, node rules, identity rules,
// and the contract of the store that keeps them. It does no I/O, reads no
// clock, and signs nothing.
package registry

import (
	"fmt"

	"github.com/kith-id/kith/internal/fault"
)

// Result is how one rule answered for one set of attributes.
type Result string

// The four answers. Only Matched admits or issues.
const (
	Matched   Result = "match"
	Unmatched Result = "no_match" // the requirement is false, or the class is not the rule's
	Missing   Result = "missing"  // an attribute the rule names is absent or empty
	Failed    Result = "error"    // the rule could not be evaluated, or its ID is not allowed
)

// Outcome explains one rule's answer, whatever it was.
type Outcome struct {
	Rule       string
	Result     Result
	Detail     string   // why, in one line; empty for a match
	ID         string   // the SPIFFE ID of a matching identity rule
	Attributes []string // what the rule names, for showing values and provenance
}

// String is the outcome as one line of `kith ids explain`.
func (o Outcome) String() string {
	s := o.Rule + ": " + string(o.Result)
	if o.ID != "" {
		s += " " + o.ID
	}
	if o.Detail != "" {
		s += " (" + o.Detail + ")"
	}
	return s
}

// Warning is something allowed that an operator should know before applying.
type Warning struct {
	Path   string // "identities.pods" or "nodes.vms.require"
	Kind   WarningKind
	Detail string
}

// WarningKind is the class of a warning.
type WarningKind string

// The kinds of warnings.
const (
	Collides WarningKind = "collides" // two rules can mint the same ID
	Shadowed WarningKind = "shadowed" // another rule always issues the same ID
	Nothing  WarningKind = "nothing"  // the rule can match nothing
	Broad    WarningKind = "broad"    // every process of a node gets the ID
	Local    WarningKind = "local"    // the rule sees the process on the socket only
)

// String is the warning as `kith plan` prints it.
func (w Warning) String() string { return w.Path + ": " + w.Detail }

// maxName bounds rule, class and node names; a name can be one ID segment.
const maxName = 63

// ValidateName accepts names of rules, classes and nodes: 1 to 63 of
// [A-Za-z0-9._-], starting with a letter or digit, and not "kith", which is the
// first segment of the reserved paths.
func ValidateName(name string) error {
	switch {
	case name == "":
		return fault.Invalidf("empty name")
	case len(name) > maxName:
		return fault.Invalidf("name of %d bytes; at most %d", len(name), maxName)
	case name == reservedSegment:
		return fault.Invalidf("name %q is reserved", name)
	case !alphanumeric(name[0]):
		return fault.Invalidf("name %q does not start with a letter or digit", name)
	}
	if i := firstUnsafe(name); i >= 0 {
		return fault.Invalidf("name %q holds %q; only [A-Za-z0-9._-] are allowed", name, name[i])
	}
	return nil
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// firstUnsafe is the index of the first byte outside [A-Za-z0-9._-], or -1.
func firstUnsafe(s string) int {
	for i := range len(s) {
		c := s[i]
		if !alphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return i
		}
	}
	return -1
}

// didYouMean is "; did you mean X?" or nothing.
func didYouMean(name string, candidates []string) string {
	if n := fault.Nearest(name, candidates); n != "" {
		return fmt.Sprintf("; did you mean %s?", n)
	}
	return ""
}
