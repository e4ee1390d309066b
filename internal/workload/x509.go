package workload

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/spiffe"
)

// signWait is how long a first message waits for the server before the client
// is told to come back.
const signWait = 5 * time.Second

// Service is the SPIFFE Workload API.
type Service struct {
	workloadpb.UnimplementedSpiffeWorkloadAPIServer

	host       Host
	identities *Identities
	tokens     *Tokens
	wits       *Identities // nil: the WIT profile is off
	log        *slog.Logger
	metrics    *Metrics
	hands      *hands
	chatter    *rate.Limiter // of log lines about processes without an identity
	wait       time.Duration // of a first message
}

// ServiceConfig is what a Service serves from. Metrics may be nil, and so may WITs,
// from NewWITs, where the WIT profile is off.
type ServiceConfig struct {
	Host       Host
	Identities *Identities
	Tokens     *Tokens
	WITs       *Identities
	Log        *slog.Logger
	Metrics    *Metrics

	wait time.Duration // signWait unless it is set
}

// NewService makes the Workload API of one agent.
func NewService(cfg ServiceConfig) *Service {
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	return &Service{
		wait: cmp.Or(cfg.wait, signWait),
		host: cfg.Host, identities: cfg.Identities, tokens: cfg.Tokens, wits: cfg.WITs,
		log: cfg.Log, metrics: cfg.Metrics, hands: newHands(), chatter: rate.NewLimiter(5, 20),
	}
}

// FetchX509SVID sends the caller's SVIDs at once and again whenever one is
// renewed or the rules or bundles change. Workload API 4.3, 5.2.1.
func (s *Service) FetchX509SVID(request *workloadpb.X509SVIDRequest, stream grpc.ServerStreamingServer[workloadpb.X509SVIDResponse]) error {
	return s.follow(&follower{s: s, from: s.identities, stream: stream, unread: request})
}

// follow sends a stream what it is to have until it ends.
func (s *Service) follow(f *follower) error {
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	ctx := f.stream.Context()
	peer, err := PeerOf(ctx)
	if err != nil {
		return err
	}
	f.of = localProcess{s.host, peer}
	defer f.end()
	step := f.step
	for {
		if err := s.hands.do(step); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-f.changed:
			f.known = false
		case <-f.moved:
		case <-f.patience:
			f.patience = nil
		}
	}
}

// follower is one stream of X.509- or WIT-SVIDs.
type follower struct {
	s      *Service
	from   *Identities
	only   string // the identity the caller names; empty: all it has
	of     subject
	stream grpc.ServerStream
	unread *workloadpb.X509SVIDRequest // nil: the request is read; see asked
	lease  *Lease
	sent   encoded // last
	// narrow leaves what a broker may have of an evaluation; nil: all of it.
	narrow func(context.Context, *Evaluation) (*Evaluation, error)

	// What its stream waits for.
	known    bool             // the lease is by the rules of now
	changed  <-chan struct{}  // the rules or bundles have changed
	moved    <-chan struct{}  // the lease has another answer
	patience <-chan time.Time // the time for the server to answer is over; nil if it is
	timer    *time.Timer      // of patience
}

// step sends what there is to send by now.
func (f *follower) step() error {
	if f.unread != nil {
		if err := f.stream.RecvMsg(f.unread); err != nil {
			return err
		}
		f.unread = nil
	}
	evaluated := !f.known
	if evaluated {
		if err := f.evaluate(); err != nil {
			return err
		}
	}
	answer, moved := f.s.answer(f.lease)
	f.moved = moved
	if answer.waits && f.patience != nil {
		return nil
	}
	f.patience = nil
	if answer.err != nil {
		return answer.err
	}
	if bytes.Equal(f.sent, answer.message) {
		f.sent = answer.message // of which there is one for all streams
		return nil
	}
	if !evaluated {
		// The identity goes to the process that was evaluated, or to nobody.
		if err := f.of.check(f.stream.Context()); err != nil {
			return f.s.refuse(f.of, &Evaluation{}, err)
		}
	}
	if err := f.stream.SendMsg(answer.message); err != nil {
		return err
	}
	f.sent = answer.message
	return nil
}

// evaluate takes a lease by the rules of now.
func (f *follower) evaluate() error {
	f.changed = f.s.host.Changed() // before evaluating, so that no change is missed
	ev, err := f.s.identify(f.stream.Context(), f.of)
	if err == nil && f.narrow != nil {
		ev, err = f.narrow(f.stream.Context(), ev)
	}
	if err != nil {
		return err
	}
	if ev, err = only(ev, f.only); err != nil {
		return err
	}
	next := f.from.Acquire(ev) // before releasing, so that nothing is dropped between
	f.release()
	f.lease, f.known = next, true
	if answer, _ := f.s.answer(next); answer.waits {
		f.rest()
		f.timer = time.NewTimer(f.s.wait)
		f.patience = f.timer.C
	}
	return nil
}

func (f *follower) release() {
	if f.lease != nil {
		f.lease.Release()
	}
}

func (f *follower) rest() {
	if f.timer != nil {
		f.timer.Stop()
	}
}

func (f *follower) end() {
	f.rest()
	f.release()
}

// answer is what every stream of a lease is sent, or why it is sent nothing.
type answer struct {
	message encoded
	err     error
	waits   bool      // the server has not yet spoken about some identity
	trust   Trust     // whose bundles it holds
	until   time.Time // the first of its SVIDs ends
}

// answer is the answer of a lease, made once for all its streams, and what tells
// that there is another.
func (s *Service) answer(l *Lease) (*answer, <-chan struct{}) {
	m := l.of
	trust, now := s.host.Trust(), m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := l.answer; a == nil || !a.trust.same(trust) || !a.until.IsZero() && !now.Before(a.until) {
		l.answer = newAnswer(l.state(now), trust, m.cfg.form)
	}
	return l.answer, l.changed
}

func newAnswer(held []Held, trust Trust, form form) *answer {
	a := &answer{trust: trust}
	for _, h := range held {
		a.waits = a.waits || h.Issued == nil && !Refused(h.Err)
		if h.Issued != nil && (a.until.IsZero() || h.Issued.NotAfter.Before(a.until)) {
			a.until = h.Issued.NotAfter
		}
	}
	var response proto.Message
	if response, a.err = form.respond(held, trust); a.err == nil {
		// Deterministic, so that equal answers are equal bytes.
		a.message, a.err = proto.MarshalOptions{Deterministic: true}.Marshal(response)
	}
	return a
}

// hints are those given in one response, each once: Workload API 5.2.1, 6.2.1, 7.2.1.
type hints map[string]bool

func (h hints) once(hint string) string {
	if h[hint] {
		return ""
	}
	h[hint] = true
	return hint
}

// worthTrying is the error of two to tell: the one that may go away, if one may.
func worthTrying(failed, other error) error {
	if failed == nil || Refused(failed) {
		return other
	}
	return failed
}

// x509Response is the full state of a lease: every identity that has an SVID. If
// none has, the error says whether it is worth trying again.
func x509Response(held []Held, trust Trust) (proto.Message, error) {
	own, ok := trust.Bundles.Bundle(trust.Domain)
	if !ok {
		return nil, status.Error(codes.Unavailable, "the agent has no bundle yet")
	}
	out := &workloadpb.X509SVIDResponse{FederatedBundles: make(map[string][]byte)}
	roots := own.MarshalRoots()
	given := make(hints)
	var failed error
	for _, h := range held {
		if h.Issued == nil {
			failed = worthTrying(failed, h.Err)
			continue
		}
		out.Svids = append(out.Svids, &workloadpb.X509SVID{
			SpiffeId: h.Issued.ID.String(), X509Svid: h.Issued.Chain,
			X509SvidKey: h.Issued.Key, Bundle: roots, Hint: given.once(h.Match.Hint),
		})
	}
	if len(out.Svids) == 0 {
		return nil, nothing(failed)
	}
	for td, roots := range rootsOf(trust) {
		if td != trust.Domain {
			out.FederatedBundles[td.ID().String()] = roots
		}
	}
	return out, nil
}

// nothing is the answer to a workload none of whose identities has an SVID, with
// what the last attempt met.
func nothing(failed error) error {
	switch {
	case Refused(failed):
		return errRefused()
	case failed != nil:
		return status.Error(codes.Unavailable, "no identity could be signed yet: the server is away")
	default:
		return status.Error(codes.Unavailable, "the server has not answered yet")
	}
}

// rootsOf is the roots of each trust domain that has any. One that has revoked
// them all is left out: a client that finds no bundle trusts nobody of it
// (Workload API 4.6), while what clients make of an empty one is their own.
func rootsOf(trust Trust) map[spiffe.TrustDomain][]byte {
	out := make(map[spiffe.TrustDomain][]byte, len(trust.Bundles))
	for td, bundle := range trust.Bundles {
		if roots := bundle.MarshalRoots(); len(roots) > 0 {
			out[td] = roots
		}
	}
	return out
}

// FetchX509Bundles sends the bundles at once and again whenever they change.
// Workload API 5.2.2: only a workload with an identity gets them.
func (s *Service) FetchX509Bundles(_ *workloadpb.X509BundlesRequest, stream grpc.ServerStreamingServer[workloadpb.X509BundlesResponse]) error {
	return followTrust(s, stream, x509Bundles)
}

// x509Bundles is the roots of each trust domain that has any, the own one always.
func x509Bundles(trust Trust) (*workloadpb.X509BundlesResponse, error) {
	if err := trust.ready(); err != nil {
		return nil, err
	}
	response := &workloadpb.X509BundlesResponse{Bundles: make(map[string][]byte, len(trust.Bundles))}
	for td, roots := range rootsOf(trust) {
		response.Bundles[td.ID().String()] = roots
	}
	return response, nil
}

// errRefused is what a process is told whose identity the server does not sign;
// its reason is in the log of both.
func errRefused() error {
	return status.Error(codes.PermissionDenied, "no identity issued: the server refused it, and the agent's log says why")
}
