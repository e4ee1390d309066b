package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "acme.example"

// authority is the CA of these tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
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

func (a *authority) issue(path string, key crypto.PublicKey, from time.Time, ttl time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: from, NotAfter: from.Add(ttl),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		URIs:        []*url.URL{{Scheme: "spiffe", Host: domain, Path: path}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	return x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
}

// eventually waits for something that happens in another goroutine.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-limit.C:
			t.Fatalf("%s: did not happen within 20 s", what)
		}
	}
}

// people are the processes of these tests: who is on the socket is what the
// test says, and kin says who is whose parent.
type people struct {
	mu    sync.Mutex
	attrs registry.Attributes
	peer  attest.Peer
	kin   map[attest.Process][]attest.Process
	gone  map[int32]bool
}

func newPeople() *people {
	return &people{
		peer:  attest.Peer{PID: 100, Started: 1, UID: 1000},
		attrs: registry.Attributes{"workload.unix.uid": "1000", "workload.unix.user": "shop"},
		kin:   make(map[attest.Process][]attest.Process), gone: make(map[int32]bool),
	}
}

func (p *people) Inspect(_ context.Context, peer attest.Peer) (registry.Attributes, error) {
	if err := p.Check(peer); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.attrs.Workload()
	out["workload.unix.uid"] = strconv.Itoa(int(peer.UID))
	return out, nil
}

func (p *people) Check(peer attest.Peer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone[peer.PID] {
		return fault.Deniedf("process %d has ended", peer.PID)
	}
	return nil
}

func (p *people) Find(pid int32) (attest.Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pid == 404 || p.gone[pid] {
		return attest.Peer{}, fault.Deniedf("process %d does not exist", pid)
	}
	return attest.Peer{PID: pid, Started: 1, UID: uint32(pid) * 10}, nil
}

func (p *people) Lineage(peer attest.Peer) ([]attest.Process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]attest.Process{peer.Process()}, p.kin[peer.Process()]...), nil
}

// be makes the next connections come from this process.
func (p *people) be(pid int32, uid uint32, ancestors ...int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peer = attest.Peer{PID: pid, Started: 1, UID: uid}
	var line []attest.Process
	for _, a := range ancestors {
		line = append(line, attest.Process{PID: a, Started: 1})
	}
	p.kin[p.peer.Process()] = line
}

type localInfo struct {
	credentials.CommonAuthInfo
	peer attest.Peer
}

func (localInfo) AuthType() string    { return "test" }
func (i localInfo) Peer() attest.Peer { return i.peer }

type localCreds struct{ p *people }

func (c localCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return conn, localInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, c.p.peer}, nil
}

func (c localCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, os.ErrInvalid
}
func (c localCreds) Info() credentials.ProtocolInfo          { return credentials.ProtocolInfo{} }
func (c localCreds) Clone() credentials.TransportCredentials { return c }
func (c localCreds) OverrideServerName(string) error         { return nil }

// said is a prover that sends one word; the test server takes the right one.
type said string

func (s said) Prove(ctx context.Context, ex attest.Exchange) error { return ex.Send(ctx, []byte(s)) }

// node is one agent under test.
type node struct {
	t      testing.TB
	cfg    Config
	people *people
	agent  *Agent
	stop   func() error
}

func newNode(t testing.TB, s *testServer) *node {
	t.Helper()
	dir := t.TempDir()
	p := newPeople()
	return &node{t: t, people: p, cfg: Config{
		StateDir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "run", "agent.sock"),
		AuthzSocket: filepath.Join(dir, "run", "authz.sock"),
		Server:      s.address, Pin: s.pin(), Join: said("token"), JoinMethod: attest.JoinToken,
		Rejoin:    func(crypto.Signer) attest.Prover { return said("key") },
		Inspector: p, Processes: p, Credentials: localCreds{p},
		Version: "test", Now: time.Now, Log: slog.New(slog.DiscardHandler),
	}}
}

// start runs the agent until the test ends or stop is called.
func (n *node) start() {
	n.t.Helper()
	a, err := New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	n.agent = a
	n.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	n.t.Cleanup(func() {
		if err := n.stop(); err != nil {
			n.t.Errorf("agent ended: %v", err)
		}
	})
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	select {
	case <-a.Ready():
	case err := <-ended:
		ended <- nil
		n.t.Fatalf("agent ended: %v", err)
	case <-limit.C:
		n.t.Fatal("agent not ready within 20 s")
	}
}

func (n *node) dial() *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient("unix://"+n.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// svids opens a Workload API stream and reads its first message.
func (n *node) svids() (grpc.ServerStreamingClient[workloadpb.X509SVIDResponse], *workloadpb.X509SVIDResponse, error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	n.t.Cleanup(cancel)
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(n.dial()).FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	first, err := stream.Recv()
	return stream, first, err
}

// attached is an enforcement point of the test.
type attached struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[pb.EnforceRequest, pb.EnforceResponse]
	close  func()
}

func (n *node) attach(open *pb.Open) *attached {
	n.t.Helper()
	open.Schema = 1
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	n.t.Cleanup(cancel)
	stream, err := pb.NewEnforcementClient(n.dial()).Enforce(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	p := &attached{t: n.t, stream: stream, close: cancel}
	p.send(&pb.EnforceRequest{Message: &pb.EnforceRequest_Open{Open: open}})
	return p
}

func (p *attached) send(m *pb.EnforceRequest) {
	p.t.Helper()
	if err := p.stream.Send(m); err != nil && !errors.Is(err, io.EOF) { // EOF: the stream has ended, and Recv knows why
		p.t.Fatal(err)
	}
}

func (p *attached) ack(revision uint64, text string) {
	p.t.Helper()
	p.send(&pb.EnforceRequest{Message: &pb.EnforceRequest_Ack{Ack: &pb.PolicyAck{Revision: revision, Error: text}}})
}

// slice reads until the next slice.
func (p *attached) slice() *pb.Slice {
	p.t.Helper()
	for {
		m, err := p.stream.Recv()
		if err != nil {
			p.t.Fatalf("waiting for a slice: %v", err)
		}
		if s := m.GetSlice(); s != nil {
			return s
		}
	}
}

// directory reads until a directory that satisfies want.
func (p *attached) directory(want func(*pb.DirectoryView) bool) *pb.DirectoryView {
	p.t.Helper()
	for {
		m, err := p.stream.Recv()
		if err != nil {
			p.t.Fatalf("waiting for a directory: %v", err)
		}
		if d := m.GetDirectory(); d != nil && want(d) {
			return d
		}
	}
}
