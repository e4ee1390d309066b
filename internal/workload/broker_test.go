package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-id/kith/internal/pb/brokerpb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// subscribe opens a stream of SVIDs and reads its first message.
func (b *brokerage) subscribe(api brokerpb.APIClient, pid int32) (grpc.ServerStreamingClient[brokerpb.SubscribeToX509SVIDResponse], *brokerpb.SubscribeToX509SVIDResponse) {
	b.t.Helper()
	stream, err := api.SubscribeToX509SVID(b.within(), &brokerpb.SubscribeToX509SVIDRequest{Reference: process(b.t, pid)})
	if err != nil {
		b.t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		b.t.Fatal(err)
	}
	return stream, first
}

func ids(r *brokerpb.SubscribeToX509SVIDResponse) string {
	var out []string
	for _, svid := range r.GetSvids() {
		out = append(out, strings.TrimPrefix(svid.GetSpiffeId(), "spiffe://"+domain))
	}
	return strings.Join(out, " ")
}

// Rule 99: mutual TLS by SVIDs both ways. A client without one, with one of another
// authority, and a server that is not the expected one, get nowhere.
func TestRule99MutualTLSByX509SVIDs(t *testing.T) {
	t.Parallel()
	b := startBroker(t, newTown(t), 0)
	if _, first := b.subscribe(b.mesh(), webPID); ids(first) != "/vms/web" {
		t.Errorf("got %s", ids(first))
	}
	plain, err := grpc.NewClient("unix://"+b.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	stranger := b.source(t, newAuthority(t), "spiffe://"+domain+"/vms/mesh")
	onlyOther := func(id spiffe.ID) error {
		if id.String() != "spiffe://"+domain+"/kith/node/n2" {
			return errors.New("not the expected node")
		}
		return nil
	}
	for what, conn := range map[string]*grpc.ClientConn{
		"plain": plain, "an SVID of another authority": b.dial(stranger, nil),
		"a server that is not expected": b.dial(b.source(t, b.ca, "spiffe://"+domain+"/vms/mesh"), onlyOther),
	} {
		for rpc, err := range calls(b.within(), brokerpb.NewAPIClient(conn), process(t, webPID)) {
			wantRefusal(t, what+", "+rpc, err, codes.Unavailable, "") // refused before there is gRPC
		}
	}
	if b.found != 1 {
		t.Errorf("%d references were resolved, want the one of the broker", b.found)
	}
}

// Rule 100: every request carries the header with exactly this value.
func TestRule100BrokerHeaderIsRequired(t *testing.T) {
	t.Parallel()
	b := startBroker(t, newTown(t), 0)
	api := b.mesh()
	for name, pairs := range map[string][]string{
		"missing": {}, "upper case": {brokerHeader, "TRUE"}, "false": {brokerHeader, "false"}, "empty": {brokerHeader, ""},
		"twice": {brokerHeader, "true", brokerHeader, "true"}, "the Workload API's": {securityHeader, "true"},
	} {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), pairs...), time.Minute)
		for rpc, err := range calls(ctx, api, process(t, webPID)) {
			wantRefusal(t, name+", "+rpc, err, codes.InvalidArgument, "")
		}
		cancel()
	}
}

// Rule 102: InvalidArgument, Unavailable, Unauthenticated and PermissionDenied, each
// for what the table has it for.
func TestRule102Codes(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	b := startBroker(t, w, 0)
	api := b.mesh()
	w.mu.Lock()
	w.unheard = true
	w.mu.Unlock()
	for rpc, err := range calls(b.within(), api, process(t, webPID)) {
		wantRefusal(t, "no rules yet, "+rpc, err, codes.Unavailable, "")
	}
	w.mu.Lock()
	w.unheard = false
	w.mu.Unlock()
	w.set(func() { w.away, w.wait = errors.New("connection refused"), awayWait })
	alone := startBroker(t, w, 0)
	stream, err := alone.mesh().SubscribeToX509SVID(alone.within(), &brokerpb.SubscribeToX509SVIDRequest{Reference: process(t, webPID)})
	if err == nil {
		_, err = stream.Recv()
	}
	wantRefusal(t, "the server is away", err, codes.Unavailable, "")
	_, err = brokerOf(t.Context())
	wantRefusal(t, "nobody", err, codes.Unauthenticated, "")
	other := brokerpb.NewAPIClient(b.dial(b.source(t, b.ca, "spiffe://"+domain+"/vms/web"), nil))
	for rpc, err := range calls(b.within(), other, process(t, webPID)) {
		wantRefusal(t, "no broker, "+rpc, err, codes.PermissionDenied, "")
	}
}

// Rule 103: who is not listed may do nothing, not even for itself; who is, only for
// those it is listed for.
func TestRule103OnlyWhoIsListedAndOnlyForThose(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	b := startBroker(t, w, 0)
	for _, path := range []string{"/vms/web", "/vms/mesh2", "/vms/mesh/x", "/vms", "/kith/node/n1", "/kith/admin/a"} {
		api := brokerpb.NewAPIClient(b.dial(b.source(t, b.ca, "spiffe://"+domain+path), nil))
		for _, pid := range []int32{webPID, meshPID, 404} {
			for rpc, err := range calls(b.within(), api, process(t, pid)) {
				wantRefusal(t, path+", "+rpc, err, codes.PermissionDenied, "")
			}
		}
	}
	if w.found != 0 {
		t.Errorf("%d references of strangers were resolved", w.found)
	}
	for rpc, err := range calls(b.within(), b.mesh(), process(t, secretPID)) {
		wantRefusal(t, "not for these, "+rpc, err, codes.PermissionDenied, reasonNotEntitled)
	}
	w.is(webPID, "/vault/keys", "/vms/web", "/vms/a/b")
	if _, first := b.subscribe(b.mesh(), webPID); ids(first) != "/vms/web" {
		t.Errorf("of three identities got %q, want the one that is allowed", ids(first))
	}
}

// Rule 104: both profiles, in full.
func TestRule104BothProfiles(t *testing.T) {
	t.Parallel()
	b := startBroker(t, newTown(t), 0)
	for rpc, err := range calls(b.within(), b.mesh(), process(t, webPID)) {
		if err != nil {
			t.Errorf("%s: %v", rpc, err)
		}
	}
	_, first := b.subscribe(b.mesh(), webPID)
	svid, err := spiffe.ParseX509SVID(first.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509SvidKey())
	if err != nil || svid.ID.Path() != "/vms/web" {
		t.Errorf("got %v, %v", svid, err)
	}
	out, err := b.mesh().FetchJWTSVID(b.within(), &brokerpb.FetchJWTSVIDRequest{Reference: process(t, webPID), Audience: []string{"billing"}})
	if err != nil || len(out.GetSvids()) != 1 {
		t.Fatalf("got %v, %v", out, err)
	}
	token, err := spiffe.ParseJWT(out.GetSvids()[0].GetSvid())
	if err != nil || token.ID.Path() != "/vms/web" || token.Audience[0] != "billing" {
		t.Errorf("got %v, %v", token, err)
	}
	_, err = b.mesh().FetchJWTSVID(b.within(), &brokerpb.FetchJWTSVIDRequest{Reference: process(t, webPID)})
	wantRefusal(t, "no audience", err, codes.InvalidArgument, "")
}

// Rule 105, 107: exactly one reference, of a known type, well formed. Objects of
// Kubernetes are of a known form, and unknown to an agent without a cluster.
func TestRule105And107References(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	b := startBroker(t, w, 0)
	api := b.mesh()
	pods := &brokerpb.KubernetesObjectType{Plural: "pods", Group: "core"}
	broken := process(t, webPID)
	broken.Reference.Value = []byte{0x08} // a field without its value
	for what, ref := range map[string]*brokerpb.WorkloadReference{
		"none": nil, "empty": {}, "no type": {Reference: &anypb.Any{Value: []byte{8, 10}}}, "not a message": broken,
		"unknown type":  referTo(t, wrapperspb.Int32(webPID)),
		"a nested one":  referTo(t, process(t, webPID)),
		"another name":  {Reference: &anypb.Any{TypeUrl: "type.googleapis.com/spiffe.broker.WorkloadPidReference", Value: []byte{8, 10}}},
		"pid 0":         process(t, 0),
		"negative":      process(t, -1),
		"negative, all": process(t, -1<<31),
		"no type of it": referTo(t, &brokerpb.KubernetesObjectReference{Uid: "a1b2c3d4-e5f6-7890-abcd-ef1234567890"}),
		"no group":      referTo(t, &brokerpb.KubernetesObjectReference{Type: &brokerpb.KubernetesObjectType{Plural: "pods"}, Uid: "a"}),
		"no plural":     referTo(t, &brokerpb.KubernetesObjectReference{Type: &brokerpb.KubernetesObjectType{Group: "core"}, Uid: "a"}),
		"no key, uid":   referTo(t, &brokerpb.KubernetesObjectReference{Type: pods}),
		"no name":       referTo(t, &brokerpb.KubernetesObjectReference{Type: pods, Key: &brokerpb.KubernetesObjectKey{Namespace: "shop"}}),
		"an object":     referTo(t, &brokerpb.KubernetesObjectReference{Type: pods, Key: &brokerpb.KubernetesObjectKey{Namespace: "shop", Name: "web"}}),
	} {
		for rpc, err := range calls(b.within(), api, ref) {
			wantRefusal(t, what+", "+rpc, err, codes.InvalidArgument, reasonInvalid)
		}
	}
	if w.found != 0 {
		t.Errorf("%d malformed references were resolved", w.found)
	}
}

// Rule 106: who the workload is comes from its process; what the broker says of it,
// or of itself, does not count.
func TestRule106NothingTheBrokerSaysCounts(t *testing.T) {
	t.Parallel()
	b := startBroker(t, newTown(t), 0)
	ctx := metadata.AppendToOutgoingContext(b.within(), "x-kith-as", "orders", "spiffe-id", "spiffe://"+domain+"/vms/orders", "workload.unix.uid", "0")
	ref := process(t, webPID)
	ref.Reference.Value = append(ref.Reference.Value, 0x12, 1, 'x', 0x1a, 1, 'y') // fields that nobody defined
	stream, err := b.mesh().SubscribeToX509SVID(ctx, &brokerpb.SubscribeToX509SVIDRequest{Reference: ref})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || ids(first) != "/vms/web" {
		t.Errorf("got %v, %v", first, err)
	}
	_, err = b.mesh().FetchJWTSVID(b.within(), &brokerpb.FetchJWTSVIDRequest{
		Reference: process(t, webPID), Audience: []string{"billing"}, SpiffeId: "spiffe://" + domain + "/vms/orders",
	})
	wantRefusal(t, "another's ID", err, codes.PermissionDenied, reasonNotEntitled)
}

// Rule 107: numbers of another pid namespace mean other processes here, so they are
// refused; there is no listener that another node could reach.
func TestRule107NumbersOfElsewhereMeanNothing(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.caller = boxedPID
	b := startBroker(t, w, 0)
	for rpc, err := range calls(b.within(), b.mesh(), process(t, webPID)) {
		wantRefusal(t, rpc, err, codes.InvalidArgument, reasonInvalid)
	}
	if w.found != 0 {
		t.Errorf("%d numbers of elsewhere were looked up", w.found)
	}
}

// Rule 109: the reasons and their codes.
func TestRule109ReasonsAndCodes(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	b := startBroker(t, w, 0)
	for _, tc := range []struct {
		what   string
		pid    int32
		code   codes.Code
		reason string
	}{
		{"invalid", -5, codes.InvalidArgument, reasonInvalid},
		{"gone", 404, codes.NotFound, reasonNotFound},
		{"without an identity", nobodyPID, codes.PermissionDenied, reasonNotEntitled},
	} {
		for rpc, err := range calls(b.within(), b.mesh(), process(t, tc.pid)) {
			wantRefusal(t, tc.what+", "+rpc, err, tc.code, tc.reason)
		}
	}
	w.set(func() { w.refuse = "rule web does not match" })
	stream, err := b.mesh().SubscribeToX509SVID(b.within(), &brokerpb.SubscribeToX509SVIDRequest{Reference: process(t, webPID)})
	if err == nil {
		_, err = stream.Recv()
	}
	wantRefusal(t, "the server refuses", err, codes.PermissionDenied, reasonNotEntitled)
}

// Rule 110: full states, the first at once, each stream for its own workload; and
// nothing after the workload has ended.
func TestRule110StreamsLiveAsLongAsTheirWorkload(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	b := startBroker(t, w, 0)
	api := b.mesh()
	web, first := b.subscribe(api, webPID)
	orders, other := b.subscribe(api, ordersPID)
	if ids(first) != "/vms/web" || ids(other) != "/vms/orders" {
		t.Fatalf("got %s and %s", ids(first), ids(other))
	}
	w.is(webPID, "/vms/web", "/vms/second")
	next, err := web.Recv()
	if err != nil || ids(next) != "/vms/web /vms/second" || len(next.GetFederatedBundles()) != 1 {
		t.Fatalf("got %v, %v, want the whole state", ids(next), err)
	}
	bundles, err := api.SubscribeToX509Bundles(b.within(), &brokerpb.SubscribeToX509BundlesRequest{Reference: process(t, webPID)})
	if err == nil {
		_, err = bundles.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.end(webPID)
	_, err = web.Recv()
	wantRefusal(t, "SVIDs of a process that ended", err, codes.NotFound, reasonNotFound)
	_, err = bundles.Recv()
	wantRefusal(t, "bundles of a process that ended", err, codes.NotFound, reasonNotFound)
	w.is(ordersPID) // redaction, of this workload only
	_, err = orders.Recv()
	wantRefusal(t, "redacted", err, codes.PermissionDenied, reasonNotEntitled)
	if _, again := b.subscribe(api, meshPID); ids(again) != "/vms/mesh" {
		t.Errorf("on the same connection: %s", ids(again))
	}
}

// Rule 111: bundles hold the own trust domain always and nothing but what they are
// for; a hint is unique in its message.
func TestRule111BundlesAndHints(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.known[webPID].Matches = []registry.Match{
		{Rule: "a", ID: mustID("spiffe://" + domain + "/vms/a"), Hint: "internal"}, {Rule: "b", ID: mustID("spiffe://" + domain + "/vms/b"), Hint: "internal"},
	}
	b := startBroker(t, w, 0)
	_, first := b.subscribe(b.mesh(), webPID)
	if len(first.GetSvids()) != 2 || first.GetSvids()[0].GetHint() != "internal" || first.GetSvids()[1].GetHint() != "" {
		t.Errorf("hints of %v", first)
	}
	ref := process(t, webPID)
	roots, err := b.mesh().SubscribeToX509Bundles(b.within(), &brokerpb.SubscribeToX509BundlesRequest{Reference: ref})
	if err != nil {
		t.Fatal(err)
	}
	x509, err := roots.Recv()
	if err != nil || !bytes.Equal(x509.GetBundles()["spiffe://"+domain], w.ca.cert.Raw) || len(x509.GetBundles()) != 2 {
		t.Errorf("X.509: got %v, %v", x509, err)
	}
	keys, err := b.mesh().SubscribeToJWTBundles(b.within(), &brokerpb.SubscribeToJWTBundlesRequest{Reference: ref})
	if err != nil {
		t.Fatal(err)
	}
	jwt, err := keys.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []struct{ Use string } }
	if err := json.Unmarshal(jwt.GetBundles()["spiffe://"+domain], &set); err != nil || len(set.Keys) != 1 || set.Keys[0].Use != "jwt-svid" {
		t.Errorf("JWT: got %s, %v", jwt.GetBundles(), err)
	}
}

// Rule 112: the service has its four RPCs and no others, and reflection shows it.
func TestRule112NoOtherRPCs(t *testing.T) {
	t.Parallel()
	var names []string
	for _, m := range brokerpb.API_ServiceDesc.Methods {
		names = append(names, m.MethodName)
	}
	for _, s := range brokerpb.API_ServiceDesc.Streams {
		names = append(names, s.StreamName)
	}
	want := []string{"FetchJWTSVID", "SubscribeToX509SVID", "SubscribeToX509Bundles", "SubscribeToJWTBundles"}
	if diff := cmp.Diff(want, names); diff != "" || brokerpb.API_ServiceDesc.ServiceName != "spiffe.broker.API" {
		t.Errorf("%s (-want +got):\n%s", brokerpb.API_ServiceDesc.ServiceName, diff)
	}
	b := startBroker(t, newTown(t), 0)
	conn := b.dial(b.source(t, b.ca, "spiffe://"+domain+"/vms/mesh"), nil)
	shown := func(ctx context.Context) (string, error) {
		stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		if err != nil {
			return "", err
		}
		if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv knows why
			return "", err
		}
		in, err := stream.Recv()
		return in.String(), err
	}
	if got, err := shown(b.within()); err != nil || !strings.Contains(got, "spiffe.broker.API") {
		t.Errorf("got %s, %v", got, err)
	}
	_, err := shown(t.Context())
	wantRefusal(t, "reflection without the header", err, codes.InvalidArgument, "")
	err = conn.Invoke(b.within(), "/SpiffeWorkloadAPI/FetchJWTSVID", &workloadpb.JWTSVIDRequest{}, &workloadpb.JWTSVIDResponse{})
	wantRefusal(t, "the Workload API", err, codes.Unimplemented, "")
}
