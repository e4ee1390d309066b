package attest

import (
	"context"
	"io"
	"sync"

	"github.com/kith-id/kith/internal/fault"
)

// End is one end of a Pipe. Close ends both ends: the other one reads what was
// sent before and then io.EOF.
type End struct {
	send chan<- []byte
	recv <-chan []byte
	done chan struct{}
	once *sync.Once
}

// Pipe connects a Prover and a Verifier in memory, without a network. Messages
// are copied; a few are buffered, so that a half may send and go.
func Pipe() (agent, server *End) {
	up, down := make(chan []byte, 4), make(chan []byte, 4)
	done, once := make(chan struct{}), new(sync.Once)
	return &End{send: up, recv: down, done: done, once: once},
		&End{send: down, recv: up, done: done, once: once}
}

// Send hands a message over.
func (e *End) Send(ctx context.Context, message []byte) error {
	if len(message) > MaxMessage {
		return fault.Invalidf("attestation message of %d bytes, at most %d", len(message), MaxMessage)
	}
	select {
	case <-e.done:
		return io.ErrClosedPipe
	default:
	}
	select {
	case e.send <- append([]byte{}, message...):
		return nil
	case <-e.done:
		return io.ErrClosedPipe
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Recv waits for a message.
func (e *End) Recv(ctx context.Context) ([]byte, error) {
	select {
	case m := <-e.recv:
		return m, nil
	default:
	}
	select {
	case m := <-e.recv:
		return m, nil
	case <-e.done:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the exchange; it may be called often.
func (e *End) Close() error {
	e.once.Do(func() { close(e.done) })
	return nil
}
