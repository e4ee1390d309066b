package kith_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// judge is an OPA of these tests: it answers as answer says and keeps the input.
type judge struct {
	*httptest.Server

	asked atomic.Int64
	mu    sync.Mutex
	input map[string]any   // of the last question; guarded by mu
	reply http.HandlerFunc // guarded by mu
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	j := &judge{}
	j.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var question struct{ Input map[string]any }
		if err := json.Unmarshal(body, &question); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("question: %s %s: %v", r.Method, body, err)
		}
		j.asked.Add(1)
		j.mu.Lock()
		j.input = question.Input
		reply := j.reply
		j.mu.Unlock()
		reply(rw, r)
	}))
	j.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	j.says(`{"result":true}`)
	t.Cleanup(j.Close)
	return j
}

func (j *judge) says(text string) {
	j.does(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, text) })
}

func (j *judge) does(h http.HandlerFunc) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reply = h
}

// at is a value of the last input.
func (j *judge) at(path ...string) any {
	j.mu.Lock()
	defer j.mu.Unlock()
	var v any = j.input
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// asking makes orders a service with external decisions.
func asking(agent *proxytest.Agent, externals ...*pb.External) {
	agent.Replace(&pb.Service{Name: "orders", Identities: []string{"/dev/orders"}, Protocol: "http", External: externals})
	agent.Settled()
	agent.MustBeInForce()
}

func patient() *durationpb.Duration { return durationpb.New(10 * time.Second) }

// askingHouse is a service behind external decisions and its caller.
func askingHouse(t *testing.T) (*proxytest.Agent, *kith.Workload, asks) {
	t.Helper()
	agent := proxytest.Start(t)
	w, _ := serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	agent.Rules(proxytest.Allow("reads", "web", "orders", "GET /{**}"))
	return agent, w, asks{t, c}
}

func TestOPAIsAskedAboutWhatPolicyAllows(t *testing.T) {
	t.Parallel()
	agent, w, ask := askingHouse(t)
	j := newJudge(t)
	j.Start()
	asking(agent, &pb.External{Name: "fraud", Opa: j.URL + "/v1/data/orders/allow", Timeout: patient(), Headers: []string{"x-request-id", "x-none"}})
	for answer, want := range map[string]int{
		`{"result":true}`: 200, `{"result":{"allow":true,"headers":{"x":"y"}}}`: 200,
		`{"result":false}`: 403, `{"result":{"allow":false}}`: 403, `{"result":{"allow":"true"}}`: 403, `{"result":{}}`: 403, `{"result":"yes"}`: 403,
		`{"result":1}`: 403, `{"result":null}`: 403, `{}`: 403, `{"result":[true]}`: 403, `{"result":{"Allow":true}}`: 403, `{"result":{"allow":false,"ALLOW":true}}`: 403, `{"Result":true}`: 403, `true`: 403, `not JSON`: 403, ``: 403,
	} {
		j.says(answer)
		ask.want(answer, want, "X-Request-Id: 17", "X-Secret: s", "Authorization: Bearer s")
	}
	for path, want := range map[string]string{
		"kith/from": "spiffe://test.example/dev/web", "kith/to": "orders", "kith/rule": "reads", "kith/method": "GET", "kith/path": "/v1/orders",
		"attributes/source/principal": "spiffe://test.example/dev/web", "attributes/destination/principal": "spiffe://test.example/dev/orders",
		"attributes/request/http/path": "/v1/orders", "attributes/request/http/method": "GET", "attributes/request/http/host": "orders",
		"attributes/request/http/headers": "map[x-request-id:17]", "parsed_path": "[v1 orders]", "parsed_query": "map[]",
	} {
		if got := fmt.Sprint(j.at(strings.Split(path, "/")...)); got != want {
			t.Errorf("input.%s: got %q, want %q", path, got, want)
		}
	}
	before := j.asked.Load()
	agent.Rules(proxytest.Allow("reads", "web", "orders", "POST /{**}"))
	j.says(`{"result":true}`)
	ask.want("what policy denies", 403)
	if got := j.asked.Load(); got != before {
		t.Errorf("asked %d times about what policy denies", got-before)
	}
	d := agent.Decision("external", func(d *pb.Decision) bool { return d.GetReason() == "external_deny" })
	if d.GetNearField() != "external" || d.GetNearRule() != "reads" || d.GetNearWant() != "agreement of fraud" || d.GetNearGot() == "" || d.GetRule() != "" {
		t.Errorf("the decision: %v", d)
	}
	if s := w.Stats(); s.Asked == 0 || s.Unanswered == 0 {
		t.Errorf("stats: %+v", s)
	}
}

// Attack 38: who does not answer, answers late, wrongly or endlessly, denies.
func TestAttack38ExternalDecisionFails(t *testing.T) {
	t.Parallel()
	agent, _, ask := askingHouse(t)
	j := newJudge(t)
	j.Start()
	whole := func(text string) string { return text + strings.Repeat(" ", 64<<10) }
	for what, reply := range map[string]http.HandlerFunc{
		"500": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500); fmt.Fprint(rw, `{"result":true}`) },
		"201": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(201); fmt.Fprint(rw, `{"result":true}`) },
		"redirect": func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, j.URL+"/v1/data/yes", http.StatusTemporaryRedirect)
		},
		"too long": func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, whole(`{"result":true}`)) },
		"cut off": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "99")
			fmt.Fprint(rw, `{"result":true}`)
		},
		"long head": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("X", strings.Repeat("x", 32<<10))
			fmt.Fprint(rw, `{"result":true}`)
		},
		"panic": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		asking(agent, &pb.External{Name: "fraud", Opa: j.URL + "/v1/data/orders/allow", Timeout: patient()})
		j.does(reply)
		ask.want(what, 403)
	}
	over := make(chan struct{})
	j.does(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-over:
		}
	})
	defer close(over)
	asking(agent, &pb.External{Name: "fraud", Opa: j.URL + "/v1/data/orders/allow", Timeout: durationpb.New(20 * time.Millisecond)})
	ask.want("too late", 403)
	agent.Decision("too late", func(d *pb.Decision) bool { return strings.Contains(d.GetNearGot(), "no answer within 20ms") })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	asking(agent, &pb.External{Name: "fraud", Opa: "http://" + l.Addr().String() + "/v1/data/x", Timeout: patient()}, &pb.External{Name: "other", ExtAuthz: "http://" + l.Addr().String()})
	ask.want("nobody there", 403)
}

// Attack 39: the path asked about is the one that is forwarded, and headers of an
// answer go nowhere.
func TestAttack39PathAskedIsPathForwarded(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	forwarded := make(chan string, 1)
	serveSDK(t, agent, "orders", func(_ http.ResponseWriter, r *http.Request) { forwarded <- r.RequestURI + " " + r.Header.Get("X-Role") })
	_, c := client(t, agent, "web")
	j := newJudge(t)
	j.says(`{"result":{"allow":true,"headers":{"X-Role":"admin"}}}`)
	j.Start()
	asking(agent, &pb.External{Name: "fraud", Opa: j.URL + "/v1/data/orders/allow", Timeout: patient(), Headers: []string{"*"}})
	agent.Rules(proxytest.Allow("reads", "web", "orders", "GET /{**}"))
	if status, _ := fetch(t, c, "http://orders/a/../b%20c/./d?x=1&x=2"); status != 200 {
		t.Fatalf("status %d", status)
	}
	if got, want := <-forwarded, "/b%20c/d?x=1&x=2 "; got != want {
		t.Errorf("forwarded %q, want %q", got, want)
	}
	if got := fmt.Sprint(j.at("attributes", "request", "http", "path"), j.at("parsed_path"), j.at("parsed_query")); got != "/b%20c/d?x=1&x=2[b c d] map[x:[1 2]]" {
		t.Errorf("asked about %q", got)
	}
	if ua := j.at("attributes", "request", "http", "headers", "user-agent"); ua == nil {
		t.Error("all headers were to be sent")
	}
}

// gate is an ext_authz v3 service by Envoy's own messages.
type gate struct {
	envoypb.UnimplementedAuthorizationServer
	mu     sync.Mutex
	last   *envoypb.CheckRequest
	answer *envoypb.CheckResponse
}

func (g *gate) Check(_ context.Context, in *envoypb.CheckRequest) (*envoypb.CheckResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = in
	return g.answer, nil
}

func TestExtAuthzIsAskedOverAUnixSocket(t *testing.T) {
	t.Parallel()
	agent, _, ask := askingHouse(t)
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "gate.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g, server := &gate{}, grpc.NewServer()
	envoypb.RegisterAuthorizationServer(server, g)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	asking(agent, &pb.External{Name: "gate", ExtAuthz: "http://gate", Socket: path, Timeout: patient(), Headers: []string{"x-request-id"}})
	for what, c := range map[string]struct {
		answer *envoypb.CheckResponse
		want   int
	}{
		"yes":              {&envoypb.CheckResponse{Status: &envoypb.Outcome{}}, 200},
		"yes with headers": {&envoypb.CheckResponse{Status: &envoypb.Outcome{}, HttpResponse: &envoypb.CheckResponse_OkResponse{OkResponse: &envoypb.OkHttpResponse{HeadersToRemove: []string{"x"}}}}, 200},
		"no":               {&envoypb.CheckResponse{Status: &envoypb.Outcome{Code: 7, Message: "no"}}, 403},
		"nothing":          {&envoypb.CheckResponse{}, 403},
		"yes and no":       {&envoypb.CheckResponse{Status: &envoypb.Outcome{}, HttpResponse: &envoypb.CheckResponse_DeniedResponse{DeniedResponse: &envoypb.DeniedHttpResponse{Body: "no"}}}, 403},
	} {
		g.mu.Lock()
		g.answer = c.answer
		g.mu.Unlock()
		ask.want(what, c.want, "X-Request-Id: 17", "X-Secret: s")
	}
	g.mu.Lock()
	in := g.last.GetAttributes()
	g.mu.Unlock()
	http := in.GetRequest().GetHttp()
	if in.GetSource().GetPrincipal() != "spiffe://test.example/dev/web" || in.GetDestination().GetPrincipal() != "spiffe://test.example/dev/orders" ||
		http.GetMethod() != "GET" || http.GetPath() != "/v1/orders" || http.GetHost() != "orders" || len(http.GetHeaders()) != 1 || http.GetHeaders()["x-request-id"] != "17" ||
		in.GetContextExtensions()["kith.rule"] != "reads" || in.GetContextExtensions()["kith.service"] != "orders" {
		t.Errorf("the question: %v", in)
	}
	server.Stop()
	ask.want("gone", 403)
}

// Several are asked in their order, each about its own actions, until one does
// not agree.
func TestSeveralExternalDecisionsInOrder(t *testing.T) {
	t.Parallel()
	agent, _, ask := askingHouse(t)
	first, second, third := newJudge(t), newJudge(t), newJudge(t)
	for _, j := range []*judge{first, second, third} {
		j.Start()
	}
	asking(agent,
		&pb.External{Name: "first", Opa: first.URL + "/v1/data/a", Timeout: patient()},
		&pb.External{Name: "second", Opa: second.URL + "/v1/data/a", Timeout: patient(), Actions: []string{"POST /{**}"}},
		&pb.External{Name: "third", Opa: third.URL + "/v1/data/a", Timeout: patient(), Actions: []string{"GET /v1/{**}"}})
	ask.want("all agree", 200)
	first.says(`{"result":false}`)
	ask.want("the first does not", 403)
	first.says(`{"result":true}`)
	third.says(`{"result":false}`)
	ask.want("the last does not", 403)
	if a, b, c := first.asked.Load(), second.asked.Load(), third.asked.Load(); a != 3 || b != 0 || c != 2 {
		t.Errorf("asked %d, %d and %d times, want 3, 0 and 2", a, b, c)
	}
}

func TestExternalDecisionByTLS(t *testing.T) {
	t.Parallel()
	agent, _, ask := askingHouse(t)
	j, other := newJudge(t), httptest.NewTLSServer(nil)
	other.Close()
	j.StartTLS()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: j.Certificate().Raw}))
	asking(agent, &pb.External{Name: "fraud", Opa: j.URL + "/v1/data/a", Timeout: patient(), Ca: ca})
	ask.want("by its authority", 200)
	asking(agent, &pb.External{Name: "fraud", Opa: j.URL + "/v1/data/a", Timeout: patient()})
	ask.want("by no authority of the web", 403)
}

// In observe mode an external denial is reported and not enforced.
func TestObservedServiceAsks(t *testing.T) {
	t.Parallel()
	agent, _, ask := askingHouse(t)
	j := newJudge(t)
	j.Start()
	j.says(`{"result":false}`)
	agent.Replace(&pb.Service{
		Name: "orders", Identities: []string{"/dev/orders"}, Protocol: "http", Mode: "observe",
		External: []*pb.External{{Name: "fraud", Opa: j.URL + "/v1/data/a", Timeout: patient()}},
	})
	agent.Settled()
	ask.want("observed", 200)
	agent.Decision("observed", func(d *pb.Decision) bool {
		return d.GetReason() == "external_deny" && d.GetObserved() && d.GetEffect() == "allow"
	})
}
