package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// testServer is a server with a state that the test changes. It admits one node
// by the word "token" once, and by "key" afterwards.
type testServer struct {
	pb.UnimplementedAdmissionServer
	pb.UnimplementedNodeServer

	t       testing.TB
	ca      *authority
	address string
	server  *grpc.Server
	running sync.WaitGroup
	nodeTTL time.Duration
	nodeEnd time.Time // of the node SVID issued last
	skew    time.Duration

	mu        sync.Mutex
	state     *pb.State
	ttl       time.Duration
	tokenUsed bool
	banned    bool
	admitted  map[string]int // by word
	signed    int
	renewed   int
	acks      []*pb.Ack
	endpoints []*pb.LocalEndpoint
	hellos    []*pb.SyncHello
	answers   []*pb.WhyAnswer
	interests []*pb.Interest
	silent    bool // confirms no interest
	directory *pb.Directory
	streams   map[chan *pb.SyncResponse]struct{}
	jwtKey    *ecdsa.PrivateKey // signs JWT-SVIDs as jwtKid
	jwtKid    string
}

func (s *testServer) pin() spiffe.Pin { return spiffe.PinOf(s.ca.cert) }

func newServer(t testing.TB) *testServer {
	t.Helper()
	ca := newAuthority(t)
	td, _ := spiffe.ParseTrustDomain(domain)
	jwks, err := spiffe.NewBundle(td, 1, 0, ca.cert).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{
		t: t, ca: ca, nodeTTL: time.Hour, ttl: time.Hour, admitted: make(map[string]int),
		streams: make(map[chan *pb.SyncResponse]struct{}), directory: &pb.Directory{Version: 1},
		state: &pb.State{
			Revision: 1, Epoch: 7, TrustDomain: domain, Node: "vm-7", Class: "vms",
			NodeAttributes: map[string]string{"node.name": "vm-7", "node.class": "vms", "node.attestor": "join_token"},
			Bundles:        []*pb.Bundle{{TrustDomain: domain, Jwks: jwks}},
			Objects: []*pb.Object{
				identityObject(registry.IdentityRule{Name: "as", ID: "/{node.class}/{workload.kith.as}"}),
				identityObject(registry.IdentityRule{Name: "users", Nodes: []string{"vms"}, ID: "/vms/{workload.unix.user}", Require: "workload.unix.uid == 2000"}),
				serviceObject("orders", "shop"), serviceObject("web", "shop"),
				ruleObject("web-reads", "web", "orders", "GET /v1/{**}"),
			},
		},
	}
	s.address = "127.0.0.1:0"
	s.listen()
	t.Cleanup(s.down)
	return s
}

func identityObject(r registry.IdentityRule) *pb.Object {
	return &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: r.PB()}}
}

func serviceObject(name string, runAs ...string) *pb.Object {
	s := policy.Service{Name: name, Identities: []string{"/vms/" + name}, Protocol: policy.HTTP, RunAs: runAs}
	return &pb.Object{Kind: &pb.Object_Service{Service: s.PB()}}
}

func ruleObject(name, from, to, action string) *pb.Object {
	r := policy.Rule{Name: name, From: []string{from}, To: to, Allow: []string{action}}
	return &pb.Object{Kind: &pb.Object_Rule{Rule: r.PB()}}
}

// X509SVID implements spiffe.Source for the server's own face.
func (s *testServer) X509SVID() (*spiffe.X509SVID, error) {
	key := newKey(s.t)
	der, err := s.ca.issue("/kith/server/one", key.Public(), time.Now().Add(s.skew-time.Minute), time.Hour)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	id, err := spiffe.CertificateID(leaf)
	return &spiffe.X509SVID{ID: id, Certificates: []*x509.Certificate{leaf, s.ca.cert}, PrivateKey: key}, err
}

func (s *testServer) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	return spiffe.NewBundle(td, 1, 0, s.ca.cert), td.String() == domain
}

// listen serves at the address of before, so that it can come back.
func (s *testServer) listen() {
	s.t.Helper()
	var l net.Listener
	eventually(s.t, "listen", func() bool {
		var err error
		l, err = net.Listen("tcp", s.address)
		return err == nil
	})
	s.address = l.Addr().String()
	config := spiffe.ServerTLSOptional(s, func() time.Time { return time.Now().Add(s.skew) })
	config.NextProtos = []string{"h2"}
	s.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	pb.RegisterAdmissionServer(s.server, s)
	pb.RegisterNodeServer(s.server, s)
	serving := s.server
	s.running.Go(func() { _ = serving.Serve(l) })
}

func (s *testServer) down() {
	s.server.Stop()
	s.running.Wait()
}

// change applies a change and pushes it, as the server does.
func (s *testServer) change(put []*pb.Object, del ...*pb.Key) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = proto.CloneOf(s.state)
	s.state.Revision++
	gone := func(o *pb.Object) bool {
		k := keyOf(o)
		for _, d := range del {
			if string(k.kind) == d.GetKind() && k.name == d.GetName() {
				return true
			}
		}
		for _, p := range put {
			if keyOf(p) == k {
				return true
			}
		}
		return false
	}
	var kept []*pb.Object
	for _, o := range s.state.Objects {
		if !gone(o) {
			kept = append(kept, o)
		}
	}
	s.state.Objects = append(kept, put...)
	raw, err := proto.Marshal(&pb.Delta{Revision: s.state.Revision, Put: put, Delete: del})
	if err != nil {
		s.t.Fatal(err)
	}
	s.push(&pb.SyncResponse{Message: &pb.SyncResponse_Delta{Delta: &pb.EncodedDelta{Delta: raw}}})
	return s.state.Revision
}

// push sends to every stream; the caller holds mu.
func (s *testServer) push(m *pb.SyncResponse) {
	for out := range s.streams {
		out <- m
	}
}

func (s *testServer) locked(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *testServer) acked(revision uint64) *pb.Ack {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.acks {
		if a.GetRevision() >= revision {
			return a
		}
	}
	return nil
}

func (s *testServer) admit(key crypto.PublicKey) (*pb.Admitted, error) {
	begin := time.Now().Add(s.skew - time.Second)
	der, err := s.ca.issue("/kith/node/vm-7", key, begin, s.nodeTTL)
	if err != nil {
		return nil, err
	}
	s.nodeEnd = begin.Add(s.nodeTTL)
	return &pb.Admitted{Node: "vm-7", Class: "vms", SpiffeId: "spiffe://" + domain + "/kith/node/vm-7", Chain: [][]byte{der}, Bundle: s.state.Bundles[0]}, nil
}

func (s *testServer) Attest(stream grpc.BidiStreamingServer[pb.AttestRequest, pb.AttestResponse]) error {
	log := slog.New(slog.DiscardHandler)
	hello, err := stream.Recv()
	if err != nil {
		return err
	}
	csr, err := x509.ParseCertificateRequest(hello.GetHello().GetCsr())
	if err != nil {
		return err
	}
	proof, err := stream.Recv()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	word := string(proof.GetPayload())
	ok := word == "token" && !s.tokenUsed || word == "key" && s.tokenUsed && !s.banned
	if !ok {
		return api.ToWire(log, "Attest", fault.Deniedf("attestation was refused"))
	}
	s.tokenUsed = true
	s.admitted[word]++
	admitted, err := s.admit(csr.PublicKey)
	if err != nil {
		return err
	}
	return stream.Send(&pb.AttestResponse{Step: &pb.AttestResponse_Admitted{Admitted: admitted}})
}

func (s *testServer) RenewNode(_ context.Context, req *pb.RenewNodeRequest) (*pb.Admitted, error) {
	csr, err := x509.ParseCertificateRequest(req.GetCsr())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed++
	return s.admit(csr.PublicKey)
}

func (s *testServer) SignWorkloads(_ context.Context, req *pb.SignWorkloadsRequest) (*pb.SignWorkloadsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &pb.SignWorkloadsResponse{}
	for _, c := range req.GetCsrs() {
		csr, err := x509.ParseCertificateRequest(c.GetCsr())
		if err != nil {
			return nil, err
		}
		id, err := spiffe.ParseID(c.GetSpiffeId())
		if err != nil {
			return nil, err
		}
		der, err := s.ca.issue(id.Path(), csr.PublicKey, time.Now().Add(s.skew-time.Second), s.ttl)
		if err != nil {
			return nil, err
		}
		s.signed++
		out.Results = append(out.Results, &pb.SignedWorkload{Chain: [][]byte{der}})
	}
	return out, nil
}

func (s *testServer) Sync(stream grpc.BidiStreamingServer[pb.SyncRequest, pb.SyncResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	out := make(chan *pb.SyncResponse, 64)
	s.mu.Lock()
	if s.banned {
		s.mu.Unlock()
		return api.ToWire(slog.New(slog.DiscardHandler), "Sync", fault.Deniedf("node vm-7 is banned"))
	}
	s.hellos = append(s.hellos, first.GetHello())
	if h := first.GetHello(); h.GetRevision() != s.state.Revision || h.GetEpoch() != s.state.Epoch {
		state := proto.CloneOf(s.state)
		state.NowUnixNano = time.Now().Add(s.skew).UnixNano()
		out <- &pb.SyncResponse{Message: &pb.SyncResponse_State{State: state}}
	}
	out <- &pb.SyncResponse{Message: &pb.SyncResponse_Directory{Directory: s.directory}}
	out <- current(first.GetHello().GetInterest())
	s.streams[out] = struct{}{}
	s.mu.Unlock()
	defer s.locked(func() { delete(s.streams, out) })
	go s.hear(stream, out)
	for {
		select {
		case m := <-out:
			if m == nil {
				return errors.New("cut")
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func current(in *pb.Interest) *pb.SyncResponse {
	return &pb.SyncResponse{Message: &pb.SyncResponse_Current{Current: &pb.Current{Interest: in.GetNumber()}}}
}

func (s *testServer) hear(stream grpc.BidiStreamingServer[pb.SyncRequest, pb.SyncResponse], out chan<- *pb.SyncResponse) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		s.locked(func() {
			switch m := m.GetMessage().(type) {
			case *pb.SyncRequest_Ack:
				s.acks = append(s.acks, m.Ack)
			case *pb.SyncRequest_Endpoints:
				s.endpoints = m.Endpoints.GetEndpoints()
			case *pb.SyncRequest_Interest:
				s.interests = append(s.interests, m.Interest)
				if !s.silent {
					out <- current(m.Interest)
				}
			case *pb.SyncRequest_Why:
				s.answers = append(s.answers, m.Why)
			}
		})
	}
}
