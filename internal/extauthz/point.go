// Package extauthz decides for those that ask before they forward or act - Envoy's
// ext_authz, nginx's auth_request, forward_auth of others, applications that speak
// OPA's data API or AuthZEN - by the same compiled policy as every other
// enforcement point; which process asks, and whose identity it holds, is settled
// by the agent.
package extauthz

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

// Point is one enforcement point that asks: a process that holds the identity of
// the services it forwards to. Until Rule was called it denies everything. Its
// methods are safe for concurrent use; Rule and Learn have one caller at a time.
type Point struct {
	cfg    PointConfig
	ruling atomic.Pointer[ruling]
	sample sample

	providers []usertoken.Provider      // of the newest policy; owned by who calls Rule and Learn, as is all below
	keys      map[string]*spiffe.JWKSet // of providers, by URL
	last      compiled
}

// PointConfig is what a Point needs.
type PointConfig struct {
	// As is the service that the process claims to be; "" if it claims none.
	As string
	// Stale says that the policy is older than an identity may be: nothing is
	// allowed by it any more.
	Stale func() bool
	// Report keeps a decision, Missing hears that a user token names a key that its
	// provider's set lacks, and Count counts a request for replays of proposed
	// rules. They must not block for long.
	Report  func(*pb.Decision)
	Missing func(provider, keyID string)
	Count   func(policy.Flow)
	Now     func() time.Time
}

// Policy is what a Point is to decide by.
type Policy struct {
	Revision uint64
	// Book is not written to any more; Services are those of it that the process may
	// answer for.
	Book     *policy.Book
	Services []string
	// Providers sign user tokens for some of the services.
	Providers []usertoken.Provider
	// Unread is why part of the policy is not in Book: this version cannot read it, so
	// nothing is allowed by the rest.
	Unread error
	Log    *pb.DecisionLog
}

// ruling is the policy in force: immutable, swapped as a whole.
type ruling struct {
	revision uint64
	own      spiffe.TrustDomain
	services []string                 // that the process may answer for, sorted
	tables   map[string]*policy.Table // by service
	wrong    error                    // why there are none

	tokens    map[string]*usertoken.Checker // by service
	recording *policy.Recording
}

// NewPoint makes a point that denies everything until it has a policy.
func NewPoint(cfg PointConfig) *Point {
	p := &Point{cfg: cfg}
	p.ruling.Store(&ruling{wrong: fault.Conflictf("there is no policy yet")})
	return p
}

// Rule puts a policy in force and returns the ack. One that cannot be enforced
// leaves a ruling that denies everything.
func (p *Point) Rule(in Policy) *pb.PolicyAck {
	p.providers = in.Providers
	p.keys = p.wanted() // or keys would count that a provider withdrew while it was gone
	next, err := p.compile(in)
	ack := &pb.PolicyAck{Revision: in.Revision}
	if err != nil {
		ack.Error = clip(err.Error(), maxText)
		next = &ruling{wrong: err}
		p.last.providers, p.last.tokens = nil, nil // they go on with keys that Learn brings to nobody meanwhile
	}
	next.revision, next.recording = in.Revision, policy.RecordingFromPB(in.Log)
	p.ruling.Store(next)
	return ack
}

// Learn puts fetched keys in force, and forgets those of providers that are gone.
func (p *Point) Learn(m *pb.ProviderKeys) {
	keys := p.wanted()
	delete(keys, m.GetUrl())
	if set, err := spiffe.ParseJWKSet(m.GetJwks()); err == nil {
		keys[m.GetUrl()] = set
	}
	p.keys = keys
	p.last.learn(m.GetUrl(), keys)
	if next := *p.ruling.Load(); next.wrong == nil {
		next.tokens = p.last.tokens
		p.ruling.Store(&next)
	}
}

// wanted are the keys of the providers of now.
func (p *Point) wanted() map[string]*spiffe.JWKSet {
	keys := make(map[string]*spiffe.JWKSet)
	for _, provider := range p.providers {
		if set := p.keys[provider.URL]; set != nil {
			keys[provider.URL] = set
		}
	}
	return keys
}

// table is the policy of the service that is asked about. An identity that
// belongs to several must say which one; guessing could decide by the laxer one.
func (r *ruling) table(service, as string) (*policy.Table, error) {
	if r.wrong != nil {
		return nil, r.wrong
	}
	if service == "" && r.tables[as] != nil {
		service = as
	}
	own := r.services
	switch {
	case len(own) == 0:
		return nil, fault.Deniedf("the identity of this process belongs to no service")
	case r.tables[service] != nil:
		return r.tables[service], nil
	case service != "":
		return nil, fault.Deniedf("the identity of this process does not belong to service %q, but to %s", clip(service, 64), strings.Join(own, ", "))
	case len(own) == 1:
		return r.tables[own[0]], nil
	default:
		return nil, fault.Hint(fault.Conflictf("the identity of this process belongs to several services: %s", strings.Join(own, ", ")),
			"say which one is asked for")
	}
}
