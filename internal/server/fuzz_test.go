package server_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(text []byte, v any) error { *v.(*[]byte) = text; return nil }

// everyMethod is all methods of the server's three services.
func everyMethod() []string {
	var all []string
	for _, service := range []grpc.ServiceDesc{pb.Admission_ServiceDesc, pb.Node_ServiceDesc, pb.Admin_ServiceDesc} {
		for _, m := range service.Methods {
			all = append(all, "/"+service.ServiceName+"/"+m.MethodName)
		}
		for _, s := range service.Streams {
			all = append(all, "/"+service.ServiceName+"/"+s.StreamName)
		}
	}
	return all
}

// FuzzDispatch sends any bytes to any method. Nobody in particular gets nothing;
// an operator gets an answer or an error of a kind, never a crash.
func FuzzDispatch(f *testing.F) {
	r := start(f, nil)
	anyone := func(spiffe.ID) error { return nil }
	dial := func(target string, creds credentials.TransportCredentials) *grpc.ClientConn {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() { conn.Close() })
		return conn
	}
	nobody := dial("passthrough:///"+r.s.Addr(), credentials.NewTLS(spiffe.PinnedClientTLS(r.s.Pin(), r.clock.Now, anyone)))
	operator := dial("unix://"+r.cfg.AdminSocket, insecure.NewCredentials())
	all := everyMethod()
	for i := range all {
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	}
	for _, m := range []proto.Message{
		&pb.ApplyRequest{Put: shop()}, &pb.AddNodeRequest{Name: "n", Class: "vms"}, &pb.WhyRequest{Id: "last"}, &pb.TestRequest{From: "web", To: "orders"},
		&pb.AttestRequest{Step: &pb.AttestRequest_Hello{Hello: &pb.Hello{Method: "join_token"}}}, &pb.SignWorkloadsRequest{Csrs: []*pb.WorkloadCSR{{Rule: "as"}}},
	} {
		text, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for i := range all {
			f.Add(uint8(i), text)
		}
	}
	f.Fuzz(func(t *testing.T, method uint8, message []byte) {
		name := all[int(method)%len(all)]
		if err := send(t, nobody, name, message); err == nil {
			t.Errorf("%s answers nobody in particular", name)
		}
		// What is no message is gRPC's own to refuse, as internal.
		said := status.Convert(send(t, operator, name, message))
		if code := said.Code(); code == codes.Unknown || code == codes.Internal && !strings.Contains(said.Message(), "unmarshal") {
			t.Errorf("%s with %x: %s", name, message, said.Message())
		}
	})
}

// send makes one call and waits for its first answer, or a moment.
func send(t *testing.T, conn *grpc.ClientConn, method string, message []byte) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&message); err != nil && err != io.EOF {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var answer []byte
	return stream.RecvMsg(&answer)
}
