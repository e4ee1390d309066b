package workload

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// followTrust sends what a kind of bundle is made of at once and again whenever
// it changes, for as long as the caller has an identity.
func followTrust[M any, P interface {
	*M
	proto.Message
}](s *Service, stream grpc.ServerStreamingServer[M], made func(Trust) (P, error)) error {
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	ctx := stream.Context()
	peer, err := PeerOf(ctx)
	if err != nil {
		return err
	}
	var last P
	for {
		changed := s.host.Changed() // before evaluating, so that no change is missed
		if _, err := s.evaluate(ctx, peer); err != nil {
			return err
		}
		response, err := made(s.host.Trust())
		if err != nil {
			return err
		}
		if last == nil || !proto.Equal(last, response) {
			if err := stream.Send(response); err != nil {
				return err
			}
			last = response
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-changed:
		}
	}
}

// ready says whether the own bundle is there: before it is, nobody is told whom
// to trust.
func (t Trust) ready() error {
	if _, ok := t.Bundles.Bundle(t.Domain); !ok {
		return status.Error(codes.Unavailable, "the agent has no bundle yet")
	}
	return nil
}
