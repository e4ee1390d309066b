package agent

import (
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

// maxAnswers bounds the answers that wait for a slow server.
const maxAnswers = 64

// outbox is what waits to be sent to the server. It holds the latest of each
// kind, so it cannot grow while the server is away.
type outbox struct {
	wake chan struct{} // capacity 1

	mu        sync.Mutex
	ackOf     *pb.Ack           // guarded by mu, as is all below
	endpoints bool              // may have changed
	announced *pb.Endpoints     // as sent on this stream; nil for nothing yet
	answers   []*pb.SyncRequest // to queries of this stream
}

func (o *outbox) init() { o.wake = make(chan struct{}, 1) }

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// restart begins a new stream: all endpoints are to be sent, answers are void.
func (o *outbox) restart() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ackOf, o.endpoints, o.announced, o.answers = nil, true, nil, nil
	o.poke()
}

func (o *outbox) ack(ack *pb.Ack) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ackOf = ack
	o.poke()
}

func (o *outbox) endpointsChanged() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endpoints = true
	o.poke()
}

func (o *outbox) answer(a *pb.SyncRequest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.answers) < maxAnswers {
		o.answers = append(o.answers, a)
	}
	o.poke()
}

// next is what to send now, interest and acks first; nil for nothing.
func (o *outbox) next(i *interest, endpoints func() []*pb.LocalEndpoint) *pb.SyncRequest {
	if wanted := i.next(); wanted != nil {
		return &pb.SyncRequest{Message: &pb.SyncRequest_Interest{Interest: wanted}}
	}
	o.mu.Lock()
	ack, look := o.ackOf, o.endpoints
	var answer *pb.SyncRequest
	switch {
	case ack != nil:
		o.ackOf = nil
	case look:
		o.endpoints = false
	case len(o.answers) > 0:
		answer = o.answers[0] // before Delete clears its place
		o.answers = slices.Delete(o.answers, 0, 1)
	}
	o.mu.Unlock()
	switch {
	case ack != nil:
		return &pb.SyncRequest{Message: &pb.SyncRequest_Ack{Ack: ack}}
	case look:
		full := &pb.Endpoints{Endpoints: endpoints()} // without mu: it takes the points' lock
		if !o.announce(full) {
			return o.next(i, endpoints)
		}
		return &pb.SyncRequest{Message: &pb.SyncRequest_Endpoints{Endpoints: full}}
	case answer != nil:
		return answer
	}
	return nil
}

// announce notes a set as sent; false says that the server has it already.
func (o *outbox) announce(full *pb.Endpoints) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.announced != nil && proto.Equal(o.announced, full) {
		return false
	}
	o.announced = full
	return true
}
