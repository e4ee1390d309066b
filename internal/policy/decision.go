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
	default:
		return "no_policy"
	}
}

// Request is what is decided. Path must come out of NormalizePath.
type Request struct {
	Protocol Protocol
	Method   string
	Path     string
	Host     string // reported, never matched
	// Port is the application's own port, the one behind `--expose outer=inner`;
	// 0 where it is not known (a unix socket). An unknown port satisfies no
	// allow that names one, and every deny that names one.
	Port uint16
	GRPC bool // reported; a gRPC call is decided as the POST it is
}

// Decision is what was decided and why. The zero Decision denies.
type Decision struct {
	Effect   Effect
	Rule     string // the rule that decided; empty where none did
	Reason   Reason
	Revision uint64
	Near     NearMiss // filled by Table.Explain on denials that no rule made
}

// The fields a near miss can fail at.
const (
	FieldFrom     = "from"
	FieldCheck    = "check" // the service's own
	FieldMethod   = "method"
	FieldPath     = "path"
	FieldPort     = "port"
	FieldProtocol = "protocol"
)

// NearMiss names the allow rule that came closest and the first thing about the
// request that it did not cover.
type NearMiss struct {
	Rule  string
	Field string // from | method | path | port | protocol
	Want  string
	Got   string
}

// Peer is who is on a connection, resolved against one Table. The zero Peer is
// nobody, and denied.
type Peer struct{ r *resolved }

// resolved is what a table knows of a peer. It is immutable.
type resolved struct {
	table     *Table
	id        spiffe.ID
	anonymous bool
	roots     []root   // where this peer's rules begin: guardrails, denies, allows
	allows    int      // index of the first allow in roots
	excepted  []uint64 // bitset of the except lists that name this peer
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
