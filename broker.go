package kith

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	brokerService = "/spiffe.broker.API/"
	brokerHeader  = "broker.spiffe.io" // Broker Endpoint 3: without it an endpoint refuses
	brokerWait    = 10 * time.Second
)

// BrokerConfig says which SPIFFE Broker Endpoint to call.
type BrokerConfig struct {
	// Endpoint is where it is: unix:///path, or tcp://host:port. Empty: what the
	// environment has in SPIFFE_BROKER_SOCKET.
	Endpoint string
	// Expect is the ID that the endpoint must prove. The zero ID is that of this
	// node's agent; over TCP there is no such guess, and it must be given.
	Expect spiffe.ID
	// Wait is how long one question is asked again while the endpoint is unavailable;
	// 10 s when zero.
	Wait time.Duration
}

// Broker is a client of a SPIFFE Broker Endpoint: it fetches what other workloads of
// this node have, for a program that acts for them. The endpoint must list that
// program (agent.broker.allow of kith.yaml). What it answers is for the workload
// that was asked about and must be used for no other (Broker API 4.2). All methods
// may be called from any goroutine.
type Broker struct {
	w      *Workload
	at     brokerAddress
	expect spiffe.ID
	wait   time.Duration

	mu     sync.Mutex
	line   *brokerLine              // that new calls take; guarded by mu
	lines  map[*brokerLine]struct{} // all that are open; guarded by mu
	closed bool                     // guarded by mu
}

// Broker makes a client that proves itself by this program's X509-SVID. It connects
// with the first call.
func (w *Workload) Broker(cfg BrokerConfig) (*Broker, error) {
	at, err := findBroker(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	b := &Broker{w: w, at: at, expect: cfg.Expect, wait: cfg.Wait, lines: make(map[*brokerLine]struct{})}
	if b.wait <= 0 {
		b.wait = brokerWait
	}
	if b.expect != (spiffe.ID{}) {
		return b, nil
	}
	// Broker Endpoint 5: who answers must be who is expected, or anybody on the way
	// could hand out SVIDs of its own making.
	if !at.unix {
		return nil, fault.Hint(fault.Invalidf("%s: over TCP the ID of the endpoint must be said", at), "as in --expect spiffe://acme.example/kith/node/vm-7")
	}
	if b.expect, err = spiffe.NewID(w.ID().TrustDomain(), "/kith/node/"+w.Node()); err != nil {
		return nil, fmt.Errorf("ID of this node's agent: %w", err)
	}
	return b, nil
}

// Expects is the ID that the endpoint must prove.
func (b *Broker) Expects() spiffe.ID { return b.expect }

// Close ends the connections, and with them what [Broker.Follow] has returned.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.line = true, nil
	var errs []error
	for line := range b.lines {
		errs = append(errs, b.hangUp(line))
	}
	return errors.Join(errs...)
}

// hangUp closes a connection. The caller holds mu.
func (b *Broker) hangUp(line *brokerLine) error {
	if _, open := b.lines[line]; !open {
		return nil
	}
	delete(b.lines, line)
	return line.conn.Close()
}

// brokerLine is a connection made with one leaf of ours, which is shown once.
type brokerLine struct {
	conn  *grpc.ClientConn
	leaf  string
	calls int // under way; guarded by Broker.mu

	// other is why the endpoint is not the one that is expected, nil if it is.
	other atomic.Pointer[error]
}

// take is the connection for a call, which must be given back. After a renewal of
// our SVID new calls take a new one, while those on the old one go on.
func (b *Broker) take() (*brokerLine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	leaf := ""
	if current := b.w.identity.Load(); current != nil {
		leaf = current.leaf
	}
	switch {
	case b.closed:
		return nil, errors.New("the broker's client is closed")
	case b.line == nil || b.line.leaf != leaf || b.line.other.Load() != nil:
		line, err := b.dial(leaf)
		if err != nil {
			return nil, err
		}
		if b.line != nil && b.line.calls == 0 {
			_ = b.hangUp(b.line)
		}
		b.line = line
		b.lines[line] = struct{}{}
	}
	b.line.calls++
	return b.line, nil
}

func (b *Broker) give(line *brokerLine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if line.calls--; line.calls == 0 && line != b.line {
		_ = b.hangUp(line)
	}
}

// once asks a question until it is answered: what may heal by itself is asked again,
// for as long as Wait (rule by rule: Broker Endpoint 6).
func (b *Broker) once(ctx context.Context, what string, ref spiffe.Reference, ask func(context.Context, *brokerLine) error) error {
	if err := b.at.carries(ref); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	held := holdProcess(ref)
	defer held.release()
	pause := newBackoff()
	var last error
	for {
		line, err := b.take()
		if err != nil {
			return err
		}
		err = ask(metadata.AppendToOutgoingContext(limit, brokerHeader, "true"), line)
		other := line.other.Load()
		b.give(line)
		if err == nil || again(err, other) {
			err = cmp.Or(held.ended(), err)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if limit.Err() == nil || last == nil {
			last = b.explain(what, ref, err, other)
		}
		if limit.Err() != nil || !again(err, other) {
			return last
		}
		pause.wait(limit)
	}
}

// again says whether Broker Endpoint 6 has a client try again by itself: only where
// the endpoint is unavailable, and it is the one that is expected.
func again(err error, other *error) bool {
	return other == nil && status.Code(err) == codes.Unavailable
}

// JWTSVIDs fetches JWT-SVIDs of the workload for an audience: of all its identities,
// the default one first, or of the one that is named.
func (b *Broker) JWTSVIDs(ctx context.Context, ref spiffe.Reference, id spiffe.ID, audience ...string) ([]*spiffe.JWTSVID, error) {
	request, err := brokerRequest(ref)
	if err != nil {
		return nil, err
	}
	if len(audience) == 0 {
		return nil, fault.Invalidf("a JWT-SVID is for an audience, and there is none")
	}
	request.Audience = audience
	if id != (spiffe.ID{}) {
		request.SpiffeId = id.String()
	}
	const what = "JWT-SVIDs"
	answer := new(pb.JWTSVIDResponse)
	if err := b.once(ctx, what, ref, func(ctx context.Context, line *brokerLine) error {
		return line.conn.Invoke(ctx, brokerService+"FetchJWTSVID", request, answer)
	}); err != nil {
		return nil, err
	}
	if n := len(answer.GetSvids()); n == 0 || n > maxSVIDs {
		return nil, fmt.Errorf("fetch %s of %s: %d, between 1 and %d are allowed", what, ref, n, maxSVIDs)
	}
	var out []*spiffe.JWTSVID
	for _, message := range answer.GetSvids() {
		svid, err := spiffe.ParseJWT(message.GetSvid())
		switch {
		case err != nil:
			return nil, fmt.Errorf("fetch %s of %s: %w", what, ref, err)
		case svid.ID.String() != message.GetSpiffeId() || id != (spiffe.ID{}) && svid.ID != id:
			return nil, fmt.Errorf("fetch %s of %s: one is of %s, said to be of %q", what, ref, svid.ID, clip(message.GetSpiffeId(), maxReportShort))
		}
		svid.Hint = message.GetHint()
		out = append(out, svid)
	}
	return out, nil
}

// X509Bundles fetches whom the workload may trust by X509-SVIDs.
func (b *Broker) X509Bundles(ctx context.Context, ref spiffe.Reference) (spiffe.BundleMap, error) {
	answer := new(pb.BrokerX509Bundles)
	if err := b.first(ctx, "X.509 bundles", "SubscribeToX509Bundles", ref, answer); err != nil {
		return nil, err
	}
	return b.bundles("X.509 bundles", ref, answer.GetBundles(), spiffe.ParseRoots)
}

// JWTBundles fetches whom the workload may trust by JWT-SVIDs.
func (b *Broker) JWTBundles(ctx context.Context, ref spiffe.Reference) (spiffe.BundleMap, error) {
	answer := new(pb.BrokerJWTBundles)
	if err := b.first(ctx, "JWT bundles", "SubscribeToJWTBundles", ref, answer); err != nil {
		return nil, err
	}
	return b.bundles("JWT bundles", ref, answer.GetBundles(), func(td spiffe.TrustDomain, text []byte) (*spiffe.Bundle, error) {
		bundle, err := spiffe.ParseBundle(td, text)
		if err == nil && len(bundle.Roots()) > 0 { // Broker API 6.2.2
			return nil, fmt.Errorf("JWT bundle of %s: it holds roots of X509-SVIDs", td)
		}
		return bundle, err
	})
}

// first is the first message of a stream, which is a full state.
func (b *Broker) first(ctx context.Context, what, method string, ref spiffe.Reference, answer proto.Message) error {
	request, err := brokerRequest(ref)
	if err != nil {
		return err
	}
	return b.once(ctx, what, ref, func(ctx context.Context, line *brokerLine) error {
		ctx, cancel := context.WithCancel(ctx) // ends the stream
		defer cancel()
		stream, err := openStream(ctx, line.conn, brokerService+method, request)
		if err != nil {
			return err
		}
		return stream.RecvMsg(answer)
	})
}

// bundles reads bundles by trust domain. Broker API 5.2.2, 6.2.2: the one of the
// endpoint's own trust domain is always among them.
func (b *Broker) bundles(what string, ref spiffe.Reference, in map[string][]byte, parse func(spiffe.TrustDomain, []byte) (*spiffe.Bundle, error)) (spiffe.BundleMap, error) {
	fail := func(err error) (spiffe.BundleMap, error) {
		return nil, fmt.Errorf("fetch %s of %s: %w", what, ref, err)
	}
	if n := len(in); n > maxBundles {
		return fail(fmt.Errorf("%d bundles, %d are allowed", n, maxBundles))
	}
	out := make(spiffe.BundleMap, len(in))
	for name, text := range in {
		td, err := spiffe.ParseTrustDomain(trimScheme(name))
		if err == nil && len(text) > maxBundleText {
			err = fmt.Errorf("bundle of %s: too long", td)
		}
		if err == nil {
			out[td], err = parse(td, text)
		}
		if err != nil {
			return fail(err)
		}
	}
	if own := b.expect.TrustDomain(); out[own] == nil {
		return fail(fmt.Errorf("the endpoint sent none of its own trust domain %s", own))
	}
	return out, nil
}
