package agent

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/run/runtest"
)

// asks is an Envoy of these tests: process 200 of user 2000, who is /vms/shop.
type asks struct {
	t      testing.TB
	client envoypb.AuthorizationClient
}

func (n *node) envoy(pid int32) asks {
	n.t.Helper()
	n.people.be(pid, uint32(pid)*10)
	client := envoypb.NewAuthorizationClient(n.dial())
	a := asks{n.t, client}
	a.may("GET", "/before") // so that the connection is this process's
	return a
}

// may asks for web and returns the answer's word and reason.
func (a asks) may(method, path string) (code int32, reason, decision string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := a.client.Check(ctx, &envoypb.CheckRequest{Attributes: &envoypb.AttributeContext{
		Source: &envoypb.AttributeContext_Peer{Principal: "spiffe://" + domain + "/vms/web"},
		Request: &envoypb.AttributeContext_Request{Http: &envoypb.AttributeContext_HttpRequest{
			Method: method, Path: path, Host: "shop",
		}},
	}})
	if err != nil {
		a.t.Fatalf("Check: %v", err)
	}
	said := out.GetDynamicMetadata().GetFields()
	return out.GetStatus().GetCode(), said["reason"].GetStringValue(), said["decision"].GetStringValue()
}

func (a asks) want(what, method, path, want string) {
	a.t.Helper()
	code, reason, _ := a.may(method, path)
	if reason != want || (code == 0) != (want == "allow_rule") {
		a.t.Fatalf("%s: got %d %s, want %s", what, code, reason, want)
	}
}

// shopServer has a service that user 2000 answers for without claiming a name.
func shopServer(t testing.TB) *testServer {
	s := newServer(t)
	s.state.Objects = append(s.state.Objects, serviceObject("shop"), ruleObject("web-shop", "web", "shop", "GET /v1/{**}"))
	return s
}

func TestWhoAsksIsAnEnforcementPoint(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	shop := n.envoy(200)
	shop.want("by its rule", "GET", "/v1/x", "allow_rule")
	shop.want("by no rule", "POST", "/v1/x", "no_rule")
	if got := n.agent.points.count(); got != 1 {
		t.Errorf("%d enforcement points, want 1", got)
	}
	_, _, id := shop.may("DELETE", "/v1/x")
	found := n.agent.why(&pb.WhyQuery{Id: id})
	if id == "" || len(found) != 1 {
		t.Fatalf("decision %q: %d found, want 1", id, len(found))
	}
	d := found[0]
	if d.GetTo() != "shop" || d.GetToId() != "spiffe://"+domain+"/vms/shop" || d.GetNode() != "vm-7" ||
		d.GetMethod() != "DELETE" || d.GetNearRule() != "web-shop" || d.GetFrom() != "spiffe://"+domain+"/vms/web" {
		t.Errorf("the decision as kept: %v", d)
	}
}

// Who asks decides in here: a restarted agent has nothing to wait for.
func TestRestartedAgentWaitsForNobodyWhoAsks(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	n.envoy(200).want("before", "GET", "/v1/x", "allow_rule")
	n.agent.savePoints()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	r := s.change([]*pb.Object{ruleObject("more", "web", "shop", "GET /more")})
	n.start()
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	n.envoy(200).want("after", "GET", "/more", "allow_rule")
}

// An ack means in force: the question after it is answered by the new rules.
func TestAckOfWhoAsksMeansInForce(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	shop := n.envoy(200)
	for i := range 20 {
		path := fmt.Sprintf("/n/%d", i)
		shop.want("before", "GET", path, "no_rule")
		r := s.change([]*pb.Object{ruleObject(fmt.Sprintf("n-%d", i), "web", "shop", "GET "+path)})
		eventually(t, "ack", func() bool { return s.acked(r) != nil })
		shop.want("after the ack", "GET", path, "allow_rule")
	}
}

// The same points answer over HTTP: who asks is the process on the socket.
func TestProxiesAskOnTheirOwnSocket(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.cfg.AuthzSocket)
	}}
	defer transport.CloseIdleConnections()
	der, err := s.ca.issue("/vms/web", newKey(t).Public(), time.Now().Add(-time.Minute), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	target := "http://kith/auth?verify=SUCCESS&cert=" + url.QueryEscape(base64.StdEncoding.EncodeToString(der)) + "&method=GET&uri=/v1/x"
	for pid, want := range map[int32]int{200: http.StatusOK, 300: http.StatusForbidden} {
		n.people.be(pid, uint32(pid)*10)
		transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get(target)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("process %d: got %d, want %d", pid, resp.StatusCode, want)
		}
	}
}

// Dialer makes people attest.Dialing: who asks on a port is who the test says.
func (p *people) Dialer(net.Conn) (attest.Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.peer.PID == 404 {
		return attest.Peer{}, fault.Deniedf("two processes hold the connection")
	}
	return p.peer, nil
}

// Those that can ask on no unix socket ask on a port: who asks is the process that
// holds the connection; whom nobody can name is denied.
func TestProxiesAskOnAPort(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	at, err := runtest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	n.cfg.AuthzListen = fmt.Sprintf("127.0.0.1:%d", at)
	n.start()
	der, err := s.ca.issue("/vms/web", newKey(t).Public(), time.Now().Add(-time.Minute), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for pid, want := range map[int32]int{200: http.StatusOK, 300: http.StatusForbidden, 404: http.StatusForbidden} {
		n.people.be(pid, uint32(pid)*10)
		transport.CloseIdleConnections()
		for range 2 { // the second time on a connection that is known
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+n.cfg.AuthzListen+"/auth/shop?verify=SUCCESS&cert=forwarded&via=forwarded", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{"X-Forwarded-Method": {"GET"}, "X-Forwarded-Uri": {"/v1/x"}, "X-Forwarded-Tls-Client-Cert": {base64.StdEncoding.EncodeToString(der)}}
			resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("process %d: got %d, want %d", pid, resp.StatusCode, want)
			}
		}
	}
}

// Nobody can say who asks from elsewhere, so that there is no port but on loopback.
func TestPortIsOnLoopbackAlone(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:9190", ":9190", "[::]:9190", "10.0.0.7:9190", "localhost:9190", "127.0.0.1:0", "tcp://127.0.0.1:9190", "127.0.0.1"} {
		n := newNode(t, shopServer(t))
		n.cfg.AuthzListen = address
		a, err := New(n.cfg)
		if err == nil {
			a.Close()
		}
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("%s: got %v, want a refusal", address, err)
		}
	}
}

func TestWhoHasNoIdentityIsDenied(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	stranger := n.envoy(300)
	stranger.want("a process without an identity", "GET", "/v1/x", "no_policy")
	// Nor one that is no service.
	n.people.be(200, 2000)
	s.change(nil, &pb.Key{Kind: "rule", Name: "web-shop"})
	r := s.change(nil, &pb.Key{Kind: "service", Name: "shop"})
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	n.envoy(200).want("an identity of no service", "GET", "/v1/x", "no_policy")
}

// Rule 93 for those who ask: an identity that is withdrawn answers for nothing.
func TestRule93WhoAsksLosesItsIdentity(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	shop := n.envoy(200)
	shop.want("before", "GET", "/v1/x", "allow_rule")
	r := s.change(nil, &pb.Key{Kind: "identity", Name: "users"})
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	shop.want("after", "GET", "/v1/x", "no_policy")
}

func TestWhoAsksFailsClosedOnWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	shop := n.envoy(200)
	shop.want("before", "GET", "/v1/x", "allow_rule")
	odd := ruleObject("odd", "web", "shop", "GET /odd")
	odd.GetRule().ProtoReflect().SetUnknown([]byte{0xfa, 0x07, 0x01, 'x'}) // field 127: of a newer schema
	r := s.change([]*pb.Object{odd})
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	shop.want("after", "GET", "/v1/x", "no_policy")
	if said := strings.Join(s.acked(r).GetErrors(), "\n"); !strings.Contains(said, "shop (pid 200): ") {
		t.Errorf("the ack says %q, want the point named", said)
	}
}

func TestWhoAsksIsForgottenWhenItIsGone(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	n.envoy(200).want("before", "GET", "/v1/x", "allow_rule")
	n.people.mu.Lock()
	n.people.gone[200] = true
	n.people.mu.Unlock()
	a := n.agent
	a.asking.sweep(func(w *asker) bool { return w.err == nil && a.cfg.Processes.Check(w.hold) == nil })
	eventually(t, "the point is detached", func() bool { return a.points.count() == 0 })
	if _, known := a.asking.all[(attest.Peer{PID: 200, Started: 1}).Process()]; known {
		t.Error("it is still known")
	}
}

// T5: a user whose processes are all refused takes nobody else's place.
func TestWhoIsRefusedTakesNoPlaces(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	for i := range int32(1200) {
		peer := attest.Peer{PID: 10_000 + i, Started: 1, UID: 4242}
		if _, err := n.agent.asking.Point(t.Context(), peer); err == nil {
			t.Fatalf("process %d is a point", peer.PID)
		}
	}
	n.envoy(200).want("another user's", "GET", "/v1/x", "allow_rule")
}
