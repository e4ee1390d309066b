package kith

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/spiffe"

	"github.com/kith-id/kith/internal/fault"
)

// AuthInfo is what [google.golang.org/grpc/peer.Peer.AuthInfo] holds, as a
// pointer, on both sides of a connection made with [Workload.GRPCCredentials].
type AuthInfo struct {
	credentials.TLSInfo

	// Peer is who proved its identity at the other end.
	Peer *Peer

	service string // whom we called; "" on the server's side
}

// ValidateAuthority lets a call name no other service than the one whose
// identity was proved.
func (a *AuthInfo) ValidateAuthority(authority string) error {
	if a.service == "" || hostOf(authority) != a.service {
		return fmt.Errorf("this connection is to %q, not to %q", a.service, authority)
	}
	return nil
}

// GRPCCredentials are mutual TLS for gRPC, for both sides. As
// [google.golang.org/grpc.WithTransportCredentials] they accept only identities
// the directory lists for the service that is called: the one of a kith:///
// target, else the authority. As [google.golang.org/grpc.Creds] they demand an
// identity of each caller; they decide nothing, which the interceptors do:
// [Workload.GRPCServer] has both.
func (w *Workload) GRPCCredentials() credentials.TransportCredentials { return grpcCredentials{w} }

type grpcCredentials struct{ w *Workload }

// ClientHandshake proves that an endpoint may answer for the service.
func (c grpcCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	target, version := calledTarget(ctx)
	service := hostOf(authority)
	if target != nil {
		service = target.service
	}
	directory := c.w.directory.Load()
	dest, ok := directory.services[service]
	if !ok {
		return nil, nil, &UnknownServiceError{Service: clip(service, maxReportShort), Nearest: fault.Nearest(service, directory.names)}
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	config := spiffe.ClientTLS(c.w, c.w.cfg.Now, dest.expects(raw.RemoteAddr().String()))
	config.NextProtos = []string{"h2"}
	conn, err := c.w.meet(ctx, raw, config)
	if err != nil {
		return nil, nil, err
	}
	proved, info, err := c.proved(conn, service)
	if err == nil && target != nil {
		proved = target.watched(proved, version)
	}
	return proved, info, err
}

// ServerHandshake proves who calls. Connections of ServeGRPC come here after the
// handshake.
func (c grpcCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if sealed, ok := raw.(*sealedConn); ok && sealed.w == c.w {
		return c.proved(sealed.secure, "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	config := spiffe.ServerTLS(c.w, c.w.cfg.Now, nil)
	config.NextProtos = []string{"h2"}
	conn, err := c.w.prove(ctx, &acceptedConn{Conn: raw, gone: c.w.accepts.remove}, config)
	if err != nil {
		return nil, nil, err
	}
	return c.proved(conn, "")
}

// proved is the connection with what gRPC wants to know of it.
func (c grpcCredentials) proved(conn *tls.Conn, service string) (net.Conn, credentials.AuthInfo, error) {
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		return nil, nil, errors.Join(errors.New("the other side does not speak HTTP/2"), conn.Close())
	}
	peer, err := c.w.PeerOn(conn)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	info := &AuthInfo{Peer: peer, service: service}
	info.State, info.SPIFFEID = state, state.PeerCertificates[0].URIs[0]
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return conn, info, nil
}

// Info names the protocol.
func (c grpcCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone is the same credentials: they have no state of their own.
func (c grpcCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is refused: identities come from the directory.
func (c grpcCredentials) OverrideServerName(string) error {
	return errors.New("which identity must answer is in the directory, not in a server name")
}

func hostOf(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return authority
}

// sealedConn is a proved connection that can be read and written only by who
// takes it through our credentials: a server made without them would take
// callers for anonymous and decide nothing.
type sealedConn struct {
	net.Conn // for Close and addresses

	w      *Workload
	secure *tls.Conn
}

var errSealed = errors.New("the server was made without Workload.GRPCCredentials; Workload.GRPCServer has them")

// Read fails.
func (c *sealedConn) Read([]byte) (int, error) { return 0, errSealed }

// Write fails.
func (c *sealedConn) Write([]byte) (int, error) { return 0, errSealed }

// sealing is a listener whose connections are sealed.
type sealing struct {
	net.Listener

	w *Workload
}

// Accept returns the next connection.
func (l sealing) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return nil, errors.Join(errSealed, conn.Close())
	}
	return &sealedConn{Conn: conn, w: l.w, secure: secure}, nil
}
