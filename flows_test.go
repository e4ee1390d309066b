package kith

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

func flowPeer(t testing.TB, id string) *Peer {
	t.Helper()
	parsed, err := spiffe.ParseID(id)
	if err != nil {
		t.Fatal(err)
	}
	return &Peer{id: parsed}
}

func recorded(f *flows, now time.Time) map[string]uint64 {
	out := make(map[string]uint64)
	for _, report := range f.take("orders", now) {
		for _, flow := range report.GetFlows() {
			out[flow.GetFrom()+" "+flow.GetMethod()+" "+flow.GetTemplate()+" "+flow.GetEffect()] += flow.GetCount()
		}
	}
	return out
}

func TestFlowsAreCountedByTemplateAndOutcome(t *testing.T) {
	t.Parallel()
	var f flows
	f.init()
	web, now := flowPeer(t, "spiffe://acme.example/web"), time.Unix(1000, 0)
	allowed := policy.Decision{Effect: policy.Allow, Rule: "r", Reason: policy.AllowRule}
	denied := policy.Decision{Reason: policy.NoRule}
	for i := range 10 {
		path := "/v1/orders/" + strconv.Itoa(i)
		f.record(web, &Request{Protocol: HTTP, Method: "GET"}, path, &allowed, now)
		f.record(web, &Request{Protocol: HTTP, Method: "GET"}, path, &allowed, now)
		f.record(web, &Request{Protocol: HTTP, Method: "PUT"}, path, &denied, now)
	}
	f.record(web, &Request{Protocol: HTTP, Method: "GET"}, "", &policy.Decision{Reason: policy.PathNotCanonical}, now)
	select {
	case <-f.changed:
	default:
		t.Error("nobody was told that there is something to report")
	}
	got := recorded(&f, now)
	want := map[string]uint64{
		"spiffe://acme.example/web GET /v1/orders/{id} allow": 20,
		"spiffe://acme.example/web PUT /v1/orders/{id} deny":  10,
	}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for key, n := range want {
		if got[key] != n {
			t.Errorf("%s: got %d, want %d", key, got[key], n)
		}
	}
	if again := recorded(&f, now); len(again) != 0 {
		t.Errorf("what was reported is reported again: %v", again)
	}
}

func TestFlowsAreBounded(t *testing.T) {
	t.Parallel()
	var f flows
	f.init()
	web, now := flowPeer(t, "spiffe://acme.example/web"), time.Unix(1000, 0)
	allowed := policy.Decision{Effect: policy.Allow, Rule: "r", Reason: policy.AllowRule}
	for i := range maxFlows + 100 {
		f.record(web, &Request{Protocol: HTTP, Method: "GET"}, fmt.Sprintf("/p%dx", i), &allowed, now)
	}
	if len(f.all) != maxFlows || f.uncounted.Load() != 100 {
		t.Errorf("got %d flows and %d uncounted, want %d and 100", len(f.all), f.uncounted.Load(), maxFlows)
	}
	for _, report := range f.take("orders", now) {
		if len(report.GetFlows()) > flowBatch {
			t.Errorf("a report of %d flows", len(report.GetFlows()))
		}
	}
	later := now.Add(flowIdle + 2*time.Second)
	f.take("orders", later)
	if len(f.all) != 0 {
		t.Errorf("%d idle flows keep their room", len(f.all))
	}
	// The connection still holds the flow that made room: it must be counted anew.
	last := fmt.Sprintf("/p%dx", maxFlows-1)
	holder := flowPeer(t, "spiffe://acme.example/web")
	f.record(holder, &Request{Protocol: HTTP, Method: "GET"}, last, &allowed, later)
	f.take("orders", later)
	f.take("orders", later.Add(flowIdle+2*time.Second))
	f.record(holder, &Request{Protocol: HTTP, Method: "GET"}, last, &allowed, later.Add(2*flowIdle))
	if got := recorded(&f, later.Add(2*flowIdle)); len(got) != 1 {
		t.Errorf("got %v, want the one request that came after the flow had made room", got)
	}
}

// A busy connection that asks the same again pays nothing but counters.
func TestFlowsOfABusyConnectionAllocateNothing(t *testing.T) {
	var f flows
	f.init()
	web, now := flowPeer(t, "spiffe://acme.example/web"), time.Unix(1000, 0)
	allowed := policy.Decision{Effect: policy.Allow, Rule: "r", Reason: policy.AllowRule}
	request := Request{Protocol: HTTP, Method: "GET"}
	f.record(web, &request, "/v1/orders/1", &allowed, now)
	if n := testing.AllocsPerRun(100, func() { f.record(web, &request, "/v1/orders/1", &allowed, now) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func BenchmarkFlowsSamePath(b *testing.B)   { benchmarkFlows(b, 1) }
func BenchmarkFlowsOtherPaths(b *testing.B) { benchmarkFlows(b, 64) }

func benchmarkFlows(b *testing.B, paths int) {
	var f flows
	f.init()
	web, now := flowPeer(b, "spiffe://acme.example/web"), time.Unix(1000, 0)
	allowed := policy.Decision{Effect: policy.Allow, Rule: "r", Reason: policy.AllowRule}
	request := Request{Protocol: HTTP, Method: "GET"}
	path := make([]string, paths)
	for i := range path {
		path[i] = "/v1/orders/" + strconv.Itoa(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.record(web, &request, path[i%paths], &allowed, now)
	}
}

func TestFlowReportsSurviveTheWire(t *testing.T) {
	t.Parallel()
	var f flows
	f.init()
	allowed := policy.Decision{Effect: policy.Allow, Rule: "r", Reason: policy.AllowRule}
	f.record(flowPeer(t, "spiffe://acme.example/web"), &Request{Protocol: TCP, Port: 5432}, "", &allowed, time.Unix(1000, 0))
	var got []*pb.Flow
	for _, report := range f.take("db", time.Unix(1000, 0)) {
		got = append(got, report.GetFlows()...)
	}
	if len(got) != 1 {
		t.Fatalf("got %d flows, want 1", len(got))
	}
	flow, err := policy.FlowFromPB(got[0])
	if err != nil || flow.Port != 5432 || flow.Protocol != policy.TCP || flow.To != "db" {
		t.Errorf("got %+v, %v", flow, err)
	}
}
