package server_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/platform/proof"
	"github.com/kith-id/kith/spiffe"
)

// line makes a join line.
func (r *rig) line(name string) string {
	r.t.Helper()
	added, err := r.s.AddNode(r.t.Context(), "test", &pb.AddNodeRequest{Name: name, Class: "vms"})
	if err != nil {
		r.t.Fatalf("AddNode: %v", err)
	}
	return added.GetJoin()
}

// clientExchange is the applicant's end of the admission stream.
type clientExchange struct {
	stream grpc.BidiStreamingClient[pb.AttestRequest, pb.AttestResponse]
}

func (x clientExchange) Send(_ context.Context, m []byte) error {
	return sent(x.stream.Send(&pb.AttestRequest{Step: &pb.AttestRequest_Payload{Payload: m}}))
}

// sent forgives what was sent after the server had ended the stream: Recv says why
// it did.
func sent(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (x clientExchange) Recv(context.Context) ([]byte, error) {
	in, err := x.stream.Recv()
	return in.GetPayload(), err
}

// attestBy runs one attestation over its own pinned connection.
func (r *rig) attestBy(line, method string, key *ecdsa.PrivateKey, prover func(token string) attest.Prover) (*pb.Admitted, error) {
	r.t.Helper()
	addr, token, config := pinned(r.t, line, r.clock.Now)
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	stream, err := pb.NewAdmissionClient(conn).Attest(ctx)
	if err != nil {
		return nil, api.FromWire(err)
	}
	hello := &pb.Hello{Method: method, Csr: csrOf(r.t, key), Version: "test"}
	if err := sent(stream.Send(&pb.AttestRequest{Step: &pb.AttestRequest_Hello{Hello: hello}})); err != nil {
		return nil, err
	}
	server, err := spiffe.NewID(r.s.TrustDomain(), "/kith/server/one")
	if err != nil {
		return nil, err
	}
	ex := attest.Bind(clientExchange{stream}, attest.Bindings{Server: server, Key: key.Public()})
	if err := prover(token).Prove(ctx, ex); err != nil {
		return nil, api.FromWire(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, api.FromWire(err)
	}
	return answer.GetAdmitted(), nil
}

func byToken(t testing.TB) func(string) attest.Prover {
	return func(text string) attest.Prover {
		token, err := proof.ParseToken(text)
		if err != nil {
			t.Errorf("token: %v", err)
		}
		return proof.TokenProver{Token: token}
	}
}

func byKey(key *ecdsa.PrivateKey) func(string) attest.Prover {
	return func(string) attest.Prover { return proof.KeyProver{Key: key} }
}
