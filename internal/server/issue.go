package server

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

const (
	reservedPrefix = "/kith/"
	claimAttribute = "workload.kith.as"
)

// SignWorkloads evaluates the rules again with what the server knows of the
// node and signs what they give. Nothing is written to the store.
func (s *Server) SignWorkloads(ctx context.Context, node api.Caller, reqs []api.CSR) ([]api.Signed, error) {
	out := make([]api.Signed, len(reqs))
	grants, revision, err := s.entitleAll(node, len(reqs), func(i int) api.CSR { return reqs[i] }, func(i int, err error) { out[i].Err = err })
	if err != nil || len(grants) == 0 {
		return out, err
	}
	batch := make([]ca.Request, len(grants))
	for j, g := range grants {
		batch[j] = ca.Request{
			ID: g.match.ID, PublicKey: reqs[g.place].Key, TTL: g.match.TTL,
			Requester: node.ID.String(), Rule: g.match.Rule, Revision: revision,
		}
	}
	for j, result := range s.ca.SignBatch(ctx, batch) {
		i := grants[j].place
		if result.Err != nil {
			out[i].Err = result.Err
			continue
		}
		out[i].Chain = raw(result.Chain)
		s.issued.add(batch[j], node.Name, result.Chain[0], s.cfg.Now())
	}
	return out, nil
}

// grant is a request of a batch that the rules give an identity.
type grant struct {
	place int // in the batch
	match registry.Match
}

// entitleAll finds the identities that a node's requests are for, by one revision
// of the rules. Each that there is none for is refused by itself.
func (s *Server) entitleAll(node api.Caller, n int, request func(int) api.CSR, refuse func(int, error)) (grants []grant, revision uint64, err error) {
	if err := s.freshEnough(staleAll); err != nil {
		return nil, 0, err
	}
	snap := s.snap()
	m, ok := snap.members[node.Name]
	if !ok {
		return nil, 0, snap.member(node.Name)
	}
	for i := range n {
		match, err := s.entitle(snap, m.node, request(i))
		if err != nil {
			refuse(i, err)
			continue
		}
		grants = append(grants, grant{i, match})
	}
	return grants, snap.revision, nil
}

// entitle finds the identity that a request is for, or says why there is none.
func (s *Server) entitle(snap *snapshot, node registry.Node, r api.CSR) (registry.Match, error) {
	if r.Err != nil {
		return registry.Match{}, r.Err
	}
	attrs := registry.Attributes(r.Attributes).Workload() // whatever node.* it holds is dropped
	if err := attrs.Validate(); err != nil {
		return registry.Match{}, err
	}
	var claimErr error
	if attrs[claimAttribute] != "" {
		if claimErr = s.checkClaim(snap, attrs); claimErr != nil {
			delete(attrs, claimAttribute)
		}
	}
	matches, outcomes := snap.identities.Evaluate(node.Class, registry.Combine(node.Scope(), attrs))
	for _, m := range matches {
		if m.Rule != r.Rule {
			continue
		}
		if m.ID.String() != r.ID {
			return registry.Match{}, fault.Conflictf("rule %s gives %s, not %s", m.Rule, m.ID, r.ID)
		}
		if strings.HasPrefix(m.ID.Path(), reservedPrefix) || m.ID.TrustDomain() != snap.trustDomain {
			return registry.Match{}, fault.Deniedf("%s is reserved", m.ID)
		}
		if svc, _ := snap.policy.Service(attrs[claimAttribute]); m.Claimed && !svc.Lends(m.ID, snap.trustDomain) {
			return registry.Match{}, fault.Hint(fault.Deniedf("%s is none of the identities of service %s, and a service of team %s lends no other", m.ID, svc.Name, svc.Team),
				"an admin can write an identity rule that gives one of: %s", strings.Join(svc.Identities, ", "))
		}
		return m, nil
	}
	if claimErr != nil {
		return registry.Match{}, claimErr
	}
	for _, o := range outcomes {
		if o.Rule == r.Rule {
			return registry.Match{}, fault.Deniedf("identity rule %s", o)
		}
	}
	return registry.Match{}, fault.Deniedf("there is no identity rule %q", r.Rule)
}

// checkClaim says whether the workload's user may run under the name it claims.
// In dev everybody may: one's own agent has checked that the user is oneself.
func (s *Server) checkClaim(snap *snapshot, attrs registry.Attributes) error {
	if s.cfg.Dev {
		return nil
	}
	name := attrs[claimAttribute]
	service, ok := snap.policy.Service(name)
	if !ok {
		err := fault.Deniedf("no service %q", name)
		if near := fault.Nearest(name, snap.serviceNames()); near != "" {
			return fault.Hint(err, "did you mean %s?", near)
		}
		return fault.Hint(err, "kith apply -f with %s under services:", name)
	}
	uid, err := strconv.Atoi(attrs["workload.unix.uid"])
	if err != nil {
		return fault.Deniedf("nobody may claim %s without a uid", name)
	}
	var groups []string
	for _, list := range []string{attrs["workload.unix.groups"], attrs["workload.unix.group"]} {
		if list != "" {
			groups = append(groups, strings.Split(list, ",")...)
		}
	}
	if user := attrs["workload.unix.user"]; !service.MayClaim(user, uid, groups) {
		return fault.Hint(fault.Deniedf("user %s (uid %d) may not run as %s", user, uid, name),
			"run_as: [%s] in service %s, then kith apply", orUID(user, uid), name)
	}
	return nil
}

func orUID(user string, uid int) string {
	if user != "" {
		return user
	}
	return strconv.Itoa(uid)
}

// RenewNode gives a node a new SVID for the key it is bound to.
func (s *Server) RenewNode(ctx context.Context, node api.Caller, key crypto.PublicKey) (*pb.Admitted, error) {
	if err := s.freshEnough(staleAll); err != nil {
		return nil, err
	}
	snap := s.snap()
	m, ok := snap.members[node.Name]
	if !ok {
		return nil, snap.member(node.Name)
	}
	hash, err := hashKey(key)
	if err != nil {
		return nil, err
	}
	if hash != m.node.KeyHash {
		return nil, fault.Hint(fault.Deniedf("node %s is bound to another key", node.Name), "kith nodes add %s, then kith join, to bind a new one", node.Name)
	}
	return s.issueNode(ctx, m.node, key)
}

// issueNode signs a node SVID. When it ends is written with the next flush.
func (s *Server) issueNode(ctx context.Context, node registry.Node, key crypto.PublicKey) (*pb.Admitted, error) {
	snap := s.snap()
	id, err := nodeID(snap.trustDomain, node.Name)
	if err != nil {
		return nil, fmt.Errorf("node ID: %w", err)
	}
	chain, err := s.ca.Sign(ctx, ca.Request{ID: id, PublicKey: key, Requester: id.String(), Rule: "node " + node.Class, Revision: snap.revision})
	if err != nil {
		return nil, fmt.Errorf("node SVID: %w", err)
	}
	s.seen.issued(node.Name, chain[0].NotAfter, node.LastAttested, s.cfg.Now())
	bundles := s.bundles(snap)
	if len(bundles) == 0 {
		return nil, fmt.Errorf("node SVID: no bundle")
	}
	return &pb.Admitted{Node: node.Name, Class: node.Class, SpiffeId: id.String(), Chain: raw(chain), Bundle: bundles[0]}, nil
}

func raw(chain []*x509.Certificate) [][]byte {
	out := make([][]byte, len(chain))
	for i, cert := range chain {
		out[i] = cert.Raw
	}
	return out
}

// serviceNames is the name of every service.
func (s *snapshot) serviceNames() []string {
	return s.policy.ServiceNames()
}

// serviceOf is the service an identity belongs to, if any.
func (s *snapshot) serviceOf(id spiffe.ID) string {
	if id.IsZero() {
		return ""
	}
	best := ""
	for name := range s.policy.Services() {
		if s.answersFor(id, name) && (best == "" || name < best) {
			best = name
		}
	}
	return best
}

// classSize is how many nodes a class has.
func (s *snapshot) classSize(class string) int {
	n := 0
	for _, m := range s.members {
		if m.node.Class == class {
			n++
		}
	}
	return n
}
