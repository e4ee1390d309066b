package api

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxAnonymous   = 80 << 10 // one attestation payload and its envelope
	maxNode        = 4 << 20  // 128 CSRs with their attributes
	window         = 1 << 20  // fixed: the estimator costs a ping per message
	attestDeadline = 30 * time.Second
	drainTime      = 2 * time.Second
	ageGrace       = 5 * time.Second
)

// PublicConfig is what the TCP face needs.
type PublicConfig struct {
	TrustDomain spiffe.TrustDomain
	TLS         *tls.Config // spiffe.ServerTLSOptional
	Admitter    Admitter
	Fleet       Fleet
	Log         *slog.Logger
	Now         func() time.Time
	// Attestations a second that are let through, over all peers and for each
	// address; bursts of ten times the latter. 0 is 200 and 20.
	AttestRate, AttestRateEach float64
	// ConnectionAge is after how long a node's connection is to be made anew; 0
	// is never.
	ConnectionAge time.Duration
}

// Public serves Admission and Node on one TLS listener.
type Public struct {
	cfg     PublicConfig
	limiter *limiter
}

// NewPublic returns the TCP face.
func NewPublic(cfg PublicConfig) *Public {
	if cfg.AttestRate <= 0 {
		cfg.AttestRate = 200
	}
	if cfg.AttestRateEach <= 0 {
		cfg.AttestRateEach = 20
	}
	if !slices.Contains(cfg.TLS.NextProtos, "h2") {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.NextProtos = []string{"h2"}
	}
	burst := int(10 * cfg.AttestRateEach)
	return &Public{cfg: cfg, limiter: newLimiter(cfg.Now, cfg.AttestRate, cfg.AttestRateEach, burst)}
}

// Run serves on l, which it closes, until ctx ends.
func (p *Public) Run(ctx context.Context, l net.Listener) error {
	f := newFront(p.cfg.TLS, p.cfg.Log, l.Addr())
	anonymous, known := p.anonymousServer(), p.nodeServer()
	for _, s := range []*grpc.Server{anonymous, known} {
		pb.RegisterAdmissionServer(s, &admission{p: p})
		pb.RegisterNodeServer(s, &node{p: p})
	}
	return f.serve(ctx, l, anonymous, known)
}

func stopServers(drain time.Duration, servers ...*grpc.Server) {
	limit := time.AfterFunc(drain, func() {
		for _, s := range servers {
			s.Stop()
		}
	})
	defer limit.Stop()
	var stopping sync.WaitGroup
	for _, s := range servers {
		stopping.Go(s.GracefulStop)
	}
	stopping.Wait()
}

// anonymousServer is for peers that brought no certificate.
func (p *Public) anonymousServer() *grpc.Server {
	return grpc.NewServer(append(p.options(),
		grpc.MaxRecvMsgSize(maxAnonymous),
		grpc.MaxConcurrentStreams(4),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     5 * time.Second,
			MaxConnectionAge:      attestDeadline,
			MaxConnectionAgeGrace: attestDeadline,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
	)...)
}

// nodeServer is for peers with a verified certificate of the trust domain,
// workloads included: the method table sends those away.
func (p *Public) nodeServer() *grpc.Server {
	return grpc.NewServer(append(p.options(),
		grpc.MaxRecvMsgSize(maxNode),
		grpc.MaxConcurrentStreams(64),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.ForceServerCodecV2(newCodec()),
		// A stream whose other host vanished without a word is noticed in 20 s.
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 10 * time.Second, Timeout: 10 * time.Second,
			MaxConnectionAge: p.cfg.ConnectionAge, MaxConnectionAgeGrace: ageGrace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 4 * time.Second, PermitWithoutStream: true}),
	)...)
}

func (p *Public) options() []grpc.ServerOption {
	g := guard{log: p.cfg.Log, door: p.door}
	return []grpc.ServerOption{
		grpc.Creds(shaken{}),
		grpc.ChainUnaryInterceptor(g.unary),
		grpc.ChainStreamInterceptor(g.stream),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.MaxHeaderListSize(16 << 10),
		// Ten thousand agents are mostly silent: a small buffer to read into, and
		// one to write from only while writing.
		grpc.ReadBufferSize(4 << 10),
		grpc.WriteBufferSize(4 << 10),
	}
}
