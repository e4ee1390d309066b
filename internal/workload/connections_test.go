package workload

import (
	"context"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/internal/attest"
)

// asUser are credentials that take everybody for one user.
type asUser struct {
	credentials.TransportCredentials
	uid uint32
}

type userInfo struct{ uid uint32 }

func (userInfo) AuthType() string    { return "test" }
func (u userInfo) Peer() attest.Peer { return attest.Peer{UID: u.uid} }

func (a *asUser) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, userInfo{a.uid}, nil
}

func (a *asUser) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("for servers")
}

func (a *asUser) Clone() credentials.TransportCredentials { return a }

// T5: one user cannot take all connections, and so all descriptors.
func TestConnectionsOfOneUserAreLimited(t *testing.T) {
	t.Parallel()
	who := &asUser{uid: 1000}
	var refused []error
	creds := LimitConnections(who, 2, func(err error) { refused = append(refused, err) }).Clone()
	dial := func() (net.Conn, error) {
		mine, theirs := net.Pipe()
		t.Cleanup(func() { mine.Close(); theirs.Close() })
		conn, _, err := creds.ServerHandshake(theirs)
		return conn, err
	}
	first, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(); err == nil {
		t.Error("a third connection of one user is let in")
	}
	who.uid = 1001
	if _, err := dial(); err != nil {
		t.Errorf("another user: %v", err)
	}
	who.uid = 1000
	first.Close()
	first.Close() // frees one place, not two
	if _, err := dial(); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
	if _, err := dial(); err == nil {
		t.Error("closing one connection twice freed two places")
	}
	if len(refused) != 2 {
		t.Errorf("told of %v, want both connections that were closed", refused)
	}
}
