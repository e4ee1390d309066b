package policy

import (
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// source is one parsed entry of from, to or except.
type source struct {
	kind sourceKind
	text string             // as written; a service's name
	td   spiffe.TrustDomain // identities: zero is the own trust domain
	path []part             // identities
}

type sourceKind uint8

const (
	named      sourceKind = iota + 1 // a service, by name
	identities                       // the IDs of one trust domain that path matches
	anyPeer                          // every authenticated peer
	anonymous                        // a peer without an identity
)

// parseSource reads a service name, /a/b, /a/*, /a/**, spiffe://td/…, any, or
// anonymous. Names are not looked up here.
func parseSource(s string) (source, error) {
	switch {
	case s == "":
		return source{}, fault.Hint(fault.Invalidf("source is empty"), "say any for every authenticated peer")
	case len(s) > maxAction:
		return source{}, fault.Invalidf("source is longer than %d bytes", maxAction)
	case s == "any":
		return source{kind: anyPeer, text: s}, nil
	case s == "anonymous":
		return source{kind: anonymous, text: s}, nil
	case s[0] == '/':
		path, err := parseIDPattern(s)
		return source{kind: identities, text: s, path: path}, err
	case strings.Contains(s, "://"):
		name, ok := strings.CutPrefix(s, "spiffe://")
		if !ok {
			return source{}, fault.Invalidf("source %q is no SPIFFE ID", clip(s))
		}
		slash := strings.IndexByte(name, '/')
		if slash < 0 {
			return source{}, fault.Hint(fault.Invalidf("source %q has no path", clip(s)), "write %s/** for every ID of the trust domain", clip(s))
		}
		td, err := spiffe.ParseTrustDomain(name[:slash])
		if err != nil {
			return source{}, fault.Wrap(fault.Invalid, err)
		}
		path, err := parseIDPattern(name[slash:])
		return source{kind: identities, text: s, td: td, path: path}, err
	default:
		if err := ValidateName(s); err != nil {
			if strings.ContainsAny(s, "/*") {
				err = fault.Hint(err, "an ID begins with /, as in /vms/*")
			}
			return source{}, err
		}
		return source{kind: named, text: s}, nil
	}
}

// parseIDPattern reads the path of an ID in which * may stand for one segment
// and ** at the end for any number, none included.
func parseIDPattern(path string) ([]part, error) {
	segments := strings.Split(path[1:], "/")
	if len(segments) > maxSegments {
		return nil, fault.Invalidf("ID pattern has more than %d segments", maxSegments)
	}
	parts := make([]part, 0, len(segments))
	for i, s := range segments {
		switch {
		case s == "*":
			parts = append(parts, part{kind: one})
		case s == "**" && i == len(segments)-1:
			parts = append(parts, part{kind: rest})
		case s == "**":
			return nil, fault.Invalidf("ID pattern %q: ** stands only at the end", clip(path))
		default:
			if err := spiffe.ValidateSegment(s); err != nil {
				err = fault.Invalidf("ID pattern %q: %w", clip(path), err)
				return nil, fault.Hint(err, "* stands for one whole segment, ** at the end for any number")
			}
			parts = append(parts, part{text: s})
		}
	}
	return parts, nil
}

// identityParts is the path of an ID as parts that match it alone.
func identityParts(id spiffe.ID) []part {
	return appendSegments(make([]part, 0, strings.Count(id.Path(), "/")), id.Path())
}

// appendSegments adds the segments of an ID's path to parts.
func appendSegments(parts []part, path string) []part {
	for s, after, more := "", strings.TrimPrefix(path, "/"), true; more; {
		s, after, more = strings.Cut(after, "/")
		parts = append(parts, part{text: s})
	}
	return parts
}

// literalID is true if s can match one ID only.
func (s source) literalID() bool {
	for _, p := range s.path {
		if p.kind != literal {
			return false
		}
	}
	return s.kind == identities
}

// matches is true if s, which must not be a name, binds id. own is the trust
// domain of IDs that say none.
func (s source) matches(id spiffe.ID, own spiffe.TrustDomain) bool {
	switch s.kind {
	case anyPeer:
		return true
	case identities:
		td := s.td
		if td.IsZero() {
			td = own
		}
		return id.TrustDomain() == td && covers(s.path, identityParts(id))
	default:
		return false
	}
}
