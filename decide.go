package kith

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// Protocol is what a service speaks: http, grpc or tcp.
type Protocol string

// The protocols of a service.
const (
	HTTP Protocol = "http"
	GRPC Protocol = "grpc"
	TCP  Protocol = "tcp"
)

// Request is what is decided. For TCP only Protocol and Port count.
type Request struct {
	Protocol Protocol
	Method   string
	// Path is the request target's path as sent, without the query.
	Path string
	Host string
	// Port is the application's own port, 0 if it has none.
	Port uint16
	// GRPC says that the request came with a gRPC content type.
	GRPC bool
	// Query is the request target's query as sent, without the question mark.
	// Rules with conditions read it.
	Query string
	// Headers gives the values of a header field, as an http.Header does; nil if
	// there are none. They must not change while the request is decided or held.
	// Rules with conditions read them.
	Headers interface{ Values(name string) []string }
}

// Decision is the answer of policy to one request. The zero Decision denies.
type Decision struct {
	// ID names the decision for `kith why`. Every denial has one.
	ID string
	// Allowed says whether the request may proceed.
	Allowed bool
	// Rule is the rule that decided, "" if none did.
	Rule string
	// Reason is a word of a closed set, as in allow_rule, no_rule or
	// path_not_canonical. It is for operators, not for the peer.
	Reason string
	// Revision is the revision of the policy that decided.
	Revision uint64
	// Observed says that Allowed is true only because the service is in observe
	// mode: Rule and Reason are those of a denial.
	Observed bool
	// Path is the normal form of the path: what was decided, and the only thing
	// that may be forwarded.
	Path string
}

// Malformed says that the request was refused for its form, which no rule can
// allow: the answer is 400, not 403.
func (d Decision) Malformed() bool { return d.Reason == policy.PathNotCanonical.String() }

// WantsToken says that a rule would allow the request with a user token that is
// good: the answer is 401.
func (d Decision) WantsToken() bool {
	return !d.Allowed && (d.Reason == policy.TokenMissing.String() || d.Reason == policy.TokenInvalid.String())
}

// Peer is the verified caller of one connection.
type Peer struct {
	id   spiffe.ID
	hash [sha256.Size]byte
	leaf expiring

	proven *proven // by what, behind a load balancer; nil for a connection's own caller

	serverName string     // that the caller asked TLS for
	address    netip.Addr // where it calls from; zero if that is not known

	resolved atomic.Pointer[resolvedPeer] // against the newest table it was asked with
	reported atomic.Int64                 // second of the last allow reported for it
	flow     atomic.Pointer[flowHit]      // of its latest request
}

type resolvedPeer struct {
	table *policy.Table
	peer  policy.Peer
}

// Peer is the verified caller behind a connection of a [Workload.Listener].
func (w *Workload) Peer(state tls.ConnectionState) (*Peer, error) {
	id, err := spiffe.PeerID(state)
	if err != nil {
		return nil, err
	}
	leaf := state.PeerCertificates[0]
	return &Peer{id: id, hash: sha256.Sum256(leaf.Raw), leaf: expiring{leaf.NotAfter}, serverName: state.ServerName}, nil
}

// PeerOn is Peer for a connection whose handshake is done. Rules with conditions
// on the caller's address need it: a state does not know where it came from.
func (w *Workload) PeerOn(conn *tls.Conn) (*Peer, error) {
	peer, err := w.Peer(conn.ConnectionState())
	if err != nil {
		return nil, err
	}
	if from, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		peer.address = from.Addr()
	}
	return peer, nil
}

// ID is the caller's SPIFFE ID.
func (p *Peer) ID() spiffe.ID { return p.id }

// Outlived says whether the peer's SVID has ended since the connection was made.
// The peer rotates by connecting again: what it asks is still decided, and the
// connection should end with the answer.
func (w *Workload) Outlived(peer *Peer) bool { return peer.outlived(w.cfg.Now()) }

func (p *Peer) outlived(now time.Time) bool { return now.After(p.leaf.notAfter) }

// Hash is the SHA-256 of the caller's leaf certificate; zero for a caller that was
// known by a WIT-SVID.
func (p *Peer) Hash() [sha256.Size]byte { return p.hash }

func (p *Peer) in(table *policy.Table) policy.Peer {
	if r := p.resolved.Load(); r != nil && r.table == table {
		return r.peer
	}
	r := &resolvedPeer{table: table, peer: table.Peer(p.id)}
	p.resolved.Store(r)
	return r.peer
}

// Decide asks the policy in force whether peer may do this. The path is
// normalised here, once; the caller must go on with Decision.Path. Denials and
// a sample of what is allowed are reported to the agent. It blocks where external
// decisions are asked, for as long as their timeouts say.
func (w *Workload) Decide(peer *Peer, request Request) Decision {
	return w.decide(context.Background(), peer, &request, nil, w.cfg.Now())
}

// decide takes pointers and fills them in, here and below: a server's goroutine
// starts with two kilobytes of stack, and copies of these structs would make it
// grow, which costs a request more than deciding does.
func (w *Workload) decide(ctx context.Context, peer *Peer, request *Request, own *check, now time.Time) (d Decision) {
	var verdict policy.Decision
	w.judge(peer, request, now, &d, &verdict)
	if d.Allowed && !d.Observed {
		w.consult(ctx, w.policy.Load(), peer, request, &d, &verdict)
	}
	if d.Allowed && own != nil {
		own.narrow(peer, request, &d, &verdict)
	}
	if peer != nil {
		w.flows.record(peer, request, d.Path, &verdict, now)
	}
	recording := w.policy.Load().recording
	logged := d.Allowed && recording.Samples() && recording.Picks(rand32())
	if !d.Allowed || d.Observed || verdict.Shadow.Rule != "" || logged || w.reports.sampled(peer, d.Rule, request.Method, now) {
		d.ID = newDecisionID()
		w.report(peer, request, &d, &verdict, reported{began: now, logged: logged})
	}
	return d
}

// judge decides without reporting. Once the own SVID has expired, what we hold as
// policy is as old, and nothing is allowed by it.
func (w *Workload) judge(peer *Peer, request *Request, now time.Time, d *Decision, verdict *policy.Decision) {
	ruling := w.policy.Load()
	*verdict = policy.Decision{Revision: ruling.revision}
	*d = Decision{Revision: ruling.revision}
	own := w.identity.Load()
	if ruling.table == nil || peer == nil || own == nil || !now.Before(own.expires) {
		d.Reason = verdict.Reason.String()
		return
	}
	if peer.proven != nil && !peer.proven.stands(w) {
		verdict.Reason = policy.PeerRevoked
		d.Reason = verdict.Reason.String()
		return
	}
	path := request.Path
	if request.Protocol != TCP {
		var err error
		if path, err = policy.NormalizePath(path, ruling.paths); err != nil {
			verdict.Reason = policy.PathNotCanonical
			d.Reason = verdict.Reason.String()
			return
		}
	}
	d.Path = path // not out of asked, which would put the facts on the heap
	asked := request.asked()
	asked.Path = path
	var facts policy.Facts
	if ruling.table.Reads() != 0 {
		facts = request.facts(ruling.table, peer, now)
		if ruling.table.Reads()&policy.ReadsToken != 0 {
			facts.Token = w.userToken(ruling, request, peer, now)
		}
		asked.Facts = &facts
	}
	*verdict = ruling.table.Decide(peer.in(ruling.table), asked)
	d.Allowed, d.Rule = verdict.Effect == policy.Allow, verdict.Rule
	d.Reason, d.Revision, d.Observed = verdict.Reason.String(), verdict.Revision, verdict.Observed
}

// asked is the request in policy's words, its path as it was sent.
func (r *Request) asked() policy.Request {
	return policy.Request{
		Protocol: wireProtocol(r.Protocol), Method: r.Method, Path: r.Path,
		Host: r.Host, Port: r.Port, GRPC: r.GRPC,
	}
}

// facts are what the conditions of a table can read besides.
func (r *Request) facts(table *policy.Table, peer *Peer, now time.Time) policy.Facts {
	facts := policy.Facts{Time: now, Source: peer.address, SNI: peer.serverName, Query: r.Query, Headers: r.Headers}
	if fields, ok := r.Headers.(http.Header); ok && table.Reads()&policy.ReadsHeaders != 0 {
		facts.Headers = policy.HeadersOf(fields)
	}
	return facts
}

func wireProtocol(p Protocol) policy.Protocol {
	switch p {
	case HTTP:
		return policy.HTTP
	case GRPC:
		return policy.GRPC
	case TCP:
		return policy.TCP
	default:
		return 0
	}
}

// rand32 picks allows for the decision log.
func rand32() uint32 { return mathrand.Uint32() }

// newDecisionID is 80 random bits as 16 characters of a-z and 2-7.
func newDecisionID() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	var id [16]byte
	rand.Read(id[:]) //nolint:errcheck // it never fails
	for i, random := range id {
		id[i] = alphabet[random%32]
	}
	return string(id[:])
}
