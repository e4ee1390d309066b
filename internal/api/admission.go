package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

const (
	maxPayload  = attest.MaxMessage
	maxMessages = 16 // of the applicant; the longest proof known takes four
)

type admission struct {
	pb.UnimplementedAdmissionServer
	p *Public
}

// Attest runs one attestation: hello, the method's own exchange, the answer.
func (a *admission) Attest(stream grpc.BidiStreamingServer[pb.AttestRequest, pb.AttestResponse]) error {
	ctx, cancel := context.WithTimeout(stream.Context(), attestDeadline)
	defer cancel()
	remote := remoteOf(ctx)
	if !a.p.limiter.allow(remote) {
		return fault.Hint(Away{errors.New("too many attestations at the moment")}, "try again in a few seconds")
	}
	ex := newExchange(ctx, stream)
	hello, err := ex.hello(ctx)
	if err != nil {
		return err
	}
	if len(hello.GetMethod()) > 64 || len(hello.GetVersion()) > 64 {
		return fault.Invalidf("hello: method and version have at most 64 bytes")
	}
	key, err := keyOf(hello.GetCsr())
	if err != nil {
		return err
	}
	admitted, err := a.p.cfg.Admitter.Admit(ctx, Applicant{
		Method:  hello.GetMethod(),
		Key:     key,
		Version: hello.GetVersion(),
		Remote:  remote.String(),
	}, ex)
	if err != nil {
		return err
	}
	return stream.Send(&pb.AttestResponse{Step: &pb.AttestResponse_Admitted{Admitted: admitted}})
}

// exchange is an attest.Exchange over the stream. A reader of its own lets Recv
// give up at the deadline; it ends when the handler has returned.
type exchange struct {
	stream grpc.BidiStreamingServer[pb.AttestRequest, pb.AttestResponse]
	in     chan received
}

type received struct {
	req *pb.AttestRequest
	err error
}

func newExchange(ctx context.Context, stream grpc.BidiStreamingServer[pb.AttestRequest, pb.AttestResponse]) *exchange {
	e := &exchange{stream: stream, in: make(chan received)}
	go func() {
		for range maxMessages {
			req, err := stream.Recv()
			select {
			case e.in <- received{req, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
		select {
		case e.in <- received{nil, fault.Invalidf("more than %d messages in one attestation", maxMessages)}:
		case <-ctx.Done():
		}
	}()
	return e
}

func (e *exchange) next(ctx context.Context) (*pb.AttestRequest, error) {
	select {
	case r := <-e.in:
		if errors.Is(r.err, io.EOF) {
			return nil, fault.Invalidf("attestation ended early")
		}
		return r.req, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the applicant: %w", ctx.Err())
	}
}

func (e *exchange) hello(ctx context.Context) (*pb.Hello, error) {
	req, err := e.next(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetHello() == nil {
		return nil, fault.Invalidf("the first message of an attestation is hello")
	}
	return req.GetHello(), nil
}

// Recv is the applicant's next payload.
func (e *exchange) Recv(ctx context.Context) ([]byte, error) {
	req, err := e.next(ctx)
	if err != nil {
		return nil, err
	}
	payload, ok := req.GetStep().(*pb.AttestRequest_Payload)
	if !ok {
		return nil, fault.Invalidf("a second hello in one attestation")
	}
	if len(payload.Payload) > maxPayload {
		return nil, fault.Invalidf("attestation payload of %d bytes, at most %d are read", len(payload.Payload), maxPayload)
	}
	return payload.Payload, nil
}

// Send gives the applicant the verifier's message.
func (e *exchange) Send(ctx context.Context, payload []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.stream.Send(&pb.AttestResponse{Step: &pb.AttestResponse_Payload{Payload: payload}})
}

func remoteOf(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
