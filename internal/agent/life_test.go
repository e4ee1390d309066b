package agent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

func TestRestartWhileTheServerIsAwayServesFromCache(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.directory = &pb.Directory{Version: 1, Entries: []*pb.DirectoryEntry{{Service: "orders", Protocol: "http"}}}
	n := newNode(t, s)
	n.start()
	hosted := n.attach(&pb.Open{As: "orders", Serves: true})
	hosted.slice()
	hosted.close()
	n.people.be(200, 2000)
	_, first, err := n.svids()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "caches", func() bool {
		state, _ := os.ReadFile(n.agent.files.state())
		svids, _ := os.Stat(n.agent.files.svids())
		return strings.Contains(string(state), `"interest":["orders"]`) && svids != nil
	})
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	s.down()
	for _, file := range []string{n.agent.files.state(), n.agent.files.svids(), n.agent.files.key(), n.agent.files.node()} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 0600", file, info, err)
		}
	}
	n.cfg.Join = nil
	began := time.Now()
	n.start()
	_, again, err := n.svids()
	if err != nil || !bytes.Equal(again.GetSvids()[0].GetX509Svid(), first.GetSvids()[0].GetX509Svid()) {
		t.Fatalf("after the restart: %v, want the SVID of before", err)
	}
	t.Logf("served from cache after %s, the goal is 0.5 s", time.Since(began))
	n.people.be(100, 1000)
	p := n.attach(&pb.Open{As: "orders", Serves: true, Calls: true})
	if got := p.slice(); len(got.GetRules()) != 1 || got.GetRevision() != 1 {
		t.Errorf("slice from cache: got %v", got)
	}
	p.directory(func(d *pb.DirectoryView) bool { return len(d.GetEntries()) == 1 })
	s.listen()
	began = time.Now()
	eventually(t, "reconnection", func() bool {
		connected, _, _, _ := n.agent.contact.get()
		return connected
	})
	t.Logf("noticed the server after %s, the goal is 2 s", time.Since(began))
	s.locked(func() {
		if h := s.hellos[len(s.hellos)-1]; h.GetRevision() != 1 || h.GetEpoch() != 7 {
			t.Errorf("hello says %v, want what the cache holds", h)
		}
	})
	eventually(t, "ack on the new stream", func() bool { return s.acked(1) != nil })
}

func TestDamagedCacheIsOnlyASlowerStart(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	eventually(t, "cache", func() bool { info, _ := os.Stat(n.agent.files.state()); return info != nil })
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{"", "{", `{"form":1,"state":"AAAA"}`, `{"form":9}`} {
		if err := os.WriteFile(n.agent.files.state(), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		n.start()
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	}
	s.locked(func() {
		if s.admitted["token"] != 1 || s.admitted["key"] != 0 {
			t.Errorf("admitted %v, want the node to stay who it is", s.admitted)
		}
	})
}

func TestNodeSVIDIsRenewedAtHalfLife(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.nodeTTL = 8 * time.Second
	n := newNode(t, s)
	n.start()
	before := n.agent.standing.Load()
	eventually(t, "renewal", func() bool { return n.agent.standing.Load() != before })
	after := n.agent.standing.Load()
	if left := before.svid.Expiry().Sub(after.obtained); left <= 0 {
		t.Errorf("renewed %s before the end, want about half of the life", left)
	}
	s.locked(func() {
		if s.renewed == 0 || s.admitted["key"] != 0 {
			t.Errorf("renewed %d times, rejoined %d times, want renewals only", s.renewed, s.admitted["key"])
		}
	})
}

// A node that was cut off until its SVID ended comes back by its key, without a
// restart.
func TestNodeRecoversAfterItsSVIDExpired(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.nodeTTL = 2 * time.Second
	n := newNode(t, s)
	n.start()
	s.down()
	var end time.Time // of whatever was issued: an answer may still be on its way
	s.locked(func() { end, s.nodeTTL = s.nodeEnd, time.Hour })
	eventually(t, "end of the node SVID", func() bool { return time.Now().After(end.Add(time.Second)) })
	s.listen()
	eventually(t, "recovery", func() bool {
		connected, _, _, _ := n.agent.contact.get()
		return connected && !n.agent.standing.Load().expired(time.Now())
	})
	s.locked(func() {
		if s.admitted["key"] == 0 {
			t.Error("came back without the node key")
		}
	})
}

// Crash point: the token was used, the answer never arrived. The node key it is
// bound to was on disk before.
func TestJoinIsMadeGoodAfterALostAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	a, err := New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	s.locked(func() { s.tokenUsed = true })
	n.start()
	s.locked(func() {
		if s.admitted["key"] != 1 {
			t.Errorf("admitted %v, want once by key", s.admitted)
		}
	})
	if name, class, id := n.agent.Node(); name != "vm-7" || class != "vms" || id.Path() != "/kith/node/vm-7" {
		t.Errorf("node is %s, %s, %s", name, class, id)
	}
}

func TestJoinFailsClearly(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	other := newAuthority(t)
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
		kind   fault.Kind
	}{
		"wrong pin":     {func(c *Config) { c.Pin = spiffe.PinOf(other.cert) }, "pinned root", fault.Denied},
		"wrong token":   {func(c *Config) { c.Join = said("guess") }, "refused", fault.Denied},
		"no server":     {func(c *Config) { c.Server = "127.0.0.1:1" }, "cannot be reached: dial tcp 127.0.0.1:1: connect: connection refused", fault.Internal},
		"never joined":  {func(c *Config) { c.Join, c.Server = nil, "" }, "has not joined", fault.NotFound},
		"clock behind":  {func(c *Config) { c.Now = func() time.Time { return time.Now().Add(-630 * time.Second) } }, "clock is at least 9m", fault.Internal},
		"clock ahead":   {func(c *Config) { c.Now = func() time.Time { return time.Now().Add(3 * time.Hour) } }, "clock is at least 2h", fault.Internal},
		"long socket":   {func(c *Config) { c.Socket = "/" + strings.Repeat("x", 107) }, "socket path of 108 bytes, at most 107 fit", fault.Invalid},
		"no state dir":  {func(c *Config) { c.StateDir = "" }, "state directory", fault.Invalid},
		"relative path": {func(c *Config) { c.Socket = "agent.sock" }, "not absolute", fault.Invalid},
	} {
		n := newNode(t, s)
		c.change(&n.cfg)
		a, err := New(n.cfg)
		if err == nil {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err = a.Run(ctx)
			cancel()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) != c.kind {
			t.Errorf("%s: got %v (%s), want %q (%s)", name, err, fault.KindOf(err), c.want, c.kind)
		}
		if err != nil && fault.HintOf(err) == "" && c.kind != fault.Invalid {
			t.Errorf("%s: %v has no hint", name, err)
		}
	}
}

func TestBannedNodeWithdrawsEverythingUntilItIsLifted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders", Serves: true})
	if got := p.slice(); len(got.GetIds()) != 1 {
		t.Fatalf("got %v", got)
	}
	n.people.be(200, 2000)
	stream, _, err := n.svids()
	if err != nil {
		t.Fatal(err)
	}
	s.locked(func() { s.banned = true; s.push(nil) })
	if got := p.slice(); len(got.GetIds()) != 0 || len(got.GetServices()) != 0 {
		t.Errorf("slice of a banned node: %v, want nothing in it", got)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("workload stream: got %v, want PermissionDenied", err)
	}
	s.locked(func() { s.banned = false })
	if got := p.slice(); len(got.GetIds()) != 1 {
		t.Errorf("slice after the ban was lifted: %v", got)
	}
}

func TestSecondAgentDoesNotDisturbTheFirst(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	if _, err := New(n.cfg); !fault.Is(err, fault.Conflict) {
		t.Errorf("same state directory: got %v, want Conflict", err)
	}
	other := newNode(t, s)
	other.cfg.Socket, other.cfg.Rejoin = n.cfg.Socket, n.cfg.Rejoin
	a, err := New(other.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("same socket: got %v, want Conflict with a hint", err)
	}
	n.people.be(200, 2000)
	if _, _, err := n.svids(); err != nil {
		t.Errorf("the first agent: %v", err)
	}
}

func TestClockSkewIsMeasuredAndShown(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.skew = 5 * time.Minute
	n := newNode(t, s)
	n.cfg.Now = func() time.Time { return time.Now().Add(6 * time.Minute) }
	n.start()
	got := time.Duration(n.agent.status().GetClockSkewNano())
	if want := -time.Minute; got < want-5*time.Second || got > want+5*time.Second {
		t.Errorf("skew %s, want about %s", got, want)
	}
}

// Bar 16: the clock was ahead when the agent started, so that its SVID had ended,
// and is set right: the agent connects by itself with the SVID it has.
func TestBar16ClockSetRightConnects(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64
	ahead.Store(int64(49 * time.Hour))
	n.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	a, err := New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("agent ended: %v", err)
		}
	}()
	eventually(t, "an agent that names the clock", func() bool {
		_, _, _, failure := a.contact.get()
		return strings.Contains(failure, "clock")
	})
	ahead.Store(0)
	eventually(t, "a connection", func() bool { connected, _, _, _ := a.contact.get(); return connected })
}

func TestGapInDeltasFetchesEverything(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	s.locked(func() { // as if a push had been lost
		s.state.Revision += 3
		s.state.Objects = append(s.state.Objects, serviceObject("lost", "shop"))
	})
	s.change([]*pb.Object{serviceObject("late", "shop")})
	eventually(t, "the whole state", func() bool {
		w := n.agent.world.Load()
		_, lost := w.policy.Service("lost")
		_, late := w.policy.Service("late")
		return w.revision == 5 && lost && late
	})
}

func TestStateWithoutABundleIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w, err := newWorld(s.state)
	if err != nil {
		t.Fatal(err)
	}
	bad := &pb.State{TrustDomain: domain, Revision: 9}
	if _, err := newWorld(bad); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want Invalid", err)
	}
	if _, err := w.apply(&pb.Delta{Revision: 2, Bundles: []*pb.Bundle{{TrustDomain: "other.example", Jwks: s.state.Bundles[0].Jwks}}}); err == nil {
		t.Error("the own bundle was replaced by nothing")
	}
	if _, err := w.apply(&pb.Delta{Revision: 9}); !fault.Is(err, fault.Conflict) {
		t.Errorf("gap: got %v, want Conflict", err)
	}
}

// Rule 80: before the agent has any rules nobody knows who has no identity.
func TestWorkloadsComeBackUntilThereAreRules(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	s.down()
	if err := os.Remove(filepath.Join(n.cfg.StateDir, "state.cache")); err != nil {
		t.Fatal(err)
	}
	a, err := New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	eventually(t, "socket", func() bool { _, err := os.Stat(n.cfg.Socket); return err == nil })
	_, _, err = n.svids()
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "has not heard") {
		t.Errorf("X.509-SVIDs: got %v, want Unavailable from the agent", err)
	}
	if _, err = n.jwt("billing"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "has not heard") {
		t.Errorf("JWT-SVID: got %v, want Unavailable from the agent", err)
	}
}
