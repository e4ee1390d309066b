package workload

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

const (
	brokerHeader = "broker.spiffe.io"

	// defaultBrokered is how many streams one broker may hold open: two for each
	// workload of a crowded node.
	defaultBrokered = 1024
)

// BrokerGrant says who may broker, and for whom.
type BrokerGrant struct {
	ID  spiffe.ID
	For []string // paths: /a/b, /a/* (one segment), /a/** (any depth)
}

// covers says whether the broker may act for an ID.
func (g BrokerGrant) covers(id spiffe.ID) bool {
	return id.TrustDomain() == g.ID.TrustDomain() &&
		slices.ContainsFunc(g.For, func(pattern string) bool { return pathMatches(pattern, id.Path()) })
}

func pathMatches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "/**"); ok {
		return strings.HasPrefix(path, prefix+"/")
	}
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(w, g string) bool { return w == g || w == "*" && g != "" })
}

// brokerPeer is a broker that a connection has proven, twice: by its SVID, and by
// the process at the other end.
type brokerPeer struct {
	id    spiffe.ID
	peer  attest.Peer
	grant BrokerGrant
}

// brokerGuard stands in front of every call of the Broker API's socket.
type brokerGuard struct {
	host    Host
	grants  map[spiffe.ID]BrokerGrant
	limit   int
	metrics *BrokerMetrics

	mu   sync.Mutex
	open map[spiffe.ID]int // guarded by mu
}

func newBrokerGuard(cfg BrokerConfig) *brokerGuard {
	g := &brokerGuard{
		host: cfg.Service.host, grants: make(map[spiffe.ID]BrokerGrant, len(cfg.Grants)), limit: cfg.Streams,
		metrics: cfg.Metrics, open: make(map[spiffe.ID]int),
	}
	if g.limit <= 0 {
		g.limit = defaultBrokered
	}
	for _, grant := range cfg.Grants {
		g.grants[grant.ID] = grant
	}
	return g
}

type brokerKey struct{}

func brokerOf(ctx context.Context) (*brokerPeer, error) {
	if by, ok := ctx.Value(brokerKey{}).(*brokerPeer); ok {
		return by, nil
	}
	return nil, status.Error(codes.Unauthenticated, "the caller is unknown")
}

// stream and unary are the server's interceptors; reflection goes through them too.
func (g *brokerGuard) stream(srv any, in grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	by, err := g.admit(in.Context())
	if err != nil {
		return err
	}
	defer g.leave(by)
	return next(srv, brokerStream{in, context.WithValue(in.Context(), brokerKey{}, by)})
}

func (g *brokerGuard) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	by, err := g.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer g.leave(by)
	return next(context.WithValue(ctx, brokerKey{}, by), req)
}

type brokerStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s brokerStream) Context() context.Context { return s.ctx }

// admit lets a call in, which must leave again. Broker Endpoint 3, 5, 6.
func (g *brokerGuard) admit(ctx context.Context) (*brokerPeer, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(brokerHeader); len(v) != 1 || v[0] != "true" {
		return nil, g.count(status.Errorf(codes.InvalidArgument, "metadata %q must be \"true\"", brokerHeader))
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, g.count(status.Error(codes.Unauthenticated, "the caller is unknown"))
	}
	info, ok := p.AuthInfo.(brokerInfo)
	if !ok {
		return nil, g.count(status.Error(codes.Unauthenticated, "the caller has shown no SVID"))
	}
	grant, ok := g.grants[info.id]
	if !ok {
		return nil, g.count(status.Errorf(codes.PermissionDenied, "%s is not a broker; agent.broker.allow lists them", info.id))
	}
	by := &brokerPeer{info.id, info.peer, grant}
	if err := g.entitled(ctx, by); err != nil {
		return nil, g.count(err)
	}
	if !g.enter(by) {
		return nil, g.count(status.Errorf(codes.Unavailable, "%s has %d calls under way, which is the limit", by.id, g.limit))
	}
	return by, nil
}

// entitled attests the broker as any workload: the process at the other end must
// have, by the rules of now, the identity that its SVID shows. A key that was
// stolen is worth nothing to another process.
func (g *brokerGuard) entitled(ctx context.Context, by *brokerPeer) error {
	ev, err := g.host.Evaluate(ctx, by.peer)
	var unheard Unheard
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.As(err, &unheard):
		return status.Error(codes.Unavailable, unheard.Error())
	case err != nil:
		return status.Error(codes.PermissionDenied, "the broker is not the process that connected")
	case !slices.ContainsFunc(ev.Matches, func(m registry.Match) bool { return m.ID == by.id }):
		return status.Errorf(codes.PermissionDenied, "process %d is not %s; kith ids explain --pid %d says why", by.peer.PID, by.id, by.peer.PID)
	}
	return nil
}

func (g *brokerGuard) enter(by *brokerPeer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[by.id] >= g.limit {
		return false
	}
	g.open[by.id]++
	g.metrics.open.Inc()
	return true
}

func (g *brokerGuard) leave(by *brokerPeer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.metrics.open.Dec()
	if g.open[by.id]--; g.open[by.id] <= 0 {
		delete(g.open, by.id)
	}
}

// count counts a refusal and passes it on.
func (g *brokerGuard) count(err error) error {
	g.metrics.refused.WithLabelValues(strings.ToLower(status.Code(err).String())).Inc()
	return err
}

// BrokerMetrics is what the Broker API counts.
type BrokerMetrics struct {
	open    prometheus.Gauge
	refused *prometheus.CounterVec
}

// NewBrokerMetrics returns metrics that the program registers.
func NewBrokerMetrics() *BrokerMetrics {
	return &BrokerMetrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kith_agent_broker_calls", Help: "Calls of the SPIFFE Broker API under way."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_agent_broker_refused_total", Help: "Calls of the SPIFFE Broker API that were refused or ended, by code.",
		}, []string{"code"}),
	}
}

// Collectors is everything to register.
func (m *BrokerMetrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.open, m.refused}
}

// BrokerCredentials are mutual TLS by SVIDs on a local socket whose credentials say
// which process is at the other end. Broker Endpoint 3.1.
func BrokerCredentials(local credentials.TransportCredentials, config *tls.Config) credentials.TransportCredentials {
	return brokerCredentials{credentials.NewTLS(config), local}
}

type brokerCredentials struct {
	credentials.TransportCredentials // TLS
	local                            credentials.TransportCredentials
}

// brokerInfo is what a connection has proven.
type brokerInfo struct {
	credentials.TLSInfo
	id   spiffe.ID
	peer attest.Peer
}

// ServerHandshake finds out which process called, and then whose SVID it has.
func (c brokerCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.local.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	known, ok := info.(attest.Peered)
	if !ok {
		conn.Close()
		return nil, nil, errors.New("caller is not a local process")
	}
	secured, shown, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	over, ok := shown.(credentials.TLSInfo)
	if !ok {
		secured.Close()
		return nil, nil, errors.New("caller speaks no TLS")
	}
	id, err := spiffe.PeerID(over.State)
	if err != nil {
		secured.Close()
		return nil, nil, fmt.Errorf("caller: %w", err)
	}
	return secured, brokerInfo{over, id, known.Peer()}, nil
}

// Clone implements credentials.TransportCredentials.
func (c brokerCredentials) Clone() credentials.TransportCredentials {
	return brokerCredentials{c.TransportCredentials.Clone(), c.local.Clone()}
}
