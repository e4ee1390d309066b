package workload

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// ServerOptions is what the gRPC server of a Service must be made with: a guard
// that allows each user so many streams and calls at a time (0 is 512), and the
// codec that sends what was encoded before.
func (s *Service) ServerOptions(streams int) []grpc.ServerOption {
	guard := newGuard(streams, s.hands)
	return []grpc.ServerOption{
		grpc.StreamInterceptor(guard.stream),
		grpc.UnaryInterceptor(guard.unary),
		wireOption(),
	}
}

// wireOption is the codec.
func wireOption() grpc.ServerOption {
	return grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name)})
}

// encoded is a message in its wire form, which many streams are sent.
type encoded []byte

// codec is protobuf's, but for what is encoded already.
type codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2. The bytes are shared, and nobody writes
// to them: a SliceBuffer goes back to no pool.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if done, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(done)}, nil
	}
	return c.CodecV2.Marshal(v)
}
