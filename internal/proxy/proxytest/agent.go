// Package proxytest is an agent for tests of the SDK and the proxy: the real
// wire of both services on a unix socket, with a certificate authority of its
// own and the policy, directory and identities a test sets. It attests nobody:
// who connects gets the identity it claims.
package proxytest

import (
	"context"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/pb"
)

// Domain is the trust domain of every test agent.
const Domain = "test.example"

// Patience is how long a test waits for an event before it fails.
const Patience = time.Minute

// Agent is a running test agent.
type Agent struct {
	pb.UnimplementedEnforcementServer

	// Socket is the path to attach to.
	Socket string
	// CA signs what the agent issues.
	CA *CA

	t      testing.TB
	server *grpc.Server

	mu        sync.Mutex
	changed   *sync.Cond
	revision  uint64
	identity  uint64
	services  map[string]*pb.Service
	rules     []*pb.Rule
	schema    uint32
	silent    bool              // sends no slices
	dead      bool              // killed: who is still connected hears of nobody's end
	federated map[string][]byte // roots of other trust domains, by their ID
	links     map[*link]struct{}
	decisions []*pb.Decision
	tokens    tokens
}

// link is one client connection: one attached program.
type link struct {
	as        string
	acked     uint64
	ackError  string
	addresses []string
	enforcing bool
	told      map[string]string // keys of providers, by URL
	announced chan struct{}     // closed when the claim is known
}

// Start runs an agent until the test ends.
func Start(t testing.TB) *Agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "kith") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &Agent{
		Socket: filepath.Join(dir, "agent.sock"), CA: NewCA(t), t: t,
		services: make(map[string]*pb.Service), links: make(map[*link]struct{}),
		revision: 1, identity: 1,
	}
	a.changed = sync.NewCond(&a.mu)
	a.Listen()
	t.Cleanup(a.Kill)
	return a
}

// Listen serves on the socket, again after Kill.
func (a *Agent) Listen() {
	a.t.Helper()
	os.Remove(a.Socket)
	l, err := net.Listen("unix", a.Socket)
	if err != nil {
		a.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.StatsHandler(linker{a, ""}), grpc.WaitForHandlers(true)) // whose ends forget who was attached
	pb.RegisterEnforcementServer(server, a)
	server.RegisterService(workloadAPI(), a)
	a.mu.Lock()
	a.server, a.dead = server, false
	a.mu.Unlock()
	go server.Serve(l)
}

// Kill ends the agent as kill -9 would: every stream breaks at once.
func (a *Agent) Kill() {
	a.mu.Lock()
	server := a.server
	a.dead = true
	a.mu.Unlock()
	server.Stop()
	os.Remove(a.Socket)
}

type linkKey struct{}

// linker makes a link of each connection; as is what all of them claim, if set.
type linker struct {
	a  *Agent
	as string
}

func (l linker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	me := &link{as: l.as, announced: make(chan struct{})}
	if l.as != "" {
		close(me.announced)
	}
	return context.WithValue(ctx, linkKey{}, me)
}
func (l linker) HandleConn(context.Context, stats.ConnStats) {}

func (l linker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (l linker) HandleRPC(context.Context, stats.RPCStats)                       {}

// Enforce serves one enforcement point.
func (a *Agent) Enforce(stream grpc.BidiStreamingServer[pb.EnforceRequest, pb.EnforceResponse]) error {
	me := stream.Context().Value(linkKey{}).(*link)
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetOpen() == nil {
		return status.Error(codes.InvalidArgument, "the first message is Open")
	}
	if first.GetOpen().GetAs() == "refused" {
		return status.Error(codes.PermissionDenied, "uid 1000 may not claim refused")
	}
	a.mu.Lock()
	me.as, me.enforcing = first.GetOpen().GetAs(), true
	a.links[me] = struct{}{}
	close(me.announced)
	a.mu.Unlock()
	defer a.drop(me)
	go a.receive(stream, me)
	return a.push(stream.Context(), func() error {
		slice, view, silent := a.view(me)
		if silent {
			return nil
		}
		if err := a.sendKeys(me, stream); err != nil {
			return err
		}
		// The directory first: what is acked is the slice, and whoever waits for
		// that wants both.
		if err := stream.Send(&pb.EnforceResponse{Message: &pb.EnforceResponse_Directory{Directory: view}}); err != nil {
			return err
		}
		return stream.Send(&pb.EnforceResponse{Message: &pb.EnforceResponse_Slice{Slice: slice}})
	}, func() uint64 { return a.revision })
}

func (a *Agent) drop(me *link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.links, me)
	a.revision++ // its endpoints are gone
	a.changed.Broadcast()
}

func (a *Agent) receive(stream grpc.BidiStreamingServer[pb.EnforceRequest, pb.EnforceResponse], me *link) {
	for {
		message, err := stream.Recv()
		if err != nil {
			return
		}
		a.mu.Lock()
		switch m := message.GetMessage().(type) {
		case *pb.EnforceRequest_Ack:
			me.acked, me.ackError = m.Ack.GetRevision(), m.Ack.GetError()
		case *pb.EnforceRequest_Register:
			me.addresses = m.Register.GetAddresses()
			a.revision++
		case *pb.EnforceRequest_MissingKey:
			a.tokens.missing = append(a.tokens.missing, m.MissingKey)
		case *pb.EnforceRequest_Report:
			a.decisions = append(a.decisions, m.Report.GetDecisions()...)
		}
		a.changed.Broadcast()
		a.mu.Unlock()
	}
}

// push calls send now and whenever what version gives has changed.
func (a *Agent) push(ctx context.Context, send func() error, version func() uint64) error {
	stop := context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.changed.Broadcast()
	})
	defer stop()
	for seen := uint64(0); ; {
		a.mu.Lock()
		for version() == seen && ctx.Err() == nil {
			a.changed.Wait()
		}
		seen = version()
		a.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := send(); err != nil {
			return err
		}
	}
}

func (a *Agent) view(me *link) (*pb.Slice, *pb.DirectoryView, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := "spiffe://" + Domain + "/dev/" + me.as
	slice := &pb.Slice{
		Revision: a.revision, Schema: a.schema, TrustDomain: Domain, Ids: []string{id},
		Named: make(map[string]*pb.Service), Node: "dev", Dev: true, Providers: a.tokens.providers,
	}
	view := &pb.DirectoryView{}
	for _, name := range slices.Sorted(maps.Keys(a.services)) {
		service := a.services[name]
		slice.Named[name] = service
		if name == me.as {
			slice.Services = append(slice.Services, service)
		}
		entry := &pb.DirectoryEntry{Service: name, Protocol: service.GetProtocol()}
		for _, path := range service.GetIdentities() {
			if path[0] == '/' {
				path = "spiffe://" + Domain + path
			}
			entry.Identities = append(entry.Identities, path)
		}
		for _, address := range service.GetEndpoints() {
			entry.Endpoints = append(entry.Endpoints, &pb.Endpoint{Address: address})
		}
		for l := range a.links {
			if l.as == name {
				for _, address := range l.addresses {
					entry.Endpoints = append(entry.Endpoints, &pb.Endpoint{Address: address, Node: "dev"})
				}
			}
		}
		view.Entries = append(view.Entries, entry)
	}
	for _, rule := range a.rules {
		if rule.GetTo() == me.as {
			slice.Rules = append(slice.Rules, rule)
		}
	}
	return slice, view, a.silent || a.dead
}
