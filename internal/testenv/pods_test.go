package testenv_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/agent"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/platform/k8s"
	"github.com/kith-id/kith/internal/platform/k8s/k8stest"
	"github.com/kith-id/kith/internal/testenv"
	"github.com/kith-id/kith/spiffe"
)

// node is a trust domain whose one node has a kubelet, and this process a broker for
// /dev/shop/** and nothing else.
type node struct {
	*brokered
	kubelet *k8stest.Kubelet
	broker  *kith.Broker
}

func web() k8stest.Pod {
	return k8stest.Pod{
		Namespace: "shop", Name: "web-7c9f", Account: "web", Labels: map[string]string{"app": "web"},
		Containers: map[string]string{"web": "registry.example/web:1"},
	}
}

func keysPod() k8stest.Pod {
	return k8stest.Pod{Namespace: "vault", Name: "keys", Account: "keys", Labels: map[string]string{"app": "keys"}, Containers: map[string]string{"keys": "vault:1"}}
}

// podRule gives pods with a label their namespace and account as identity.
func podRule(require string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{
		Name: "pods", Nodes: []string{testenv.Node}, Id: "/dev/{workload.k8s.ns}/{workload.k8s.sa}", Require: require,
	}}}
}

func startNode(t *testing.T, pods ...k8stest.Pod) *node {
	t.Helper()
	n := &node{kubelet: k8stest.Start(t, pods...)}
	known, err := k8s.New(k8s.Config{URL: n.kubelet.URL, CAFile: n.kubelet.CAFile, Token: n.kubelet.TokenFile, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { known.Close() })
	n.brokered = &brokered{socket: filepath.Join(t.TempDir(), "broker.sock")}
	n.Domain = testenv.StartWith(t, func(cfg *agent.Config) {
		cfg.Objects = known
		cfg.Broker = agent.Broker{Socket: n.socket, Group: -1, Allow: []agent.BrokerGrant{{ID: "/dev/mesh", For: []string{"/dev/shop/**"}}}}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n.apply(t, &pb.ApplyRequest{Put: []*pb.Object{identityOf("/dev/mesh", self), podRule(`workload.k8s.labels["app"] != "none"`)}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if n.self, err = kith.Open(ctx, kith.Config{Socket: n.AgentSocket, Calls: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.self.Close() })
	n.broker = n.client(t, kith.BrokerConfig{Endpoint: "unix://" + n.socket, Wait: time.Second})
	return n
}

func podRef(t *testing.T, key, uid string) spiffe.Reference {
	t.Helper()
	namespace, name, _ := strings.Cut(key, "/")
	ref, err := spiffe.ObjectReference(spiffe.KubernetesObject{Plural: "pods", Group: "core", Namespace: namespace, Name: name, UID: uid})
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// Rules 108 and 103: over the wire, from a kubelet that answers over TLS to an SVID
// that the server has signed. A pod is found by its key, its UID or both; what does not
// fit gets nothing; and a broker only what it is listed for.
func TestRule108PodsAreBrokeredByKeyAndUID(t *testing.T) {
	t.Parallel()
	n := startNode(t, web(), keysPod())
	uid := k8stest.UID("shop", "web-7c9f")
	const own = "spiffe://" + testenv.Name + "/dev/shop/web"
	for what, ref := range map[string]spiffe.Reference{
		"key": podRef(t, "shop/web-7c9f", ""), "UID": podRef(t, "", uid), "both": podRef(t, "shop/web-7c9f", uid),
	} {
		source, err := n.broker.Follow(t.Context(), ref)
		if err != nil {
			t.Fatalf("by %s: %v", what, err)
		}
		svid, err := source.X509SVID()
		if err != nil || svid.ID.String() != own || len(source.X509SVIDs()) != 1 {
			t.Fatalf("by %s: got %v, %v", what, svid, err)
		}
		if id, err := spiffe.Verify(svid.Certificates, source.Bundle, time.Now()); err != nil || id != svid.ID {
			t.Errorf("by %s: verified: %v, %v", what, id, err)
		}
		tokens, err := n.broker.JWTSVIDs(t.Context(), ref, spiffe.ID{}, "billing")
		if err != nil || len(tokens) != 1 || tokens[0].ID.String() != own {
			t.Errorf("by %s: tokens: got %v, %v", what, tokens, err)
		}
	}
	for what, tc := range map[string]struct {
		ref  spiffe.Reference
		kind fault.Kind
	}{
		"another UID":                {podRef(t, "shop/web-7c9f", k8stest.UID("vault", "keys")), fault.NotFound},
		"a UID of nobody":            {podRef(t, "shop/web-7c9f", k8stest.UID("nobody")), fault.NotFound},
		"nobody's UID alone":         {podRef(t, "", k8stest.UID("nobody")), fault.NotFound},
		"another namespace":          {podRef(t, "vault/web-7c9f", ""), fault.NotFound},
		"another namespace, the UID": {podRef(t, "vault/web-7c9f", uid), fault.NotFound},
		"of another node":            {podRef(t, "shop/elsewhere", ""), fault.NotFound},
		"not the broker's":           {podRef(t, "vault/keys", ""), fault.Denied},
		"not the broker's, by UID":   {podRef(t, "", k8stest.UID("vault", "keys")), fault.Denied},
	} {
		if source, err := n.broker.Follow(t.Context(), tc.ref); fault.KindOf(err) != tc.kind {
			t.Errorf("%s: got %v, %v; want %s", what, source, err, tc.kind)
		}
		if _, err := n.broker.JWTSVIDs(t.Context(), tc.ref, spiffe.ID{}, "a"); fault.KindOf(err) != tc.kind {
			t.Errorf("%s, tokens: got %v; want %s", what, err, tc.kind)
		}
		if _, err := n.broker.X509Bundles(t.Context(), tc.ref); fault.KindOf(err) != tc.kind {
			t.Errorf("%s, bundles: got %v; want %s", what, err, tc.kind)
		}
	}
	for _, other := range []spiffe.KubernetesObject{{Plural: "nodes", Group: "core", Name: k8stest.Node}, {Plural: "deployments", Group: "apps", Namespace: "shop", Name: "web"}} {
		ref, err := spiffe.ObjectReference(other)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.broker.Follow(t.Context(), ref); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: got %v", ref, err)
		}
	}
}

// followed is a pod that somebody brokers for, and what becomes of it.
type followed struct {
	k8stest.Pod
	what   string
	change func(*k8stest.Pod)
	kind   fault.Kind // of the end

	source  *kith.Brokered
	renewed <-chan struct{}
}

// run replaces the pods of the node.
func (n *node) run(all []*followed) {
	var pods []k8stest.Pod
	for _, f := range all {
		pods = append(pods, f.Pod)
	}
	n.kubelet.Run(pods...)
}

// Rules 108 and 110: when the name of a pod becomes another one's, what was held of the
// former one is dropped, whether its UID was named or not; and so when a label that its
// identity depends on is taken away.
func TestRule110PodsThatChangeAreFollowed(t *testing.T) {
	t.Parallel()
	all := []*followed{
		{what: "another UID", change: func(p *k8stest.Pod) { p.UID = k8stest.UID("next") }, kind: fault.NotFound},
		{what: "ended", change: func(p *k8stest.Pod) { p.Phase = "Succeeded" }, kind: fault.NotFound},
		{what: "label changed", change: func(p *k8stest.Pod) { p.Labels = map[string]string{"app": "none"} }, kind: fault.Denied},
		{what: "without labels", change: func(p *k8stest.Pod) { p.Labels = nil }, kind: fault.Denied},
		{what: "renamed", change: func(p *k8stest.Pod) { p.Name = "other" }, kind: fault.NotFound},
	}
	for i, p := range all {
		p.Pod = web()
		p.Name = fmt.Sprint("web-", i)
	}
	n := startNode(t)
	n.run(all)
	for _, p := range all {
		source, err := n.broker.Follow(t.Context(), podRef(t, "shop/"+p.Name, ""))
		if err != nil {
			t.Fatalf("%s: %v", p.what, err)
		}
		p.source, p.renewed = source, source.Renewed()
		p.Account = "front"
	}
	n.run(all)
	for _, p := range all {
		await(t, p.renewed, p.what+": another identity")
		if got := p.source.ID(); got.Path() != "/dev/shop/front" || len(p.source.X509SVIDs()) != 1 {
			t.Errorf("%s: got %s", p.what, got)
		}
		p.change(&p.Pod)
	}
	n.run(all)
	for _, p := range all {
		await(t, p.source.Done(), p.what+": the end")
		if fault.KindOf(p.source.Err()) != p.kind {
			t.Errorf("%s: ended by %v, want %s", p.what, p.source.Err(), p.kind)
		}
		if svid, err := p.source.X509SVID(); svid != nil || err == nil {
			t.Errorf("%s: after the end: %v, %v", p.what, svid, err)
		}
	}
}
