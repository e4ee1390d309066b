package api

import (
	"context"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

const (
	maxBatch      = 128
	maxAttributes = 16 << 10 // bytes of names and values of one workload
)

type node struct {
	pb.UnimplementedNodeServer
	p *Public
}

type syncStream = grpc.BidiStreamingServer[pb.SyncRequest, pb.SyncResponse]

// Sync hands the stream to the fleet after its hello.
func (n *node) Sync(stream syncStream) error {
	ctx := stream.Context()
	caller, err := callerOf(ctx)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return fault.Invalidf("the first message of a sync is hello")
	}
	if len(hello.GetVersion()) > 64 {
		return fault.Invalidf("hello: version has at most 64 bytes")
	}
	return n.p.cfg.Fleet.Sync(ctx, caller, hello, syncLink{stream})
}

// SignWorkloads reads each request by itself: one that is broken does not spoil
// the batch.
func (n *node) SignWorkloads(ctx context.Context, req *pb.SignWorkloadsRequest) (*pb.SignWorkloadsResponse, error) {
	results, err := signAll(ctx, req.GetCsrs(), readCSR, n.p.cfg.Fleet.SignWorkloads, n.result)
	if err != nil {
		return nil, err
	}
	return &pb.SignWorkloadsResponse{Results: results}, nil
}

// signAll reads a node's batch, has it signed and puts the answers together.
func signAll[In, Asked, Signed, Out any](ctx context.Context, batch []In, read func(In) Asked,
	sign func(context.Context, Caller, []Asked) ([]Signed, error), result func(Signed) Out,
) ([]Out, error) {
	caller, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	if len(batch) > maxBatch {
		return nil, fault.Invalidf("%d requests in one batch, at most %d are signed", len(batch), maxBatch)
	}
	asked := make([]Asked, len(batch))
	for i, one := range batch {
		asked[i] = read(one)
	}
	signed, err := sign(ctx, caller, asked)
	if err != nil {
		return nil, err
	}
	results := make([]Out, len(signed))
	for i, one := range signed {
		results[i] = result(one)
	}
	return results, nil
}

func readCSR(c *pb.WorkloadCSR) CSR {
	out := CSR{Rule: c.GetRule(), ID: c.GetSpiffeId(), Attributes: c.GetAttributes()}
	if out.Err = checkWorkload(out.Rule, out.ID, out.Attributes); out.Err == nil {
		out.Key, out.Err = keyOf(c.GetCsr())
	}
	return out
}

// checkWorkload bounds what an agent says of a workload.
func checkWorkload(rule, id string, attributes map[string]string) error {
	size := 0
	for name, value := range attributes {
		size += len(name) + len(value)
	}
	switch {
	case len(id) > 2048 || len(rule) > 256:
		return fault.Invalidf("rule or SPIFFE ID too long")
	case size > maxAttributes:
		return fault.Invalidf("workload attributes of %d bytes, at most %d are read", size, maxAttributes)
	}
	return nil
}

func (n *node) result(s Signed) *pb.SignedWorkload {
	if s.Err == nil {
		return &pb.SignedWorkload{Chain: s.Chain}
	}
	text, kind := n.refusal(s.Err)
	return &pb.SignedWorkload{Error: text, ErrorKind: kind}
}

// refusal is the error of one request of a batch as the agent is to have it.
func (n *node) refusal(err error) (text, kind string) {
	text, kind = err.Error(), KindName(err)
	if kind == fault.Internal.String() {
		n.p.cfg.Log.Error("workload not signed", "error", err)
		text = "internal error"
	}
	if hint := fault.HintOf(err); hint != "" {
		text += "; hint: " + hint
	}
	return text, kind
}

// RenewNode gives the node a fresh SVID for its bound key.
func (n *node) RenewNode(ctx context.Context, req *pb.RenewNodeRequest) (*pb.Admitted, error) {
	caller, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	key, err := keyOf(req.GetCsr())
	if err != nil {
		return nil, err
	}
	return n.p.cfg.Fleet.RenewNode(ctx, caller, key)
}
