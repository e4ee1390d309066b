package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

func TestExplainShowsEveryRule(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := pb.NewInspectionClient(n.dial())
	got, err := client.Explain(ctx, &pb.ExplainIdentityRequest{As: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	outcomes := make(map[string]*pb.RuleOutcome)
	for _, r := range got.GetRules() {
		outcomes[r.GetRule()] = r
	}
	if o := outcomes["as"]; o.GetOutcome() != "match" || o.GetSpiffeId() != "spiffe://"+domain+"/vms/orders" {
		t.Errorf("rule as: %v", o)
	}
	if o := outcomes["users"]; o.GetOutcome() != "no_match" || o.GetDetail() == "" {
		t.Errorf("rule users: %v", o)
	}
	for name, want := range map[string]string{"node.class": "verified", "workload.unix.uid": "attested", "workload.kith.as": "claimed"} {
		if got.GetProvenance()[name] != want || got.GetAttributes()[name] == "" {
			t.Errorf("%s: %q is %q, want %s", name, got.GetAttributes()[name], got.GetProvenance()[name], want)
		}
	}
	_, err = client.Explain(ctx, &pb.ExplainIdentityRequest{As: "ordesr"})
	wantCode(t, "unknown name", err, codes.NotFound)
}

func TestExplainOnlyOnesOwnProcesses(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	n.agent.uid = 77
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ask := func(uid uint32, pid int32) error {
		n.people.be(50, uid)
		_, err := pb.NewInspectionClient(n.dial()).Explain(ctx, &pb.ExplainIdentityRequest{Pid: pid})
		return err
	}
	if err := ask(1000, 100); err != nil { // process 100 belongs to user 1000
		t.Errorf("own process: %v", err)
	}
	if err := ask(0, 100); err != nil {
		t.Errorf("root: %v", err)
	}
	if err := ask(77, 100); err != nil {
		t.Errorf("the agent's user: %v", err)
	}
	wantCode(t, "process of another", ask(1001, 100), codes.PermissionDenied)
	wantCode(t, "no process", ask(1000, 404), codes.NotFound)
}

// objects are the pods of one node, or why nobody knows.
type objects struct {
	one  spiffe.KubernetesObject
	away error
}

func (o *objects) Object(_ context.Context, ref spiffe.KubernetesObject) (attest.Object, error) {
	switch {
	case o.away != nil:
		return attest.Object{}, attest.Away{Err: o.away}
	case ref != o.one:
		return attest.Object{}, fault.NotFoundf("no pod %s/%s", ref.Namespace, ref.Name)
	}
	return attest.Object{UID: "u", Attributes: registry.Attributes{"workload.k8s.ns": ref.Namespace}}, nil
}

// A pod belongs to no user of the node: root and the agent's user are told of it, and
// why the kubelet does not answer.
func TestExplainPodsToRootAlone(t *testing.T) {
	s := newServer(t)
	n := newNode(t, s)
	pods := &objects{one: spiffe.KubernetesObject{Plural: "pods", Group: "core", Namespace: "shop", Name: "web"}}
	n.cfg.Objects = pods
	n.start()
	n.agent.uid = 77
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ask := func(uid uint32, name string, more ...func(*pb.ExplainIdentityRequest)) (*pb.ExplainIdentityResponse, error) {
		n.people.be(50, uid)
		req := &pb.ExplainIdentityRequest{Object: &pb.ExplainedObject{Plural: "pods", Group: "core", Namespace: "shop", Name: name}}
		for _, change := range more {
			change(req)
		}
		return pb.NewInspectionClient(n.dial()).Explain(ctx, req)
	}
	for _, uid := range []uint32{0, 77} {
		got, err := ask(uid, "web")
		if err != nil || got.GetAttributes()["workload.k8s.ns"] != "shop" || got.GetProvenance()["workload.k8s.ns"] != "attested" || len(got.GetRules()) == 0 {
			t.Errorf("user %d: %v, %v", uid, got, err)
		}
	}
	_, err := ask(1000, "web")
	wantCode(t, "another user", err, codes.PermissionDenied)
	_, err = ask(0, "none")
	wantCode(t, "no pod", err, codes.NotFound)
	_, err = ask(0, "web", func(r *pb.ExplainIdentityRequest) { r.As = "orders" })
	wantCode(t, "a claim", err, codes.InvalidArgument)
	_, err = ask(0, "web", func(r *pb.ExplainIdentityRequest) { r.Pid = 100 })
	wantCode(t, "a process", err, codes.InvalidArgument)
	pods.away = fault.Hint(errors.New("kubelet: certificate of another"), "ca_file")
	_, err = ask(0, "web")
	wantCode(t, "no kubelet answers", err, codes.FailedPrecondition)
	if err = api.FromWire(err); !strings.Contains(err.Error(), "certificate of another") || fault.HintOf(err) != "ca_file" {
		t.Errorf("no kubelet answers: %v, hint %q", err, fault.HintOf(err))
	}
	n.agent.cfg.Objects = nil
	_, err = ask(0, "web")
	wantCode(t, "no kubelet is known", err, codes.InvalidArgument)
}

func TestStatusAndMetrics(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	metrics := prometheus.NewRegistry()
	n.cfg.Metrics = metrics
	n.start()
	n.people.be(200, 2000)
	if _, _, err := n.svids(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := pb.NewInspectionClient(n.dial()).Status(ctx, &pb.AgentStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !got.GetConnected() || got.GetNode() != "vm-7" || got.GetClass() != "vms" || got.GetRevision() != 1 || got.GetWorkloads() != 1 ||
		got.GetTrustDomain() != domain || got.GetOutageBudgetSeconds() < 3000 || got.GetServer() != s.address {
		t.Errorf("got %v", got)
	}
	counted := func() map[string]float64 {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := make(map[string]float64)
		for _, f := range families {
			values[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
		return values
	}
	eventually(t, "the SVID is counted, which is handed out before", func() bool { return counted()["kith_agent_svid_requests_total"] == 1 })
	for name, want := range map[string]float64{"kith_agent_connected": 1, "kith_agent_svids": 1, "kith_agent_revision": 1, "kith_agent_workload_streams": 1} {
		if got := counted()[name]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
