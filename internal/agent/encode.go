package agent

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

// encoder encodes worlds one after the other. Objects that were in the one before
// are copied from it: encoding a hundred thousand again after each change of one
// cost more than all else that the change did.
type encoder struct {
	bytes []byte // a kith.v1.State; what is after its head are objects
	spans map[*pb.Object]span
}

// span is where an object lies in bytes, with its tag and length.
type span struct{ from, to int }

// state is a world as a message. The next call keeps what it gave.
func (e *encoder) state(w *world) ([]byte, error) {
	field := (&pb.State{}).ProtoReflect().Descriptor().Fields().ByName("objects").Number()
	next := encoder{bytes: make([]byte, 0, len(e.bytes)+len(e.bytes)/16), spans: make(map[*pb.Object]span, w.objects.Len())}
	var err error
	if next.bytes, err = (proto.MarshalOptions{}).MarshalAppend(next.bytes, w.head()); err != nil {
		return nil, err
	}
	for _, o := range w.objects.All() {
		from := len(next.bytes)
		if s, known := e.spans[o]; known {
			next.bytes = append(next.bytes, e.bytes[s.from:s.to]...)
		} else {
			next.bytes = protowire.AppendTag(next.bytes, field, protowire.BytesType)
			next.bytes = protowire.AppendVarint(next.bytes, uint64(proto.Size(o)))
			if next.bytes, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(next.bytes, o); err != nil {
				return nil, err
			}
		}
		next.spans[o] = span{from, len(next.bytes)}
	}
	*e = next
	return e.bytes, nil
}
