package workload

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb/envoypb"
)

// maxNames is how many secrets one stream may ask for.
const maxNames = 256

// Secrets is Envoy's secret discovery service, version 3: the same SVIDs and
// bundles as the Workload API, by the names Envoy configurations use. Who asks is
// the process on the socket; what it says of itself is read for its version.
type Secrets struct {
	envoypb.UnimplementedSecretDiscoveryServiceServer

	s *Service
}

// NewSecrets is the secret discovery service beside a Workload API.
func NewSecrets(s *Service) *Secrets { return &Secrets{s: s} }

// StreamSecrets sends the secrets that are asked for at once and again whenever
// one changes, all of them each time.
func (s *Secrets) StreamSecrets(stream grpc.BidiStreamingServer[envoypb.DiscoveryRequest, envoypb.DiscoveryResponse]) error {
	return discover(s.s, stream, &wholeSession{s: s.s})
}

// DeltaSecrets sends the secrets that are asked for at once and each of them
// again when it changes.
func (s *Secrets) DeltaSecrets(stream grpc.BidiStreamingServer[envoypb.DeltaDiscoveryRequest, envoypb.DeltaDiscoveryResponse]) error {
	return discover(s.s, stream, &deltaSession{s: s.s, wanted: make(map[string]*wantedSecret)})
}

// FetchSecrets is StreamSecrets for one answer.
func (s *Secrets) FetchSecrets(ctx context.Context, req *envoypb.DiscoveryRequest) (*envoypb.DiscoveryResponse, error) {
	peer, err := PeerOf(ctx)
	if err != nil {
		return nil, err
	}
	session := &wholeSession{s: s.s}
	if err := session.hear(req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.s.wait)
	defer cancel()
	ev, err := s.s.evaluate(ctx, peer)
	if err != nil {
		return nil, err
	}
	lease := s.s.identities.Acquire(ev)
	defer lease.Release()
	_ = lease.Wait(ctx) // what is there by then is what is served
	out, err := session.next(secrets{held: lease.State(), trust: s.s.host.Trust(), plain: session.plain})
	switch {
	case err != nil:
		return nil, err
	case out == nil:
		return nil, status.Error(codes.Unavailable, "the server has not answered yet")
	}
	if err := s.s.host.Check(peer); err != nil {
		return nil, s.s.deny(peer, &Evaluation{}, err)
	}
	out.Nonce = ""
	return out, nil
}

// session is what one stream has asked for and was sent.
type session[Request, Response any] interface {
	// hear takes a request; an error ends the stream.
	hear(*Request) error
	// old says that the asker cannot tell trust domains apart.
	old() bool
	// next is what is to be sent when these are the secrets there are; nil for
	// nothing.
	next(secrets) (*Response, error)
}

// discover answers a stream until it ends or its process has no identity any more.
func discover[Request, Response any](s *Service, stream grpc.BidiStreamingServer[Request, Response], to session[Request, Response]) error {
	s.metrics.secretStreams.Inc()
	defer s.metrics.secretStreams.Dec()
	ctx := stream.Context()
	peer, err := PeerOf(ctx)
	if err != nil {
		return err
	}
	in := requests(ctx, stream)
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
		if more, err := supply(s, stream, peer, to, in, lease, changed); !more || err != nil {
			return err
		}
	}
}

// supply sends what a lease holds, as it is asked for, until the rules or bundles
// change; more is false when the stream has ended.
func supply[Request, Response any](s *Service, stream grpc.BidiStreamingServer[Request, Response], peer attest.Peer,
	to session[Request, Response], in <-chan *Request, lease *Lease, changed <-chan struct{},
) (more bool, err error) {
	ctx := stream.Context()
	for {
		moved := lease.Changed() // before its state, so that no change is missed
		out, err := to.next(secrets{held: lease.State(), trust: s.host.Trust(), plain: to.old()})
		if err != nil {
			return false, err
		}
		if out != nil {
			// A key goes to the process that was evaluated, or to nobody.
			if err := s.host.Check(peer); err != nil {
				return false, s.deny(peer, &Evaluation{}, err)
			}
			if err := stream.Send(out); err != nil {
				return false, err
			}
			s.metrics.secrets.WithLabelValues("sent").Inc()
		}
		select {
		case <-ctx.Done():
			return false, status.FromContextError(ctx.Err()).Err()
		case <-changed:
			return true, nil
		case <-moved:
		case req, ok := <-in:
			if !ok {
				return false, nil
			}
			if err := to.hear(req); err != nil {
				return false, err
			}
		}
	}
}

// requests reads the stream in a goroutine of its own, which ends with it.
func requests[Request, Response any](ctx context.Context, stream grpc.BidiStreamingServer[Request, Response]) <-chan *Request {
	in := make(chan *Request)
	go func() {
		defer close(in)
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case in <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	return in
}

func checkType(url string) error {
	if url != "" && url != secretType {
		return status.Errorf(codes.InvalidArgument, "type_url %q: only %s is served here", clip(url), secretType)
	}
	return nil
}

func checkNames(names []string) error {
	if len(names) > maxNames {
		return status.Errorf(codes.InvalidArgument, "%d secrets are asked for, %d are allowed", len(names), maxNames)
	}
	return nil
}

// answered notes how a response was taken.
func (s *Service) answered(nonce string, refusal *envoypb.Refusal) {
	switch {
	case refusal != nil:
		s.metrics.secrets.WithLabelValues("refused").Inc()
		s.log.Error("envoy refused secrets", "nonce", clip(nonce), "error", clip(refusal.GetMessage()))
	case nonce != "":
		s.metrics.secrets.WithLabelValues("accepted").Inc()
	}
}

// unknown is the error for names nobody here may have. It says what there is:
// the same process is told that anyway when it asks for nothing in particular.
func (s *Service) unknown(names []string, all secrets) error {
	for i := range names {
		names[i] = fmt.Sprintf("%q", clip(names[i]))
	}
	err := status.Errorf(codes.InvalidArgument, "this process has no secret %s; it has %s",
		strings.Join(names[:min(len(names), 8)], ", "), strings.Join(all.names(), ", "))
	if s.chatter.Allow() {
		s.log.Warn("unknown secret asked for", "error", err)
	}
	return err
}

func newNonce() string { return rand.Text()[:16] }

// clip bounds a text from outside for a log or an error.
func clip(text string) string {
	const limit = 256
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// sorted is a set of names in one order, each once and none empty.
func sorted(names []string) []string {
	out := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	slices.Sort(out)
	return slices.Compact(out)
}
