package proxytest

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/pb"
)

// workloadAPI is the one method of the SPIFFE Workload API the SDK calls, with
// the SDK's messages: a test that links this kit may link go-spiffe as well.
func workloadAPI() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "SpiffeWorkloadAPI", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "FetchX509SVID", ServerStreams: true, Handler: func(agent any, stream grpc.ServerStream) error {
			if err := stream.RecvMsg(&pb.X509SVIDRequest{}); err != nil {
				return err
			}
			return agent.(*Agent).fetchX509SVID(stream)
		}}},
	}
}

// fetchX509SVID issues what the connection has claimed.
func (a *Agent) fetchX509SVID(stream grpc.ServerStream) error {
	ctx := stream.Context()
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	as, err := a.claim(ctx)
	if err != nil {
		return err
	}
	return a.push(ctx, func() error {
		svid := a.CA.Issue(fmt.Sprintf("spiffe://%s/dev/%s", Domain, as))
		key, err := svid.MarshalKey()
		if err != nil {
			return err
		}
		a.mu.Lock()
		federated := a.federated // replaced, not changed
		a.mu.Unlock()
		return stream.SendMsg(&pb.X509SVIDResponse{FederatedBundles: federated, Svids: []*pb.X509SVID{{
			SpiffeId: svid.ID.String(), X509Svid: svid.MarshalChain(), X509SvidKey: key, Bundle: a.CA.Roots(),
		}}})
	}, func() uint64 { return a.identity })
}

// claim waits for what the connection claims.
func (a *Agent) claim(ctx context.Context) (string, error) {
	me := ctx.Value(linkKey{}).(*link)
	select {
	case <-me.announced:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if me.as == "nobody" {
		return "", status.Error(codes.PermissionDenied, "no identity issued")
	}
	return me.as, nil
}

// SocketOf is one more socket of the agent, for libraries that claim nothing:
// who connects to it gets the identity of that service.
func (a *Agent) SocketOf(service string) string {
	a.t.Helper()
	socket := a.Socket + "." + service
	l, err := net.Listen("unix", socket)
	if err != nil {
		a.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.StatsHandler(linker{a, service}), grpc.WaitForHandlers(true))
	server.RegisterService(workloadAPI(), a)
	go server.Serve(l)
	a.t.Cleanup(server.Stop)
	return socket
}
