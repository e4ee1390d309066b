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
type peerCredentials struct {
	ask func(net.Conn) (int, error) // nil: the kernel
}

// ServerHandshake asks the kernel who connected.
func (p peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ask := p.ask
	if ask == nil {
		ask = kernelUID
	}
	uid, err := ask(c)
	if err != nil {
		return nil, nil, fmt.Errorf("peer credentials: %w", err)
	}
	return c, peerInfo{uid: uid}, nil
}

func kernelUID(c net.Conn) (int, error) {
	unixConn, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("connection of type %T has none", c)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var uid int
	var asked error
	if err := raw.Control(func(fd uintptr) { uid, asked = peerUID(int(fd)) }); err != nil {
		return 0, err
	}
	return uid, asked
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
