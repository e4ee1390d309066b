package workload

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb/brokerpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// The processes of these tests, by number.
const (
	meshPID   = 1  // the broker
	webPID    = 10 // a workload it may act for
	ordersPID = 11 // another
	secretPID = 12 // one it may not act for
	nobodyPID = 13 // one without an identity
	boxedPID  = 14 // a broker in another pid namespace
)

// town is a world in which who somebody is depends on the process.
type town struct {
	*world

	mu      sync.Mutex
	known   map[int32]*Evaluation // who is who; guarded by mu
	absent  map[int32]bool        // guarded by mu
	caller  int32                 // who connects next; guarded by mu
	unheard bool                  // guarded by mu
	found   int                   // references that were resolved; guarded by mu
	objects attest.Objects        // nil: none
}

func newTown(t testing.TB) *town {
	t.Helper()
	w := &town{world: newWorld(t), known: map[int32]*Evaluation{}, absent: map[int32]bool{}, caller: meshPID}
	for pid, paths := range map[int32][]string{
		meshPID: {"/vms/mesh"}, webPID: {"/vms/web"}, ordersPID: {"/vms/orders"}, secretPID: {"/vault/keys"}, nobodyPID: nil, boxedPID: {"/vms/mesh"},
	} {
		w.is(pid, paths...)
	}
	return w
}

// is gives a process identities.
func (w *town) is(pid int32, paths ...string) {
	var matches []registry.Match
	for _, path := range paths {
		matches = append(matches, registry.Match{Rule: "r" + path[1:2], ID: mustID("spiffe://" + domain + path)})
	}
	ev := NewEvaluation(registry.Attributes{"workload.unix.uid": registry.Int(int64(pid))}, matches, nil)
	w.mu.Lock()
	w.known[pid] = ev
	w.mu.Unlock()
	w.change(func() {})
}

func (w *town) end(pid int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.absent[pid] = true
}

// Evaluate implements Host.
func (w *town) Evaluate(_ context.Context, peer attest.Peer) (*Evaluation, error) {
	if err := w.Check(peer); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unheard {
		return nil, Unheard{}
	}
	return w.known[peer.PID], nil
}

// Check implements Host and attest.Processes.
func (w *town) Check(peer attest.Peer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.absent[peer.PID] || w.known[peer.PID] == nil {
		return fault.Deniedf("process %d has ended", peer.PID)
	}
	return nil
}

// Find implements attest.Processes.
func (w *town) Find(pid int32) (attest.Peer, error) {
	peer := attest.Peer{PID: pid, UID: uint32(pid), Started: 1}
	if err := w.Check(peer); err != nil {
		return attest.Peer{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found++
	return peer, nil
}

// Lineage implements attest.Processes.
func (w *town) Lineage(peer attest.Peer) ([]attest.Process, error) {
	return []attest.Process{peer.Process()}, nil
}

// SameNumbers implements attest.Numbering.
func (w *town) SameNumbers(peer attest.Peer) error {
	if peer.PID == boxedPID {
		return fault.Deniedf("process %d is in another pid namespace", peer.PID)
	}
	return nil
}

// ServerHandshake says who is at the other end: the test chooses.
func (w *town) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return c, fixedInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, attest.Peer{PID: w.caller, UID: uint32(w.caller), Started: 1}}, nil
}

// townCreds are its credentials.
type townCreds struct {
	fixedPeer
	w *town
}

func (c townCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.w.ServerHandshake(conn)
}
func (c townCreds) Clone() credentials.TransportCredentials { return c }

// source is somebody's SVID and the bundle of the town, or of a stranger.
type source struct {
	svid   *spiffe.X509SVID
	bundle *spiffe.Bundle
}

func (s source) X509SVID() (*spiffe.X509SVID, error) { return s.svid, nil }
func (s source) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	return s.bundle, td == s.bundle.TrustDomain()
}

// svid is one of the CA for an ID.
func (w *town) source(t testing.TB, ca *authority, id string) source {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.issue(id, key.Public(), time.Now().Add(-time.Minute), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	own := mustID("spiffe://" + domain + "/x").TrustDomain()
	return source{
		&spiffe.X509SVID{ID: mustID(id), Certificates: []*x509.Certificate{leaf}, PrivateKey: key},
		spiffe.NewBundle(own, 1, 0, w.ca.cert),
	}
}

const nodeID = "spiffe://" + domain + "/kith/node/n1"

// brokerage is a Broker API on a unix socket.
type brokerage struct {
	*town
	t    testing.TB
	path string
}

func startBroker(t testing.TB, w *town, streams int) *brokerage {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	ids := NewIdentities(Config{Signer: w, Trust: w.Trust, Now: time.Now, Log: log})
	tokens := NewTokens(TokensConfig{Signer: w, Trust: w.Trust, Now: time.Now, Log: log, wait: w.wait})
	service := NewService(ServiceConfig{Host: w, Identities: ids, Tokens: tokens, Log: log, wait: w.wait})
	broker := NewBroker(BrokerConfig{
		Service: service, Processes: w, Objects: w.objects, Streams: streams, Log: log, looks: 20 * time.Millisecond,
		Grants: []BrokerGrant{{ID: mustID("spiffe://" + domain + "/vms/mesh"), For: []string{"/vms/*"}}},
	})
	creds := BrokerCredentials(townCreds{fixedPeer{}, w}, spiffe.ServerTLS(w.source(t, w.ca, nodeID), time.Now, nil))
	server := grpc.NewServer(append(broker.ServerOptions(), grpc.Creds(creds))...)
	brokerpb.RegisterAPIServer(server, broker)
	reflection.Register(server)
	path := filepath.Join(t.TempDir(), "broker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(l) })
	running.Go(func() { _ = ids.Run(ctx) })
	running.Go(func() { _ = tokens.Run(ctx) })
	t.Cleanup(func() {
		server.Stop()
		cancel()
		running.Wait()
	})
	return &brokerage{town: w, t: t, path: path}
}

// dial connects with an SVID, as a client that expects this node's agent.
func (b *brokerage) dial(from source, expect func(spiffe.ID) error) *grpc.ClientConn {
	b.t.Helper()
	if expect == nil {
		expect = func(spiffe.ID) error { return nil }
	}
	conn, err := grpc.NewClient("unix://"+b.path, grpc.WithTransportCredentials(credentials.NewTLS(spiffe.ClientTLS(from, time.Now, expect))))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

// mesh is the client of the one broker there is.
func (b *brokerage) mesh() brokerpb.APIClient {
	b.t.Helper()
	return brokerpb.NewAPIClient(b.dial(b.source(b.t, b.ca, "spiffe://"+domain+"/vms/mesh"), nil))
}

func brokering(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, brokerHeader, "true")
}

// within is a context with the header that ends some time.
func (b *brokerage) within() context.Context {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(brokering(context.Background()), time.Minute)
	b.t.Cleanup(cancel)
	return ctx
}

func referTo(t testing.TB, m proto.Message) *brokerpb.WorkloadReference {
	t.Helper()
	packed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &brokerpb.WorkloadReference{Reference: packed}
}

func process(t testing.TB, pid int32) *brokerpb.WorkloadReference {
	return referTo(t, &brokerpb.WorkloadPIDReference{Pid: pid})
}

// calls is every RPC for a reference, each until its first answer.
func calls(ctx context.Context, api brokerpb.APIClient, ref *brokerpb.WorkloadReference) map[string]error {
	first := func(err error, recv func() error) error {
		if err != nil {
			return err
		}
		return recv()
	}
	svids, err1 := api.SubscribeToX509SVID(ctx, &brokerpb.SubscribeToX509SVIDRequest{Reference: ref})
	bundles, err2 := api.SubscribeToX509Bundles(ctx, &brokerpb.SubscribeToX509BundlesRequest{Reference: ref})
	keys, err3 := api.SubscribeToJWTBundles(ctx, &brokerpb.SubscribeToJWTBundlesRequest{Reference: ref})
	_, err4 := api.FetchJWTSVID(ctx, &brokerpb.FetchJWTSVIDRequest{Reference: ref, Audience: []string{"billing"}})
	return map[string]error{
		"SubscribeToX509SVID":    first(err1, func() error { _, err := svids.Recv(); return err }),
		"SubscribeToX509Bundles": first(err2, func() error { _, err := bundles.Recv(); return err }),
		"SubscribeToJWTBundles":  first(err3, func() error { _, err := keys.Recv(); return err }),
		"FetchJWTSVID":           err4,
	}
}

// wantRefusal is a code and a reason of Broker API 4.8; no reason: of Endpoint 6.
func wantRefusal(t testing.TB, what string, err error, code codes.Code, reason string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%s: got %v, want %s", what, err, code)
		return
	}
	got := ""
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "spiffe.io" {
			got = info.GetReason()
		}
	}
	if got != reason {
		t.Errorf("%s: reason %q, want %q", what, got, reason)
	}
}

// withPeer is a call that came over a connection of that kind.
func withPeer(ctx context.Context, info credentials.AuthInfo) context.Context {
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: info})
}
