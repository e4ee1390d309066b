package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/spiffe"
)

// source is an identity of some class, for a client.
type source struct {
	svid   *spiffe.X509SVID
	bundle *spiffe.Bundle
}

func (s source) X509SVID() (*spiffe.X509SVID, error)              { return s.svid, nil }
func (s source) Bundle(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return s.bundle, true }

// methods is every RPC of the three services, and one nobody has.
func methods() []string {
	var out []string
	for _, d := range []grpc.ServiceDesc{pb.Admission_ServiceDesc, pb.Node_ServiceDesc, pb.Admin_ServiceDesc, pb.Enforcement_ServiceDesc} {
		for _, m := range d.Methods {
			out = append(out, "/"+d.ServiceName+"/"+m.MethodName)
		}
		for _, m := range d.Streams {
			out = append(out, "/"+d.ServiceName+"/"+m.StreamName)
		}
	}
	out = append(out, "/kith.v1.Node/Surprise", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
	slices.Sort(out)
	return out
}

// call sends one empty message as a stream, which every kind of RPC accepts,
// and says how the server answered: an answer to the emptiness means that the
// caller was let in.
func call(t *testing.T, conn *grpc.ClientConn, method string) string {
	t.Helper()
	limit := 10 * time.Second
	if strings.HasSuffix(method, "/Watch") {
		limit = time.Second // it lets in and then says nothing
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err == nil {
		if err = stream.SendMsg(&emptypb.Empty{}); err == nil {
			_ = stream.CloseSend()
		}
		err = stream.RecvMsg(&emptypb.Empty{})
	}
	switch code := status.Code(err); code {
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented, codes.Unavailable:
		return code.String()
	default:
		return "let in"
	}
}

// TestEveryMethodForEveryClassOfCaller holds the server to the golden file. A
// method that has no row there, such as one of a newer proto, is nobody's.
func TestEveryMethodForEveryClassOfCaller(t *testing.T) {
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	node, banned := r.joined("n1"), r.joined("n2")
	if _, err := r.admin.BanNode(t.Context(), &pb.BanNodeRequest{Name: "n2"}); err != nil {
		t.Fatal(err)
	}
	anyone := func(spiffe.ID) error { return nil }
	dial := func(config *tls.Config) *grpc.ClientConn {
		return dialed(t, "passthrough:///"+r.s.Addr(), credentials.NewTLS(config))
	}
	classes := []struct {
		name string
		conn *grpc.ClientConn
	}{
		{"nobody", dial(spiffe.PinnedClientTLS(r.s.Pin(), r.clock.Now, anyone))},
		{"workload", dial(spiffe.ClientTLS(r.workload(node), r.clock.Now, anyone))},
		{"banned node", banned.conn},
		{"node", node.conn},
		{"admin socket", dialed(t, "unix://"+r.cfg.AdminSocket, insecure.NewCredentials())},
	}
	golden := "testdata/matrix.txt"
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{} // method and class -> answer
	for line := range strings.Lines(string(text)) {
		listed[strings.TrimSpace(line[:matrixWidth])] = strings.TrimSpace(line[matrixWidth:])
	}
	for _, method := range methods() {
		for _, c := range classes {
			row := fmt.Sprintf("%-60s %s", method, c.name)
			got := call(t, c.conn, method)
			want, ok := listed[row]
			delete(listed, row)
			switch {
			case ok && got != want:
				t.Errorf("%s by %s: got %s, %s has %s", method, c.name, got, golden, want)
			case !ok && got == "let in":
				t.Errorf("%s lets in %s and has no row in %s: who may call it must be decided there", method, c.name, golden)
			}
		}
	}
	for row := range listed {
		t.Errorf("%s has a row for what does not exist: %s", golden, row)
	}
}

// matrixWidth is where the answer stands in a row of the golden file.
const matrixWidth = 60 + 1 + 12 + 1

func dialed(t *testing.T, target string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// workload is an SVID that an agent got for orders.
func (r *rig) workload(a *agent) source {
	r.t.Helper()
	key := newKey(r.t)
	resp, err := a.node.SignWorkloads(r.t.Context(), &pb.SignWorkloadsRequest{Csrs: []*pb.WorkloadCSR{{
		Rule: "as", SpiffeId: "spiffe://acme.example/vms/orders", Attributes: asOrders(), Csr: csrOf(r.t, key),
	}}})
	if err != nil || resp.GetResults()[0].GetError() != "" {
		r.t.Fatalf("workload SVID: %v %v", resp, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	svid, err := spiffe.ParseX509SVID(slices.Concat(resp.GetResults()[0].GetChain()...), pkcs8)
	if err != nil {
		r.t.Fatal(err)
	}
	return source{svid, a.bundle}
}

func TestForeignTrustDomainIsNobody(t *testing.T) {
	r := start(t, nil)
	other := start(t, func(c *server.Config) {
		td, err := spiffe.ParseTrustDomain("evil.example")
		if err != nil {
			t.Fatal(err)
		}
		c.TrustDomain = td
	})
	foreign := other.joined("n1")
	foreign.addr = r.s.Addr()
	config := spiffe.ClientTLS(source{foreign.svid, r.joined("n1").bundle}, r.clock.Now, func(spiffe.ID) error { return nil })
	conn := dialed(t, "passthrough:///"+r.s.Addr(), credentials.NewTLS(config))
	_, err := pb.NewNodeClient(conn).RenewNode(t.Context(), &pb.RenewNodeRequest{Csr: csrOf(t, foreign.key)})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a node of another trust domain: got %v, want no handshake", err)
	}
}

func TestNoiseOnThePortHurtsNobody(t *testing.T) {
	r := start(t, nil)
	for _, noise := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff", strings.Repeat("\x00", 4096), ""} {
		conn, err := net.Dial("tcp", r.s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(noise)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	r.joined("n1")
}

func TestAttestationIsBounded(t *testing.T) {
	r := start(t, nil)
	_, _, config := pinned(t, r.line("n1"), r.clock.Now)
	conn := dialed(t, "passthrough:///"+r.s.Addr(), credentials.NewTLS(config))
	hello := func(method string, csr []byte) *pb.AttestRequest {
		return &pb.AttestRequest{Step: &pb.AttestRequest_Hello{Hello: &pb.Hello{Method: method, Csr: csr}}}
	}
	payload := func(n int) *pb.AttestRequest {
		return &pb.AttestRequest{Step: &pb.AttestRequest_Payload{Payload: make([]byte, n)}}
	}
	csr := csrOf(t, newKey(t))
	for name, c := range map[string]struct {
		send []*pb.AttestRequest
		want codes.Code
	}{
		"no hello":         {[]*pb.AttestRequest{payload(32)}, codes.InvalidArgument},
		"unknown method":   {[]*pb.AttestRequest{hello("magic", csr)}, codes.InvalidArgument},
		"no key":           {[]*pb.AttestRequest{hello("join_token", nil)}, codes.InvalidArgument},
		"second hello":     {[]*pb.AttestRequest{hello("join_token", csr), hello("join_token", csr)}, codes.PermissionDenied},
		"payload too long": {[]*pb.AttestRequest{hello("join_token", csr), payload(64<<10 + 1)}, codes.PermissionDenied},
		"message too long": {[]*pb.AttestRequest{hello("join_token", csr), payload(1 << 20)}, codes.ResourceExhausted},
		"not a token":      {[]*pb.AttestRequest{hello("join_token", csr), payload(31)}, codes.PermissionDenied},
	} {
		stream, err := pb.NewAdmissionClient(conn).Attest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.send {
			_ = stream.Send(m) // what was refused is told by Recv
		}
		if _, err := stream.Recv(); status.Code(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}
