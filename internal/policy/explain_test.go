package policy

import (
	"os/exec"
	"strings"
	"testing"
)

func explained(t testing.TB) Set {
	return newSet(t, shop(),
		Rule{Name: "web-reads", From: []string{"web"}, To: "orders", Allow: []string{"GET,HEAD /v1/orders/{id}", "GET /v1/orders"}},
		Rule{Name: "admin", From: []string{"/n/admin"}, To: "orders", Allow: []string{"* /v1/{**}", "DELETE /v2/everything"}},
		Rule{Name: "pg", From: []string{"web"}, To: "db", Allow: []string{"tcp 5432"}},
		Rule{Name: "never", From: []string{"any"}, To: "orders", Deny: []string{"* /never"}},
	)
}

func TestNearMissNamesTheRuleAndTheField(t *testing.T) {
	set := explained(t)
	for _, tc := range []struct {
		service, peer string
		r             Request
		want          NearMiss
	}{
		{"orders", web, Request{Protocol: HTTP, Method: "POST", Path: "/v1/orders/7"}, NearMiss{"web-reads", "method", "GET,HEAD", "POST"}},
		{"orders", web, Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders/"}, NearMiss{"web-reads", "path", "/v1/orders/{id}", "/v1/orders/"}},
		{"orders", web, Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders/7/lines"}, NearMiss{"web-reads", "path", "/v1/orders/{id}", "/v1/orders/7/lines"}},
		{"orders", web, Request{Protocol: HTTP, Method: "DELETE", Path: "/v2/everything"}, NearMiss{"admin", "from", "/n/admin", web}},
		{"orders", web, Request{Protocol: HTTP, Method: "GET", Path: "/elsewhere/entirely"}, NearMiss{"web-reads", "path", "/v1/orders/{id}", "/elsewhere/entirely"}},
		{"orders", "/n/batch", Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders"}, NearMiss{"admin", "from", "/n/admin", "spiffe://acme.example/n/batch"}},
		{"orders", "/n/batch", Request{Protocol: HTTP, Method: "GET", Path: "/v2/everything"}, NearMiss{"admin", "from", "/n/admin", "spiffe://acme.example/n/batch"}},
		{"orders", "spiffe://other.example/x", Request{Protocol: HTTP, Method: "GET", Path: "/v1/x"}, NearMiss{"admin", "from", "/n/admin", "spiffe://other.example/x"}},
		{"orders", "", Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders"}, NearMiss{"admin", "from", "/n/admin", "anonymous"}},
		{"orders", web, Request{Protocol: TCP, Port: 1}, NearMiss{"", "protocol", "http", "tcp"}},
		{"orders", web, Request{Protocol: HTTP, Method: "GET", Path: "/never"}, NearMiss{}},
		{"orders", web, Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders/7"}, NearMiss{}},
		{"db", web, Request{Protocol: TCP, Port: 5433}, NearMiss{"pg", "port", "5432", "5433"}},
		{"db", web, Request{Protocol: TCP}, NearMiss{"pg", "port", "5432", "unknown"}},
		{"db", "/n/batch", Request{Protocol: TCP, Port: 5432}, NearMiss{"pg", "from", "web", "spiffe://acme.example/n/batch"}},
		{"web", "/n/batch", Request{Protocol: HTTP, Method: "GET", Path: "/"}, NearMiss{}},
	} {
		table := mustCompile(t, set, tc.service)
		d := table.Explain(resolvePeer(t, table, tc.peer), tc.r)
		if d.Near != tc.want {
			t.Errorf("%q %+v: got %+v (%s), want %+v", tc.peer, tc.r, d.Near, d.Reason, tc.want)
		}
		if bare := table.Decide(resolvePeer(t, table, tc.peer), tc.r); bare.Effect != d.Effect || bare.Reason != d.Reason || bare.Rule != d.Rule {
			t.Errorf("Decide says %+v, Explain %+v", bare, d)
		}
	}
}

func TestFixIsOneCommandThatAShellReadsBack(t *testing.T) {
	denied := Decision{Reason: NoRule}
	for _, tc := range []struct {
		d                      Decision
		from, to, method, path string
		want                   string
	}{
		{denied, "web", "orders", "GET", "/v1/orders", `kith allow web "GET /v1/orders" on orders`},
		{denied, "/n/web", "orders", "POST", "/shop.v1.Orders/List", `kith allow /n/web "POST /shop.v1.Orders/List" on orders`},
		{denied, "spiffe://other.example/x", "orders", "GET", "/", `kith allow spiffe://other.example/x "GET /" on orders`},
		{denied, "web", "orders", "GET", "/a*/{x}/{**}", `kith allow web "GET /a%2A/%7Bx%7D/%7B%2A%2A%7D" on orders`},
		{denied, "web", "orders", "GET", "/it's/$HOME/!", `kith allow web 'GET /it'\''s/$HOME/!' on orders`},
		{denied, "web", "db", "", "", `kith allow web tcp on db`},
		{Decision{Reason: NoRule, Near: NearMiss{"pg", FieldPort, "5432", "5433"}}, "web", "db", "", "", `kith allow web "tcp 5433" on db`},
		{Decision{Reason: NoRule, Near: NearMiss{"pg", FieldPort, "5432", "unknown"}}, "web", "db", "", "", `kith allow web tcp on db`},
		{Decision{Reason: NoSource}, "web", "orders", "GET", "/", `kith allow web "GET /" on orders`},
		{denied, "", "orders", "GET", "/", ""},
		{denied, "anonymous", "orders", "GET", "/", ""},
		{denied, "web", "orders", "G T", "/", ""},
		{denied, strings.Repeat("/a", maxSegments+1), "orders", "GET", "/", ""},
		{denied, "web", "orders", "GET", "/a;b", ""},
		{Decision{Effect: Allow, Reason: AllowRule}, "web", "orders", "GET", "/", ""},
		{Decision{Reason: DenyRule}, "web", "orders", "GET", "/", ""},
		{Decision{Reason: GuardrailDeny}, "web", "orders", "GET", "/", ""},
		{Decision{Reason: PathNotCanonical}, "web", "orders", "GET", "/", ""},
		{Decision{}, "web", "orders", "GET", "/", ""},
		{Decision{Reason: NoRule, Near: NearMiss{Field: FieldProtocol}}, "web", "orders", "GET", "/", ""},
	} {
		got := Fix(tc.d, tc.from, tc.to, tc.method, tc.path, "")
		if got != tc.want {
			t.Errorf("got  %s\nwant %s", got, tc.want)
		}
		if got == "" {
			continue
		}
		out, err := exec.Command("sh", "-c", "for w in "+got+"; do echo \"$w\"; done").Output()
		words := strings.Split(strings.TrimSpace(string(out)), "\n")
		if err != nil || len(words) != 6 || words[2] != tc.from || words[5] != tc.to {
			t.Errorf("%s is read as %q, %v", got, words, err)
			continue
		}
		if a, err := ParseAction(words[3]); err != nil || a.protocol != TCP && openAt(a.path) >= 0 {
			t.Errorf("%s allows more than was asked: %v", got, err)
		}
	}
}

// What Fix proposes allows the very request that was denied.
func TestFixAllowsWhatWasDenied(t *testing.T) {
	set := explained(t)
	for _, raw := range []string{"/v2", "/a*b/", "/{x}/é", "/a%21!/%2a", "/v1/orders/7/lines", "/"} {
		table := mustCompile(t, set, "orders")
		d := ask(t, table, web, "GET", raw)
		path, _ := NormalizePath(raw, PathOptions{})
		_, quoted, _ := strings.Cut(Fix(d, "web", "orders", "GET", path, ""), " web ")
		action := strings.Trim(strings.TrimSuffix(quoted, " on orders"), `"'`)
		fixed := newSet(t, shop(), Rule{Name: "fix", From: []string{"web"}, To: "orders", Allow: []string{action}})
		if got := ask(t, mustCompile(t, fixed, "orders"), web, "GET", raw); d.Effect != Deny || got.Effect != Allow {
			t.Errorf("%s: %+v, after %q %+v", raw, d, action, got)
		}
	}
}
