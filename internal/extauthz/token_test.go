package extauthz

import (
	"crypto/sha256"
	"encoding/base64"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/internal/usertoken/usertokentest"
)

// readsTokens is a slice of orders whose rule reads user tokens.
func readsTokens(f *usertokentest.Forge, url string) *pb.Slice {
	s := slice(service("orders", policy.HTTP))
	s.Rules[0].When = `jwt.sub == "alice"`
	s.Providers = []*pb.Provider{usertoken.Provider{Name: "login", Issuer: f.Issuer, Audiences: []string{"orders"}, URL: url}.PB()}
	return s
}

func bearer(token string) *envoypb.AttributeContext {
	in := get(web, "/v1/orders")
	in.Request.Http.Headers = map[string]string{"authorization": "Bearer " + token}
	return in
}

// Proxies that ask are answered by user tokens as all others, and told 401 where
// only a good one is missing.
func TestUserTokensOfProxiesThatAsk(t *testing.T) {
	const url = "https://login.example/jwks"
	f := usertokentest.New(t, "https://login.example")
	d, s := newDesk(t, readsTokens(f, url))
	var missing []string
	d.point.cfg.Missing = func(provider, keyID string) { missing = append(missing, provider+" "+keyID) }
	good := bearer(f.Token(time.Now(), nil))
	want := func(what string, in *envoypb.AttributeContext, reason string) {
		t.Helper()
		out := ask(t, s, in)
		if got := said(out, "reason"); got != reason {
			t.Errorf("%s: got %s, want %s", what, got, reason)
		}
		unauthorized := out.GetDeniedResponse().GetStatus().GetCode() == envoypb.StatusCode_Unauthorized
		if lacks := reason == "token_missing" || reason == "token_invalid"; unauthorized != lacks {
			t.Errorf("%s: status %v", what, out.GetDeniedResponse().GetStatus())
		}
	}
	want("before the keys are here", good, "token_invalid")
	d.point.Learn(&pb.ProviderKeys{Url: url, Jwks: []byte(f.JWKS())})
	want("with a token", good, "allow_rule")
	want("without", get(web, "/v1/orders"), "token_missing")
	want("of another user", bearer(f.Token(time.Now(), map[string]any{"sub": "bob"})), "cond_false")
	want("that is no token", bearer("x"), "token_invalid")
	f.Rotate("k2")
	want("by a new key", bearer(f.Token(time.Now(), nil)), "token_invalid")
	if len(missing) != 1 || missing[0] != "login k2" {
		t.Errorf("asked for %q", missing)
	}
	d.point.Learn(&pb.ProviderKeys{Url: url})
	want("after the keys were taken away", good, "token_invalid")
	d.point.Learn(&pb.ProviderKeys{Url: url + "/2", Jwks: []byte(f.JWKS())})
	want("keys of another place", good, "token_invalid")
}

// Keys go with their provider: when it comes back they are those that it publishes
// then, and it may have withdrawn some meanwhile. Also where the policy in between
// could not be read.
func TestKeysGoWithTheirProvider(t *testing.T) {
	const url = "https://login.example/jwks"
	f := usertokentest.New(t, "https://login.example")
	with := policyOf(readsTokens(f, url))
	without, unread := with, with
	without.Providers, unread.Providers, unread.Unread = nil, nil, fault.Invalidf("of a newer schema")
	for what, between := range map[string]Policy{"without the provider": without, "unread": unread} {
		point := newPoint()
		point.cfg.Now = time.Now
		reason := func() policy.Reason {
			q, err := questionOf(bearer(f.Token(time.Now(), nil)), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return point.Decide(q).Reason
		}
		point.Rule(with)
		point.Learn(&pb.ProviderKeys{Url: url, Jwks: []byte(f.JWKS())})
		if got := reason(); got != policy.AllowRule {
			t.Fatalf("with keys: %s", got)
		}
		point.Rule(between)
		point.Rule(with)
		if got := reason(); got != policy.TokenInvalid {
			t.Errorf("%s in between: got %s, want %s", what, got, policy.TokenInvalid)
		}
	}
}

// Attack 53: a token bound to a certificate is good only for a caller whose
// certificate the proxy shows.
func TestAttack53BoundTokenThroughAProxy(t *testing.T) {
	const url = "https://login.example/jwks"
	f := usertokentest.New(t, "https://login.example")
	d, _ := newDesk(t, readsTokens(f, url))
	d.point.Learn(&pb.ProviderKeys{Url: url, Jwks: []byte(f.JWKS())})
	leaf := sha256.Sum256([]byte("leaf"))
	token := f.Token(time.Now(), map[string]any{"cnf": map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(leaf[:])}})
	other := sha256.Sum256([]byte("other"))
	for what, c := range map[string]struct {
		leaf *[sha256.Size]byte
		want policy.Reason
	}{"its own": {&leaf, policy.AllowRule}, "another": {&other, policy.TokenInvalid}, "none": {nil, policy.TokenInvalid}} {
		q, err := questionOf(bearer(token), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		q.Leaf = c.leaf
		if got := d.point.Decide(q).Reason; got != c.want {
			t.Errorf("%s certificate: got %s, want %s", what, got, c.want)
		}
	}
}

// What an external decision would have to agree to is denied: nobody asks it here.
func TestExternalDecisionsAreNotPassedOver(t *testing.T) {
	orders := service("orders", policy.HTTP)
	orders.External = []*pb.External{policy.External{Name: "fraud", OPA: "http://127.0.0.1:8181/v1/data/a", Actions: []string{"GET /v1/pay/{**}"}}.PB()}
	d, s := newDesk(t, slice(orders))
	if got := said(ask(t, s, get(web, "/v1/orders")), "reason"); got != "allow_rule" {
		t.Errorf("what it is not asked about: %s", got)
	}
	if got := said(ask(t, s, get(web, "/v1/pay/7")), "reason"); got != "external_deny" {
		t.Errorf("what it is asked about: %s", got)
	}
	last := d.kept[len(d.kept)-1]
	if last.GetNearField() != "external" || last.GetNearWant() != "agreement of fraud" || last.GetNearRule() != "web-orders" {
		t.Errorf("reported: %v", last)
	}
}
