package workload

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb/brokerpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// The reasons of Broker API 4.8, and whose they are.
const (
	reasonDomain      = "spiffe.io"
	reasonInvalid     = "WORKLOAD_REFERENCE_INVALID"
	reasonNotFound    = "WORKLOAD_NOT_FOUND"
	reasonNotEntitled = "WORKLOAD_NOT_ENTITLED"
)

// refusal is a status with the standard's reason in its details.
func refusal(code codes.Code, reason, text string) error {
	s := status.New(code, text)
	if detailed, err := s.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: reasonDomain}); err == nil {
		s = detailed
	}
	return s.Err()
}

// brokerCall is one call: by whom, and on whose behalf. The workload is held by
// its pidfd from when the reference was resolved, so that whatever becomes of its
// number, nothing of another process is ever sent in its name.
type brokerCall struct {
	b      *Broker
	by     *brokerPeer
	target attest.Peer // its PIDFD is ours
}

// open resolves a reference. Broker API 3.1.1: a reference is resolved here, and
// nothing of it is believed.
func (b *Broker) open(ctx context.Context, ref *brokerpb.WorkloadReference, what string) (*brokerCall, error) {
	by, err := brokerOf(ctx)
	if err != nil {
		return nil, err
	}
	pid, err := pidOf(ref)
	if err != nil {
		return nil, b.guard.count(err)
	}
	// A number means something only to who counts as we do.
	if err := b.sameNumbers(by.peer); err != nil {
		return nil, b.guard.count(refusal(codes.InvalidArgument, reasonInvalid, "the broker's process ids are not those of this agent: "+err.Error()))
	}
	target, err := b.local.Find(pid)
	if err != nil {
		return nil, b.guard.count(refusal(codes.NotFound, reasonNotFound, err.Error()))
	}
	b.log.Info("brokered", "broker", by.id.String(), "pid", pid, "uid", target.UID, "what", what)
	return &brokerCall{b, by, target}, nil
}

// sameNumbers fails closed: who cannot say is taken for a stranger.
func (b *Broker) sameNumbers(peer attest.Peer) error {
	local, ok := b.local.(attest.Numbering)
	if !ok {
		return status.Error(codes.Unavailable, "pid namespaces are not known here")
	}
	return local.SameNumbers(peer)
}

func (c *brokerCall) close() {
	if c.target.PIDFD != nil {
		c.target.PIDFD.Close()
	}
}

// evaluate finds the identities that the broker may have for the workload.
func (c *brokerCall) evaluate(ctx context.Context) (*Evaluation, error) {
	ev, err := c.b.s.evaluate(ctx, c.target)
	if err == nil {
		ev, err = c.narrow(ctx, ev)
	}
	if err != nil {
		return nil, c.explain(err)
	}
	return ev, nil
}

// narrow leaves the identities that the broker may act for, by the rules of now. It
// asks again who the broker is, too: a stream may outlive its right to it.
func (c *brokerCall) narrow(ctx context.Context, ev *Evaluation) (*Evaluation, error) {
	if err := c.b.guard.entitled(ctx, c.by); err != nil {
		return nil, brokerLost{err}
	}
	allowed := slices.DeleteFunc(slices.Clone(ev.Matches), func(m registry.Match) bool { return !c.by.grant.covers(m.ID) })
	switch len(allowed) {
	case len(ev.Matches): // usually, and then streams share what they are sent
		return ev, nil
	case 0:
		return nil, status.Errorf(codes.PermissionDenied, "%s may not broker for this workload", c.by.id)
	}
	return NewEvaluation(ev.Attributes, allowed, ev.Outcomes), nil
}

// brokerLost is an error about the broker.
type brokerLost struct{ error }

// look says nil while both processes are those of the beginning.
func (c *brokerCall) look() error {
	if err := c.b.local.Check(c.by.peer); err != nil {
		return c.b.guard.count(status.Error(codes.PermissionDenied, "the broker is not the process that connected"))
	}
	if err := c.b.local.Check(c.target); err != nil {
		return c.gone(err)
	}
	return nil
}

func (c *brokerCall) gone(err error) error {
	return c.b.guard.count(refusal(codes.NotFound, reasonNotFound, err.Error()))
}

// explain gives an error of the Workload API the code and reason of the Broker
// API's table: whether the workload has gone, or has no right.
func (c *brokerCall) explain(err error) error {
	if gone := c.b.local.Check(c.target); gone != nil {
		return c.gone(gone)
	}
	var lost brokerLost
	if errors.As(err, &lost) { // which says nothing of the workload
		return c.b.guard.count(lost.error)
	}
	s := status.Convert(err)
	if s.Code() == codes.PermissionDenied {
		err = refusal(codes.PermissionDenied, reasonNotEntitled, s.Message())
	}
	return c.b.guard.count(err)
}

// wait returns nil when there may be something new to send.
func (c *brokerCall) wait(ctx context.Context, changed <-chan struct{}, looks <-chan time.Time) error {
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-changed:
			return nil
		case <-looks:
			if err := c.look(); err != nil {
				return err
			}
		}
	}
}

// pidOf reads a reference. Broker API 3.1.1, 3.1.3, 3.1.4.
func pidOf(ref *brokerpb.WorkloadReference) (int32, error) {
	invalid := func(text string) error { return refusal(codes.InvalidArgument, reasonInvalid, text) }
	packed := ref.GetReference()
	if packed == nil {
		return 0, invalid("the request has no workload reference")
	}
	switch packed.MessageName() {
	case "spiffe.broker.WorkloadPIDReference":
		var process brokerpb.WorkloadPIDReference
		if err := packed.UnmarshalTo(&process); err != nil {
			return 0, invalid("the reference is not a WorkloadPIDReference")
		}
		ref, err := spiffe.ProcessReference(int64(process.GetPid()))
		if err != nil {
			return 0, invalid(err.Error())
		}
		return ref.PID(), nil
	case "spiffe.broker.KubernetesObjectReference":
		var object brokerpb.KubernetesObjectReference
		if err := packed.UnmarshalTo(&object); err != nil {
			return 0, invalid("the reference is not a KubernetesObjectReference")
		}
		if err := checkObject(&object); err != nil {
			return 0, invalid(err.Error())
		}
		return 0, invalid("this agent is of no Kubernetes cluster, so that it knows none of its objects")
	}
	return 0, invalid("references of this type are not known here; WorkloadPIDReference is")
}

// checkObject is the form of Broker API 3.1.3. That there is such an object, and of
// this UID, only its cluster could say.
func checkObject(object *brokerpb.KubernetesObjectReference) error {
	key := object.GetKey()
	if key != nil && key.GetName() == "" {
		return errors.New("an object's key has a name")
	}
	_, err := spiffe.ObjectReference(spiffe.KubernetesObject{
		Plural: object.GetType().GetPlural(), Group: object.GetType().GetGroup(), Namespace: key.GetNamespace(), Name: key.GetName(), UID: object.GetUid(),
	})
	return err
}
