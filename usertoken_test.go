package kith_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/internal/usertoken/usertokentest"
)

const loginURL = "https://login.example/jwks"

// login is a provider whose keys every enforcement point has.
func login(t *testing.T, agent *proxytest.Agent, change func(*pb.Provider)) *usertokentest.Forge {
	t.Helper()
	f := usertokentest.New(t, "https://login.example")
	p := &pb.Provider{Name: "login", Issuer: f.Issuer, Audiences: []string{"orders"}, JwksUrl: loginURL}
	change(p)
	agent.Providers(map[string]string{loginURL: f.JWKS()}, p)
	return f
}

// asks makes requests with one more header.
type asks struct {
	t *testing.T
	c *http.Client
}

func (a asks) with(headers ...string) (status int, challenge string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(within(a.t), http.MethodGet, "http://orders/v1/orders", nil)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	res, err := a.c.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode, res.Header.Get("WWW-Authenticate")
}

func (a asks) want(what string, want int, headers ...string) {
	a.t.Helper()
	if got, _ := a.with(headers...); got != want {
		a.t.Errorf("%s: got %d, want %d", what, got, want)
	}
}

// A missing token satisfies no condition, whatever it says, and a good one those
// that its claims satisfy. What is lacking is told by the status alone.
func TestConditionsOnUserTokens(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	f := login(t, agent, func(*pb.Provider) {})
	ask := asks{t, c}
	good := "Authorization: Bearer " + f.Token(time.Now(), map[string]any{"tier": "gold", "groups": []string{"staff"}, "admin": true, "n": 7})
	for condition, want := range map[string]int{
		`jwt.sub == "alice"`: 200, `jwt.sub != "alice"`: 403, `jwt.text("tier") == "gold" && jwt.sub.startsWith("al")`: 200, `"staff" in jwt.groups`: 200,
		`jwt.sub != "bob"`: 200, `jwt.text("none") == "x"`: 403, `jwt.number("n") > 6 && jwt.flag("admin")`: 200, `jwt.iss == "https://login.example"`: 200,
	} {
		agent.Rules(when("web", "orders", condition))
		agent.MustBeInForce()
		ask.want(condition+" with a token", want, good)
		if status, challenge := ask.with(); status != http.StatusUnauthorized || challenge != "Bearer" {
			t.Errorf("%s without: %d, %q, want 401", condition, status, challenge)
		}
	}
	if status, challenge := ask.with(good + "x"); status != http.StatusUnauthorized || !strings.Contains(challenge, "invalid_token") {
		t.Errorf("with a bad one: %d, %q", status, challenge)
	}
	agent.Decision("a missing token", func(d *pb.Decision) bool { return d.GetReason() == "token_missing" })
	d := agent.Decision("an invalid token", func(d *pb.Decision) bool { return d.GetReason() == "token_invalid" })
	if !strings.Contains(d.GetNearGot(), "signature") {
		t.Errorf("what is wrong with it: %q", d.GetNearGot())
	}
	for _, d := range agent.Decisions() {
		if text := d.String(); strings.Contains(text, "eyJ") {
			t.Errorf("a token is in a report: %s", text)
		}
	}
}

// Attack 43: without keys nothing is good, and no key of before counts once the
// agent has taken it away.
func TestAttack43NoKeys(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	f := login(t, agent, func(*pb.Provider) {})
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ask := asks{t, c}
	token := "Authorization: Bearer " + f.Token(time.Now(), nil)
	ask.want("with keys", 200, token)
	p := &pb.Provider{Name: "login", Issuer: f.Issuer, Audiences: []string{"orders"}, JwksUrl: loginURL}
	agent.Providers(nil, p)
	ask.want("without", 401, token)
	for _, set := range []string{`{"keys":[]}`, "not JSON", `{"keys":[{"kty":"oct","k":"AAAA","kid":"k1"}]}`} {
		agent.Providers(map[string]string{loginURL: set}, p)
		ask.want(set, 401, token)
	}
	moved := &pb.Provider{Name: "login", Issuer: f.Issuer, Audiences: []string{"orders"}, JwksUrl: loginURL + "/2"}
	agent.Providers(map[string]string{loginURL: f.JWKS()}, moved)
	ask.want("keys of the former place", 401, token)
	agent.Providers(map[string]string{loginURL: f.JWKS()}, p)
	ask.want("with keys again", 200, token)
}

// Attack 43: the keys of a provider that was withdrawn do not count when there is one
// at the same place again, before the agent has told its keys.
func TestAttack43KeysGoWithTheirProvider(t *testing.T) {
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	f := login(t, agent, func(*pb.Provider) {})
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ask := asks{t, c}
	token := "Authorization: Bearer " + f.Token(time.Now(), nil)
	ask.want("with the provider", 200, token)
	agent.Providers(nil)
	ask.want("without", 401, token)
	p := &pb.Provider{Name: "login", Issuer: f.Issuer, Audiences: []string{"orders"}, JwksUrl: loginURL}
	agent.Providers(nil, p)
	ask.want("with the provider again, and none of its keys", 401, token)
	agent.Providers(map[string]string{loginURL: f.JWKS()}, p)
	ask.want("with its keys", 200, token)
}

// What is told of one provider while a policy is refused costs no other its keys:
// the agent tells them once.
func TestKeysOutliveARefusedPolicy(t *testing.T) {
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	ours, theirs := usertokentest.New(t, "https://login.example"), usertokentest.New(t, "https://other.example")
	const otherURL = "https://other.example/jwks"
	providers := []*pb.Provider{
		{Name: "login", Issuer: ours.Issuer, Audiences: []string{"orders"}, JwksUrl: loginURL},
		{Name: "other", Issuer: theirs.Issuer, Audiences: []string{"orders"}, JwksUrl: otherURL},
	}
	agent.Providers(map[string]string{loginURL: ours.JWKS()}, providers...)
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ask := asks{t, c}
	ask.want("ours", 200, "Authorization: Bearer "+ours.Token(time.Now(), nil))
	agent.Schema(99)
	agent.Settled()
	if agent.AckError() == "" {
		t.Fatal("a policy of another schema is taken")
	}
	agent.Providers(map[string]string{loginURL: ours.JWKS(), otherURL: theirs.JWKS()}, providers...)
	ask.want("while all is denied", 403, "Authorization: Bearer "+ours.Token(time.Now(), nil))
	agent.Schema(1)
	agent.Settled()
	agent.MustBeInForce()
	ask.want("ours, told before", 200, "Authorization: Bearer "+ours.Token(time.Now(), nil))
	ask.want("theirs, told meanwhile", 200, "Authorization: Bearer "+theirs.Token(time.Now(), nil))
}

// Attacks 44 and 45: another issuer, and the keys of one under the name of another.
func TestAttack44And45OtherIssuers(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	ours, theirs := usertokentest.New(t, "https://login.example"), usertokentest.New(t, "https://other.example")
	agent.Providers(map[string]string{loginURL: ours.JWKS(), "https://other.example/jwks": theirs.JWKS()},
		&pb.Provider{Name: "login", Issuer: ours.Issuer, Audiences: []string{"orders"}, JwksUrl: loginURL},
		&pb.Provider{Name: "other", Issuer: theirs.Issuer, Audiences: []string{"orders"}, JwksUrl: "https://other.example/jwks", Services: []string{"billing"}})
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ask := asks{t, c}
	ask.want("ours", 200, "Authorization: Bearer "+ours.Token(time.Now(), nil))
	ask.want("theirs, who are another service's", 401, "Authorization: Bearer "+theirs.Token(time.Now(), nil))
	ask.want("theirs under our name", 401, "Authorization: Bearer "+theirs.Token(time.Now(), map[string]any{"iss": ours.Issuer}))
	ask.want("a slash", 401, "Authorization: Bearer "+ours.Token(time.Now(), map[string]any{"iss": ours.Issuer + "/"}))
}

// Attack 46 and 48, at the door: algorithms, headers, audiences, times.
func TestAttack46And48AtTheDoor(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	f := login(t, agent, func(*pb.Provider) {})
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ask, now := asks{t, c}, time.Now()
	parts := strings.Split(f.Token(now, nil), ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	for what, token := range map[string]string{
		"none": none, "none with the signature": none + parts[2], "crit": f.Sign("k1", map[string]any{"alg": "ES256", "kid": "k1", "crit": []string{"x"}}, f.Claims(now, nil)),
		"jku":        f.Sign("k1", map[string]any{"alg": "ES256", "kid": "k1", "jku": "https://evil.example"}, f.Claims(now, nil)),
		"for others": f.Token(now, map[string]any{"aud": "billing"}), "for nobody": f.Token(now, map[string]any{"aud": nil}),
		"ended": f.Token(now.Add(-10*time.Minute), nil), "to come": f.Token(now.Add(10*time.Minute), nil), "without an end": f.Token(now, map[string]any{"exp": nil}),
	} {
		ask.want(what, 401, "Authorization: Bearer "+token)
	}
}

// Attack 47: two tokens, in one place or two, are none.
func TestAttack47TwoTokens(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	f := login(t, agent, func(p *pb.Provider) { p.Locations = []string{"bearer", "cookie session", "header X-Token"} })
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ask, token := asks{t, c}, f.Token(time.Now(), nil)
	ask.want("one", 200, "Authorization: bearer "+token)
	ask.want("one elsewhere", 200, "Cookie: session="+token)
	ask.want("two places", 401, "Authorization: Bearer "+token, "Cookie: session="+token)
	ask.want("two headers", 401, "Authorization: Bearer "+token, "Authorization: Bearer "+token)
	ask.want("two in one", 401, "Authorization: Bearer "+token+", Bearer "+token)
	ask.want("two cookies", 401, "Cookie: session="+token+"; session=x")
	ask.want("two spaces", 401, "Authorization: Bearer  "+token)
}

// Attack 49: claims of another type than the condition reads satisfy nothing.
func TestAttack49ClaimTypes(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	f := login(t, agent, func(*pb.Provider) {})
	ask := asks{t, c}
	for _, tc := range []struct {
		condition string
		claims    map[string]any
		want      int
	}{
		{`jwt.text("tier") == "true"`, map[string]any{"tier": true}, 403},
		{`jwt.text("tier") == "7"`, map[string]any{"tier": 7}, 403},
		{`jwt.text("tier") == "gold"`, map[string]any{"tier": []string{"gold"}}, 403},
		{`jwt.text("tier") == "gold"`, map[string]any{"tier": map[string]any{"gold": true}}, 403},
		{`jwt.number("n") == 7`, map[string]any{"n": "7"}, 403},
		{`jwt.number("n") == 7`, map[string]any{"n": 7.5}, 403},
		{`jwt.flag("admin")`, map[string]any{"admin": "true"}, 403},
		{`"staff" in jwt.groups`, map[string]any{"groups": "staff"}, 200}, // one text is a list of one
		{`"staff" in jwt.groups`, map[string]any{"groups": []any{map[string]any{"name": "staff"}}}, 403},
		{`"staff" in jwt.groups`, map[string]any{"groups": []any{"a", "staff"}}, 200},
		{`jwt.sub == "alice"`, map[string]any{"sub": "https://login.example/alice"}, 403},
		{`jwt.sub == "https://login.example/alice"`, map[string]any{"sub": "https://login.example/alice"}, 200},
		{`jwt.text("https://acme.example/role") == "admin"`, map[string]any{"https://acme.example/role": "admin"}, 200},
		{`jwt.text("a.b") == "x"`, map[string]any{"a": map[string]any{"b": "x"}}, 403},
		{`jwt.text("a", "b") == "x"`, map[string]any{"a.b": "x"}, 403},
		{`jwt.text("a", "b") == "x"`, map[string]any{"a": map[string]any{"b": "x"}}, 200},
	} {
		agent.Rules(when("web", "orders", tc.condition))
		agent.MustBeInForce()
		ask.want(fmt.Sprintf("%s of %v", tc.condition, tc.claims), tc.want, "Authorization: Bearer "+f.Token(time.Now(), tc.claims))
	}
}

// Attack 52: a key that is new here is asked for, and good as soon as it has come.
func TestAttack52NewKey(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	f := login(t, agent, func(*pb.Provider) {})
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ask, old := asks{t, c}, "Authorization: Bearer "+f.Token(time.Now(), nil)
	f.Rotate("k2")
	token := "Authorization: Bearer " + f.Token(time.Now(), nil)
	ask.want("before the key is here", 401, token)
	agent.Missing("login", "k2")
	p := &pb.Provider{Name: "login", Issuer: f.Issuer, Audiences: []string{"orders"}, JwksUrl: loginURL}
	agent.Providers(map[string]string{loginURL: f.JWKS()}, p)
	ask.want("with it", 200, token)
	ask.want("by the old key", 200, old)
	f.Withdraw("k1")
	agent.Providers(map[string]string{loginURL: f.JWKS()}, p)
	ask.want("by a key that was withdrawn, remembered or not", 401, old)
}

// Attack 53: a token bound to a certificate is the caller's who holds its key.
func TestAttack53BoundToTheCaller(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	hashes := make(chan [32]byte, 1)
	serveSDK(t, agent, "orders", func(_ http.ResponseWriter, r *http.Request) {
		if caller, ok := kith.CallerOf(r.Context()); ok {
			hashes <- caller.Peer.Hash()
		}
	})
	_, c := client(t, agent, "web")
	f := login(t, agent, func(*pb.Provider) {})
	agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	ask := asks{t, c}
	ask.want("to learn the hash", 200)
	leaf := <-hashes
	bound := func(hash [32]byte) string {
		cnf := map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(hash[:])}
		return "Authorization: Bearer " + f.Token(time.Now(), map[string]any{"cnf": cnf})
	}
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ask.want("bound to the caller", 200, bound(leaf))
	<-hashes
	leaf[0] ^= 1
	ask.want("bound to another", 401, bound(leaf))
}

// A provider that cannot be read denies everything, as a rule does.
func TestProviderThatIsNotUnderstoodFailsClosed(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) {})
	_, c := client(t, agent, "web")
	agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	ask := asks{t, c}
	ask.want("before", 200)
	agent.Providers(nil, &pb.Provider{Name: "login"})
	if text := agent.AckError(); !strings.Contains(text, "providers.login") {
		t.Errorf("the ack says %q", text)
	}
	ask.want("after", 403)
}

// gRPC says what is lacking by its own status, and a stream ends with the keys
// that made its token good.
func TestUserTokensOfGRPC(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveGRPC(t, agent, "orders", newEcho())
	_, conn := grpcClient(t, agent, "web", "orders")
	f := login(t, agent, func(*pb.Provider) {})
	agent.Rules(when("web", "orders", `jwt.sub == "alice"`))
	ctx := within(t)
	if _, err := say(ctx, conn); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	with := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+f.Token(time.Now(), nil))
	if _, err := say(with, conn); err != nil {
		t.Errorf("with one: %v", err)
	}
	stream, err := conn.NewStream(with, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Chat")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, stream)
	agent.Providers(nil, &pb.Provider{Name: "login", Issuer: f.Issuer, Audiences: []string{"orders"}, JwksUrl: loginURL})
	if err := stream.RecvMsg(new(text)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stream after the keys were taken away: %v", err)
	}
}
