package workload

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb/brokerpb"
	"github.com/kith-id/kith/internal/registry"
)

// brokerLooks is how often a workload that somebody brokers for is looked at: it
// has no connection here that would end with it.
const brokerLooks = time.Second

// Broker is the SPIFFE Broker API: what the Workload API is to a workload itself,
// for programs that act on behalf of others, such as a mesh's proxy of a node. Who
// a workload is, the agent finds out as it does for one that comes by itself;
// nothing that a broker says of it counts but which process is meant.
//
// The answers have the Workload API's wire form, so they are its very bytes.
type Broker struct {
	brokerpb.UnimplementedAPIServer

	s       *Service
	local   attest.Processes
	objects attest.Objects // nil: none are known
	guard   *brokerGuard
	log     *slog.Logger
	looks   time.Duration // how often workloads are looked at
}

// BrokerConfig is what a Broker is made of.
type BrokerConfig struct {
	Service   *Service
	Processes attest.Processes
	Objects   attest.Objects // nil: references to objects are refused
	Grants    []BrokerGrant  // nobody else may broker
	Streams   int            // that one broker may hold open; 0 is 1024
	Log       *slog.Logger
	Metrics   *BrokerMetrics // may be nil

	looks time.Duration // brokerLooks unless it is set
}

// NewBroker makes the Broker API of one agent.
func NewBroker(cfg BrokerConfig) *Broker {
	if cfg.Metrics == nil {
		cfg.Metrics = NewBrokerMetrics()
	}
	return &Broker{s: cfg.Service, local: cfg.Processes, objects: cfg.Objects, guard: newBrokerGuard(cfg), log: cfg.Log, looks: cmp.Or(cfg.looks, brokerLooks)}
}

// ServerOptions is what the gRPC server of a Broker must be made with, beside its
// credentials ([BrokerCredentials]).
func (b *Broker) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StreamInterceptor(b.guard.stream), grpc.UnaryInterceptor(b.guard.unary), wireOption()}
}

// SubscribeToX509SVID sends the workload's SVIDs at once and again whenever one is
// renewed or the rules or bundles change, until the workload ends. Broker API
// 4.4, 4.9, 5.2.1.
func (b *Broker) SubscribeToX509SVID(req *brokerpb.SubscribeToX509SVIDRequest, stream grpc.ServerStreamingServer[brokerpb.SubscribeToX509SVIDResponse]) error {
	call, err := b.open(stream.Context(), req.GetReference(), "X.509-SVIDs")
	if err != nil {
		return err
	}
	defer call.close()
	f := &follower{s: b.s, from: b.s.identities, of: call.target, stream: stream, narrow: call.narrow}
	defer f.end()
	step := f.step
	looks := time.NewTicker(b.looks)
	defer looks.Stop()
	for {
		if err := b.s.hands.do(step); err != nil {
			return call.explain(stream.Context(), err)
		}
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-f.changed:
			f.known = false
		case <-f.moved:
		case <-f.patience:
			f.patience = nil
		case <-looks.C:
			another, err := call.look(stream.Context())
			if err != nil {
				return err
			}
			f.known = f.known && !another
		}
	}
}

// SubscribeToX509Bundles sends the bundles at once and again whenever they change.
// Broker API 5.2.2.
func (b *Broker) SubscribeToX509Bundles(req *brokerpb.SubscribeToX509BundlesRequest, stream grpc.ServerStreamingServer[brokerpb.SubscribeToX509BundlesResponse]) error {
	return b.bundles(stream, req.GetReference(), "X.509 bundles", func(trust Trust) (proto.Message, error) { return x509Bundles(trust) })
}

// SubscribeToJWTBundles sends the keys of JWT-SVIDs at once and again whenever they
// change. Broker API 6.2.2.
func (b *Broker) SubscribeToJWTBundles(req *brokerpb.SubscribeToJWTBundlesRequest, stream grpc.ServerStreamingServer[brokerpb.SubscribeToJWTBundlesResponse]) error {
	return b.bundles(stream, req.GetReference(), "JWT bundles", func(trust Trust) (proto.Message, error) { return jwtBundles(trust) })
}

// bundles follows what a workload may trust. Only one that has an identity gets it.
func (b *Broker) bundles(stream grpc.ServerStream, ref *brokerpb.WorkloadReference, what string, of func(Trust) (proto.Message, error)) error {
	ctx := stream.Context()
	call, err := b.open(ctx, ref, what)
	if err != nil {
		return err
	}
	defer call.close()
	looks := time.NewTicker(b.looks)
	defer looks.Stop()
	var last encoded
	for {
		changed := b.s.host.Changed() // before evaluating, so that no change is missed
		if _, err := call.evaluate(ctx); err != nil {
			return err
		}
		message, err := of(b.s.host.Trust())
		if err != nil {
			return err
		}
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
		if err != nil {
			return status.Errorf(codes.Internal, "encode %s: %v", what, err)
		}
		if last == nil || !bytes.Equal(last, text) {
			if err := stream.SendMsg(encoded(text)); err != nil {
				return err
			}
			last = text
		}
		if err := call.wait(ctx, changed, looks.C); err != nil {
			return err
		}
	}
}

// FetchJWTSVID gives the workload's JWT-SVIDs for an audience: of all its
// identities, or of the one that is named. Broker API 6.2.1.
func (b *Broker) FetchJWTSVID(ctx context.Context, req *brokerpb.FetchJWTSVIDRequest) (*brokerpb.FetchJWTSVIDResponse, error) {
	call, err := b.open(ctx, req.GetReference(), "JWT-SVIDs")
	if err != nil {
		return nil, err
	}
	defer call.close()
	audience := slices.Compact(slices.Sorted(slices.Values(req.GetAudience())))
	if err := registry.ValidateAudience(audience); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ev, err := call.evaluate(ctx)
	if err != nil {
		return nil, err
	}
	matches, err := matchesOf(ev, req.GetSpiffeId())
	if err != nil {
		return nil, call.explain(ctx, err)
	}
	held, _ := b.s.tokens.Fetch(ctx, ev, matches, audience)
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	// The identity goes out for the workload that was evaluated, or not at all.
	switch another, err := call.look(ctx); {
	case err != nil:
		return nil, err
	case another:
		return nil, b.guard.count(status.Error(codes.Unavailable, "the workload has changed meanwhile"))
	}
	found, err := jwtResponse(held)
	if err != nil {
		return nil, call.explain(ctx, err)
	}
	out := &brokerpb.FetchJWTSVIDResponse{}
	for _, svid := range found.GetSvids() {
		out.Svids = append(out.Svids, &brokerpb.JWTSVID{SpiffeId: svid.GetSpiffeId(), Svid: svid.GetSvid(), Hint: svid.GetHint()})
	}
	return out, nil
}
