// Package extauthz decides for those that ask before they forward or act - Envoy's
// ext_authz, nginx's auth_request, forward_auth of others, applications that speak
// OPA's data API or AuthZEN - by the same compiled policy as every other
// enforcement point; which process asks, and whose identity it holds, is settled
// by the agent.
package extauthz

import (
	"fmt"
	"maps"
	"slices"
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
	keys   map[string]*spiffe.JWKSet // of providers, by URL; owned by who calls Rule and Learn
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

// ruling is the policy in force: immutable, swapped as a whole.
type ruling struct {
	revision uint64
	own      spiffe.TrustDomain
	tables   map[string]*policy.Table // by service that the process may answer for
	wrong    error                    // why there are none

	providers []usertoken.Provider
	tokens    map[string]*usertoken.Checker // by service
	recording *policy.Recording
}

// NewPoint makes a point that denies everything until it has a slice.
func NewPoint(cfg PointConfig) *Point {
	p := &Point{cfg: cfg}
	p.ruling.Store(&ruling{wrong: fault.Conflictf("there is no policy yet")})
	return p
}

// Rule puts a slice in force and returns the ack. A slice that cannot be enforced
// leaves a ruling that denies everything.
func (p *Point) Rule(slice *pb.Slice) *pb.PolicyAck {
	next, err := compile(slice)
	if err == nil {
		err = next.check(p.keys)
	}
	ack := &pb.PolicyAck{Revision: slice.GetRevision()}
	if err != nil {
		ack.Error = clip(err.Error(), maxText)
		next = &ruling{revision: slice.GetRevision(), wrong: err, recording: policy.RecordingFromPB(slice.GetLog())}
	}
	p.ruling.Store(next)
	return ack
}

func compile(slice *pb.Slice) (*ruling, error) {
	set, err := policy.FromSlice(slice)
	if err != nil {
		return nil, err
	}
	next := &ruling{
		revision: slice.GetRevision(), own: set.TrustDomain, tables: make(map[string]*policy.Table),
		recording: policy.RecordingFromPB(slice.GetLog()),
	}
	for _, m := range slice.GetProviders() {
		provider, err := usertoken.FromPB(m)
		if err != nil {
			return nil, err
		}
		next.providers = append(next.providers, provider)
	}
	for _, service := range slice.GetServices() {
		name := service.GetName()
		if next.tables[name], err = policy.Compile(set, name); err != nil {
			return nil, fmt.Errorf("policy of %s: %w", name, err)
		}
	}
	return next, nil
}

// check makes what checks user tokens by these keys.
func (r *ruling) check(keys map[string]*spiffe.JWKSet) error {
	r.tokens = make(map[string]*usertoken.Checker, len(r.tables))
	for name := range r.tables {
		set, err := usertoken.Compile(r.providers, name)
		if err != nil {
			return fmt.Errorf("providers of %s: %w", name, err)
		}
		r.tokens[name] = usertoken.NewChecker(set, keys)
	}
	return nil
}

// Learn puts fetched keys in force.
func (p *Point) Learn(m *pb.ProviderKeys) {
	next := *p.ruling.Load()
	keys := make(map[string]*spiffe.JWKSet)
	for _, provider := range next.providers {
		if set := p.keys[provider.URL]; set != nil {
			keys[provider.URL] = set
		}
	}
	delete(keys, m.GetUrl())
	if set, err := spiffe.ParseJWKSet(m.GetJwks()); err == nil {
		keys[m.GetUrl()] = set
	}
	p.keys = keys
	if next.check(keys) == nil { // it was checked once, by Rule
		p.ruling.Store(&next)
	}
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
	own := slices.Sorted(maps.Keys(r.tables))
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
