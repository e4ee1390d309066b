package api

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
)

// peerInfo is who opened the unix socket, by the kernel's word.
type peerInfo struct{ uid int }

// AuthType names it.
func (peerInfo) AuthType() string { return "peercred" }

// peerCredentials reads the peer's user from the socket; there is no handshake.
type peerCredentials struct{}

// ServerHandshake asks the kernel who connected.
func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	unixConn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("connection of type %T has no peer credentials", c)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("peer credentials: %w", err)
	}
	var uid int
	var asked error
	if err := raw.Control(func(fd uintptr) { uid, asked = peerUID(int(fd)) }); err != nil {
		return nil, nil, fmt.Errorf("peer credentials: %w", err)
	}
	if asked != nil {
		return nil, nil, fmt.Errorf("peer credentials: %w", asked)
	}
	return c, peerInfo{uid: uid}, nil
}

// ClientHandshake is not for this side.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials cannot dial")
}

// Info names the protocol.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone returns the same value: it has no state.
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

// OverrideServerName is of no use to a server.
func (peerCredentials) OverrideServerName(string) error { return nil }
