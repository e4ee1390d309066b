package workload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb/workloadpb"
)

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Rule 74: gRPC over a unix socket. Rule 76: without TLS.
func TestRule74And76PlainGRPCOnAUnixSocket(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	if _, first, err := e.fetch(t); err != nil || len(first.GetSvids()) != 1 {
		t.Errorf("got %v, %v, want one SVID", first, err)
	}
}

// Rule 75: every request carries the header with exactly this value.
func TestRule75SecurityHeaderIsRequired(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	for name, pairs := range map[string][]string{
		"missing": {}, "upper case": {"workload.spiffe.io", "TRUE"}, "false": {"workload.spiffe.io", "false"},
		"empty": {"workload.spiffe.io", ""}, "twice": {"workload.spiffe.io", "true", "workload.spiffe.io", "false"},
	} {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), pairs...), time.Minute)
		svids, err := e.api().FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
		if err == nil {
			_, err = svids.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: FetchX509SVID: got %v, want InvalidArgument", name, err)
		}
		bundles, err := e.api().FetchX509Bundles(ctx, &workloadpb.X509BundlesRequest{})
		if err == nil {
			_, err = bundles.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: FetchX509Bundles: got %v, want InvalidArgument", name, err)
		}
		cancel()
	}
}

// Rule 75, T7: a program tricked into a plain HTTP request gets nothing.
func TestRule75PlainHTTPGetsNothing(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	conn, err := net.Dial("unix", e.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\x00\x00\x00\x00\x00")
	answer, _ := io.ReadAll(conn) // until the server hangs up
	if bytes.Contains(answer, []byte("HTTP/1.1")) || len(answer) > 100 {
		t.Errorf("got an answer of %d bytes: %q", len(answer), answer)
	}
}

// Rule 79: who the caller is comes from the connection, whatever it says.
func TestRule79NothingTheCallerSaysCounts(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	ctx := metadata.AppendToOutgoingContext(secured(t.Context()), "authorization", "Bearer x", "x-kith-as", "admin", "spiffe-id", "spiffe://acme.example/admin")
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stream, err := e.api().FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetSvids()[0].GetSpiffeId() != "spiffe://"+domain+"/vms/web" {
		t.Errorf("got %v, %v", first, err)
	}
}

// Rule 80: PermissionDenied without an identity, Unavailable without a server.
func TestRule80Codes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	w.set(func() { w.ev.Matches = nil })
	_, _, err := e.fetch(t)
	wantCode(t, err, codes.PermissionDenied)
	w.set(func() { w.ev = newWorld(t).ev; w.evErr = fault.Deniedf("process 4242 is gone") })
	_, _, err = e.fetch(t)
	wantCode(t, err, codes.PermissionDenied)
	w.set(func() { w.evErr = nil; w.refuse = "rule web does not match" })
	_, _, err = e.fetch(t)
	wantCode(t, err, codes.PermissionDenied)
	w.set(func() { w.refuse = ""; w.away, w.wait = errors.New("connection refused"), awayWait })
	_, _, err = start(t, w, 0).fetch(t)
	wantCode(t, err, codes.Unavailable)
}

// Rule 81: the service has its standard name and is shown by reflection.
func TestRule81Reflection(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(e.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	req := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(req); err != nil {
		t.Fatal(err)
	}
	in, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range in.GetListServicesResponse().GetService() {
		if s.GetName() == "SpiffeWorkloadAPI" {
			return
		}
	}
	t.Errorf("got %v, want SpiffeWorkloadAPI among them", in)
}

// Rule 82, 83: RPCs of other profiles answer Unimplemented.
func TestRule82And83OtherProfilesAreUnimplemented(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	for _, method := range []string{"FetchWITSVID", "FetchWITBundles"} {
		ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
		err := e.conn.Invoke(ctx, "/SpiffeWorkloadAPI/"+method, &emptypb.Empty{}, &emptypb.Empty{})
		cancel()
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: got %v, want Unimplemented", method, err)
		}
	}
}

// T5: one user cannot take all streams.
func TestStreamsOfOneUserAreLimited(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 2)
	for range 2 {
		if _, _, err := e.fetch(t); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := e.fetch(t)
	wantCode(t, err, codes.Unavailable)
}

func TestStrangersAreDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := NewIdentities(Config{Signer: w, Trust: w.Trust, Now: time.Now})
	service := NewService(ServiceConfig{Host: w, Identities: ids})
	server := grpc.NewServer(service.ServerOptions(0)...)
	workloadpb.RegisterSpiffeWorkloadAPIServer(server, service)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	e := &endpoint{world: w, conn: conn}
	_, _, err = e.fetch(t)
	wantCode(t, err, codes.PermissionDenied)
}

// Rule 79: who asks is looked at when the request is here, not when its stream was
// opened; and one that cannot be read gets no identity.
func TestRule79TheRequestIsReadBeforeTheCallerIsLookedAt(t *testing.T) {
	e := start(t, newWorld(t), 0)
	ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
	defer cancel()
	open := func() grpc.ClientStream {
		desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
		stream, err := e.conn.NewStream(ctx, desc, workloadpb.SpiffeWorkloadAPI_FetchX509SVID_FullMethodName, grpc.ForceCodec(rawCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	answer := func(stream grpc.ClientStream, request []byte) (*workloadpb.X509SVIDResponse, error) {
		if err := stream.SendMsg(&request); err != nil {
			t.Fatal(err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var text []byte
		if err := stream.RecvMsg(&text); err != nil {
			return nil, err
		}
		response := &workloadpb.X509SVIDResponse{}
		return response, proto.Unmarshal(text, response)
	}
	early, garbled := open(), open()
	if _, _, err := e.fetch(t); err != nil { // over the same connection, so the others are known by now
		t.Fatal(err)
	}
	e.set(func() { e.ev.Matches[0].ID = mustID("spiffe://" + domain + "/vms/other") })
	got, err := answer(early, nil)
	if err != nil || len(got.GetSvids()) != 1 {
		t.Fatalf("got %d SVIDs, %v, want one", len(got.GetSvids()), err)
	}
	if id := got.GetSvids()[0].GetSpiffeId(); id != "spiffe://"+domain+"/vms/other" {
		t.Errorf("got %s, want the identity it has when it asks", id)
	}
	_, err = answer(garbled, []byte{0xff})
	wantCode(t, err, codes.Internal)
}
