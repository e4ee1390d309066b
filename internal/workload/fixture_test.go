package workload

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "acme.example"

func mustID(text string) spiffe.ID {
	id, err := spiffe.ParseID(text)
	if err != nil {
		panic(err)
	}
	return id
}

// authority is a root that signs leaves, as far as these tests need one.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) issue(id string, key crypto.PublicKey, from time.Time, ttl time.Duration) ([]byte, error) {
	uri, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: from, NotAfter: from.Add(ttl),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	return x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
}

// world is the agent and the server of these tests: a Host and a Signer whose
// answers the test sets.
type world struct {
	ca  *authority
	ttl time.Duration

	mu      sync.Mutex
	ev      Evaluation  // set by a test
	known   Evaluations // of ev
	evErr   error
	checked error
	away    error
	refuse  string
	skew    time.Duration
	bundles spiffe.BundleMap
	changed chan struct{}
	batches []int

	jwtKey  *ecdsa.PrivateKey // of the kid "now"
	jwtTTL  time.Duration
	forge   func(*jwtForm)
	signing chan struct{} // if set, signing JWTs waits until it is closed
	jwts    []string      // audiences of what was signed

	witKey *ecdsa.PrivateKey // of the kid "wit"; nil: the WIT profile is off
	witTTL time.Duration
	bend   func(*witForm)

	wait time.Duration // of a first message for the server; signWait unless it is set before start
}

// awayWait is how long a first message waits for a server that is away all the time.
const awayWait = 50 * time.Millisecond

func newWorld(t testing.TB) *world {
	ca := newAuthority(t)
	own := mustID("spiffe://" + domain + "/x").TrustDomain()
	other := mustID("spiffe://other.example/x").TrustDomain()
	jwtKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		ca: ca, ttl: time.Hour, changed: make(chan struct{}), jwtKey: jwtKey, jwtTTL: 5 * time.Minute,
		bundles: spiffe.BundleMap{
			own:   withJWTKey(t, spiffe.NewBundle(own, 1, 0, ca.cert), "now", jwtKey),
			other: spiffe.NewBundle(other, 1, 0, newAuthority(t).cert),
		},
		ev: Evaluation{
			Attributes: registry.Attributes{"workload.unix.uid": "1000"},
			Matches:    []registry.Match{{Rule: "web", ID: mustID("spiffe://" + domain + "/vms/web")}},
		},
	}
}

func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.known = Evaluations{}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.known = Evaluations{}
}

func (w *world) Evaluate(context.Context, attest.Peer) (*Evaluation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.evErr != nil {
		return nil, w.evErr
	}
	if w.known.all != nil && w.checked != nil { // who was evaluated before
		return nil, w.checked
	}
	rules := func(registry.Attributes) ([]registry.Match, []registry.Outcome) { return w.ev.Matches, w.ev.Outcomes }
	return w.known.Of(w.ev.Attributes, rules), nil
}

// EvaluateObject says of an object that it is /vms/ and its service account.
func (w *world) EvaluateObject(attrs registry.Attributes) (*Evaluation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known.Of(attrs, func(attrs registry.Attributes) ([]registry.Match, []registry.Outcome) {
		account := attrs["workload.k8s.sa"]
		if account == "" {
			return nil, nil
		}
		return []registry.Match{{Rule: "pods", ID: mustID("spiffe://" + domain + "/vms/" + account)}}, nil
	}), nil
}

func (w *world) Check(attest.Peer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.checked
}

func (w *world) Trust() Trust {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Trust{Domain: mustID("spiffe://" + domain + "/x").TrustDomain(), Bundles: w.bundles}
}

func (w *world) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *world) SignWorkloads(_ context.Context, csrs []*pb.WorkloadCSR) ([]*pb.SignedWorkload, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batches = append(w.batches, len(csrs))
	if w.away != nil {
		return nil, w.away
	}
	out := make([]*pb.SignedWorkload, len(csrs))
	for i, c := range csrs {
		if w.refuse != "" {
			out[i] = &pb.SignedWorkload{Error: w.refuse, ErrorKind: fault.Denied.String()}
			continue
		}
		csr, err := x509.ParseCertificateRequest(c.GetCsr())
		if err != nil {
			return nil, err
		}
		if len(csr.URIs)+len(csr.DNSNames)+len(csr.IPAddresses) > 0 || csr.Subject.String() != "" {
			return nil, errors.New("the request brings a name")
		}
		der, err := w.ca.issue(c.GetSpiffeId(), csr.PublicKey, time.Now().Add(w.skew-time.Second), w.ttl)
		if err != nil {
			return nil, err
		}
		out[i] = &pb.SignedWorkload{Chain: [][]byte{der}}
	}
	return out, nil
}

// fixedPeer are server credentials that say the same peer of every connection.
type fixedPeer struct{ peer attest.Peer }

type fixedInfo struct {
	credentials.CommonAuthInfo
	peer attest.Peer
}

func (fixedInfo) AuthType() string    { return "test" }
func (i fixedInfo) Peer() attest.Peer { return i.peer }

func (f fixedPeer) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, fixedInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, f.peer}, nil
}

func (f fixedPeer) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("for servers")
}
func (f fixedPeer) Info() credentials.ProtocolInfo          { return credentials.ProtocolInfo{} }
func (f fixedPeer) Clone() credentials.TransportCredentials { return f }
func (f fixedPeer) OverrideServerName(string) error         { return nil }

// endpoint is a Workload API on a unix socket.
type endpoint struct {
	*world
	identities *Identities
	tokens     *Tokens
	wits       *Identities
	path       string
	conn       *grpc.ClientConn
}

func (e *endpoint) api() workloadpb.SpiffeWorkloadAPIClient {
	return workloadpb.NewSpiffeWorkloadAPIClient(e.conn)
}

func start(t testing.TB, w *world, streams int) *endpoint {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	ids := NewIdentities(Config{Signer: w, Trust: w.Trust, Now: time.Now, Log: log})
	tokens := NewTokens(TokensConfig{Signer: w, Trust: w.Trust, Now: time.Now, Log: log, wait: w.wait})
	var wits *Identities
	if w.witKey != nil {
		wits = NewWITs(WITConfig{Signer: w, Trust: w.Trust, Now: time.Now, Log: log})
	}
	service := NewService(ServiceConfig{Host: w, Identities: ids, Tokens: tokens, WITs: wits, Log: log, wait: w.wait})
	server := grpc.NewServer(append(service.ServerOptions(streams), grpc.Creds(fixedPeer{attest.Peer{PID: 4242, UID: 1000}}))...)
	workloadpb.RegisterSpiffeWorkloadAPIServer(server, service)
	envoypb.RegisterSecretDiscoveryServiceServer(server, NewSecrets(service))
	reflection.Register(server)
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(l) })
	running.Go(func() { _ = ids.Run(ctx) })
	running.Go(func() { _ = tokens.Run(ctx) })
	if wits != nil {
		running.Go(func() { _ = wits.Run(ctx) })
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		cancel()
		running.Wait()
	})
	return &endpoint{world: w, identities: ids, tokens: tokens, wits: wits, path: path, conn: conn}
}

func secured(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

// fetch opens a stream and returns it with its first message.
func (e *endpoint) fetch(t *testing.T) (grpc.ServerStreamingClient[workloadpb.X509SVIDResponse], *workloadpb.X509SVIDResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
	t.Cleanup(cancel)
	stream, err := e.api().FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	return stream, first, err
}
