package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

// alone is a server that pushes a delta to all its streams and counts the acks,
// and does nothing else: what it costs is gRPC's, TLS's and the kernel's.
type alone struct {
	pb.UnimplementedNodeServer

	mu    sync.Mutex
	again chan struct{}    // closed and replaced to push once more; guarded by mu
	delta *pb.SyncResponse // guarded by mu
	acks  chan struct{}
}

func (a *alone) next() (chan struct{}, *pb.SyncResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.again, a.delta
}

// Sync pushes to one agent.
func (a *alone) Sync(stream grpc.BidiStreamingServer[pb.SyncRequest, pb.SyncResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	again, _ := a.next()
	if err := stream.Send(&pb.SyncResponse{Message: &pb.SyncResponse_Current{Current: &pb.Current{Interest: 1}}}); err != nil {
		return err
	}
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
			a.acks <- struct{}{}
		}
	}()
	for {
		select {
		case <-again:
		case <-stream.Context().Done():
			return nil
		}
		var delta *pb.SyncResponse
		again, delta = a.next()
		if err := stream.Send(delta); err != nil {
			return err
		}
	}
}

// push sends one change to n agents and waits for their acks.
func (a *alone) push(revision uint64, n int) error {
	raw, err := proto.Marshal(&pb.Delta{Revision: revision, Put: []*pb.Object{ruleObject("to-orders", "web", "orders", "GET /v"+strconv.FormatUint(revision, 10)+"/{**}")}})
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.delta = &pb.SyncResponse{Message: &pb.SyncResponse_Delta{Delta: &pb.EncodedDelta{Delta: raw}}}
	close(a.again)
	a.again = make(chan struct{})
	a.mu.Unlock()
	for range n {
		<-a.acks
	}
	return nil
}

// aloneRole serves it: alone <dir of certificates>. It says where, and then
// pushes once to so many agents for each number it reads.
func aloneRole(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("alone DIR")
	}
	config, err := mutualTLS(args[0])
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	a := &alone{again: make(chan struct{}), acks: make(chan struct{}, agentCount)}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)), grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10),
		grpc.StaticStreamWindowSize(1<<20), grpc.StaticConnWindowSize(1<<20)) // as kith server has them
	pb.RegisterNodeServer(server, a)
	defer context.AfterFunc(ctx, server.Stop)()
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	say := json.NewEncoder(os.Stdout)
	if err := say.Encode(l.Addr().String()); err != nil {
		return err
	}
	revision := uint64(0)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		revision++
		if err := errors.Join(a.push(revision, n), say.Encode(n)); err != nil {
			return err
		}
	}
	return nil
}

// aloneAgentsRole is its agents: alone-agents <dir> <address> <n>.
func aloneAgentsRole(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("alone-agents DIR ADDRESS N")
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	config, err := mutualTLS(args[0])
	if err != nil {
		return err
	}
	asAgents()
	clock, points := newClock(), make([]*point, n)
	if err := parallelN(n, 16, func(i int) error {
		conn, err := dialFrom(net.IPv4(127, 2, byte(i>>8), byte(i)), args[1], config)
		if err != nil {
			return err
		}
		points[i] = newPoint(clock, nil)
		return follow(ctx, conn, nil, points[i])
	}); err != nil {
		return err
	}
	return tellSince(points)
}
