package k8s

import (
	"context"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// The attributes this package establishes.
const (
	attrImages    = "workload.k8s.images"
	attrLabels    = "workload.k8s.labels"
	attrNode      = "workload.k8s.node"
	attrNamespace = "workload.k8s.ns"
	attrPod       = "workload.k8s.pod"
	attrAccount   = "workload.k8s.sa"
	attrUID       = "workload.k8s.uid"
)

var _ attest.Objects = (*Kubelet)(nil)

// answer is the pods of a moment.
type answer struct {
	at    time.Time
	byUID map[string]*pod
	byKey map[string][]*pod
}

func newAnswer(at time.Time, pods []*pod) *answer {
	a := &answer{at: at, byUID: make(map[string]*pod, len(pods)), byKey: make(map[string][]*pod, len(pods))}
	for _, p := range pods {
		key := p.namespace + "/" + p.name
		a.byUID[p.uid] = p
		a.byKey[key] = append(a.byKey[key], p)
	}
	return a
}

// live says whether a pod is still one.
func (p *pod) live(now time.Time) bool {
	return !p.ended && (p.deleted.IsZero() || now.Before(p.deleted))
}

// Object implements attest.Objects for pods.
func (k *Kubelet) Object(ctx context.Context, ref spiffe.KubernetesObject) (attest.Object, error) {
	if ref.Plural != "pods" || ref.Group != "core" {
		return attest.Object{}, fault.Invalidf("of the objects of a cluster this agent knows pods.core alone, and no %s.%s", ref.Plural, ref.Group)
	}
	var found *pod
	err := k.look(ctx, func(a *answer) (err error) {
		found, err = a.find(ref, k.cfg.Now())
		return err
	})
	if err != nil {
		return attest.Object{}, err
	}
	return attest.Object{UID: found.uid, Attributes: found.attrs}, nil
}

// look looks something up in what the kubelet said a moment ago, and, where it is not
// there, in what it says now.
func (k *Kubelet) look(ctx context.Context, in func(*answer) error) error {
	now := k.cfg.Now()
	a, err := k.since(ctx, now.Add(-freshFor))
	if err != nil {
		return err
	}
	if err = in(a); err == nil || !a.at.Before(now.Add(-missFor)) {
		return err
	}
	if a, err = k.since(ctx, now.Add(-missFor)); err != nil {
		return err
	}
	return in(a)
}

// find is the pod that a reference names: by its key, by its UID, or by its key and
// then of that UID. Broker API 3.1.3.
func (a *answer) find(ref spiffe.KubernetesObject, now time.Time) (*pod, error) {
	gone := func() error {
		return fault.NotFoundf("the kubelet of this node runs no pod %s", describe(ref))
	}
	if ref.Name == "" {
		p, ok := a.byUID[ref.UID]
		if !ok || !p.live(now) {
			return nil, gone()
		}
		return p, nil
	}
	// While a pod ends that was deleted, its successor may have its name already.
	var live, leaving []*pod
	for _, p := range a.byKey[ref.Namespace+"/"+ref.Name] {
		switch {
		case !p.live(now):
		case p.deleted.IsZero():
			live = append(live, p)
		default:
			leaving = append(leaving, p)
		}
	}
	if len(live) == 0 {
		live = leaving
	}
	switch {
	case len(live) == 0:
		return nil, gone()
	case len(live) > 1:
		return nil, attest.Away{Err: fault.Conflictf("the kubelet runs two pods %s/%s", ref.Namespace, ref.Name)}
	case ref.UID != "" && ref.UID != live[0].uid:
		return nil, fault.NotFoundf("pod %s/%s has another UID than %s", ref.Namespace, ref.Name, ref.UID)
	}
	return live[0], nil
}

func describe(ref spiffe.KubernetesObject) string {
	if ref.Name == "" {
		return "of UID " + ref.UID
	}
	return ref.Namespace + "/" + ref.Name
}
