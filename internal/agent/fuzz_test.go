package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalphapb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
)

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(text []byte, v any) error { *v.(*[]byte) = text; return nil }

// services is all that the agent's socket is known to speak. The Broker API has a
// socket of its own, and a fuzz target where it lives.
func services() []grpc.ServiceDesc {
	return []grpc.ServiceDesc{
		workloadpb.SpiffeWorkloadAPI_ServiceDesc, envoypb.SecretDiscoveryService_ServiceDesc, envoypb.Authorization_ServiceDesc,
		pb.Enforcement_ServiceDesc, pb.Inspection_ServiceDesc,
		reflectionpb.ServerReflection_ServiceDesc, reflectionalphapb.ServerReflection_ServiceDesc,
	}
}

// everyMethod is all methods of those services.
func everyMethod() []string {
	var all []string
	for _, service := range services() {
		for _, m := range service.Methods {
			all = append(all, "/"+service.ServiceName+"/"+m.MethodName)
		}
		for _, s := range service.Streams {
			all = append(all, "/"+service.ServiceName+"/"+s.StreamName)
		}
	}
	return all
}

// A service that is new on the socket has to be among those that are fuzzed.
func TestEveryServiceOfTheSocketIsFuzzed(t *testing.T) {
	t.Parallel()
	n := newNode(t, newServer(t))
	n.cfg.WIT = true
	n.start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(n.dial()).ServerReflectionInfo(ctx)
	if err == nil {
		err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, s := range m.GetListServicesResponse().GetService() {
		got = append(got, s.GetName())
	}
	for _, s := range services() {
		want = append(want, s.ServiceName)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the socket speaks %q, fuzzed are %q", got, want)
	}
}

// mayAnswer is the codes that a method may answer with. Rule 80 for the Workload
// API; Envoy's for SDS, where an error makes it ask again; what cannot be decided
// is an answer that denies. Internal is gRPC's own word for bytes that are no
// message, and the deadline is ours.
func mayAnswer(method string, s *status.Status, header string) bool {
	if s.Code() == codes.Internal {
		return strings.Contains(s.Message(), "unmarshal") || strings.Contains(s.Message(), "header")
	}
	allowed := []codes.Code{codes.OK, codes.DeadlineExceeded}
	switch service, _, _ := strings.Cut(method[1:], "/"); service {
	case workloadpb.SpiffeWorkloadAPI_ServiceDesc.ServiceName:
		allowed = append(allowed, codes.InvalidArgument)
		if header == "true" {
			allowed = append(allowed, codes.PermissionDenied, codes.Unavailable)
		} else {
			allowed = slices.DeleteFunc(allowed, func(c codes.Code) bool { return c == codes.OK })
		}
	case envoypb.SecretDiscoveryService_ServiceDesc.ServiceName:
		allowed = append(allowed, codes.InvalidArgument, codes.PermissionDenied, codes.Unavailable, codes.Unimplemented)
	case pb.Enforcement_ServiceDesc.ServiceName, pb.Inspection_ServiceDesc.ServiceName:
		allowed = append(allowed, codes.InvalidArgument, codes.PermissionDenied, codes.Unavailable, codes.NotFound, codes.FailedPrecondition)
	case reflectionpb.ServerReflection_ServiceDesc.ServiceName, reflectionalphapb.ServerReflection_ServiceDesc.ServiceName:
		allowed = append(allowed, codes.InvalidArgument, codes.Unavailable)
	}
	return slices.Contains(allowed, s.Code())
}

// FuzzAgentSocket sends any messages to any method of a whole agent, two where it
// takes more than one, with any security header: nothing panics, and every answer is one of the method's table.
// Rule 75: the Workload API answers nothing without its header.
func FuzzAgentSocket(f *testing.F) {
	n := newNode(f, withJWTs(shopServer(f)).testServer)
	n.cfg.WIT = true
	n.start()
	n.people.be(200, 2000) // who is /vms/shop
	conn := n.dial()
	all := everyMethod()
	seeds := [][]byte{{}, {0x0a, 0x01, 0x61}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}}
	for _, m := range []proto.Message{
		&workloadpb.JWTSVIDRequest{Audience: []string{"billing"}}, &workloadpb.ValidateJWTSVIDRequest{Audience: "billing", Svid: "e30.e30.e30"},
		&envoypb.DiscoveryRequest{ResourceNames: []string{"default", "ROOTCA"}}, &envoypb.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}},
		&envoypb.CheckRequest{Attributes: &envoypb.AttributeContext{Request: &envoypb.AttributeContext_Request{Http: &envoypb.AttributeContext_HttpRequest{Method: "GET", Path: "/v1/x"}}}},
		&pb.EnforceRequest{Message: &pb.EnforceRequest_Open{Open: &pb.Open{Schema: 1}}},
		&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "SpiffeWorkloadAPI"}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, raw)
	}
	for i := range all {
		for _, seed := range seeds {
			f.Add(uint8(i), "true", seed, seed)
		}
		f.Add(uint8(i), "TRUE", []byte{}, []byte{})
	}
	f.Fuzz(func(t *testing.T, method uint8, header string, one, two []byte) {
		if len(one) > 1<<20 || len(two) > 1<<20 {
			return // too much for a message is gRPC's own to refuse
		}
		name := all[int(method)%len(all)]
		err := talk(t, conn, name, header, one, two)
		if s := status.Convert(err); !mayAnswer(name, s, header) {
			t.Errorf("%s with %q, %x and %x: %v", name, header, one, two, err)
		}
	})
}

func takesMany(method string) bool {
	for _, service := range services() {
		for _, s := range service.Streams {
			if s.ClientStreams && method == "/"+service.ServiceName+"/"+s.StreamName {
				return true
			}
		}
	}
	return false
}

// talk sends messages and reads until the end, a refusal or a moment is over.
func talk(t *testing.T, conn *grpc.ClientConn, method, header string, messages ...[]byte) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", header), 100*time.Millisecond)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	if !takesMany(method) {
		messages = messages[:1]
	}
	for _, m := range messages {
		if err := stream.SendMsg(&m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for range messages { // a stream that never ends answers each at most once
		var answer []byte
		if err := stream.RecvMsg(&answer); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
	return nil
}

// FuzzAuthzSocket sends any bytes to the socket where proxies ask over HTTP, in one
// connection of a process that may: what is no question is never answered with yes.
func FuzzAuthzSocket(f *testing.F) {
	n := newNode(f, shopServer(f))
	n.start()
	n.people.be(200, 2000)
	granted := regexp.MustCompile(`(?mi)^(Kith-Caller:|HTTP/1\.[01] 500 )`)
	for _, seed := range []string{
		"GET /auth?verify=NONE&cert=&method=GET&uri=/v1/x HTTP/1.1\r\nHost: kith\r\n\r\n",
		"GET /auth/shop?via=forwarded&headers=all&verify=NONE&cert= HTTP/1.1\r\nHost: kith\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Uri: /v1/x\r\n\r\n",
		"POST /auth?verify=SUCCESS&cert=" + url.QueryEscape("-----BEGIN CERTIFICATE-----") + "&method=GET&uri=/ HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
		"GET /auth HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"GET /health HTTP/1.1\r\nHost: kith\r\n\r\n", "POST /v1/data/kith/allow HTTP/1.1\r\nHost: kith\r\nContent-Length: 12\r\n\r\n{\"input\":{}}",
		"POST /access/v1/evaluation HTTP/1.1\r\nHost: kith\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
		"GET /v1/Kith-Caller:%20500%20 HTTP/1.1\r\nHost: kith\r\n\r\n", "GET /access/ HTTP/1.1\r\nHost: kith\r\nX-Request-ID: a 500 Kith-Caller: b\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\x05hello", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn, err := net.Dial("unix", n.cfg.AuthzSocket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(sent) // it may be refused in the middle
		_ = conn.(*net.UnixConn).CloseWrite()
		said, err := io.ReadAll(conn)
		if err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%q: %v", sent, err)
		}
		// A proxy that may forward is told for whom; applications that ask get other answers.
		// Only at the start of a line: a path or an X-Request-ID may come back with such words in it.
		if granted.Match(said) {
			t.Errorf("%q: got %q", sent, said)
		}
	})
}
