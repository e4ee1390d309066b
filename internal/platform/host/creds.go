package host

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/internal/attest"
)

// Credentials are gRPC transport credentials for a local unix socket: no
// encryption, but each connection knows the process on its other end. The
// AuthInfo implements attest.Peered. They are for servers only.
func (h *Host) Credentials() credentials.TransportCredentials { return localCreds{h} }

// AuthInfo is what a handler finds in its peer.
type AuthInfo struct {
	credentials.CommonAuthInfo
	peer attest.Peer
}

// AuthType implements credentials.AuthInfo.
func (AuthInfo) AuthType() string { return "local" }

// Peer implements attest.Peered.
func (a AuthInfo) Peer() attest.Peer { return a.peer }

type localCreds struct{ host *Host }

func (l localCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, nil, errors.New("not a unix socket")
	}
	held := &heldConn{UnixConn: local, info: AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}}
	var err error
	if held.info.peer, err = l.host.capture(local); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return held, &held.info, nil
}

func (localCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("local credentials are for servers")
}

func (localCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "local"}
}

func (l localCreds) Clone() credentials.TransportCredentials { return l }

// OverrideServerName implements credentials.TransportCredentials; a local
// socket has no server name.
func (localCreds) OverrideServerName(string) error { return nil }

// heldConn keeps the peer's process referenced for as long as the connection
// lives.
type heldConn struct {
	*net.UnixConn
	info AuthInfo
	once sync.Once
}

// Close closes the connection, and lets the process go.
func (c *heldConn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(func() {
		if c.info.peer.PIDFD != nil {
			c.info.peer.PIDFD.Close()
		}
	})
	return err
}
