package kith

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// decider is a workload with one rule and this decision log.
func decider(b testing.TB, log *pb.DecisionLog) (*Workload, *Peer) {
	b.Helper()
	set := policy.Set{Services: map[string]policy.Service{}, Rules: map[string]policy.Rule{}}
	set.TrustDomain, _ = spiffe.ParseTrustDomain("test.example")
	set.Services["orders"] = policy.Service{Name: "orders", Protocol: policy.HTTP, Identities: []string{"/orders"}}
	set.Rules["reads"] = policy.Rule{Name: "reads", From: []string{"/web"}, To: "orders", Allow: []string{"GET /v1/orders/{**}"}}
	table, err := policy.Compile(set, "orders")
	if err != nil {
		b.Fatal(err)
	}
	w := &Workload{cfg: Config{}.withDefaults()}
	w.reports.init()
	w.flows.init()
	w.policy.Store(&ruling{table: table, protocol: HTTP, recording: policy.RecordingFromPB(log)})
	w.identity.Store(&identity{expires: time.Now().Add(time.Hour), svid: &spiffe.X509SVID{}})
	id, _ := spiffe.ParseID("spiffe://test.example/web")
	return w, &Peer{id: id}
}

// BenchmarkDecide is one allowed request: without a decision log, with one that
// keeps only denials, every hundredth allow, and all of them with a header.
func BenchmarkDecide(b *testing.B) {
	for _, c := range []struct {
		name string
		log  *pb.DecisionLog
	}{
		{"off", nil},
		{"denials", &pb.DecisionLog{}},
		{"one-in-100", &pb.DecisionLog{Allows: 0.01}},
		{"all", &pb.DecisionLog{Allows: 1, Headers: []string{"user-agent"}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w, peer := decider(b, c.log)
			headers := http.Header{"User-Agent": {"bench"}}
			b.ReportAllocs()
			for b.Loop() {
				if !w.Decide(peer, Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders/17", Headers: headers}).Allowed {
					b.Fatal("denied")
				}
				for len(w.reports.queue) > reportQueue/4 { // as the agent takes them
					<-w.reports.queue
				}
			}
		})
	}
}

// TestDecidingCostsNothingMoreWithoutALog holds the hot path to no allocation, log
// or not, where the allow is not one of those that are kept.
func TestDecidingCostsNothingMoreWithoutALog(t *testing.T) {
	for name, log := range map[string]*pb.DecisionLog{"off": nil, "denials": {}} {
		w, peer := decider(t, log)
		var headers http.Header
		at := time.Unix(1_790_000_000, 0) // one second, so that no sample is due
		w.cfg.Now = func() time.Time { return at }
		request := Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders/17", Headers: headers}
		w.identity.Store(&identity{expires: at.Add(time.Hour), svid: &spiffe.X509SVID{}})
		if n := testing.AllocsPerRun(1000, func() { w.Decide(peer, request) }); n > 0 {
			t.Errorf("%s: got %v allocations a request, want none", name, n)
		}
	}
}

// A canary in the request is not in what is reported, though the log wants all.
func TestNoSecretIsReported(t *testing.T) {
	t.Parallel()
	w, peer := decider(t, &pb.DecisionLog{Allows: 1, Headers: []string{"*"}, Query: []string{"*"}})
	w.Decide(peer, Request{
		Protocol: HTTP, Method: "GET", Path: "/v1/orders/17", Query: "token=canary-5f0c&page=2",
		Headers: http.Header{"Authorization": {"Bearer canary-5f0c"}, "Cookie": {"a=canary-5f0c"}, "X-Plain": {"seen"}},
	})
	m := <-w.reports.queue
	if !m.GetLogged() || m.GetHeaders()["x-plain"] != "seen" || m.GetQuery()["page"] != "2" {
		t.Errorf("got %v, want an allow for the log with what is no secret", m)
	}
	if text := m.String(); strings.Contains(text, "canary-5f0c") {
		t.Errorf("the secret is there: %s", text)
	}
}

// Allows fill half of the queue and no more: denials have the rest.
func TestDenialsHaveRoomBehindAllows(t *testing.T) {
	t.Parallel()
	w, peer := decider(t, &pb.DecisionLog{Allows: 1})
	for range 2 * reportQueue {
		w.Decide(peer, Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders/17"})
	}
	for range reportQueue / 2 {
		w.Decide(peer, Request{Protocol: HTTP, Method: "DELETE", Path: "/v1/orders/17"})
	}
	denials := 0
	for len(w.reports.queue) > 0 {
		if m := <-w.reports.queue; m.GetEffect() == "deny" {
			denials++
		}
	}
	if denials != reportQueue/2 {
		t.Errorf("denials: got %d, want %d", denials, reportQueue/2)
	}
	if report := w.reports.batch(&pb.Decision{}); report.GetDropped() != 2*reportQueue-reportQueue/2 {
		t.Errorf("dropped, as reported: got %d, want the allows that had no room", report.GetDropped())
	}
}
