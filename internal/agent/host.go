package agent

import (
	"context"
	"strings"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/workload"
	"github.com/kith-id/kith/spiffe"
)

var (
	_ workload.Host      = (*Agent)(nil)
	_ workload.Signer    = (*Agent)(nil)
	_ workload.JWTSigner = (*Agent)(nil)
	_ workload.WITSigner = (*Agent)(nil)
)

// Evaluate implements workload.Host.
func (a *Agent) Evaluate(ctx context.Context, peer attest.Peer) (*workload.Evaluation, error) {
	return a.evaluate(ctx, peer, false)
}

// evaluate finds the identities of a process. Its groups are read where a rule
// of now names them, a claim may depend on them, or the attributes are kept for
// rules to come.
func (a *Agent) evaluate(ctx context.Context, peer attest.Peer, kept bool) (*workload.Evaluation, error) {
	w := a.world.Load()
	if w == nil {
		return nil, errNoState()
	}
	claim, _, claimed := a.claims.of(peer)
	attrs, err := a.inspect(ctx, w, peer, kept || claimed)
	if err != nil {
		return nil, err
	}
	if a.banned.Load() {
		return workload.NewEvaluation(attrs, nil, nil), nil
	}
	return w.evaluate(a.withClaim(w, peer, attrs, claim)), nil
}

// EvaluateObject implements workload.Host.
func (a *Agent) EvaluateObject(attrs registry.Attributes) (*workload.Evaluation, error) {
	w := a.world.Load()
	if w == nil {
		return nil, errNoState()
	}
	if a.banned.Load() {
		return workload.NewEvaluation(attrs, nil, nil), nil
	}
	return w.evaluate(attrs), nil
}

// inspect measures a workload; what costs is measured if some rule names it.
func (a *Agent) inspect(ctx context.Context, w *world, peer attest.Peer, groups bool) (registry.Attributes, error) {
	if sparing, ok := a.cfg.Inspector.(attest.Sparing); ok {
		return sparing.InspectFor(ctx, peer, func(name string) bool { return w.measured[name] || groups && name == attrGroups })
	}
	return a.cfg.Inspector.Inspect(ctx, peer)
}

// withClaim adds the claimed name, if there is a claim and the process that
// asks may itself use the name: a claim by root says nothing for a child that
// runs as somebody else.
func (a *Agent) withClaim(w *world, peer attest.Peer, attrs registry.Attributes, name string) registry.Attributes {
	if _, before := attrs[attrClaim]; name == "" && !before {
		return attrs
	}
	out := attrs.Workload()
	delete(out, attrClaim)
	if name != "" && a.mayClaim(w, name, peer.UID, out) {
		out[attrClaim] = name
	}
	return out
}

// identitiesOf is the IDs of an enforcement point in a world, default first.
func (a *Agent) identitiesOf(w *world, peer attest.Peer, attrs registry.Attributes) []spiffe.ID {
	if a.banned.Load() {
		return nil
	}
	var ids []spiffe.ID
	claim, _, _ := a.claims.of(peer)
	for _, m := range w.evaluate(a.withClaim(w, peer, attrs, claim)).Matches {
		ids = append(ids, m.ID)
	}
	return ids
}

// Check implements workload.Host.
func (a *Agent) Check(peer attest.Peer) error { return a.cfg.Processes.Check(peer) }

// Trust implements workload.Host.
func (a *Agent) Trust() workload.Trust {
	w := a.world.Load()
	if w == nil {
		return workload.Trust{}
	}
	return workload.Trust{Domain: w.domain, Bundles: w.bundles}
}

// Changed implements workload.Host.
func (a *Agent) Changed() <-chan struct{} { return a.changed.wait() }

// SignWorkloads implements workload.Signer.
func (a *Agent) SignWorkloads(ctx context.Context, csrs []*pb.WorkloadCSR) ([]*pb.SignedWorkload, error) {
	out, err := pb.NewNodeClient(a.up).SignWorkloads(ctx, &pb.SignWorkloadsRequest{Csrs: csrs})
	if err != nil {
		return nil, a.up.explain(err, a.cfg.Now())
	}
	return out.GetResults(), nil
}

// SignJWTs implements workload.JWTSigner.
func (a *Agent) SignJWTs(ctx context.Context, requests []*pb.JWTRequest) ([]*pb.SignedJWT, error) {
	out, err := pb.NewNodeClient(a.up).SignJWT(ctx, &pb.SignJWTRequest{Requests: requests})
	if err != nil {
		return nil, a.up.explain(err, a.cfg.Now())
	}
	return out.GetResults(), nil
}

// SignWITs implements workload.WITSigner.
func (a *Agent) SignWITs(ctx context.Context, csrs []*pb.WorkloadCSR) ([]*pb.SignedWIT, error) {
	out, err := pb.NewNodeClient(a.up).SignWIT(ctx, &pb.SignWITRequest{Csrs: csrs})
	if err != nil {
		return nil, a.up.explain(err, a.cfg.Now())
	}
	return out.GetResults(), nil
}

// setBanned withdraws every identity while the server refuses this node.
func (a *Agent) setBanned(banned bool) {
	if a.banned.Swap(banned) == banned {
		return
	}
	a.points.refresh(a.world.Load)
	a.changed.notify()
	a.outbox.endpointsChanged()
}

// claimsChanged re-evaluates everybody: a claim is for a whole process tree.
func (a *Agent) claimsChanged() {
	a.points.refresh(a.world.Load)
	a.changed.notify()
	a.outbox.endpointsChanged()
}

func groupsOf(attrs registry.Attributes) []string {
	var groups []string
	if g := attrs["workload.unix.group"]; g != "" {
		groups = append(groups, g)
	}
	if list := attrs[attrGroups]; list != "" {
		groups = append(groups, strings.Split(list, ",")...)
	}
	return groups
}

func errNoState() error { return api.Away{Err: workload.Unheard{}} }

// cut shortens a text from outside.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
