package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/pb/workloadpb"
)

// bare is a Workload API that asks nobody anything: it sends the same message to
// whoever comes, and again to all at each SIGHUP. What it costs is gRPC's.
type bare struct {
	workloadpb.UnimplementedSpiffeWorkloadAPIServer

	mu    sync.Mutex
	again chan struct{} // closed and replaced to send once more; guarded by mu
}

func (b *bare) next() chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.again
}

// FetchX509SVID sends a message of the size that an agent's has.
func (b *bare) FetchX509SVID(_ *workloadpb.X509SVIDRequest, stream grpc.ServerStreamingServer[workloadpb.X509SVIDResponse]) error {
	message := &workloadpb.X509SVIDResponse{Svids: []*workloadpb.X509SVID{{
		SpiffeId: "spiffe://bench.example/vms/u61001", X509Svid: make([]byte, 1100), X509SvidKey: make([]byte, 138), Bundle: make([]byte, 500),
	}}}
	for {
		again := b.next()
		if err := stream.Send(message); err != nil {
			return err
		}
		select {
		case <-again:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// FetchJWTSVID answers with a token of the size that an agent's has.
func (b *bare) FetchJWTSVID(context.Context, *workloadpb.JWTSVIDRequest) (*workloadpb.JWTSVIDResponse, error) {
	return &workloadpb.JWTSVIDResponse{Svids: []*workloadpb.JWTSVID{{SpiffeId: "spiffe://bench.example/vms/u0", Svid: strings.Repeat("t", 400)}}}, nil
}

// bareRole serves it: bare <socket>.
func bareRole(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("bare SOCKET")
	}
	b := &bare{again: make(chan struct{})}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	if err := os.Chmod(args[0], 0o666); err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ReadBufferSize(256), grpc.WriteBufferSize(4<<10),
		grpc.StaticStreamWindowSize(1<<16), grpc.StaticConnWindowSize(1<<18)) // as kith agent has them
	workloadpb.RegisterSpiffeWorkloadAPIServer(server, b)
	go func() {
		for range hangup {
			b.mu.Lock()
			close(b.again)
			b.again = make(chan struct{})
			b.mu.Unlock()
		}
	}()
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return server.Serve(l)
}
