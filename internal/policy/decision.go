// Package policy holds services, rules and the decisions they lead to: what an
// operator wrote is validated, compiled for one destination service, and asked
// once per request or connection. It leaves out all I/O, clocks, logs and
// goroutines, and everything about how a peer proved who it is.
package policy

import "github.com/kith-id/kith/spiffe"

// Protocol is what a service speaks, and what a request came in as.
type Protocol uint8

// The protocols. The zero Protocol is unknown, which every decision denies.
const (
	HTTP Protocol = iota + 1
	GRPC
	TCP
)

// String is the protocol's word in YAML, on the wire and in logs.
func (p Protocol) String() string {
	switch p {
	case HTTP:
		return "http"
	case GRPC:
		return "grpc"
	case TCP:
		return "tcp"
	default:
		return "unknown"
	}
}

// carriesRequests is true where an enforcement point sees methods and paths.
func (p Protocol) carriesRequests() bool { return p == HTTP || p == GRPC }

// Effect is the outcome of a decision.
type Effect uint8

// The effects. The zero Effect denies.
const (
	Deny Effect = iota
	Allow
)

// String is "allow" or "deny".
func (e Effect) String() string {
	if e == Allow {
		return "allow"
	}
	return "deny"
}

// Reason says why a decision came out as it did. It is a closed set.
type Reason uint8

// The reasons. The zero Reason is NoPolicy, so a Decision nobody made says so.
const (
	NoPolicy           Reason = iota // there is no policy to decide by
	AllowRule                        // Rule allowed it
	DenyRule                         // Rule denied it
	GuardrailDeny                    // the guardrail Rule denied it; no allow can leave that
	NoRule                           // rules allow this peer something, but not this
	NoSource                         // no rule allows this peer anything
	UnknownTrustDomain               // the peer is of another trust domain, and no rule names that
	PathNotCanonical                 // the path has more than one reading
	OwnCheck                         // a rule allows it, but the service's own code does not
	CondFalse                        // a rule would allow it, but its condition is false
	CondError                        // a condition could not be evaluated: of a rule that would allow it, or of Rule, which denies
	TokenMissing                     // a rule would allow it with a user's token, and there is none
	TokenInvalid                     // the user's token is not valid
	OutsideBoundary                  // no allow can leave the boundary Rule
	PeerRevoked                      // the peer's identity was revoked
	ExternalDeny                     // a rule allows it, but the external decision does not

	lastReason = ExternalDeny
)

// String is the reason's word in logs and on the wire.
func (r Reason) String() string {
	switch r {
	case AllowRule:
		return "allow_rule"
	case DenyRule:
		return "deny_rule"
	case GuardrailDeny:
		return "guardrail_deny"
	case NoRule:
		return "no_rule"
	case NoSource:
		return "no_source"
	case UnknownTrustDomain:
		return "unknown_trust_domain"
	case PathNotCanonical:
		return "path_not_canonical"
	case OwnCheck:
		return "own_check"
	case CondFalse:
		return "cond_false"
	case CondError:
		return "cond_error"
	case TokenMissing:
		return "token_missing"
	case TokenInvalid:
		return "token_invalid"
	case OutsideBoundary:
		return "outside_boundary"
	case PeerRevoked:
		return "peer_revoked"
	case ExternalDeny:
		return "external_deny"
	default:
		return "no_policy"
	}
}

// Decision is what was decided and why. The zero Decision denies.
type Decision struct {
	Effect   Effect
	Reason   Reason
	Revision uint64
	Rule     string // the rule that decided; empty where none did
	// Observed says that Rule and Reason are those of a denial, which does not hold
	// because the service is only observed: Effect is Allow.
	Observed bool
	Shadow   Shadowed // what rules in shadow mode would have made of it
	Near     NearMiss // filled by Table.Explain on denials that no rule made
}

// Denies says whether the rules in force deny, enforced or only observed.
func (d Decision) Denies() bool { return d.Effect == Deny || d.Observed }

// Shadowed is what would have been decided if rules in shadow mode were enforced,
// where that is something else. Its zero value says that it is not.
type Shadowed struct {
	Effect Effect
	Rule   string // the rule in shadow mode that would have decided
	Reason Reason
}

// The fields a near miss can fail at.
const (
	FieldFrom     = "from"
	FieldCheck    = "check" // the service's own
	FieldMethod   = "method"
	FieldPath     = "path"
	FieldPort     = "port"
	FieldProtocol = "protocol"
	FieldWhen     = "when"
	FieldExternal = "external" // an external decision
)

// NearMiss names the allow rule that came closest and the first thing about the
// request that it did not cover.
type NearMiss struct {
	Rule  string
	Field string // from | method | path | port | protocol | when | check
	Want  string
	Got   string
}

// Peer is who is on a connection, resolved against one Table. The zero Peer is
// nobody, and denied.
type Peer struct{ r *resolved }

// resolved is what a table knows of a peer. It is immutable. What each decision
// reads comes first and is one line of cache, for there are as many as connections.
type resolved struct {
	table     *Table
	roots     []root // where this peer's rules begin: guardrails, denies, allows, and those of shadow mode
	denies    uint32 // index in roots of the first deny
	allows    uint32 // of the first allow
	shadows   uint32 // of the first in shadow mode
	anonymous bool
	room      [8]root // for roots, if that is enough

	id       spiffe.ID
	cuts     [4]uint16 // where the first segments of its path end; 0: not known, or there is none
	excepted []uint64  // bitset of the except lists that name this peer
	bounds   []bound   // by boundary: how it binds this peer
}

// ID is the peer's SPIFFE ID; zero for an anonymous peer.
func (p Peer) ID() spiffe.ID {
	if p.r == nil {
		return spiffe.ID{}
	}
	return p.r.id
}

// Anonymous is true for a peer that showed no identity.
func (p Peer) Anonymous() bool { return p.r != nil && p.r.anonymous }
