package api

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

const (
	adminPrefix = "/kith/admin/"
	maxJoin     = 16 << 10 // a token, a CSR and their envelope
	// Admin tokens are typed by people, a few a day.
	adminJoinRate, adminJoinRateEach = 20, 2
)

// RemoteConfig is what the face for admins elsewhere needs.
type RemoteConfig struct {
	TrustDomain spiffe.TrustDomain
	TLS         *tls.Config // spiffe.ServerTLSOptional
	Operator    Operator
	Admins      Admins
	Federations Federations
	Log         *slog.Logger
	Now         func() time.Time
}

// Remote serves Admin and AdminAdmission on a TLS listener of its own: no node,
// no workload and no port scan of the node API meets it.
type Remote struct {
	cfg     RemoteConfig
	limiter *limiter

	mu   sync.Mutex
	open map[*adminConn]struct{} // guarded by mu
}

// NewRemote returns the face for admins elsewhere.
func NewRemote(cfg RemoteConfig) *Remote {
	if !slices.Contains(cfg.TLS.NextProtos, "h2") {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.NextProtos = []string{"h2"}
	}
	return &Remote{
		cfg:     cfg,
		limiter: newLimiter(cfg.Now, adminJoinRate, adminJoinRateEach, 10*adminJoinRateEach),
		open:    make(map[*adminConn]struct{}),
	}
}

// Run serves on l, which it closes, until ctx ends. Whoever is no admin meets
// small limits, whatever certificate they bring: messages are read before the
// method table is asked.
func (r *Remote) Run(ctx context.Context, l net.Listener) error {
	f := newFront(r.cfg.TLS, r.cfg.Log, l.Addr())
	f.trusts = func(state tls.ConnectionState) bool {
		_, err := r.identify(state)
		return err == nil
	}
	strangers := grpc.NewServer(append(r.options(shaken{}),
		grpc.MaxRecvMsgSize(maxJoin),
		grpc.MaxConcurrentStreams(4),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 5 * time.Second, MaxConnectionAge: attestDeadline, MaxConnectionAgeGrace: attestDeadline,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
	)...)
	admins := grpc.NewServer(append(r.options(tracked{r: r}),
		grpc.MaxRecvMsgSize(maxAdmin),
		grpc.MaxSendMsgSize(4*maxAdmin),
		grpc.MaxConcurrentStreams(64),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 4 * time.Second, PermitWithoutStream: true}),
	)...)
	for _, s := range []*grpc.Server{strangers, admins} {
		pb.RegisterAdminAdmissionServer(s, &adminAdmission{r: r})
		registerAdmin(s, r.cfg.Operator, r.cfg.Admins, r.cfg.Federations)
	}
	return f.serve(ctx, l, strangers, admins)
}

func (r *Remote) options(creds credentials.TransportCredentials) []grpc.ServerOption {
	g := guard{log: r.cfg.Log, door: r.door}
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.ChainUnaryInterceptor(g.unary),
		grpc.ChainStreamInterceptor(g.stream),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.MaxHeaderListSize(16 << 10),
	}
}

// door is who may call what: anybody may bring a token, all else is for admins
// of the role that roleFor names.
func (r *Remote) door(method string) func(context.Context) (context.Context, error) {
	if method == pb.AdminAdmission_JoinAdmin_FullMethodName {
		return func(ctx context.Context) (context.Context, error) { return ctx, nil }
	}
	return func(ctx context.Context) (context.Context, error) {
		from, ok := peer.FromContext(ctx)
		if !ok {
			return ctx, Unproven{fmt.Errorf("no peer on this connection")}
		}
		info, ok := from.AuthInfo.(credentials.TLSInfo)
		if !ok {
			return ctx, Unproven{fmt.Errorf("no TLS on this connection")}
		}
		actor, err := r.identify(info.State)
		if err != nil {
			return ctx, err
		}
		ctx, err = admit(ctx, method, actor)
		if err != nil {
			r.cfg.Log.Warn("admin refused", "admin", actor.Admin, "role", actor.Role.String(), "method", method,
				"remote", from.Addr.String())
		}
		return ctx, err
	}
}

// identify says which admin a connection is of, by its certificate - verified
// in the handshake, its end looked at again - and the record of this moment.
func (r *Remote) identify(state tls.ConnectionState) (Actor, error) {
	if len(state.PeerCertificates) == 0 {
		return Actor{}, fault.Hint(Unproven{fmt.Errorf("this call needs an admin SVID")},
			"kith join --admin <line>, printed by kith ids admins add NAME")
	}
	id, err := spiffe.PeerID(state)
	if err != nil {
		return Actor{}, fault.Deniedf("peer certificate: %w", err)
	}
	name, ok := strings.CutPrefix(id.Path(), adminPrefix)
	if !ok || id.TrustDomain() != r.cfg.TrustDomain || registry.ValidateName(name) != nil {
		return Actor{}, fault.Deniedf("%s is not an admin of %s", id, r.cfg.TrustDomain)
	}
	leaf := state.PeerCertificates[0]
	if !r.cfg.Now().Before(leaf.NotAfter) {
		return Actor{}, Unproven{fmt.Errorf("the certificate of admin %s ended at %s", name, leaf.NotAfter.UTC().Format(time.RFC3339))}
	}
	admin, err := r.cfg.Admins.Admin(name, sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
	if err != nil {
		return Actor{}, err
	}
	return Actor{Name: id.String(), Admin: name, Role: admin.Role, Teams: admin.Teams}, nil
}

// Sweep cuts every connection whose admin is one no more. It is called after
// each change of admins is in force.
func (r *Remote) Sweep() {
	for _, c := range r.connections() {
		if _, err := r.identify(c.state); err != nil {
			r.cfg.Log.Info("admin cut off", "admin", c.name, "remote", c.RemoteAddr().String(), "error", err)
			c.Close()
		}
	}
}

// Connected says whether an admin has a connection open.
func (r *Remote) Connected(name string) bool {
	return slices.ContainsFunc(r.connections(), func(c *adminConn) bool { return c.name == name })
}

func (r *Remote) connections() []*adminConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*adminConn, 0, len(r.open))
	for c := range r.open {
		out = append(out, c)
	}
	return out
}

// adminConn is an admin's connection; it ends with the certificate it was made
// with at the latest.
type adminConn struct {
	net.Conn
	r     *Remote
	name  string
	state tls.ConnectionState
	ends  *time.Timer // guarded by r.mu
}

// Close closes the connection and forgets it.
func (c *adminConn) Close() error {
	c.r.mu.Lock()
	delete(c.r.open, c)
	if c.ends != nil {
		c.ends.Stop()
	}
	c.r.mu.Unlock()
	return c.Conn.Close()
}

// tracked is shaken for admins: it notes each connection.
type tracked struct {
	shaken
	r *Remote
}

// ServerHandshake takes over the finished handshake. The admin is looked up
// after the connection is noted, so that no removal falls between the two.
func (t tracked) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.shaken.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	state := info.(credentials.TLSInfo).State
	c := &adminConn{Conn: conn, r: t.r, state: state}
	if id, err := spiffe.PeerID(state); err == nil {
		c.name = strings.TrimPrefix(id.Path(), adminPrefix)
	}
	left := state.PeerCertificates[0].NotAfter.Sub(t.r.cfg.Now())
	t.r.mu.Lock()
	t.r.open[c] = struct{}{}
	c.ends = time.AfterFunc(left, func() { c.Close() })
	t.r.mu.Unlock()
	if _, err := t.r.identify(state); err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, info, nil
}

// Clone returns the same value.
func (t tracked) Clone() credentials.TransportCredentials { return t }
