//go:build parties

package parties

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/kith-id/kith/test/lab"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

func grpcServer(port string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, echoServer{})
	return s.Serve(l)
}

// echoServer answers gRPC's published interop service.
type echoServer struct {
	testgrpc.UnimplementedTestServiceServer
}

func payload(size int32) *testgrpc.Payload { return &testgrpc.Payload{Body: make([]byte, size)} }

func (echoServer) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	return &testgrpc.Empty{}, nil
}

func (echoServer) UnaryCall(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return &testgrpc.SimpleResponse{Payload: payload(in.GetResponseSize())}, nil
}

func (echoServer) FullDuplexCall(stream testgrpc.TestService_FullDuplexCallServer) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, p := range in.GetResponseParameters() {
			if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: payload(p.GetSize())}); err != nil {
				return err
			}
		}
	}
}

// grpcClient is an ordinary grpc-go client: it finds the proxy in its
// environment and sends CONNECT by itself.
func grpcClient(target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	if _, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: 1000}); err != nil {
		fmt.Println("unary", status.Code(err), status.Convert(err).Message())
	} else {
		fmt.Println("unary OK")
	}
	if err := bidirectional(ctx, client); err != nil {
		fmt.Println("stream", status.Code(err))
	} else {
		fmt.Println("stream OK")
	}
	_, err = client.EmptyCall(ctx, &testgrpc.Empty{})
	fmt.Println("empty", status.Code(err))
	return nil
}

func bidirectional(ctx context.Context, client testgrpc.TestServiceClient) error {
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for i := range 50 {
		if err := stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: int32(i + 1)}}}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		in, err := stream.Recv()
		if err != nil {
			return err
		}
		if got := len(in.GetPayload().GetBody()); got != i+1 {
			return status.Errorf(codes.DataLoss, "message %d: got %d bytes", i, got)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("end of stream: got %w, want EOF", err)
	}
	return nil
}

func TestGRPCUnaryAndBidirectionalThroughConnect(t *testing.T) {
	h := dev(t)
	port := lab.Port(t)
	h.Kith("services", "add", "ledger", "--protocol", "grpc")
	serve(t, h, "ledger", port, self("grpc-server", strconv.Itoa(port))...)
	h.Kith("allow", "web", "grpc grpc.testing.TestService/UnaryCall", "on", "ledger")
	h.Kith("allow", "web", "grpc grpc.testing.TestService/FullDuplexCall", "on", "ledger")

	r := as(h, "web", self("grpc-client", "ledger:50051")...)
	want(t, "unary", r, 0, "unary OK\n")
	want(t, "bidirectional", r, 0, "stream OK\n")
	want(t, "a method no rule allows", r, 0, "empty PermissionDenied\n")
	r = as(h, "reporting", self("grpc-client", "ledger:50051")...)
	want(t, "another caller", r, 0, "unary PermissionDenied")
	want(t, "another caller", r, 0, "stream PermissionDenied")
	if why := h.Kith("why", "last", "--denied"); !strings.Contains(why, `kith allow reporting "grpc grpc.testing.TestService/EmptyCall" on ledger`) {
		t.Errorf("kith why does not name the gRPC method to allow:\n%s", why)
	}
}

func wsServer(port string) error {
	return http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, msg, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, append([]byte("echo "), msg...)); err != nil {
				return
			}
		}
	}))
}

// wsClient echoes until the server goes away, or once with "once URL".
func wsClient(target string) error {
	once := strings.HasPrefix(target, "once ")
	target = strings.TrimPrefix(target, "once ")
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, target, nil)
	if err != nil {
		if resp != nil {
			fmt.Println("refused", resp.StatusCode)
			return nil
		}
		return err
	}
	defer c.CloseNow()
	for i := 0; ; i++ {
		if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			fmt.Println("cut")
			return nil
		}
		_, msg, err := c.Read(ctx)
		if err != nil {
			fmt.Println("cut")
			return nil
		}
		if i == 0 {
			fmt.Println(string(msg))
		}
		if once {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestWebSocketEchoAndCut(t *testing.T) {
	h := dev(t)
	port := lab.Port(t)
	serve(t, h, "chat", port, self("ws-server", strconv.Itoa(port))...)
	want(t, "before any rule", as(h, "web", self("ws-client", "once ws://chat/room")...), 0, "refused 403")
	h.Kith("allow", "web", "GET /room", "on", "chat")
	want(t, "allowed", as(h, "web", self("ws-client", "once ws://chat/room")...), 0, "echo hello")

	open := h.Start("kith", append([]string{"run", "--as", "web", "--"}, self("ws-client", "ws://chat/room")...)...)
	lab.Eventually(t, 20*time.Second, "the open socket echoes", func() error {
		if !strings.Contains(open.Output(), "echo hello") {
			return errors.New(open.Output())
		}
		return nil
	})
	h.Kith("deny", "web", "GET /room", "on", "chat")
	lab.Eventually(t, 5*time.Second, "the open socket is cut", func() error {
		if !strings.Contains(open.Output(), "cut") {
			return errors.New(open.Output())
		}
		return nil
	})
}
