package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// agent is a simulated agent: the real proofs, TLS and messages, and a state
// that insists on deltas without a gap.
type agent struct {
	t      testing.TB
	now    func() time.Time
	addr   string
	key    *ecdsa.PrivateKey
	svid   *spiffe.X509SVID
	bundle *spiffe.Bundle
	conn   *grpc.ClientConn
	node   pb.NodeClient

	mu          sync.Mutex
	name        string
	revision    uint64
	epoch, mark uint64
	objects     map[string]*pb.Object
	bundles     []*pb.Bundle
	states      int // whole states received
	deltas      int
	directory   []*pb.Directory
	interest    *pb.Interest
	current     uint64 // the last interest that was confirmed
	held        bool   // acks nothing while set
	ackError    string // sent with each ack
	decisions   []*pb.Decision
	fault       error // a gap
	ended       error
	live        bool
	send        func(*pb.SyncRequest) error
	cancel      context.CancelFunc
	done        chan struct{}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csrOf(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// joined is an agent that has joined and is connected, not yet syncing.
func (r *rig) joined(name string) *agent {
	r.t.Helper()
	key := newKey(r.t)
	admitted, err := r.attestBy(r.line(name), attest.JoinToken, key, byToken(r.t))
	if err != nil {
		r.t.Fatalf("join %s: %v", name, err)
	}
	a := &agent{t: r.t, now: r.clock.Now, addr: r.s.Addr(), key: key, name: name, objects: map[string]*pb.Object{}}
	a.take(admitted)
	a.dial()
	r.t.Cleanup(a.close)
	return a
}

func (a *agent) take(in *pb.Admitted) {
	a.t.Helper()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.svid, err = spiffe.ParseX509SVID(slices.Concat(in.GetChain()...), pkcs8); err != nil {
		a.t.Fatalf("node SVID: %v", err)
	}
	if a.bundle, err = spiffe.ParseBundle(a.svid.ID.TrustDomain(), in.GetBundle().GetJwks()); err != nil {
		a.t.Fatalf("bundle: %v", err)
	}
}

func (a *agent) X509SVID() (*spiffe.X509SVID, error) { return a.svid, nil }

func (a *agent) Bundle(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return a.bundle, true }

func (a *agent) dial() {
	a.t.Helper()
	config := spiffe.ClientTLS(a, a.now, func(spiffe.ID) error { return nil })
	conn, err := grpc.NewClient("passthrough:///"+a.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<20))
	if err != nil {
		a.t.Fatal(err)
	}
	a.conn, a.node = conn, pb.NewNodeClient(conn)
}

func (a *agent) close() {
	a.disconnect()
	a.conn.Close()
}

// connect opens the sync stream with what the agent holds.
func (a *agent) connect() {
	a.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := a.node.Sync(ctx)
	if err != nil {
		a.t.Fatalf("sync: %v", api.FromWire(err))
	}
	var sending sync.Mutex
	send := func(req *pb.SyncRequest) error {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(req)
	}
	a.mu.Lock()
	hello := &pb.SyncHello{Revision: a.revision, Epoch: a.epoch, Mark: a.mark, Version: "test", Interest: a.interest}
	a.send, a.cancel, a.done = send, cancel, make(chan struct{})
	a.live, a.ended = true, nil
	done := a.done
	a.mu.Unlock()
	if err := sent(send(&pb.SyncRequest{Message: &pb.SyncRequest_Hello{Hello: hello}})); err != nil {
		a.t.Fatalf("hello: %v", err)
	}
	if hello.GetRevision() > 0 {
		a.ack()
	}
	go func() {
		defer close(done)
		for {
			in, err := stream.Recv()
			if err != nil {
				a.mu.Lock()
				a.live, a.ended = false, api.FromWire(err)
				a.mu.Unlock()
				return
			}
			a.take1(in)
		}
	}()
}

// disconnect ends the stream and waits for it.
func (a *agent) disconnect() {
	a.mu.Lock()
	cancel, done := a.cancel, a.done
	a.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	<-done
}

func (a *agent) take1(in *pb.SyncResponse) {
	switch m := in.GetMessage().(type) {
	case *pb.SyncResponse_State:
		a.mu.Lock()
		a.revision, a.epoch, a.mark = m.State.GetRevision(), m.State.GetEpoch(), m.State.GetMark()
		a.objects = map[string]*pb.Object{}
		a.bundles = m.State.GetBundles()
		a.states++
		for _, o := range m.State.GetObjects() {
			a.objects[objectName(o)] = o
		}
		a.mu.Unlock()
		a.ack()
	case *pb.SyncResponse_Delta:
		a.delta(m.Delta.GetDelta())
		a.ack()
	case *pb.SyncResponse_Directory:
		a.mu.Lock()
		a.directory = append(a.directory, m.Directory)
		a.mu.Unlock()
	case *pb.SyncResponse_Current:
		a.mu.Lock()
		a.current = m.Current.GetInterest()
		a.mu.Unlock()
	case *pb.SyncResponse_Why:
		a.mu.Lock()
		answer := &pb.WhyAnswer{Query: m.Why.GetQuery()}
		for _, d := range a.decisions {
			if m.Why.GetId() == "" || d.GetId() == m.Why.GetId() {
				answer.Decisions = append(answer.Decisions, proto.CloneOf(d))
			}
		}
		send := a.send
		a.mu.Unlock()
		_ = send(&pb.SyncRequest{Message: &pb.SyncRequest_Why{Why: answer}})
	}
}

func (a *agent) delta(raw []byte) {
	d := &pb.Delta{}
	err := proto.Unmarshal(raw, d)
	a.mu.Lock()
	defer a.mu.Unlock()
	gap := d.GetFrom() > a.revision || d.GetFrom() == 0 && d.GetRevision() != a.revision+1
	if err != nil || gap || d.GetRevision() <= a.revision {
		a.fault = fmt.Errorf("delta %d on revision %d: %v", d.GetRevision(), a.revision, err)
		return
	}
	a.revision, a.mark = d.GetRevision(), d.GetMark()
	a.deltas++
	if len(d.GetBundles()) > 0 {
		a.bundles = d.GetBundles()
	}
	for _, o := range d.GetPut() {
		a.objects[objectName(o)] = o
	}
	for _, k := range d.GetDelete() {
		delete(a.objects, k.GetKind()+" "+k.GetName())
	}
}

func objectName(o *pb.Object) string {
	switch k := o.GetKind().(type) {
	case *pb.Object_NodeRule:
		return "node " + k.NodeRule.GetName()
	case *pb.Object_IdentityRule:
		return "identity " + k.IdentityRule.GetName()
	case *pb.Object_Service:
		return "service " + k.Service.GetName()
	default:
		return "rule " + o.GetRule().GetName()
	}
}

// ack says that the agent enforces what it holds.
func (a *agent) ack() {
	a.mu.Lock()
	ack := &pb.Ack{Revision: a.revision, Mark: a.mark}
	if a.ackError != "" {
		ack.Errors = append(ack.Errors, a.ackError)
	}
	held, send := a.held, a.send
	a.mu.Unlock()
	if !held {
		_ = send(&pb.SyncRequest{Message: &pb.SyncRequest_Ack{Ack: ack}})
	}
}

// get reads the agent's state under its lock.
func get[T any](a *agent, read func() T) T {
	a.mu.Lock()
	defer a.mu.Unlock()
	return read()
}

// at waits until the agent holds a revision.
func (a *agent) at(revision uint64) {
	a.t.Helper()
	within(a.t, fmt.Sprintf("%s at revision %d", a.name, revision), func() bool {
		return get(a, func() bool { return a.revision == revision })
	})
}

// report tells the server which endpoints the node has.
func (a *agent) report(endpoints ...*pb.LocalEndpoint) {
	a.t.Helper()
	send := get(a, func() func(*pb.SyncRequest) error { return a.send })
	if err := send(&pb.SyncRequest{Message: &pb.SyncRequest_Endpoints{Endpoints: &pb.Endpoints{Endpoints: endpoints}}}); err != nil {
		a.t.Fatalf("endpoints: %v", err)
	}
}

// addresses is the newest directory's endpoints of a service.
func (a *agent) addresses(service string) string {
	return get(a, func() string {
		if len(a.directory) == 0 {
			return "no directory"
		}
		var out []string
		for _, e := range a.directory[len(a.directory)-1].GetEntries() {
			if e.GetService() == service {
				for _, p := range e.GetEndpoints() {
					out = append(out, p.GetAddress())
				}
			}
		}
		return strings.Join(out, " ")
	})
}

// sign asks for a workload SVID.
func (a *agent) sign(rule, id string, attributes map[string]string) (*pb.SignedWorkload, error) {
	a.t.Helper()
	resp, err := a.node.SignWorkloads(a.t.Context(), &pb.SignWorkloadsRequest{Csrs: []*pb.WorkloadCSR{{
		Rule: rule, SpiffeId: id, Attributes: attributes, Csr: csrOf(a.t, newKey(a.t)),
	}}})
	if err != nil {
		return nil, api.FromWire(err)
	}
	return resp.GetResults()[0], nil
}

// asOrders is what an agent measures of orders' own process.
func asOrders() map[string]string {
	return map[string]string{
		"workload.unix.uid": "1001", "workload.unix.user": "orders", "workload.kith.as": "orders",
	}
}
