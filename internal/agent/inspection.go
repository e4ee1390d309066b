package agent

import (
	"context"
	"errors"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/workload"
	"github.com/kith-id/kith/spiffe"
)

// inspection explains identities to people on the node.
type inspection struct {
	pb.UnimplementedInspectionServer
	a *Agent
}

// Explain evaluates a process and shows every rule's outcome.
func (i *inspection) Explain(ctx context.Context, req *pb.ExplainIdentityRequest) (*pb.ExplainIdentityResponse, error) {
	out, err := i.explain(ctx, req)
	return out, api.ToWire(i.a.cfg.Log, "Explain", err)
}

func (i *inspection) explain(ctx context.Context, req *pb.ExplainIdentityRequest) (*pb.ExplainIdentityResponse, error) {
	a := i.a
	caller, err := workload.PeerOf(ctx)
	if err != nil {
		return nil, err
	}
	w := a.world.Load()
	if w == nil {
		return nil, errNoState()
	}
	if req.GetObject() != nil {
		return i.explainObject(ctx, w, caller, req)
	}
	target := caller
	if pid := req.GetPid(); pid != 0 && pid != caller.PID {
		if target, err = a.cfg.Processes.Find(pid); err != nil {
			return nil, fault.Wrap(fault.NotFound, err)
		}
		defer release(target)
		if caller.UID != 0 && caller.UID != a.uid && caller.UID != target.UID {
			return nil, fault.Hint(fault.Deniedf("process %d belongs to another user", pid), "ask as root")
		}
	}
	attrs, err := a.inspect(ctx, w, target, true)
	if err != nil {
		return nil, err
	}
	claim, _, _ := a.claims.of(target)
	attrs = a.withClaim(w, target, attrs.Workload(), claim)
	if as := req.GetAs(); as != "" {
		if err := policy.ValidateName(as); err != nil {
			return nil, fault.Wrap(fault.Invalid, err)
		}
		if _, known := w.policy.Service(as); !known && !w.dev {
			return nil, errUnknownService(as, w)
		}
		delete(attrs, attrClaim)
		if a.mayClaim(w, as, target.UID, attrs) {
			attrs[attrClaim] = as
		}
	}
	return explanation(w, attrs), nil
}

// explainObject explains an object of Kubernetes. It belongs to no user of this host, so
// only root and the agent's own user are told.
func (i *inspection) explainObject(ctx context.Context, w *world, caller attest.Peer, req *pb.ExplainIdentityRequest) (*pb.ExplainIdentityResponse, error) {
	o := req.GetObject()
	switch {
	case caller.UID != 0 && caller.UID != i.a.uid:
		return nil, fault.Hint(fault.Deniedf("what is known of a cluster's objects is for root"), "sudo kith ids explain --object …")
	case req.GetPid() != 0 || req.GetAs() != "":
		return nil, fault.Invalidf("an object has no process id and claims no name")
	case i.a.cfg.Objects == nil:
		return nil, fault.Hint(fault.Invalidf("this agent knows no kubelet"), "agent.kubernetes in kith.yaml of this node: docs/kubernetes.md")
	}
	found, err := i.a.cfg.Objects.Object(ctx, spiffe.KubernetesObject{
		Plural: o.GetPlural(), Group: o.GetGroup(), Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUid(),
	})
	switch away := new(attest.Away); {
	case errors.As(err, away): // root is told why
		return nil, api.Away{Err: err}
	case err != nil:
		return nil, err
	}
	return explanation(w, found.Attributes), nil
}

func explanation(w *world, attrs registry.Attributes) *pb.ExplainIdentityResponse {
	all := registry.Combine(registry.Scope(w.scope, w.class), attrs)
	out := &pb.ExplainIdentityResponse{Attributes: all, Provenance: make(map[string]string, len(all))}
	for name := range all {
		out.Provenance[name] = string(registry.ProvenanceOf(name))
	}
	for _, o := range w.evaluate(attrs).Outcomes {
		out.Rules = append(out.Rules, &pb.RuleOutcome{Rule: o.Rule, Outcome: string(o.Result), Detail: o.Detail, SpiffeId: o.ID})
	}
	return out
}

func release(p attest.Peer) {
	if p.PIDFD != nil {
		p.PIDFD.Close()
	}
}

// Status is the state of the agent. It holds nothing that a local user must not
// see.
func (i *inspection) Status(ctx context.Context, _ *pb.AgentStatusRequest) (*pb.AgentStatus, error) {
	return i.a.status(), nil
}

func (a *Agent) status() *pb.AgentStatus {
	at := a.standing.Load()
	connected, last, skew, failure := a.contact.get()
	active, _ := a.identities.Count()
	out := &pb.AgentStatus{
		Version: a.cfg.Version, TrustDomain: at.domain().String(), Node: at.node, Class: at.class,
		Server: at.server, Connected: connected, ClockSkewNano: int64(skew), LastError: failure,
		Workloads: uint32(active), EnforcementPoints: uint32(a.points.count()),
		OutageBudgetSeconds: int64(a.outageBudget().Seconds()), Providers: a.providerStatus(),
	}
	if at.admitted() {
		out.NodeSvidExpiresUnix = at.svid.Expiry().Unix()
	}
	if !last.IsZero() {
		out.LastContactUnix = last.Unix()
	}
	if w := a.world.Load(); w != nil {
		out.Revision, out.Dev = w.revision, w.dev
	}
	return out
}

// outageBudget is how long nothing here breaks without the server: until the
// first SVID in use ends, or the node's own when none is.
func (a *Agent) outageBudget() time.Duration {
	_, first := a.identities.Count()
	if at := a.standing.Load(); first.IsZero() && at != nil && at.admitted() {
		first = at.svid.Expiry()
	}
	if first.IsZero() {
		return 0
	}
	return max(0, first.Sub(a.cfg.Now()))
}
