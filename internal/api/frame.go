package api

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // what codec stands on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

// Frame is a message that goes to many streams and is encoded once. Each stream
// still compresses it as its peer asked: no peer can spoil another's.
type Frame struct{ encoded mem.BufferSlice }

// NewFrame encodes a message. The message may change afterwards.
func NewFrame(message *pb.SyncResponse) (*Frame, error) {
	encoded, err := proto.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("marshal message to agents: %w", err)
	}
	return &Frame{mem.BufferSlice{mem.SliceBuffer(encoded)}}, nil
}

// Len is how many bytes it has.
func (f *Frame) Len() int { return f.encoded.Len() }

// codec is the protobuf codec that takes a Frame as it is.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal encodes what has not been encoded before.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*Frame); ok {
		return f.encoded, nil
	}
	return c.CodecV2.Marshal(v)
}

// syncLink is a sync stream that frames can be sent on.
type syncLink struct{ syncStream }

// SendFrame sends a message that was encoded before.
func (l syncLink) SendFrame(f *Frame) error { return l.SendMsg(f) }
