package workload

import (
	"context"
	"errors"
	"maps"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// awayLooks is how many looks in a row may find nobody to ask before a stream ends: a
// kubelet that starts again is back by then.
const awayLooks = 5

// referredObject is an object of a control plane, from the moment its reference was
// resolved of one UID: another one under its name is another workload.
type referredObject struct {
	host    Host
	objects attest.Objects
	ref     spiffe.KubernetesObject // its UID is set

	known registry.Attributes // as it was evaluated last; owned by the call
	away  int                 // looks since it was seen; owned by the call
}

// resolveObject finds an object. Broker API 3.1.3: by key, by UID, or by key and then
// of that UID; 3.1.4: one of a type that is not served is refused as invalid.
func (b *Broker) resolveObject(ctx context.Context, ref spiffe.KubernetesObject) (referred, error) {
	if b.objects == nil {
		return nil, refusal(codes.InvalidArgument, reasonInvalid, "this agent knows no kubelet (agent.kubernetes), and so none of the objects of a cluster")
	}
	found, err := b.objects.Object(ctx, ref)
	switch {
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case fault.Is(err, fault.Invalid):
		return nil, refusal(codes.InvalidArgument, reasonInvalid, err.Error())
	case fault.Is(err, fault.NotFound):
		return nil, refusal(codes.NotFound, reasonNotFound, err.Error())
	case err != nil:
		b.log.Warn("workload not found out", "object", describe(ref), "error", err)
		return nil, status.Error(codes.Unavailable, "who the workload is cannot be found out now; the agent's log says why")
	}
	ref.UID = found.UID
	return &referredObject{host: b.s.host, objects: b.objects, ref: ref}, nil
}

// object is what is known of it now.
func (o *referredObject) object(ctx context.Context) (attest.Object, error) {
	found, err := o.objects.Object(ctx, o.ref)
	if err == nil && found.UID != o.ref.UID {
		return attest.Object{}, fault.NotFoundf("%s is another one by now", describe(o.ref))
	}
	return found, err
}

func (o *referredObject) evaluate(ctx context.Context) (*Evaluation, error) {
	found, err := o.object(ctx)
	if err != nil {
		return nil, err
	}
	o.known, o.away = found.Attributes, 0
	return o.host.EvaluateObject(found.Attributes)
}

func (o *referredObject) check(ctx context.Context) error {
	_, err := o.object(ctx)
	return err
}

// look bears for a while that nobody can be asked: nothing new is sent meanwhile.
func (o *referredObject) look(ctx context.Context) (another bool, err error) {
	found, err := o.object(ctx)
	if away := new(attest.Away); errors.As(err, away) && o.away < awayLooks {
		o.away++
		return false, nil
	}
	if err != nil {
		return false, err
	}
	o.away = 0
	return !maps.Equal(found.Attributes, o.known), nil
}

func (o *referredObject) named() []any { return []any{"object", describe(o.ref)} }

func (o *referredObject) advice() string {
	return "no identity rule matches what is known of the pod; the agent's log says more"
}

func (o *referredObject) close() {}

// describe names an object as people do.
func describe(ref spiffe.KubernetesObject) string {
	named, err := spiffe.ObjectReference(ref)
	if err != nil { // a static pod's UID is no UUID
		ref.UID = ""
		named, _ = spiffe.ObjectReference(ref)
	}
	return named.String()
}
