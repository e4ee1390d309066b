package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const nodePrefix = "/kith/node/"

// door is the whole table of who may call what on the TCP listener; a method
// that is not in it is refused.
func (p *Public) door(method string) func(context.Context) (context.Context, error) {
	switch method {
	case pb.Admission_Attest_FullMethodName:
		return func(ctx context.Context) (context.Context, error) { return ctx, nil }
	case pb.Node_Sync_FullMethodName, pb.Node_SignWorkloads_FullMethodName, pb.Node_SignJWT_FullMethodName, pb.Node_SignWIT_FullMethodName, pb.Node_RenewNode_FullMethodName:
		return p.asNode
	default:
		return func(ctx context.Context) (context.Context, error) {
			return ctx, fault.Deniedf("%s is not served here", method)
		}
	}
}

type callerKey struct{}

// callerOf is the node that asNode let in.
func callerOf(ctx context.Context) (Caller, error) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	if !ok {
		return Caller{}, fault.Deniedf("no authenticated node on this call")
	}
	return c, nil
}

// asNode lets in a peer whose certificate is of a known node of the own trust
// domain. The certificate was verified in the handshake; its end is looked at
// again, as the connection may have outlived it.
func (p *Public) asNode(ctx context.Context) (context.Context, error) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return ctx, Unproven{fmt.Errorf("no peer on this connection")}
	}
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return ctx, fault.Hint(Unproven{fmt.Errorf("this call needs a node certificate")}, "kith join <line>, printed by kith nodes add <name>")
	}
	id, err := spiffe.PeerID(info.State)
	if err != nil {
		return ctx, fault.Deniedf("peer certificate: %w", err)
	}
	name, ok := strings.CutPrefix(id.Path(), nodePrefix)
	if !ok || id.TrustDomain() != p.cfg.TrustDomain || spiffe.ValidateSegment(name) != nil {
		return ctx, fault.Deniedf("%s is not a node of %s", id, p.cfg.TrustDomain)
	}
	leaf := info.State.PeerCertificates[0]
	ends := leaf.NotAfter
	if !p.cfg.Now().Before(ends) {
		return ctx, Unproven{fmt.Errorf("the certificate of node %s ended at %s", name, ends.UTC().Format(time.RFC3339))}
	}
	key := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	if err := p.cfg.Fleet.Member(name, key); err != nil {
		return ctx, err
	}
	caller := Caller{Name: name, ID: id, Key: key, Expires: ends, Remote: from.Addr.String()}
	return context.WithValue(ctx, callerKey{}, caller), nil
}

// guard turns a method table, error translation and panic containment into
// interceptors.
type guard struct {
	log  *slog.Logger
	door func(method string) func(context.Context) (context.Context, error)
}

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			resp, err = nil, g.crashed(info.FullMethod, r)
		}
	}()
	ctx, err = g.door(info.FullMethod)(ctx)
	if err != nil {
		return nil, ToWire(g.log, info.FullMethod, err)
	}
	resp, err = next(ctx, req)
	return resp, ToWire(g.log, info.FullMethod, err)
}

func (g guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = g.crashed(info.FullMethod, r)
		}
	}()
	ctx, err := g.door(info.FullMethod)(ss.Context())
	if err != nil {
		return ToWire(g.log, info.FullMethod, err)
	}
	return ToWire(g.log, info.FullMethod, next(srv, withContext{ss, ctx}))
}

// crashed contains a bug of ours to the one request it hit.
func (g guard) crashed(method string, r any) error {
	g.log.Error("request crashed", "method", method, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	return ToWire(g.log, method, fmt.Errorf("panic in %s", method))
}

// withContext is a stream with the context that auth made.
type withContext struct {
	grpc.ServerStream
	ctx context.Context // grpc.ServerStream has no other place for it
}

// Context is the context with the caller in it.
func (w withContext) Context() context.Context { return w.ctx }
