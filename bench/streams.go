package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/kith-id/kith/internal/pb/workloadpb"
)

// arrivals is when messages came: the first and the last of so many, on the
// clock all processes share.
type arrivals struct {
	First, Last time.Duration
	SVIDs       int // of the last message
}

// inbox counts messages of all streams of this process.
type inbox struct {
	mu    sync.Mutex
	moved *sync.Cond
	got   []arrivals // one for each message not yet taken
}

func (in *inbox) add(a arrivals) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.got = append(in.got, a)
	in.moved.Signal()
}

// take waits for n messages.
func (in *inbox) take(n int) arrivals {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.got) < n {
		in.moved.Wait()
	}
	all := arrivals{First: in.got[0].First, SVIDs: in.got[n-1].SVIDs}
	for _, a := range in.got[:n] {
		all.First, all.Last = min(all.First, a.First), max(all.Last, a.First)
	}
	in.got = in.got[n:]
	return all
}

// streamsRole opens streams, each over its own connection: streams <socket> <n>.
// For each line "expect <n>" of its standard input it waits for n messages and
// says when they came. It begins with the n first ones.
func streamsRole(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("streams SOCKET N")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	in := &inbox{}
	in.moved = sync.NewCond(&in.mu)
	for range n {
		stream, _, err := openStream(ctx, args[0])
		if err != nil {
			return err
		}
		go func() {
			for {
				message, err := stream.Recv()
				if err != nil {
					return
				}
				in.add(arrivals{First: monotonic(), SVIDs: len(message.GetSvids())})
			}
		}()
	}
	say := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		count, ok := strings.CutPrefix(lines.Text(), "expect ")
		n, err := strconv.Atoi(count)
		if !ok || err != nil {
			return errors.New("want: expect N")
		}
		if err := say.Encode(in.take(n)); err != nil {
			return err
		}
	}
	return nil
}

// openStream opens one stream over a new connection.
func openStream(ctx context.Context, socket string) (grpc.ServerStreamingClient[workloadpb.X509SVIDResponse], *grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	return stream, conn, err
}

// connectionsRole opens connections over which nothing is asked, connections
// <socket> <n>, says how many, and keeps them until its standard input ends.
func connectionsRole(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("connections SOCKET N")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range n {
		conn, err := grpc.NewClient("unix://"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithIdleTimeout(0))
		if err != nil {
			return err
		}
		conn.Connect()
		for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
			if !conn.WaitForStateChange(ctx, state) {
				return ctx.Err()
			}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(n); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
