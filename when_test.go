package kith_test

import (
	"crypto/tls"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// when is an allow of everything under a condition.
func when(from, to, condition string) *pb.Rule {
	r := proxytest.Allow("conditional", from, to, "* /{**}")
	r.When = condition
	return r
}

func TestConditionsReadRequestsAsTheyCame(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	for condition, want := range map[string]int{
		`request.headers["x-env"] == "prod"`:                           200,
		`request.headers["x-env"] != "prod"`:                           403,
		`request.headers["x-none"] == ""`:                              403,
		`request.query["page"] == "2"`:                                 200,
		`request.query["page"] == "3"`:                                 403,
		`request.host == "orders"`:                                     200,
		`request.method == "GET" && request.path == "/v1"`:             200,
		`request.source_ip.within(["127.0.0.0/8", "::1"])`:             200,
		`request.source_ip.within("10.0.0.0/8")`:                       403,
		`request.time > timestamp("2020-01-01T00:00:00Z")`:             200,
		`request.time < timestamp("2020-01-01T00:00:00Z")`:             403,
		`peer.path[1] == "web" && peer.trust_domain == "test.example"`: 200,
	} {
		agent.Rules(when("web", "orders", condition))
		req, err := http.NewRequestWithContext(within(t), http.MethodGet, "http://orders/v1?page=2", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Env", "prod")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: got %d, want %d", condition, res.StatusCode, want)
		}
	}
	d := agent.Decision("the denial", func(d *pb.Decision) bool {
		return d.GetReason() == "cond_false" && d.GetNearWant() == `request.query["page"] == "3"`
	})
	if d.GetNearRule() != "conditional" || d.GetNearField() != "when" || d.GetNearGot() != `request.query["page"] is "2"` {
		t.Errorf("near miss: %v", d)
	}
}

func TestConditionsReadTheMetadataOfCalls(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveGRPC(t, agent, "orders", newEcho())
	_, conn := grpcClient(t, agent, "web", "orders")
	agent.Rules(when("web", "orders", `request.headers["x-env"] == "prod" && request.path.startsWith("/test.Echo/")`))
	ctx := within(t)
	_, err := say(ctx, conn)
	mustBeDenied(t, "without the field", err)
	prod := metadata.AppendToOutgoingContext(ctx, "x-env", "prod")
	if _, err := say(prod, conn); err != nil {
		t.Errorf("with it: %v", err)
	}
	_, err = say(metadata.AppendToOutgoingContext(prod, "x-env", "prod"), conn)
	mustBeDenied(t, "with it twice", err)
	stream, err := conn.NewStream(prod, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Chat")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, stream)
	agent.Rules(when("web", "orders", `request.headers["x-env"] == "test"`))
	mustBeDenied(t, "a stream after the condition changed", stream.RecvMsg(new(text)))
}

// In observe mode what the service's own rules deny is served and reported; what
// the platform denies is not served.
func TestObservedServicesAreServedAndReported(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(rw http.ResponseWriter, r *http.Request) {
		if caller, _ := kith.CallerOf(r.Context()); caller.Decision.Observed {
			rw.Header().Set("X-Observed", caller.Decision.Reason)
		}
	})
	_, c := client(t, agent, "web")
	agent.Replace(&pb.Service{Name: "orders", Identities: []string{"/dev/orders"}, Protocol: "http", Mode: "observe"})
	rail := proxytest.Allow("rail", "any", "orders")
	rail.Deny, rail.Guardrail = []string{"* /internal/{**}"}, true
	shadow := proxytest.Allow("later", "web", "orders", "GET /v1")
	shadow.Mode = "shadow"
	agent.Rules(rail, shadow)
	if status, _ := fetch(t, c, "http://orders/internal/x"); status != 403 {
		t.Errorf("guardrail: got %d, want 403", status)
	}
	if status, _ := fetch(t, c, "http://orders/a//b"); status != 400 {
		t.Errorf("two readings: got %d, want 400", status)
	}
	res, err := c.Get("http://orders/v1")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("X-Observed") != "no_source" {
		t.Errorf("observed: got %d, %q", res.StatusCode, res.Header.Get("X-Observed"))
	}
	agent.Decision("what would be denied", func(d *pb.Decision) bool {
		return d.GetObserved() && d.GetEffect() == "allow" && d.GetReason() == "no_source" && d.GetShadowEffect() == "allow" && d.GetShadowRule() == "later"
	})
}

func TestShadowDeniesAreReportedAndServed(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	deny := proxytest.Allow("soon", "any", "orders")
	deny.Deny, deny.Mode = []string{"* /v1/{**}"}, "shadow"
	agent.Rules(proxytest.Allow("all", "web", "orders", "* /{**}"), deny)
	for range 3 {
		if status, _ := fetch(t, c, "http://orders/v1/a"); status != 200 {
			t.Errorf("got %d, want 200", status)
		}
	}
	seen := map[string]bool{}
	agent.Decision("all three of them", func(d *pb.Decision) bool {
		if d.GetRule() == "all" && d.GetShadowRule() == "soon" && d.GetShadowEffect() == "deny" && d.GetShadowReason() == "deny_rule" {
			seen[d.GetId()] = true
		}
		return len(seen) == 3
	})
}

// A connection that a rule allows for a time ends soon after it.
func TestExchangesEndWithTheTimeOfTheirRule(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	agent.Service("db", "tcp")
	var skew atomic.Int64
	w := open(t, agent, kith.Config{As: "db", Now: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }})
	r := proxytest.Allow("tonight", "any", "db", "tcp")
	r.When = `request.time < timestamp("` + time.Now().Add(5*time.Minute).UTC().Format(time.RFC3339) + `")`
	agent.Rules(r)
	own, err := w.X509SVID()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := w.Peer(tls.ConnectionState{HandshakeComplete: true, PeerCertificates: own.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	cut := make(chan kith.Decision, 1)
	d, release := w.Hold(peer, kith.Request{Protocol: kith.TCP}, func(d kith.Decision) { cut <- d })
	defer release()
	if !d.Allowed {
		t.Fatalf("got %+v", d)
	}
	skew.Store(int64(10 * time.Minute))
	select {
	case d := <-cut:
		if d.Reason != "cond_false" {
			t.Errorf("got %+v", d)
		}
	case <-within(t).Done():
		t.Error("the exchange lives on")
	}
}
