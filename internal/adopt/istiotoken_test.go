package adopt_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/adopt"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

const signIn = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: sign-in, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  jwtRules:
  - {issuer: "https://a.example", audiences: [orders], jwksUri: "https://a.example/keys", forwardOriginalToken: true}
  - {issuer: "https://b.example/x", audiences: [orders, shop], jwksUri: "https://b.example/keys", forwardOriginalToken: true,
     fromHeaders: [{name: Authorization, prefix: "Bearer "}, {name: X-Token}], fromParams: [t], fromCookies: [session], timeout: 1s}
---
`

// seen is what a request carries, and what Istio makes of it: a token of an issuer
// that no jwtRule names is as bad as one with a wrong signature (2.3).
type seen struct {
	state    policy.TokenState
	iss, sub string
	claims   map[string]any
}

func (s seen) Claims() (map[string]any, policy.TokenState) {
	if s.state != policy.TokenValid {
		return nil, s.state
	}
	out := map[string]any{"iss": s.iss, "sub": s.sub, "aud": "orders"}
	for name, value := range s.claims {
		out[name] = value
	}
	return out, s.state
}

// tokenWhen is one condition on a token, with the reference's reading of it.
type tokenWhen struct {
	key               string
	values, notValues []string
}

// texts is what a key reads of a good token: a text, or the texts of a list (2.1.4).
func (s seen) texts(key string) []string {
	if s.state != policy.TokenValid {
		return nil
	}
	switch key {
	case "request.auth.audiences":
		return []string{"orders"}
	case "request.auth.claims[groups]":
		list, _ := s.claims["groups"].([]any)
		var out []string
		for _, v := range list {
			out = append(out, v.(string))
		}
		return out
	case "request.auth.claims[tier]":
		if text, ok := s.claims["tier"].(string); ok {
			return []string{text}
		}
	}
	return nil
}

func (w tokenWhen) one(s seen, values []string) bool {
	if w.key == "request.auth.principal" {
		return s.state == policy.TokenValid && slices.ContainsFunc(values, func(v string) bool { return principalMatches(v, s.iss, s.sub) })
	}
	return slices.ContainsFunc(s.texts(w.key), func(got string) bool { return anyMatches(values, got) })
}

func (w tokenWhen) matches(s seen) bool {
	return (len(w.values) == 0 || w.one(s, w.values)) && (len(w.notValues) == 0 || !w.one(s, w.notValues))
}

// principalMatches is the table of 2.1.4, column requestPrincipals.
func principalMatches(v, iss, sub string) bool {
	cut := strings.LastIndex(v, "/")
	switch {
	case v == "*":
		return iss != "" && sub != ""
	case strings.HasSuffix(v, "*") && cut < 0:
		return strings.HasPrefix(iss, strings.TrimSuffix(v, "*"))
	case strings.HasSuffix(v, "*"):
		return iss == v[:cut] && textMatches(v[cut+1:], sub)
	case strings.HasPrefix(v, "*"):
		return strings.HasSuffix(iss, v[1:cut]) && sub == v[cut+1:]
	}
	return iss == v[:cut] && sub == v[cut+1:]
}

type tokenRule struct {
	principals, notPrincipals []string
	when                      []tokenWhen
}

func (r tokenRule) matches(s seen) bool {
	source := tokenWhen{"request.auth.principal", r.principals, r.notPrincipals}
	return source.matches(s) && !slices.ContainsFunc(r.when, func(w tokenWhen) bool { return !w.matches(s) })
}

type tokenPolicy struct {
	action string
	rules  []tokenRule
}

func (p tokenPolicy) yaml(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p%d, namespace: shop}\n", n)
	fmt.Fprintf(&b, "spec:\n  selector: {matchLabels: {app: orders}}\n  action: %s\n  rules:\n", p.action)
	for _, r := range p.rules {
		b.WriteString("  - {to: [{operation: {methods: [GET]}}], ")
		if len(r.principals)+len(r.notPrincipals) > 0 {
			b.WriteString("from: [{source: {" + yamlList("requestPrincipals", r.principals) + yamlList("notRequestPrincipals", r.notPrincipals) + "}}], ")
		}
		if len(r.when) > 0 {
			b.WriteString("when: [")
			for _, w := range r.when {
				b.WriteString("{key: \"" + w.key + "\", " + yamlList("values", w.values) + yamlList("notValues", w.notValues) + "}, ")
			}
			b.WriteString("]")
		}
		b.WriteString("}\n")
	}
	return b.String() + "---\n"
}

func drawTokenPolicy(t *rapid.T) tokenPolicy {
	p := tokenPolicy{action: rapid.SampledFrom([]string{"ALLOW", "DENY"}).Draw(t, "action")}
	who := some("*", "https://a.example/alice", "https://a.example/al*", "https://a.example/*", "https://b.example/x/bob", "*.example/alice", "*/bob", "http*")
	for range rapid.IntRange(1, 2).Draw(t, "rules") {
		r := tokenRule{principals: who.Draw(t, "principals"), notPrincipals: who.Draw(t, "notPrincipals")}
		for range rapid.IntRange(0, 2).Draw(t, "conditions") {
			key := rapid.SampledFrom([]string{"request.auth.claims[groups]", "request.auth.claims[tier]", "request.auth.audiences", "request.auth.principal"}).Draw(t, "key")
			values := some("staff", "st*", "*min", "*", "gold", "orders")
			if key == "request.auth.principal" {
				values = who
			}
			if w := (tokenWhen{key, values.Draw(t, "values"), values.Draw(t, "notValues")}); w.values != nil || w.notValues != nil {
				r.when = append(r.when, w)
			}
		}
		p.rules = append(p.rules, r)
	}
	return p
}

func drawSeen(t *rapid.T) seen {
	s := seen{
		state: rapid.SampledFrom([]policy.TokenState{policy.TokenNone, policy.TokenRefused, policy.TokenValid, policy.TokenValid, policy.TokenValid}).Draw(t, "state"),
		iss:   rapid.SampledFrom([]string{"https://a.example", "https://b.example/x", "https://c.example"}).Draw(t, "iss"),
		sub:   rapid.SampledFrom([]string{"alice", "bob", "albert", "x"}).Draw(t, "sub"), claims: map[string]any{},
	}
	if s.iss == "https://c.example" && s.state == policy.TokenValid {
		s.state = policy.TokenRefused
	}
	if rapid.Bool().Draw(t, "grouped") {
		s.claims["groups"] = rapid.SampledFrom([][]any{{"staff"}, {"guests", "admin"}, {"gold", "stuff"}, {}}).Draw(t, "groups")
	}
	if rapid.Bool().Draw(t, "tiered") {
		s.claims["tier"] = rapid.SampledFrom([]string{"gold", "staff", "admin"}).Draw(t, "tier")
	}
	return s
}

// Policies on tokens decide as Istio's do (policy-semantics 2.1.4, 2.1.6, 2.3): a
// bad token never gets in, none is no reason to deny, and DENY reads what is not
// there as not matching.
func TestAdoptedTokenPoliciesDecideAsIstioDoes(t *testing.T) {
	check(t, func(t *rapid.T) {
		var policies []tokenPolicy
		text := signIn
		for n := range rapid.IntRange(0, 3).Draw(t, "policies") {
			p := drawTokenPolicy(t)
			policies, text = append(policies, p), text+p.yaml(n)
		}
		result, err := adopt.Read("istio", inventory(), []adopt.File{{Name: "x.yaml", Data: []byte(text)}})
		if err != nil || len(result.Refused) > 0 {
			t.Fatalf("%v %+v\n%s", err, result.Refused, text)
		}
		table := compiled(t, result, "orders")
		id, _ := spiffe.ParseID("spiffe://acme.example/eks/shop/web")
		for range 20 {
			s := drawSeen(t)
			method := rapid.SampledFrom([]string{"GET", "GET", "POST"}).Draw(t, "method")
			got := table.Decide(table.Peer(id), policy.Request{
				Protocol: policy.HTTP, Method: method, Path: "/", Port: 8080, Host: "orders",
				Facts: &policy.Facts{Source: netip.MustParseAddr("10.1.2.3"), Token: s},
			})
			if want := tokensAllow(policies, s, method); (got.Effect == policy.Allow) != want {
				t.Fatalf("%s %+v: Istio allows: %v, the adopted rules: %+v\n%s\n%+v", method, s, want, got, text, result.Rules)
			}
		}
	})
}

func tokensAllow(policies []tokenPolicy, s seen, method string) bool {
	some, allowed, denied := false, false, s.state == policy.TokenRefused
	for _, p := range policies {
		match := method == "GET" && slices.ContainsFunc(p.rules, func(r tokenRule) bool { return r.matches(s) })
		some = some || p.action == "ALLOW"
		allowed = allowed || p.action == "ALLOW" && match
		denied = denied || p.action == "DENY" && match
	}
	return !denied && (!some || allowed)
}

func TestRequestAuthenticationBecomesProviders(t *testing.T) {
	result := read(t, "istio", signIn)
	if len(result.Refused) > 0 || len(result.Providers) != 2 {
		t.Fatalf("got %+v %+v, want two providers", result.Refused, result.Providers)
	}
	first, second := result.Providers[0], result.Providers[1]
	if first.Name != "sign-in" || first.Issuer != "https://a.example" || first.URL != "https://a.example/keys" || !slices.Equal(first.Services, []string{"orders"}) ||
		!slices.Equal(first.Locations, []string{"bearer", "query access_token"}) {
		t.Errorf("got %+v, want the two usual places of a token", first)
	}
	if second.Name != "sign-in-2" || !slices.Equal(second.Audiences, []string{"orders", "shop"}) ||
		!slices.Equal(second.Locations, []string{"bearer", "header X-Token", "query t", "cookie session"}) {
		t.Errorf("got %+v, want the places it names", second)
	}
	if _, err := usertoken.Compile(result.Providers, "orders"); err != nil {
		t.Errorf("the providers do not stand together: %v", err)
	}
}

// What RequestAuthentication says and we cannot is refused with its reason.
func TestWhatCannotBeSaidOfTokensIsRefused(t *testing.T) {
	authentication := func(rule string) string {
		return "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: shop}\nspec:\n  selector: {matchLabels: {app: orders}}\n  jwtRules: [" + rule + "]\n---\n"
	}
	const good = "issuer: 'https://a.example', audiences: [orders], jwksUri: 'https://a.example/keys', forwardOriginalToken: true"
	rules := func(spec string) string {
		return authentication("{"+good+"}") + "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  selector: {matchLabels: {app: orders}}\n  rules: [" + spec + "]\n"
	}
	for name, c := range map[string]struct{ text, why string }{
		"no audiences":     {authentication("{issuer: a, jwksUri: 'https://a.example/keys'}"), "a token for anybody"},
		"discovery":        {authentication("{issuer: a, audiences: [orders]}"), "openid-configuration"},
		"claims in fields": {authentication("{" + good + ", outputClaimToHeaders: [{header: x, claim: sub}]}"), "writes claims into headers"},
		"split claims":     {authentication("{" + good + ", spaceDelimitedClaims: [x]}"), "spaceDelimitedClaims is not read"},
		"prefix":           {authentication("{" + good + ", fromHeaders: [{name: X-A, prefix: 'Token '}]}"), "fromHeaders X-A"},
		"private URL":      {authentication("{issuer: a, audiences: [orders], jwksUri: 'ftp://a'}"), "neither https nor http"},
		"issuer twice":     {authentication("{" + good + "}, {" + good + "}"), "twice for orders"},
		"unknown issuer":   {rules("{from: [{source: {requestPrincipals: ['https://c.example/x']}}]}"), "matches nobody"},
		"inner star":       {rules("{from: [{source: {requestPrincipals: ['https://a.example/*x']}}]}"), "a * at one end"},
		"bare subject":     {rules("{from: [{source: {requestPrincipals: [alice]}}]}"), "ISSUER/SUBJECT"},
		"brackets":         {rules("{when: [{key: 'request.auth.claims[a', values: [b]}]}"), "names in brackets"},
		"permission":       {rules("{when: [{key: 'request.auth.claims[permission]', values: [b]}]}"), "parts it at spaces"},
		"unknown key":      {rules("{when: [{key: 'request.auth.surprise', values: [b]}]}"), "no counterpart"},
	} {
		t.Run(name, func(t *testing.T) {
			result := read(t, "istio", c.text)
			if len(result.Refused) == 0 || !strings.Contains(result.Refused[0].Text, c.why) || !strings.HasPrefix(result.Refused[0].At, "x.yaml:") {
				t.Errorf("got %+v, want a refusal with its line that says %q", result.Refused, c.why)
			}
			if slices.ContainsFunc(result.Rules, func(r policy.Rule) bool { return r.To == "orders" }) || len(result.Providers) > 0 {
				t.Errorf("something was made for a service with a refused part: %+v", result)
			}
		})
	}
}

// That a token goes on to the service is said, and the rest is adopted.
func TestTokenThatGoesOnIsSaid(t *testing.T) {
	result := read(t, "istio", strings.ReplaceAll(signIn, ", forwardOriginalToken: true", ""))
	if len(result.Refused) != 2 || !strings.Contains(result.Refused[0].Text, "goes on to the service as it came") || len(result.Left) > 0 || len(result.Providers) != 2 {
		t.Errorf("got %+v", result)
	}
}

// On TCP an ALLOW that reads a token matches nothing (2.1.5); a DENY is refused.
func TestTokensOnTCP(t *testing.T) {
	text := func(action string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: data}\nspec:\n  action: " + action + "\n  rules: [{from: [{source: {requestPrincipals: ['*']}}]}]\n"
	}
	if r := read(t, "istio", text("ALLOW")); len(r.Rules) > 0 || len(r.Refused) > 0 {
		t.Errorf("ALLOW: got %+v, want no rule", r)
	}
	if r := read(t, "istio", text("DENY")); len(r.Refused) != 1 || !strings.Contains(r.Refused[0].Text, "say which is meant") {
		t.Errorf("DENY: got %+v, want it refused", r)
	}
}
