package workload

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
)

// signWait is how long a first message waits for the server before the client
// is told to come back.
const signWait = 5 * time.Second

// Service is the SPIFFE Workload API. The methods of the WIT profile are not
// part of it and answer Unimplemented by themselves.
type Service struct {
	workloadpb.UnimplementedSpiffeWorkloadAPIServer

	host       Host
	identities *Identities
	tokens     *Tokens
	log        *slog.Logger
	metrics    *Metrics
	chatter    *rate.Limiter // of log lines about processes without an identity
}

// ServiceConfig is what a Service serves from. Metrics may be nil.
type ServiceConfig struct {
	Host       Host
	Identities *Identities
	Tokens     *Tokens
	Log        *slog.Logger
	Metrics    *Metrics
}

// NewService makes the Workload API of one agent.
func NewService(cfg ServiceConfig) *Service {
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	return &Service{
		host: cfg.Host, identities: cfg.Identities, tokens: cfg.Tokens,
		log: cfg.Log, metrics: cfg.Metrics, chatter: rate.NewLimiter(5, 20),
	}
}

// FetchX509SVID sends the caller's SVIDs at once and again whenever one is
// renewed or the rules or bundles change. Workload API 4.3, 5.2.1.
func (s *Service) FetchX509SVID(_ *workloadpb.X509SVIDRequest, stream grpc.ServerStreamingServer[workloadpb.X509SVIDResponse]) error {
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	ctx := stream.Context()
	peer, err := PeerOf(ctx)
	if err != nil {
		return err
	}
	var last *workloadpb.X509SVIDResponse
	var lease *Lease
	defer func() {
		if lease != nil {
			lease.Release()
		}
	}()
	for {
		changed := s.host.Changed() // before evaluating, so that no change is missed
		ev, err := s.evaluate(ctx, peer)
		if err != nil {
			return err
		}
		next := s.identities.Acquire(ev) // before releasing, so that nothing is dropped between
		if lease != nil {
			lease.Release()
		}
		lease = next
		if err := s.serve(stream, peer, lease, changed, &last); err != nil {
			return err
		}
	}
}

// serve sends what a lease holds until the rules or bundles change.
func (s *Service) serve(stream grpc.ServerStreamingServer[workloadpb.X509SVIDResponse], peer attest.Peer,
	lease *Lease, changed <-chan struct{}, last **workloadpb.X509SVIDResponse,
) error {
	ctx := stream.Context()
	wait, cancel := context.WithTimeout(ctx, signWait)
	_ = lease.Wait(wait, changed) // what is there by then is what is served
	cancel()
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-changed:
		return nil
	default:
	}
	for {
		held := lease.State()
		response, err := s.response(held)
		if err != nil {
			return err
		}
		if *last == nil || !proto.Equal(*last, response) {
			// The identity goes to the process that was evaluated, or to nobody.
			if err := s.host.Check(peer); err != nil {
				return s.deny(peer, Evaluation{}, err)
			}
			if err := stream.Send(response); err != nil {
				return err
			}
			*last = response
		}
		expiry, stop := untilFirstEnds(held, s.identities.cfg.Now())
		select {
		case <-ctx.Done():
			stop()
			return status.FromContextError(ctx.Err()).Err()
		case <-changed:
			stop()
			return nil
		case <-lease.Changed():
		case <-expiry:
		}
		stop()
	}
}

// untilFirstEnds fires when the first SVID ends that could not be renewed: a
// client must not go on using it.
func untilFirstEnds(held []Held, now time.Time) (<-chan time.Time, func()) {
	var first time.Time
	for _, h := range held {
		if h.Issued != nil && (first.IsZero() || h.Issued.NotAfter.Before(first)) {
			first = h.Issued.NotAfter
		}
	}
	if first.IsZero() {
		return nil, func() {}
	}
	timer := time.NewTimer(first.Sub(now))
	return timer.C, func() { timer.Stop() }
}

// response is the full state of a lease: every identity that has an SVID. If
// none has, the error says whether it is worth trying again.
func (s *Service) response(held []Held) (*workloadpb.X509SVIDResponse, error) {
	trust := s.host.Trust()
	own, ok := trust.Bundles.Bundle(trust.Domain)
	if !ok {
		return nil, status.Error(codes.Unavailable, "the agent has no bundle yet")
	}
	out := &workloadpb.X509SVIDResponse{FederatedBundles: make(map[string][]byte)}
	roots := own.MarshalRoots()
	hints := make(map[string]bool)
	var failed error
	for _, h := range held {
		if h.Issued == nil {
			if failed == nil || Refused(failed) {
				failed = h.Err
			}
			continue
		}
		hint := h.Match.Hint
		if hints[hint] { // Workload API 5.2.1: a hint is unique in its response
			hint = ""
		}
		hints[hint] = true
		out.Svids = append(out.Svids, &workloadpb.X509SVID{
			SpiffeId: h.Issued.ID.String(), X509Svid: h.Issued.Chain,
			X509SvidKey: h.Issued.Key, Bundle: roots, Hint: hint,
		})
	}
	switch {
	case len(out.Svids) > 0:
	case Refused(failed):
		return nil, status.Errorf(codes.PermissionDenied, "the server refused the identity: %v", failed)
	case failed != nil:
		return nil, status.Error(codes.Unavailable, "no identity could be signed yet: the server is away")
	default:
		return nil, status.Error(codes.Unavailable, "the server has not answered yet")
	}
	for td, bundle := range trust.Bundles {
		if td != trust.Domain {
			out.FederatedBundles[td.ID().String()] = bundle.MarshalRoots()
		}
	}
	return out, nil
}

// FetchX509Bundles sends the bundles at once and again whenever they change.
// Workload API 5.2.2: only a workload with an identity gets them.
func (s *Service) FetchX509Bundles(_ *workloadpb.X509BundlesRequest, stream grpc.ServerStreamingServer[workloadpb.X509BundlesResponse]) error {
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	ctx := stream.Context()
	peer, err := PeerOf(ctx)
	if err != nil {
		return err
	}
	var last *workloadpb.X509BundlesResponse
	for {
		changed := s.host.Changed()
		if _, err := s.evaluate(ctx, peer); err != nil {
			return err
		}
		trust := s.host.Trust()
		if _, ok := trust.Bundles.Bundle(trust.Domain); !ok {
			return status.Error(codes.Unavailable, "the agent has no bundle yet")
		}
		response := &workloadpb.X509BundlesResponse{Bundles: make(map[string][]byte, len(trust.Bundles))}
		for td, bundle := range trust.Bundles {
			response.Bundles[td.ID().String()] = bundle.MarshalRoots()
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

// evaluate finds the caller's identities; none is PermissionDenied, with what
// was found in the log and not in the answer.
func (s *Service) evaluate(ctx context.Context, peer attest.Peer) (Evaluation, error) {
	ev, err := s.host.Evaluate(ctx, peer)
	if ctx.Err() != nil {
		return Evaluation{}, status.FromContextError(ctx.Err()).Err()
	}
	if err != nil || len(ev.Matches) == 0 {
		return Evaluation{}, s.deny(peer, ev, err)
	}
	return ev, nil
}

func (s *Service) deny(peer attest.Peer, ev Evaluation, err error) error {
	s.metrics.denied.Inc()
	if s.chatter.Allow() {
		closest := registry.Outcome{Detail: "there are no identity rules"}
		if c, ok := Closest(ev.Outcomes); ok {
			closest = c
		}
		s.log.Warn("workload has no identity", "pid", peer.PID, "uid", peer.UID,
			"unit", ev.Attributes["workload.systemd.unit"], "as", ev.Attributes["workload.kith.as"],
			"rule", closest.Rule, "reason", closest.Detail, "error", err)
	}
	return status.Errorf(codes.PermissionDenied, "no identity issued; kith ids explain --pid %d says why", peer.PID)
}
