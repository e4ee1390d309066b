package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

const (
	maxAdmin   = 16 << 20 // about 100 000 rules in one apply
	maxObjects = 100_000
	maxWait    = 5 * time.Minute
)

// AdminConfig is what the operators' face needs.
type AdminConfig struct {
	Operator    Operator
	Admins      Admins
	Federations Federations
	Log         *slog.Logger
	UID         int // besides root, the only user let in: the server's own
	// PeerUID says who opened a connection; nil asks the kernel.
	PeerUID func(net.Conn) (int, error)
}

// Admin serves operators on a unix socket, by peer credentials.
type Admin struct{ cfg AdminConfig }

// NewAdmin returns the operators' face.
func NewAdmin(cfg AdminConfig) *Admin { return &Admin{cfg: cfg} }

// Run serves on l, which it closes, until ctx ends.
func (a *Admin) Run(ctx context.Context, l net.Listener) error {
	g := guard{log: a.cfg.Log, door: a.door}
	s := grpc.NewServer(
		grpc.Creds(peerCredentials{a.cfg.PeerUID}),
		grpc.ChainUnaryInterceptor(g.unary),
		grpc.ChainStreamInterceptor(g.stream),
		grpc.MaxRecvMsgSize(maxAdmin),
		grpc.MaxSendMsgSize(4*maxAdmin),
		grpc.MaxConcurrentStreams(64),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.MaxHeaderListSize(16<<10),
	)
	registerAdmin(s, a.cfg.Operator, a.cfg.Admins, a.cfg.Federations)
	var serving sync.WaitGroup
	ended := make(chan error, 1)
	serving.Go(func() { ended <- s.Serve(l) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		err = fmt.Errorf("serve operators: %w", err)
	}
	stopServers(drainTime, s)
	serving.Wait()
	return err
}

// door lets root and the server's own user in, as admins.
func (a *Admin) door(method string) func(context.Context) (context.Context, error) {
	return func(ctx context.Context) (context.Context, error) {
		uid, ok := uidOf(ctx)
		if !ok {
			return ctx, fault.Deniedf("the caller's user is not known")
		}
		if uid != 0 && uid != a.cfg.UID {
			return ctx, fault.Hint(fault.Deniedf("user %d may not administrate this server", uid),
				"run the command as root or as the server's user")
		}
		return admit(ctx, method, Actor{Name: fmt.Sprintf("uid:%d", uid), Role: registry.RoleAdmin})
	}
}

func uidOf(ctx context.Context) (int, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return 0, false
	}
	info, ok := p.AuthInfo.(peerInfo)
	return info.uid, ok
}

type admin struct {
	pb.UnimplementedAdminServer
	o      Operator
	admins Admins
}

// by is the caller as the audit log names it; door has let it in.
func by(ctx context.Context) string { return actorOf(ctx).Name }

// Apply changes applied state.
func (a *admin) Apply(ctx context.Context, req *pb.ApplyRequest) (*pb.ChangeResult, error) {
	if n := len(req.GetPut()) + len(req.GetDelete()); n > maxObjects {
		return nil, fault.Invalidf("%d objects in one apply, at most %d", n, maxObjects)
	}
	if len(req.GetOwner()) > 128 {
		return nil, fault.Invalidf("owner: at most 128 bytes")
	}
	if w := req.GetWait(); w != nil && (!w.IsValid() || w.AsDuration() < 0 || w.AsDuration() > maxWait) {
		return nil, fault.Invalidf("wait: between 0s and %s", maxWait)
	}
	actor := actorOf(ctx)
	if err := mayApply(actor, req); err != nil {
		return nil, err
	}
	return a.o.Apply(ctx, actor, req)
}

// List shows applied state.
func (a *admin) List(ctx context.Context, req *pb.ListRequest) (*pb.ListResponse, error) {
	return a.o.List(ctx, req.GetKind(), req.GetName())
}

// AddNode makes a join line.
func (a *admin) AddNode(ctx context.Context, req *pb.AddNodeRequest) (*pb.AddNodeResponse, error) {
	return a.o.AddNode(ctx, by(ctx), req)
}

// ListNodes shows every node.
func (a *admin) ListNodes(ctx context.Context, _ *pb.ListNodesRequest) (*pb.ListNodesResponse, error) {
	nodes, err := a.o.ListNodes(ctx)
	return &pb.ListNodesResponse{Nodes: nodes}, err
}

// BanNode bans a node, or lifts the ban.
func (a *admin) BanNode(ctx context.Context, req *pb.BanNodeRequest) (*pb.ChangeResult, error) {
	return a.o.BanNode(ctx, by(ctx), req.GetName(), req.GetLift())
}

// RemoveNode forgets a node.
func (a *admin) RemoveNode(ctx context.Context, req *pb.RemoveNodeRequest) (*pb.ChangeResult, error) {
	return a.o.RemoveNode(ctx, by(ctx), req.GetName())
}

// ListIdentities shows what was issued and still holds.
func (a *admin) ListIdentities(ctx context.Context, _ *pb.ListIdentitiesRequest) (*pb.ListIdentitiesResponse, error) {
	ids, err := a.o.ListIdentities(ctx)
	return &pb.ListIdentitiesResponse{Identities: ids}, err
}

// Why explains decisions.
func (a *admin) Why(ctx context.Context, req *pb.WhyRequest) (*pb.WhyResponse, error) {
	if len(req.GetId()) > 64 {
		return nil, fault.Invalidf("decision id: 16 characters of a-z and 2-7")
	}
	decisions, err := a.o.Why(ctx, req)
	return &pb.WhyResponse{Decisions: decisions}, err
}

// Test says what would be decided.
func (a *admin) Test(ctx context.Context, req *pb.TestRequest) (*pb.Decision, error) {
	return a.o.Test(ctx, req)
}

// Flows shows what was asked of services, counted.
func (a *admin) Flows(ctx context.Context, req *pb.FlowsRequest) (*pb.FlowsResponse, error) {
	return a.o.Flows(ctx, req)
}

// Status shows the server's state.
func (a *admin) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	return a.o.Status(ctx)
}

// Watch streams events.
func (a *admin) Watch(req *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchEvent]) error {
	return a.o.Watch(stream.Context(), req, stream.Send)
}
