package workload

import (
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/pb/workloadpb"
)

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(text []byte, v any) error { *v.(*[]byte) = text; return nil }

// FuzzWorkloadAPI calls every method with any metadata and any bytes: nothing is
// answered without the security header, and nothing is an internal error.
func FuzzWorkloadAPI(f *testing.F) {
	e := start(f, newWorld(f), 0)
	service := workloadpb.SpiffeWorkloadAPI_ServiceDesc
	var methods []string
	for _, m := range service.Methods {
		methods = append(methods, "/"+service.ServiceName+"/"+m.MethodName)
	}
	for _, s := range service.Streams {
		methods = append(methods, "/"+service.ServiceName+"/"+s.StreamName)
	}
	for i := range methods {
		for _, header := range []string{"true", "", "TRUE", "true\x00", "true, true"} {
			f.Add(uint8(i), header, []byte{})
			f.Add(uint8(i), header, []byte{0x0a, 0x01, 0x61})
			f.Add(uint8(i), header, []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
		}
	}
	f.Fuzz(func(t *testing.T, method uint8, header string, message []byte) {
		if len(message) > 1<<20 || len(header) > 1<<20 {
			return // too much is gRPC's own to refuse
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), securityHeader, header), 100*time.Millisecond)
		defer cancel()
		name := methods[int(method)%len(methods)]
		err := func() error {
			stream, err := e.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, name, grpc.ForceCodec(rawCodec{}))
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
		}()
		if err == nil && header != "true" {
			t.Errorf("%s with %q: answered", name, header)
		}
		// A header that gRPC itself cannot send, or a message it cannot read, is
		// its own to refuse, as internal.
		if code := status.Code(err); code == codes.Unknown {
			t.Errorf("%s with %q and %x: %v", name, header, message, err)
		}
	})
}
