package agent

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/workload"
)

const (
	maxRequest  = 4 << 20 // a report of decisions
	maxMetadata = 4 << 10
	maxStreams  = 256 // of one connection

	// workers keep their stacks from one call to the next: a new goroutine has to
	// grow its own twice in each fetch. A stream that stays open keeps the worker it
	// has; when there is none left, a call has a goroutine of its own.
	workers = 32
)

// serve answers on the socket until ctx ends.
func (a *Agent) serve(ctx context.Context, l *socket, identities *workload.Service) error {
	server := grpc.NewServer(append(identities.ServerOptions(a.cfg.Streams),
		grpc.Creds(workload.LimitConnections(a.cfg.Credentials, 0, a.refusals.add)),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxHeaderListSize(maxMetadata),
		grpc.HeaderTableSize(0), // most connections have one call: a table of its headers would be kept for nothing
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(5*time.Second),
		grpc.NumStreamWorkers(workers),
		// Proxies that are told to keep connections alive ask every few seconds.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// Most connections are silent: a small buffer to read into, and one to write
		// from only while writing.
		grpc.ReadBufferSize(256),
		grpc.WriteBufferSize(4<<10),        // each stream of a fan-out has one for a moment
		grpc.StaticStreamWindowSize(1<<16), // without the pings that estimate one
		grpc.StaticConnWindowSize(1<<18),
	)...)
	workloadpb.RegisterSpiffeWorkloadAPIServer(server, identities)
	envoypb.RegisterSecretDiscoveryServiceServer(server, workload.NewSecrets(identities))
	envoypb.RegisterAuthorizationServer(server, a.questions)
	pb.RegisterEnforcementServer(server, &enforcement{a: a})
	pb.RegisterInspectionServer(server, &inspection{a: a})
	reflection.Register(server) // Workload Endpoint 7
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	a.cfg.Log.Info("agent serving", "socket", a.cfg.Socket)
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", a.cfg.Socket, err)
	case <-ctx.Done():
	}
	// The points that go now will be back: the cache keeps where they answered.
	endpoints := a.localEndpoints()
	a.savingPoints.Lock() // a write that is under way ends first, later ones do nothing
	a.frozen.Store(&endpoints)
	a.savingPoints.Unlock()
	// Streams here never end by themselves, and every client attaches again: a
	// graceful stop would only be a slower one.
	server.Stop()
	<-served
	return nil
}
