package workload

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb/brokerpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// The UIDs of these tests.
const (
	webUID   = "a1b2c3d4-e5f6-7890-abcd-ef1234567890"
	nextUID  = "a1b2c3d4-e5f6-7890-abcd-ef1234567891"
	vaultUID = "0fa1b2c3-4d5e-6f70-8192-a3b4c5d6e7f8"
)

// cluster is a control plane of pods; what it does not know it says as Objects must.
type cluster struct {
	mu   sync.Mutex
	pods map[string]attest.Object // by namespace/name; guarded by mu
	away error                    // guarded by mu
}

func newCluster() *cluster {
	c := &cluster{pods: make(map[string]attest.Object)}
	c.run("shop/web", webUID, "web")
	c.run("vault/keys", vaultUID, "")
	return c
}

// run starts a pod, or changes what is known of it.
func (c *cluster) run(key, uid, account string) {
	namespace, name, _ := strings.Cut(key, "/")
	attrs := registry.Attributes{"workload.k8s.ns": namespace, "workload.k8s.pod": name, "workload.k8s.uid": uid}
	if account != "" {
		attrs["workload.k8s.sa"] = account
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	pods := maps.Clone(c.pods)
	pods[key] = attest.Object{UID: uid, Attributes: attrs}
	c.pods = pods
}

func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// Object implements attest.Objects.
func (c *cluster) Object(_ context.Context, ref spiffe.KubernetesObject) (attest.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		return attest.Object{}, attest.Away{Err: c.away}
	}
	if ref.Plural != "pods" {
		return attest.Object{}, fault.Invalidf("no %s here", ref.Plural)
	}
	for key, pod := range c.pods {
		if (ref.Name == "" || key == ref.Namespace+"/"+ref.Name) && (ref.UID == "" || pod.UID == ref.UID) {
			return pod, nil
		}
	}
	return attest.Object{}, fault.NotFoundf("no such pod")
}

// pods is a reference to one by key, by UID, or by both.
func pods(t testing.TB, key, uid string) *brokerpb.WorkloadReference {
	t.Helper()
	ref := &brokerpb.KubernetesObjectReference{Type: &brokerpb.KubernetesObjectType{Plural: "pods", Group: "core"}, Uid: uid}
	if namespace, name, ok := strings.Cut(key, "/"); ok {
		ref.Key = &brokerpb.KubernetesObjectKey{Namespace: namespace, Name: name}
	}
	return referTo(t, ref)
}

// Rules 108 and 109: an object is found by its key, its UID, or its key and then of
// that UID, by every RPC; each thing that can be wrong has its code and reason.
func TestRule108ObjectsAreFoundAndTheirUIDsCompared(t *testing.T) {
	t.Parallel()
	w, c := newTown(t), newCluster()
	w.objects = c
	b := startBroker(t, w, 0)
	api := b.mesh()
	for what, ref := range map[string]*brokerpb.WorkloadReference{"key": pods(t, "shop/web", ""), "UID": pods(t, "", webUID), "both": pods(t, "shop/web", webUID)} {
		for rpc, err := range calls(b.within(), api, ref) {
			if err != nil {
				t.Errorf("by %s, %s: %v", what, rpc, err)
			}
		}
	}
	nodes := referTo(t, &brokerpb.KubernetesObjectReference{
		Type: &brokerpb.KubernetesObjectType{Plural: "nodes", Group: "core"}, Key: &brokerpb.KubernetesObjectKey{Name: "vm-7"},
	})
	for _, tc := range []struct {
		what   string
		ref    *brokerpb.WorkloadReference
		code   codes.Code
		reason string
	}{
		{"another UID", pods(t, "shop/web", nextUID), codes.NotFound, reasonNotFound},
		{"the UID of another pod", pods(t, "shop/web", vaultUID), codes.NotFound, reasonNotFound},
		{"another namespace", pods(t, "vault/web", ""), codes.NotFound, reasonNotFound},
		{"another namespace, its UID", pods(t, "vault/web", webUID), codes.NotFound, reasonNotFound},
		{"no such UID", pods(t, "", nextUID), codes.NotFound, reasonNotFound},
		{"no identity", pods(t, "vault/keys", ""), codes.PermissionDenied, reasonNotEntitled},
		{"not served", nodes, codes.InvalidArgument, reasonInvalid},
	} {
		for rpc, err := range calls(b.within(), api, tc.ref) {
			wantRefusal(t, tc.what+", "+rpc, err, tc.code, tc.reason)
		}
	}
	c.set(func() { c.away = errors.New("connection refused") })
	for rpc, err := range calls(b.within(), api, pods(t, "shop/web", "")) {
		wantRefusal(t, "away, "+rpc, err, codes.Unavailable, "")
		if strings.Contains(status.Convert(err).Message(), "connection refused") {
			t.Errorf("away, %s: tells the broker why: %v", rpc, err)
		}
	}
	if w.found != 0 {
		t.Errorf("%d processes were looked up for objects", w.found)
	}
}

// Rule 103: a broker gets of a pod what it is listed for, and a stranger nothing, not
// even whether there is such a pod.
func TestRule103PodsOfOthersAreNotBrokered(t *testing.T) {
	t.Parallel()
	w, c := newTown(t), newCluster()
	w.objects = c
	c.run("shop/deep", nextUID, "a/b") // /vms/a/b, and the grant is /vms/*
	b := startBroker(t, w, 0)
	for rpc, err := range calls(b.within(), b.mesh(), pods(t, "shop/deep", "")) {
		wantRefusal(t, "not for these, "+rpc, err, codes.PermissionDenied, reasonNotEntitled)
	}
	stranger := brokerpb.NewAPIClient(b.dial(b.source(t, b.ca, "spiffe://"+domain+"/vms/web"), nil))
	for _, key := range []string{"shop/web", "shop/none"} {
		for rpc, err := range calls(b.within(), stranger, pods(t, key, "")) {
			wantRefusal(t, key+", "+rpc, err, codes.PermissionDenied, "")
		}
	}
}

// Rule 110: a stream is full state, follows what changes about its pod, and ends when
// the pod is gone, when its name is another one's, when it loses its identity, and when
// nobody can be asked for too long.
func TestRule110StreamsOfObjectsFollowThem(t *testing.T) {
	t.Parallel()
	for what, tc := range map[string]struct {
		change func(*cluster)
		code   codes.Code
		reason string
	}{
		"gone":             {func(c *cluster) { c.set(func() { c.pods = nil }) }, codes.NotFound, reasonNotFound},
		"another UID":      {func(c *cluster) { c.run("shop/web", nextUID, "web") }, codes.NotFound, reasonNotFound},
		"without identity": {func(c *cluster) { c.run("shop/web", webUID, "") }, codes.PermissionDenied, reasonNotEntitled},
		"away":             {func(c *cluster) { c.set(func() { c.away = errors.New("refused") }) }, codes.Unavailable, ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w, c := newTown(t), newCluster()
			w.objects = c
			b := startBroker(t, w, 0)
			api, ref := b.mesh(), pods(t, "shop/web", "") // by name: the UID is pinned all the same
			svids, err := api.SubscribeToX509SVID(b.within(), &brokerpb.SubscribeToX509SVIDRequest{Reference: ref})
			if err != nil {
				t.Fatal(err)
			}
			bundles, err := api.SubscribeToX509Bundles(b.within(), &brokerpb.SubscribeToX509BundlesRequest{Reference: ref})
			if err != nil {
				t.Fatal(err)
			}
			first, err := svids.Recv()
			if err == nil {
				_, err = bundles.Recv()
			}
			if err != nil || ids(first) != "/vms/web" {
				t.Fatalf("got %v, %v", first, err)
			}
			c.run("shop/web", webUID, "orders")
			if next, err := svids.Recv(); err != nil || ids(next) != "/vms/orders" || len(next.GetSvids()) != 1 {
				t.Fatalf("changed: got %v, %v", next, err)
			}
			tc.change(c)
			_, err = svids.Recv()
			wantRefusal(t, "SVIDs", err, tc.code, tc.reason)
			_, err = bundles.Recv()
			wantRefusal(t, "bundles", err, tc.code, tc.reason)
		})
	}
}
