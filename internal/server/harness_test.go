package server_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/platform/proof"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/internal/store"
	"github.com/kith-id/kith/spiffe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flaky is a store that can be taken away.
type flaky struct {
	registry.Store
	mu   sync.Mutex
	down bool
}

func (f *flaky) set(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func (f *flaky) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return fmt.Errorf("test: %w", registry.ErrAway)
	}
	return nil
}

func (f *flaky) Get(ctx context.Context, key string) (registry.Item, error) {
	if err := f.err(); err != nil {
		return registry.Item{}, err
	}
	return f.Store.Get(ctx, key)
}

func (f *flaky) Commit(ctx context.Context, txn registry.Txn) (registry.Version, error) {
	if err := f.err(); err != nil {
		return 0, err
	}
	return f.Store.Commit(ctx, txn)
}

// clock is the server's time: the real one, and what the test adds.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

// records keeps audit events in memory.
type records struct {
	mu     sync.Mutex
	events []audit.Event
}

func (r *records) Record(_ context.Context, e audit.Event) error {
	return r.RecordAll(context.Background(), []audit.Event{e})
}

func (r *records) RecordAll(_ context.Context, events []audit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, events...)
	return nil
}

func (r *records) count(kind audit.Kind, object string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Kind == kind && strings.Contains(e.Object, object) {
			n++
		}
	}
	return n
}

// succeeded counts deeds that were done, by the record after them.
func (r *records) succeeded(kind audit.Kind, object string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Kind == kind && e.Object == object && e.Phase == audit.After && e.Outcome == "ok" {
			n++
		}
	}
	return n
}

// rig is a server under test and what it stands on.
type rig struct {
	t     testing.TB
	cfg   server.Config
	store *flaky
	clock *clock
	audit *records
	s     *server.Server
	admin pb.AdminClient
	stop  func()
}

// newRig makes what a server stands on; start runs one.
func newRig(t testing.TB, change func(*server.Config)) *rig {
	t.Helper()
	dir := t.TempDir()
	kek, err := keys.FileKEK(filepath.Join(dir, "kek"))
	if err != nil {
		t.Fatal(err)
	}
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: &flaky{Store: store.NewMemory()}, clock: &clock{}, audit: &records{}}
	r.cfg = server.Config{
		Name: "one", TrustDomain: td, Version: "test",
		Listen: "127.0.0.1:0", AdminSocket: filepath.Join(dir, "admin.sock"),
		Store: r.store, KEK: kek, JournalPath: filepath.Join(dir, "journal"), JournalBytes: 1 << 20, Audit: r.audit,
		AttestRate: 1e6, AttestRateEach: 1e6,
		Verifiers: map[string]func(server.Desk) attest.Verifier{
			attest.JoinToken: func(d server.Desk) attest.Verifier { return proof.TokenVerifier{Tokens: d, Now: r.clock.Now} },
			attest.NodeKey:   func(d server.Desk) attest.Verifier { return proof.KeyVerifier{Nodes: d, Now: r.clock.Now} },
		},
		Now: r.clock.Now, Log: slog.New(slog.NewTextHandler(testWriter(t), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if change != nil {
		change(&r.cfg)
	}
	return r
}

func testWriter(t testing.TB) io.Writer {
	if testing.Verbose() {
		return t.Output()
	}
	return io.Discard
}

func start(t testing.TB, change func(*server.Config)) *rig {
	t.Helper()
	r := newRig(t, change)
	r.start()
	return r
}

// start runs the server until stop or the end of the test.
func (r *rig) start() {
	r.t.Helper()
	s, err := server.New(r.t.Context(), r.cfg)
	if err != nil {
		r.t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	conn, err := grpc.NewClient("unix://"+r.cfg.AdminSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.s, r.admin = s, pb.NewAdminClient(conn)
	r.stop = sync.OnceFunc(func() {
		conn.Close()
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	r.t.Cleanup(r.stop)
}

// apply applies what must be accepted.
func (r *rig) apply(req *pb.ApplyRequest) *pb.ChangeResult {
	r.t.Helper()
	result, err := r.admin.Apply(r.t.Context(), req)
	if err != nil {
		r.t.Fatalf("Apply: %v", api.FromWire(err))
	}
	return result
}

// refused wants an apply to fail with a kind and a text.
func (r *rig) refused(req *pb.ApplyRequest, kind fault.Kind, text string) error {
	r.t.Helper()
	_, err := r.admin.Apply(r.t.Context(), req)
	err = api.FromWire(err)
	if !fault.Is(err, kind) || !strings.Contains(err.Error(), text) {
		r.t.Errorf("Apply: got %v (%s), want %s with %q", err, fault.KindOf(err), kind, text)
	}
	return err
}

func (r *rig) status() *pb.StatusResponse {
	r.t.Helper()
	status, err := r.admin.Status(r.t.Context(), &pb.StatusRequest{})
	if err != nil {
		r.t.Fatalf("Status: %v", err)
	}
	return status
}

func service(name string, identities ...string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Service{Service: &pb.Service{
		Name: name, Identities: identities, Protocol: "http", RunAs: []string{name},
	}}}
}

func rule(name, from, to string, allow ...string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Rule{Rule: &pb.Rule{Name: name, From: []string{from}, To: to, Allow: allow}}}
}

// shop is two services and nothing between them.
func shop() []*pb.Object {
	return []*pb.Object{service("orders", "/vms/orders"), service("web", "/vms/web")}
}

// teams is who shares the services of shop, and one for the platform.
func teams() []*pb.Object {
	var out []*pb.Object
	for _, t := range []*pb.Team{
		{Name: "shop", Identities: []string{"/vms/shop/**"}},
		{Name: "stock", Identities: []string{"/vms/stock/**"}},
		{Name: "sre", Platform: true},
	} {
		out = append(out, &pb.Object{Kind: &pb.Object_Team{Team: t}})
	}
	return out
}

// within waits for something that another goroutine brings about.
func within(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
		<-tick.C
	}
}

// pinned is the TLS of a host that knows a join line only.
func pinned(t testing.TB, line string, now func() time.Time) (addr, token string, config *tls.Config) {
	t.Helper()
	parts := strings.Split(line, "/")
	if len(parts) != 3 {
		t.Fatalf("join line %q has %d parts", line, len(parts))
	}
	pin, err := spiffe.ParsePin(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return parts[0], parts[2], spiffe.PinnedClientTLS(pin, now, func(id spiffe.ID) error {
		if !strings.HasPrefix(id.Path(), "/kith/server/") {
			return fmt.Errorf("%s is no server", id)
		}
		return nil
	})
}
