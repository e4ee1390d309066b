// Command gospiffebroker is a broker made with the peer library: it takes its own
// SVID from the Workload API, calls the Broker API at SPIFFE_BROKER_SOCKET by
// mutual TLS with the node it expects, and for each line of standard input, a
// process id, prints whose SVID it got or the code and reason of the refusal. With
// "watch PID" it stays until the stream ends. It is a program of its own because
// both sides register the standard's messages under the same names.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/exp/proto/spiffe/broker"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx) // finds SPIFFE_ENDPOINT_SOCKET
	if err != nil {
		return err
	}
	defer source.Close()
	node, err := spiffeid.FromString(os.Args[1])
	if err != nil {
		return err
	}
	creds := grpccredentials.MTLSClientCredentials(source, source, tlsconfig.AuthorizeID(node))
	conn, err := grpc.NewClient(os.Getenv("SPIFFE_BROKER_SOCKET"), grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	api := broker.NewAPIClient(conn)
	ctx = metadata.AppendToOutgoingContext(ctx, "broker.spiffe.io", "true")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		text, watch := strings.CutPrefix(lines.Text(), "watch ")
		pid, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return err
		}
		subscribe(ctx, api, int32(pid), watch)
	}
	return nil
}

// subscribe prints one line for the first message and, if it is to watch, one for
// what ends the stream.
func subscribe(ctx context.Context, api broker.APIClient, pid int32, watch bool) {
	packed, err := anypb.New(&broker.WorkloadPIDReference{Pid: pid})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.SubscribeToX509SVID(ctx, &broker.SubscribeToX509SVIDRequest{Reference: &broker.WorkloadReference{Reference: packed}})
	if err != nil {
		fmt.Println(refusal(err))
		return
	}
	first, err := stream.Recv()
	if err != nil {
		fmt.Println(refusal(err))
		return
	}
	var ids []string
	for _, svid := range first.GetSvids() {
		ids = append(ids, svid.GetSpiffeId())
	}
	fmt.Println(strings.Join(ids, " "))
	for watch {
		if _, err := stream.Recv(); err != nil {
			fmt.Println(refusal(err))
			return
		}
	}
}

func refusal(err error) string {
	s := status.Convert(err)
	reason := "-"
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetDomain() + " " + info.GetReason()
		}
	}
	return s.Code().String() + " " + reason
}
