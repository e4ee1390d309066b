package kith

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

const checkMethod = "/envoy.service.auth.v3.Authorization/Check"

// extAuthz asks an Envoy ext_authz v3 service. Of its answer the status counts
// alone: headers it would add, and what it would tell the caller, are left out.
type extAuthz struct{ conn *grpc.ClientConn }

func newExtAuthz(e policy.External, at *url.URL, config *tls.Config) (*extAuthz, error) {
	secure := insecure.NewCredentials()
	port := "80"
	if at.Scheme == "https" {
		secure, port = credentials.NewTLS(config), "443"
	}
	if at.Port() != "" {
		port = at.Port()
	}
	dial := dialer(e.Socket)
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(at.Hostname(), port),
		grpc.WithTransportCredentials(secure),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithMaxHeaderListSize(maxAnswerHead),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, err
	}
	return &extAuthz{conn: conn}, nil
}

// ask implements oracle.
func (x *extAuthz) ask(ctx context.Context, q *question) error {
	attributes, err := q.attributes()
	if err != nil {
		return err
	}
	answer := new(pb.AuthzAnswer)
	if err := x.conn.Invoke(ctx, checkMethod, &pb.AuthzQuestion{Attributes: attributes}, answer); err != nil {
		return unanswered{fmt.Errorf("ask: %w", err)}
	}
	switch {
	case answer.GetStatus() == nil:
		return unanswered{errors.New("an answer without a status")}
	case answer.GetStatus().GetCode() != 0:
		return fmt.Errorf("says no: status %d %s", answer.GetStatus().GetCode(), clip(answer.GetStatus().GetMessage(), maxReportShort))
	case answer.GetDeniedResponse() != nil:
		return errors.New("says yes with a denied response")
	}
	return nil
}

func (x *extAuthz) close() { x.conn.Close() } //nolint:errcheck // nothing is left to lose

// attributes is the question in Envoy's words.
func (q *question) attributes() (*pb.AuthzAttributes, error) {
	out := &pb.AuthzAttributes{
		Source:      &pb.AuthzPeer{Principal: q.peer.id.String()},
		Destination: &pb.AuthzPeer{Principal: q.own, Service: q.service},
		Request:     &pb.AuthzRequest{Time: timestamppb.New(q.now)},
		ContextExtensions: map[string]string{
			"kith.service": q.service, "kith.rule": q.rule, "kith.node": q.node,
		},
	}
	if q.request.Port != 0 {
		out.Destination.Address = &pb.AuthzAddress{SocketAddress: &pb.AuthzSocketAddress{PortValue: uint32(q.request.Port)}}
	}
	if q.request.Protocol == TCP {
		return out, nil
	}
	headers, err := q.sent()
	if err != nil {
		return nil, err
	}
	protocol := "HTTP/1.1"
	if q.request.GRPC {
		protocol = "HTTP/2"
	}
	out.Request.Http = &pb.AuthzHTTP{
		Method: clip(q.request.Method, maxReportText), Headers: headers, Path: q.target(), Host: clip(q.request.Host, maxReportText),
		Scheme: "https", Protocol: protocol,
	}
	return out, nil
}
