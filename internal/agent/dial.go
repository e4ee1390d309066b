package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// maxFromServer bounds one message: a whole State of a large trust domain.
const maxFromServer = 64 << 20

// window is fixed, as the server's is: the estimator would send a ping for each
// message, and the server answer it, once for each node of a change.
const window = 1 << 20

// uplink is a connection to the server that remembers how its last handshake
// went: gRPC itself keeps only the text of it.
type uplink struct {
	*grpc.ClientConn
	address string
	shake   *handshake
}

type handshake struct {
	mu     sync.Mutex
	server spiffe.ID // guarded by mu
	err    error     // guarded by mu
}

func (h *handshake) set(server spiffe.ID, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.server, h.err = server, err
}

func (h *handshake) get() (spiffe.ID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.server, h.err
}

// rememberingCreds notes the outcome of each handshake.
type rememberingCreds struct {
	credentials.TransportCredentials
	shake *handshake
}

func (c rememberingCreds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		c.shake.set(spiffe.ID{}, err)
		return nil, nil, err
	}
	var server spiffe.ID
	if tlsInfo, ok := info.(credentials.TLSInfo); ok {
		server, err = spiffe.PeerID(tlsInfo.State)
	}
	if err != nil {
		conn.Close()
		c.shake.set(spiffe.ID{}, err)
		return nil, nil, err
	}
	c.shake.set(server, nil)
	return conn, info, nil
}

func (c rememberingCreds) Clone() credentials.TransportCredentials {
	return rememberingCreds{c.TransportCredentials.Clone(), c.shake}
}

// dial prepares a connection; nothing is sent before the first call. Proxy
// variables of the environment are not for this connection.
func dial(address string, config *tls.Config) (*uplink, error) {
	shake := &handshake{}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(rememberingCreds{credentials.NewTLS(config), shake}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			shake.set(spiffe.ID{}, nil)
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxFromServer)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.3, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, fault.Invalidf("server address %q: %w", address, err)
	}
	return &uplink{ClientConn: conn, address: address, shake: shake}, nil
}

// explain turns the error of a call into one that says what to do. now is this
// host's clock.
func (u *uplink) explain(err error, now time.Time) error {
	if err == nil {
		return nil
	}
	if status.Code(err) != codes.Unavailable {
		return api.FromWire(err)
	}
	_, shake := u.shake.get()
	if shake == nil {
		return fault.Hint(api.Away{Err: fmt.Errorf("server %s cannot be reached: %s", u.address, plainDial(err))},
			"is kith server running there, and the port open?")
	}
	away := api.Away{Err: fmt.Errorf("server %s: %w", u.address, shake)}
	var invalid x509.CertificateInvalidError
	if errors.As(shake, &invalid) && invalid.Reason == x509.Expired {
		return clockError(invalid.Cert, now, away)
	}
	if strings.Contains(shake.Error(), "pinned root") {
		return fault.Hint(fault.Wrap(fault.Denied, fmt.Errorf("server %s: %w", u.address, shake)),
			"take a fresh join line from that server: kith nodes add NAME --class CLASS")
	}
	return away
}

// plainDial keeps the end of gRPC's nested texts, which says what happened.
func plainDial(err error) string {
	text := status.Convert(err).Message()
	if i := strings.LastIndex(text, "desc = "); i >= 0 {
		text = text[i+len("desc = "):]
	}
	return strings.TrimPrefix(strings.Trim(text, `"`), "transport: Error while dialing: ")
}

// isServer accepts the server of one trust domain, or of any before there is
// one.
func isServer(td spiffe.TrustDomain) func(spiffe.ID) error {
	return func(id spiffe.ID) error {
		if !strings.HasPrefix(id.Path(), serverPrefix) {
			return fmt.Errorf("%s is not a kith server", id)
		}
		if !td.IsZero() && id.TrustDomain() != td {
			return fmt.Errorf("%s is a server of another trust domain than %s", id, td)
		}
		return nil
	}
}
