package workload

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb/brokerpb"
	"github.com/kith-id/kith/spiffe"
)

// Rule 103: a broker's stolen key is worth nothing to another process: the one at
// the other end must have the identity that the SVID shows.
func TestRule103AStolenKeyBrokersNothing(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	for _, thief := range []int32{webPID, secretPID, nobodyPID} {
		w.mu.Lock()
		w.caller = thief
		w.mu.Unlock()
		b := startBroker(t, w, 0)
		for rpc, err := range calls(b.within(), b.mesh(), process(t, ordersPID)) {
			wantRefusal(t, rpc, err, codes.PermissionDenied, "")
		}
	}
	if w.found != 0 {
		t.Errorf("%d references were resolved for a thief", w.found)
	}
}

// A workload gets nobody's SVID but its own, whatever it shows: its own SVID is no
// broker's, and it cannot have another one signed for itself.
func TestWorkloadGetsNobodysSVIDThroughTheBroker(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.caller = webPID
	b := startBroker(t, w, 0)
	forged := b.source(t, newAuthority(t), "spiffe://"+domain+"/vms/mesh")
	for name, from := range map[string]source{"own": b.source(t, b.ca, "spiffe://"+domain+"/vms/web"), "forged": forged} {
		api := brokerpb.NewAPIClient(b.dial(from, nil))
		for _, pid := range []int32{webPID, ordersPID, meshPID, secretPID} {
			for rpc, err := range calls(b.within(), api, process(t, pid)) {
				if code := status.Code(err); code != codes.PermissionDenied && code != codes.Unavailable {
					t.Errorf("%s SVID, %s of %d: got %v", name, rpc, pid, err)
				}
			}
		}
	}
	if w.found != 0 {
		t.Errorf("%d references were resolved for a workload", w.found)
	}
}

// A broker that loses its identity, or is another program by now, is sent nothing
// more, on streams that were open as well.
func TestBrokerThatLosesItsRightIsCut(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*town){
		"identity": func(w *town) { w.is(meshPID, "/vms/other") },
		"process":  func(w *town) { w.end(meshPID) },
	} {
		w := newTown(t)
		b := startBroker(t, w, 0)
		api := b.mesh()
		stream, _ := b.subscribe(api, webPID)
		bundles, err := api.SubscribeToX509Bundles(b.within(), &brokerpb.SubscribeToX509BundlesRequest{Reference: process(t, webPID)})
		if err == nil {
			_, err = bundles.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		lose(w)
		_, err = stream.Recv()
		wantRefusal(t, name+", SVIDs", err, codes.PermissionDenied, "")
		_, err = bundles.Recv()
		wantRefusal(t, name+", bundles", err, codes.PermissionDenied, "")
		for rpc, err := range calls(b.within(), api, process(t, ordersPID)) {
			wantRefusal(t, name+", "+rpc, err, codes.PermissionDenied, "")
		}
	}
}

// One broker cannot take all streams, and gets them back.
func TestStreamsOfOneBrokerAreLimited(t *testing.T) {
	t.Parallel()
	b := startBroker(t, newTown(t), 2)
	api := b.mesh()
	ctx, cancel := context.WithCancel(b.within())
	for _, pid := range []int32{webPID, ordersPID} {
		stream, err := api.SubscribeToX509SVID(ctx, &brokerpb.SubscribeToX509SVIDRequest{Reference: process(t, pid)})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := api.FetchJWTSVID(b.within(), &brokerpb.FetchJWTSVIDRequest{Reference: process(t, webPID), Audience: []string{"billing"}})
	wantRefusal(t, "a third call", err, codes.Unavailable, "")
	cancel()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if _, err = api.FetchJWTSVID(b.within(), &brokerpb.FetchJWTSVIDRequest{Reference: process(t, webPID), Audience: []string{"billing"}}); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the others have ended: %v", err)
		}
	}
}

func TestGrantsCoverWhatTheySay(t *testing.T) {
	t.Parallel()
	grant := BrokerGrant{ID: mustID("spiffe://" + domain + "/vms/mesh"), For: []string{"/vms/*", "/eks/**", "/one/two"}}
	for path, want := range map[string]bool{
		"/vms/web": true, "/vms/web/a": false, "/vms": false, "/eks/a": true, "/eks/a/b/c": true, "/eks": false, "/eksx/a": false,
		"/one/two": true, "/one/two/three": false, "/one": false, "/kith/node/n1": false, "/other": false,
	} {
		if got := grant.covers(mustID("spiffe://" + domain + path)); got != want {
			t.Errorf("%s: got %v", path, got)
		}
	}
	if grant.covers(mustID("spiffe://other.example/vms/web")) {
		t.Error("covers another trust domain")
	}
	if (BrokerGrant{ID: grant.ID}).covers(grant.ID) {
		t.Error("a grant for nobody covers somebody")
	}
}

// Served by mistake with credentials that know the process and ask for no SVID, it
// knows nobody. Rule 102: that is Unauthenticated.
func TestBrokerWithoutTLSServesNobody(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	guard := newBrokerGuard(BrokerConfig{Service: NewService(ServiceConfig{Host: w}), Metrics: NewBrokerMetrics()})
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(brokerHeader, "true"))
	_, err := guard.admit(ctx)
	wantRefusal(t, "nobody", err, codes.Unauthenticated, "")
	_, err = guard.admit(withPeer(ctx, fixedInfo{peer: attest.Peer{PID: meshPID}}))
	wantRefusal(t, "a process without an SVID", err, codes.Unauthenticated, "")
	_, err = guard.admit(withPeer(ctx, brokerInfo{id: spiffe.ID{}, peer: attest.Peer{PID: meshPID}}))
	wantRefusal(t, "no ID", err, codes.PermissionDenied, "")
}

// FuzzBrokerAPI calls every method with any metadata and any bytes: nothing is
// answered without the header, and the codes are those of the standard's tables.
func FuzzBrokerAPI(f *testing.F) {
	b := startBroker(f, newTown(f), 0)
	conn := b.dial(b.source(f, b.ca, "spiffe://"+domain+"/vms/mesh"), nil)
	service := brokerpb.API_ServiceDesc
	var methods []string
	for _, m := range service.Methods {
		methods = append(methods, "/"+service.ServiceName+"/"+m.MethodName)
	}
	for _, s := range service.Streams {
		methods = append(methods, "/"+service.ServiceName+"/"+s.StreamName)
	}
	pid := []byte("\x0a\x34\x0a\x32\x0a\x2ctype.googleapis.com/spiffe.broker.WorkloadPIDReference")
	for i := range methods {
		for _, header := range []string{"true", "", "TRUE"} {
			f.Add(uint8(i), header, []byte{})
			f.Add(uint8(i), header, append(append([]byte{}, pid...), 0x12, 2, 8, webPID))
			f.Add(uint8(i), header, []byte{0x0a, 0x02, 0x0a, 0x00})
			f.Add(uint8(i), header, []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
		}
	}
	f.Fuzz(func(t *testing.T, method uint8, header string, message []byte) {
		if len(message) > 1<<20 || len(header) > 1<<20 {
			return // too much is gRPC's own to refuse
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), brokerHeader, header), 100*time.Millisecond)
		defer cancel()
		name := methods[int(method)%len(methods)]
		err := func() error {
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, name, grpc.ForceCodec(rawCodec{}))
			if err != nil {
				return err
			}
			if err := stream.SendMsg(&message); err != nil && err != io.EOF {
				return err
			}
			if err := stream.CloseSend(); err != nil {
				return err
			}
			var answer []byte
			return stream.RecvMsg(&answer)
		}()
		if err == nil && header != "true" {
			t.Errorf("%s with %q: answered", name, header)
		}
		switch status.Code(err) {
		// Internal is gRPC's own word for a message or header it cannot read; a slow
		// machine is late.
		case codes.OK, codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unavailable, codes.Internal, codes.DeadlineExceeded:
		default:
			t.Errorf("%s with %q and %x: %v", name, header, message, err)
		}
	})
}

// Rule 108, on the server's side: each form that the standard rules out is refused as
// malformed, and by an agent without a kubelet what is well formed as a type that is
// not served; nobody is looked up and nothing is given, whatever the UID.
func TestRule108FormsOfObjectsOnTheServersSide(t *testing.T) {
	t.Parallel()
	const uid = "a1b2c3d4-e5f6-7890-abcd-ef1234567890"
	type object = brokerpb.KubernetesObjectReference
	kind := func(plural, group string) *brokerpb.KubernetesObjectType {
		return &brokerpb.KubernetesObjectType{Plural: plural, Group: group}
	}
	key := func(namespace, name string) *brokerpb.KubernetesObjectKey {
		return &brokerpb.KubernetesObjectKey{Namespace: namespace, Name: name}
	}
	const unserved = "knows no kubelet"
	w := newTown(t)
	b := startBroker(t, w, 0)
	api := b.mesh()
	for _, tc := range []struct {
		o    *object
		want string
	}{
		{&object{}, "a plural and a group"},
		{&object{Uid: uid}, "a plural and a group"},
		{&object{Type: kind("pods", ""), Uid: uid}, "a plural and a group"},
		{&object{Type: kind("", "core"), Uid: uid}, "a plural and a group"},
		{&object{Type: kind("Pod", "core"), Uid: uid}, "no plural"},
		{&object{Type: kind("pods", "v1/core"), Uid: uid}, "no group"},
		{&object{Type: kind("pods", "core")}, "neither"},
		{&object{Type: kind("pods", "core"), Key: key("", "")}, "key has a name"},
		{&object{Type: kind("pods", "core"), Key: key("", ""), Uid: uid}, "key has a name"},
		{&object{Type: kind("pods", "core"), Key: key("shop", ""), Uid: uid}, "key has a name"},
		{&object{Type: kind("pods", "core"), Key: key("", "web")}, "are in namespaces"},
		{&object{Type: kind("pods", "core"), Key: key("", "web"), Uid: uid}, "are in namespaces"},
		{&object{Type: kind("nodes", "core"), Key: key("shop", "vm-7")}, "are in no namespace"},
		{&object{Type: kind("pods", "core"), Key: key("shop", "../web")}, "no name"},
		{&object{Type: kind("pods", "core"), Uid: "10"}, "no UID"},
		{&object{Type: kind("pods", "core"), Uid: uid}, unserved},
		{&object{Type: kind("pods", "core"), Key: key("shop", "web")}, unserved},
		{&object{Type: kind("pods", "core"), Key: key("shop", "web"), Uid: uid}, unserved},
		{&object{Type: kind("nodes", "core"), Key: key("", "vm-7")}, unserved},
		{&object{Type: kind("things", "acme.example"), Key: key("", "a")}, unserved},
	} {
		for rpc, err := range calls(b.within(), api, referTo(t, tc.o)) {
			wantRefusal(t, rpc+" of "+tc.o.String(), err, codes.InvalidArgument, reasonInvalid)
			if !strings.Contains(status.Convert(err).Message(), tc.want) {
				t.Errorf("%s of %v: got %v, want %q", rpc, tc.o, err, tc.want)
			}
		}
	}
	if w.found != 0 {
		t.Errorf("%d objects were looked up", w.found)
	}
}
