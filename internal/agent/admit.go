package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/spiffe"
)

const (
	attestTimeout = 20 * time.Second
	renewTimeout  = 10 * time.Second
)

// clientExchange is an attest.Exchange over the admission stream.
type clientExchange struct {
	stream grpc.BidiStreamingClient[pb.AttestRequest, pb.AttestResponse]
}

func (x clientExchange) Send(_ context.Context, message []byte) error {
	err := x.stream.Send(&pb.AttestRequest{Step: &pb.AttestRequest_Payload{Payload: message}})
	if errors.Is(err, io.EOF) { // the reason is on the receiving side
		_, err = x.stream.Recv()
	}
	return err
}

func (x clientExchange) Recv(context.Context) ([]byte, error) {
	in, err := x.stream.Recv()
	if err != nil {
		return nil, err
	}
	payload, ok := in.GetStep().(*pb.AttestResponse_Payload)
	if !ok {
		return nil, fault.Invalidf("the server ended the attestation early")
	}
	if len(payload.Payload) > attest.MaxMessage {
		return nil, fault.Invalidf("attestation message of %d bytes", len(payload.Payload))
	}
	return payload.Payload, nil
}

// attestNode runs one attestation over a connection of its own. Each pin is
// tried in turn: the trust domain may have more than one root.
func (a *Agent) attestNode(ctx context.Context, method string, prover attest.Prover, at *standing) (*standing, error) {
	pins := []spiffe.Pin{at.pin}
	if at.admitted() {
		pins = pins[:0]
		for _, root := range at.bundle.Roots() {
			pins = append(pins, spiffe.PinOf(root))
		}
	}
	var err error
	for _, pin := range pins {
		var next *standing
		if next, err = a.attestPinned(ctx, method, prover, at, pin); err == nil {
			return next, nil
		}
	}
	return nil, err
}

func (a *Agent) attestPinned(ctx context.Context, method string, prover attest.Prover, at *standing, pin spiffe.Pin) (*standing, error) {
	ctx, cancel := context.WithTimeout(ctx, attestTimeout)
	defer cancel()
	up, err := dial(at.server, spiffe.PinnedClientTLS(pin, a.cfg.Now, isServer(at.domain())))
	if err != nil {
		return nil, err
	}
	defer up.Close()
	csr, err := newCSR(a.key)
	if err != nil {
		return nil, err
	}
	stream, err := pb.NewAdmissionClient(up).Attest(ctx)
	if err != nil {
		return nil, up.explain(err, a.cfg.Now())
	}
	server, _ := up.shake.get()
	hello := &pb.Hello{Method: method, Csr: csr, Version: a.cfg.Version}
	if err := stream.Send(&pb.AttestRequest{Step: &pb.AttestRequest_Hello{Hello: hello}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, up.explain(err, a.cfg.Now())
	}
	exchange := attest.Bind(clientExchange{stream}, attest.Bindings{Server: server, Key: a.key.Public()})
	if err := prover.Prove(ctx, exchange); err != nil {
		return nil, up.explain(asStatus(err), a.cfg.Now())
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, up.explain(err, a.cfg.Now())
	}
	admitted := answer.GetAdmitted()
	if admitted == nil {
		return nil, fmt.Errorf("server %s asks for more than %s proves", server, method)
	}
	return at.admit(admitted, server, a.key, a.cfg.Now())
}

// asStatus finds the gRPC error below a prover's own words.
func asStatus(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return s.Err()
	}
	return err
}

// enter brings the node into the trust domain: with the join proof the first
// time. A join token that was used by this very node, whose answer got lost,
// is made good by the node key it is bound to.
func (a *Agent) enter(ctx context.Context) error {
	at := a.standing.Load()
	if at.server == "" {
		return errNotJoined()
	}
	var err error
	if a.cfg.Join != nil {
		next, joinErr := a.attestNode(ctx, a.cfg.JoinMethod, a.cfg.Join, at)
		if joinErr == nil {
			return a.take(next, "node attested", a.cfg.JoinMethod)
		}
		err = joinErr
		if !fault.Is(err, fault.Denied) {
			return fmt.Errorf("join: %w", err)
		}
	}
	next, keyErr := a.attestNode(ctx, attest.NodeKey, a.cfg.Rejoin(a.key), at)
	if keyErr == nil {
		return a.take(next, "node attested", attest.NodeKey)
	}
	if err == nil {
		return errors.Join(errNotJoined(), keyErr)
	}
	return fault.Hint(fmt.Errorf("join: %w", err),
		"a token works once and for ten minutes; make another on the server: kith nodes add NAME --class CLASS")
}

// take keeps a new standing, on disk first.
func (a *Agent) take(next *standing, event, method string) error {
	data, err := next.marshal()
	if err != nil {
		return fmt.Errorf("keep node svid: %w", err)
	}
	if err := a.files.write(a.files.node(), data); err != nil {
		// The SVID is good all the same; after a restart the node rejoins.
		a.cfg.Log.Warn("node svid not kept", "error", err)
	}
	a.standing.Store(next)
	a.standingChanged.notify()
	a.cfg.Log.Info(event, "node", next.node, "class", next.class, "method", method,
		"spiffe_id", next.svid.ID.String(), "expires", next.svid.Expiry().UTC())
	return nil
}

// keepStanding renews the node SVID at half its life, and rejoins by the node
// key when it has expired or the server no longer takes it.
func (a *Agent) keepStanding(ctx context.Context) error {
	pause := run.Backoff{Min: 200 * time.Millisecond, Max: 5 * time.Second}
	said := ""
	for {
		at := a.standing.Load()
		life := at.svid.Expiry().Sub(at.obtained)
		due := at.obtained.Add(life/2 - rand.N(life/10+1))
		wait := due.Sub(a.cfg.Now())
		rejoin := false
		if wait > 0 {
			timer := time.NewTimer(min(wait, time.Minute)) // a host that slept looks again soon
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-a.unproven:
				rejoin = true
			case <-timer.C:
			}
			timer.Stop()
			if !rejoin && a.cfg.Now().Before(due) {
				continue
			}
		}
		if err := a.renewStanding(ctx, at, rejoin || at.expired(a.cfg.Now())); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			a.contact.failed(err)
			if text := err.Error(); text != said {
				said = text
				a.cfg.Log.Warn("node svid not renewed", "error", err, "hint", fault.HintOf(err), "expires", at.svid.Expiry().UTC())
			}
			if pause.Wait(ctx) != nil {
				return nil
			}
			continue
		}
		pause.Reset()
		said = ""
	}
}

func (a *Agent) renewStanding(ctx context.Context, at *standing, rejoin bool) error {
	if !rejoin {
		err := a.renewOnline(ctx, at)
		var unproven api.Unproven
		if !errors.As(err, &unproven) {
			return err
		}
	}
	next, err := a.attestNode(ctx, attest.NodeKey, a.cfg.Rejoin(a.key), at)
	if err != nil {
		return fmt.Errorf("rejoin: %w", err)
	}
	return a.take(next, "node rejoined", attest.NodeKey)
}

func (a *Agent) renewOnline(ctx context.Context, at *standing) error {
	csr, err := newCSR(a.key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	in, err := pb.NewNodeClient(a.up).RenewNode(ctx, &pb.RenewNodeRequest{Csr: csr})
	if err != nil {
		return a.up.explain(err, a.cfg.Now())
	}
	server, err := a.up.shake.get()
	if err != nil || server.IsZero() {
		server = at.svid.ID.TrustDomain().ID()
	}
	next, err := at.admit(in, server, a.key, a.cfg.Now())
	if err != nil {
		return err
	}
	return a.take(next, "node svid renewed", "mtls")
}
