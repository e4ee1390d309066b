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

// brokerCall is one call: by whom, and on whose behalf.
type brokerCall struct {
	b      *Broker
	by     *brokerPeer
	target referred
}

// referred is a workload that a broker refers to. It is who it was when the reference
// was resolved, so that whatever becomes of its number or name, nothing of another one
// is ever sent in its name.
type referred interface {
	subject
	// look says nil while the workload is there, and whether there is something new
	// about it since it was evaluated.
	look(ctx context.Context) (another bool, err error)
	close()
}

// referredProcess is held by its pidfd, which is ours.
type referredProcess struct {
	localProcess
	local attest.Processes
}

func (p referredProcess) check(context.Context) error        { return p.local.Check(p.peer) }
func (p referredProcess) look(context.Context) (bool, error) { return false, p.local.Check(p.peer) }

func (p referredProcess) close() {
	if p.peer.PIDFD != nil {
		p.peer.PIDFD.Close()
	}
}

// open resolves a reference. Broker API 3.1.1: a reference is resolved here, and
// nothing of it is believed.
func (b *Broker) open(ctx context.Context, packed *brokerpb.WorkloadReference, what string) (*brokerCall, error) {
	by, err := brokerOf(ctx)
	if err != nil {
		return nil, err
	}
	ref, err := referenceOf(packed)
	if err != nil {
		return nil, b.guard.count(err)
	}
	var target referred
	if object, ok := ref.Object(); ok {
		target, err = b.resolveObject(ctx, object)
	} else {
		target, err = b.resolveProcess(by, ref.PID())
	}
	if err != nil {
		return nil, b.guard.count(err)
	}
	b.log.Info("brokered", append([]any{"broker", by.id.String(), "what", what}, target.named()...)...)
	return &brokerCall{b, by, target}, nil
}

// resolveProcess captures a process. Broker API 3.1.3.
func (b *Broker) resolveProcess(by *brokerPeer, pid int32) (referred, error) {
	// A number means something only to who counts as we do.
	if err := b.sameNumbers(by.peer); err != nil {
		return nil, refusal(codes.InvalidArgument, reasonInvalid, "the broker's process ids are not those of this agent: "+err.Error())
	}
	peer, err := b.local.Find(pid)
	if err != nil {
		return nil, refusal(codes.NotFound, reasonNotFound, err.Error())
	}
	return referredProcess{localProcess{b.s.host, peer}, b.local}, nil
}

// sameNumbers fails closed: who cannot say is taken for a stranger.
func (b *Broker) sameNumbers(peer attest.Peer) error {
	local, ok := b.local.(attest.Numbering)
	if !ok {
		return status.Error(codes.Unavailable, "pid namespaces are not known here")
	}
	return local.SameNumbers(peer)
}

func (c *brokerCall) close() { c.target.close() }

// evaluate finds the identities that the broker may have for the workload.
func (c *brokerCall) evaluate(ctx context.Context) (*Evaluation, error) {
	ev, err := c.b.s.identify(ctx, c.target)
	if err == nil {
		ev, err = c.narrow(ctx, ev)
	}
	if err != nil {
		return nil, c.explain(ctx, err)
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

// look says nil while both are who they were at the beginning, and whether there is
// something new about the workload.
func (c *brokerCall) look(ctx context.Context) (another bool, err error) {
	if err := c.b.local.Check(c.by.peer); err != nil {
		return false, c.b.guard.count(status.Error(codes.PermissionDenied, "the broker is not the process that connected"))
	}
	if another, err = c.target.look(ctx); err != nil {
		return false, c.gone(ctx, err)
	}
	return another, nil
}

// gone is the answer where a workload is not there, or not known to be.
func (c *brokerCall) gone(ctx context.Context, err error) error {
	switch away := new(attest.Away); {
	case ctx.Err() != nil:
		err = status.FromContextError(ctx.Err()).Err()
	case errors.As(err, away):
		err = status.Error(codes.Unavailable, err.Error())
	default:
		err = refusal(codes.NotFound, reasonNotFound, err.Error())
	}
	return c.b.guard.count(err)
}

// explain gives an error of the Workload API the code and reason of the Broker
// API's table: whether the workload has gone, or has no right.
func (c *brokerCall) explain(ctx context.Context, err error) error {
	if gone := c.target.check(ctx); gone != nil {
		return c.gone(ctx, gone)
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
			another, err := c.look(ctx)
			if err != nil || another {
				return err
			}
		}
	}
}

// referenceOf reads a reference. Broker API 3.1.1, 3.1.3, 3.1.4.
func referenceOf(packed *brokerpb.WorkloadReference) (spiffe.Reference, error) {
	ref, err := readReference(packed)
	if err != nil {
		return ref, refusal(codes.InvalidArgument, reasonInvalid, err.Error())
	}
	return ref, nil
}

func readReference(ref *brokerpb.WorkloadReference) (spiffe.Reference, error) {
	packed := ref.GetReference()
	if packed == nil {
		return spiffe.Reference{}, errors.New("the request has no workload reference")
	}
	switch packed.MessageName() {
	case "spiffe.broker.WorkloadPIDReference":
		var process brokerpb.WorkloadPIDReference
		if err := packed.UnmarshalTo(&process); err != nil {
			return spiffe.Reference{}, errors.New("the reference is not a WorkloadPIDReference")
		}
		return spiffe.ProcessReference(int64(process.GetPid()))
	case "spiffe.broker.KubernetesObjectReference":
		var object brokerpb.KubernetesObjectReference
		if err := packed.UnmarshalTo(&object); err != nil {
			return spiffe.Reference{}, errors.New("the reference is not a KubernetesObjectReference")
		}
		return readObject(&object)
	}
	return spiffe.Reference{}, errors.New("references of this type are not known here; WorkloadPIDReference and KubernetesObjectReference are")
}

// readObject is the form of Broker API 3.1.3.
func readObject(object *brokerpb.KubernetesObjectReference) (spiffe.Reference, error) {
	key := object.GetKey()
	if key != nil && key.GetName() == "" {
		return spiffe.Reference{}, errors.New("an object's key has a name")
	}
	return spiffe.ObjectReference(spiffe.KubernetesObject{
		Plural: object.GetType().GetPlural(), Group: object.GetType().GetGroup(), Namespace: key.GetNamespace(), Name: key.GetName(), UID: object.GetUid(),
	})
}
