package api

import (
	"net"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// T5: one identity cannot hold all connections of the server.
func TestSeatsOfOneIdentityAreLimited(t *testing.T) {
	one, other := must[spiffe.ID](t)(spiffe.ParseID("spiffe://acme.example/vms/web")), must[spiffe.ID](t)(spiffe.ParseID("spiffe://acme.example/vms/orders"))
	var s seats
	conns := make([]*seatedConn, connectionsEach)
	for i := range conns {
		leave, ok := s.take(one)
		if !ok {
			t.Fatalf("connection %d is refused", i)
		}
		mine, theirs := net.Pipe()
		t.Cleanup(func() { theirs.Close() })
		conns[i] = &seatedConn{Conn: mine}
		conns[i].sit(leave)
	}
	if _, ok := s.take(one); ok {
		t.Error("one connection too many")
	}
	if _, ok := s.take(other); !ok {
		t.Error("another identity is refused")
	}
	conns[0].Close()
	conns[0].Close() // frees one, not two
	leave, ok := s.take(one)
	if !ok {
		t.Error("a closed connection keeps its seat")
	}
	if _, ok := s.take(one); ok {
		t.Error("closing twice freed two seats")
	}
	conns[1].Close()
	conns[1].sit(leave) // too late: given back at once
	for _, conn := range conns {
		conn.Close()
	}
	if len(s.taken) != 1 {
		t.Errorf("seats left: %v", s.taken)
	}
}
