package server_test

import (
	"context"
	"crypto/x509"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
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

// update writes the golden file anew: go test ./internal/server -run Matrix -update
var update = flag.Bool("update", false, "write testdata/matrix.txt")

// methods is every RPC of every service of kith.v1 there is, and some nobody has.
func methods() []string {
	out := []string{"/kith.v1.Node/Surprise", "/kith.v1.Admin/Surprise", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}
	protoregistry.GlobalFiles.RangeFilesByPackage("kith.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				out = append(out, "/"+string(service.FullName())+"/"+string(service.Methods().Get(j).Name()))
			}
		}
		return true
	})
	slices.Sort(out)
	return out
}

// asked is one row of the matrix: a method, and for Apply what it is asked.
type asked struct {
	name, method string
	message      proto.Message
}

// questions is every method with an empty message, which an implementation that
// is reached answers with some error of its own or with nothing to do; and what
// Apply lets depend on what is in it. i makes what one caller puts differ from
// what the others do: a change that changes nothing is refused to nobody.
func questions(i int) []asked {
	var out []asked
	for _, method := range methods() {
		out = append(out, asked{method, method, &emptypb.Empty{}})
	}
	apply := func(what string, req *pb.ApplyRequest) {
		out = append(out, asked{pb.Admin_Apply_FullMethodName + ": " + what, pb.Admin_Apply_FullMethodName, req})
	}
	set := registry.StartingSet(spiffe.TrustDomain{})
	node := &pb.Object{Kind: &pb.Object_NodeRule{NodeRule: set.NodeRules["vms"].PB()}}
	identity := &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: set.IdentityRules["unit"].PB()}}
	put := func(o *pb.Object) *pb.ApplyRequest { return &pb.ApplyRequest{Put: []*pb.Object{o}} }
	gone := func(kind string) *pb.ApplyRequest {
		return &pb.ApplyRequest{Delete: []*pb.Key{{Kind: kind, Name: "none"}}}
	}
	apply("dry run of a node rule", &pb.ApplyRequest{DryRun: true, Put: []*pb.Object{node}})
	path := fmt.Sprintf("GET /%d", i)
	free, ours := service("orders", "/vms/orders"), owned("shop", "cart", "/vms/shop/cart")
	free.GetService().Endpoints, ours.GetService().Endpoints = []string{fmt.Sprintf("h:%d", i+1)}, []string{fmt.Sprintf("h:%d", i+1)}
	apply("put service", put(free))
	apply("put rule", put(rule("r", "web", "orders", path)))
	guardrail := rule("g", "web", "cart")
	guardrail.GetRule().Deny, guardrail.GetRule().Guardrail = []string{path}, true
	boundary := rule("b", "web", "cart")
	boundary.GetRule().Boundary = []string{path}
	apply("put service of team shop", put(ours))
	apply("put rule to a service of team shop", put(rule("s", "web", "cart", path)))
	apply("put guardrail", put(guardrail))
	apply("put boundary", put(boundary))
	apply("put rule to many services", put(rule("m", "web", "/vms/**", path)))
	apply("put team", put(&pb.Object{Kind: &pb.Object_Team{Team: &pb.Team{Name: "mine", Platform: true, TrustDomains: []string{fmt.Sprintf("d%d.example", i)}}}}))
	apply("put identity rule", put(identity))
	apply("put node rule", put(node))
	apply("put nothing known", put(&pb.Object{}))
	for _, kind := range []string{"service", "rule", "identity", "node", "federation", "team", "surprise"} {
		apply("delete "+kind, gone(kind))
	}
	return out
}

// call sends one message as a stream, which every kind of RPC accepts, and says
// how the server answered: any answer to what is in it means "let in".
func call(t *testing.T, conn *grpc.ClientConn, q asked) string {
	limit := 20 * time.Second
	if strings.HasSuffix(q.method, "/Watch") {
		limit = 2 * time.Second // it lets in and then says nothing
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, q.method)
	if err == nil {
		if err = stream.SendMsg(q.message); err == nil {
			_ = stream.CloseSend()
		}
		err = stream.RecvMsg(&emptypb.Empty{})
	}
	switch status.Code(err) {
	case codes.Unauthenticated:
		return "who?"
	case codes.PermissionDenied:
		return "no"
	case codes.Unimplemented:
		return "-"
	case codes.Unavailable:
		return "cut"
	default:
		return "YES"
	}
}

// class is one kind of caller at one of the server's doors.
type class struct {
	name string
	conn *grpc.ClientConn
}

// everyClass is every kind of caller at the node port, the admin port and the
// admin socket.
func (r *rig) everyClass(t *testing.T) []class {
	node, banned := r.joined("n1"), r.joined("n2")
	if _, err := r.admin.BanNode(t.Context(), &pb.BanNodeRequest{Name: "n2"}); err != nil {
		t.Fatal(err)
	}
	removed := r.person("removed", "admin")
	sources := []struct {
		name string
		src  spiffe.Source
	}{
		{"workload", r.workload(node)},
		{"node", node},
		{"banned node", banned},
		{"removed admin", removed},
		{"viewer", r.person("v", "viewer")},
		{"operator", r.person("o", "operator")},
		{"operator of team shop", r.person("shop", "operator", "shop")},
		{"operator of team stock", r.person("stock", "operator", "stock")},
		{"operator of a platform team", r.person("sre", "operator", "sre")},
		{"admin", r.person("a", "admin")},
	}
	if _, err := r.admin.RemoveAdmin(t.Context(), &pb.RemoveAdminRequest{Name: "removed"}); err != nil {
		t.Fatal(err)
	}
	anyone := func(spiffe.ID) error { return nil }
	var out []class
	for _, door := range []struct{ name, addr string }{{"node port", r.s.Addr()}, {"admin port", r.s.AdminAddr()}} {
		target := "passthrough:///" + door.addr
		out = append(out, class{door.name + ": nobody", dialed(t, target, credentials.NewTLS(spiffe.PinnedClientTLS(r.s.Pin(), r.clock.Now, anyone)))})
		for _, s := range sources {
			out = append(out, class{door.name + ": " + s.name, dialed(t, target, credentials.NewTLS(spiffe.ClientTLS(s.src, r.clock.Now, anyone)))})
		}
	}
	for name, uid := range map[string]int{"root": 0, "the server's user": 990, "another user": 1000} {
		out = append(out, class{"socket: " + name, dialed(t, "unix://"+r.socketOf(uid), insecure.NewCredentials())})
	}
	slices.SortStableFunc(out[2*(len(sources)+1):], func(a, b class) int { return strings.Compare(a.name, b.name) })
	return out
}

// socketOf is an admin socket of the server that takes every caller for uid.
func (r *rig) socketOf(uid int) string {
	path := filepath.Join(r.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		r.t.Fatal(err)
	}
	face := api.NewAdmin(api.AdminConfig{
		Operator: r.s, Admins: r.s, Federations: r.s, Log: r.cfg.Log, UID: 990, PeerUID: func(net.Conn) (int, error) { return uid, nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- face.Run(ctx, l) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	})
	return path
}

// TestMatrix asks every method as every class of caller, and holds the answers
// against the golden file. A method that has no row there is nobody's.
func TestMatrix(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	r.apply(&pb.ApplyRequest{Put: append(shop(), append(teams(), owned("shop", "cart", "/vms/shop/cart"), rule("r", "web", "orders", "GET /a"))...)})
	classes, rows := r.everyClass(t), questions(0)
	answers := make([][]string, len(classes))
	var asking sync.WaitGroup
	for i, c := range classes {
		asking.Go(func() {
			for _, q := range questions(i + 1) {
				answers[i] = append(answers[i], call(t, c.conn, q))
			}
		})
	}
	asking.Wait()
	var table strings.Builder
	listed := map[string]bool{}
	for j, q := range rows {
		for i, c := range classes {
			fmt.Fprintf(&table, "%-60s %-40s %s\n", q.name, c.name, answers[i][j])
		}
	}
	const golden = "testdata/matrix.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		listed[line] = true
	}
	for line := range strings.Lines(table.String()) {
		if !listed[line] && (strings.HasSuffix(line, "YES\n") || strings.Contains(string(text), line[:60])) {
			t.Errorf("%s does not have this answer: %s", golden, line)
		}
		delete(listed, line)
	}
	for line := range listed {
		t.Errorf("%s has a row that is not so: %s", golden, line)
	}
}

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

// T16: an SVID of another trust domain is nobody's at every door and for every
// method, a node's as an admin's, also while that domain is federated.
func TestThreatT16ForeignTrustDomainIsNobody(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	other := start(t, func(c *server.Config) {
		remotely(c)
		td, err := spiffe.ParseTrustDomain("evil.example")
		if err != nil {
			t.Fatal(err)
		}
		c.TrustDomain = td
	})
	foreign, admin, own := other.joined("n1"), other.person("a", "admin"), r.joined("n1")
	at := func(addr string, svid *spiffe.X509SVID) *grpc.ClientConn {
		config := spiffe.ClientTLS(source{svid, own.bundle}, r.clock.Now, func(spiffe.ID) error { return nil })
		return dialed(t, "passthrough:///"+addr, credentials.NewTLS(config))
	}
	doc, err := foreign.bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, federated := range []bool{false, true} {
		if federated {
			r.apply(puts(&pb.Object{Kind: &pb.Object_Federation{Federation: &pb.Federation{
				TrustDomain: "evil.example", Url: "https://bundle.example/", Profile: "https_web", Bundle: doc,
			}}}))
		}
		for who, svid := range map[string]*spiffe.X509SVID{"node": foreign.svid, "admin": admin.svid} {
			for door, addr := range map[string]string{"node port": r.s.Addr(), "admin port": r.s.AdminAddr()} {
				if got := call(t, at(addr, own.svid), questions(1)[0]); got == "cut" {
					t.Fatalf("the own node at the %s: %s, want a handshake", door, got)
				}
				conn := at(addr, svid)
				for _, q := range questions(1) {
					if got := call(t, conn, q); got != "cut" {
						t.Errorf("%s of another trust domain (federated: %t) at the %s: %s: %s, want no handshake", who, federated, door, q.name, got)
					}
				}
			}
		}
	}
}

func TestNoiseOnThePortHurtsNobody(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
