package policy

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

func TestZeroValuesDeny(t *testing.T) {
	table := wideOpen(t, PathOptions{})
	r := Request{Protocol: HTTP, Method: "GET", Path: "/a"}
	peer := table.Peer(mustID(t, web))
	if d := table.Decide(peer, r); d.Effect != Allow || d.Rule != "all" || d.Revision != 7 {
		t.Fatalf("got %+v, want an allow by rule all at revision 7", d)
	}
	var none *Table
	for name, d := range map[string]Decision{
		"zero decision":        {},
		"nil table":            none.Decide(peer, r),
		"nil table explains":   none.Explain(peer, r),
		"nil table's peer":     none.Decide(none.Peer(mustID(t, web)), r),
		"nil table anonymous":  none.Decide(none.Anonymous(), r),
		"zero table":           new(Table).Decide(peer, r),
		"zero peer":            table.Decide(Peer{}, r),
		"zero peer explained":  table.Explain(Peer{}, r),
		"zero request":         table.Decide(peer, Request{}),
		"no path":              table.Decide(peer, Request{Protocol: HTTP, Method: "GET"}),
		"relative path":        table.Decide(peer, Request{Protocol: HTTP, Method: "GET", Path: "a"}),
		"no method":            table.Decide(peer, Request{Protocol: HTTP, Path: "/a"}),
		"zero ID is anonymous": table.Decide(table.Peer(spiffe.ID{}), r),
		"refused":              table.Refuse(PathNotCanonical),
		"nil table refuses":    none.Refuse(PathNotCanonical),
	} {
		if d.Effect != Deny || d.Rule != "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if (Decision{}).Reason.String() != "no_policy" || Reason(99).String() != "no_policy" || Effect(9).String() != "deny" {
		t.Error("an unknown word is not the safe one")
	}
	if p := table.Peer(spiffe.ID{}); !p.Anonymous() || !p.ID().IsZero() || (Peer{}).Anonymous() || !(Peer{}).ID().IsZero() {
		t.Error("the zero ID is not anonymous, or the zero peer is")
	}
}

func TestAttack36DenyBeatsAllowAndGuardrailComesFirst(t *testing.T) {
	services := []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP},
		{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
	}
	allow := Rule{Name: "a-allow", From: []string{"/n/web"}, To: "orders", Allow: []string{"GET /a"}}
	deny := Rule{Name: "b-deny", From: []string{"any"}, To: "orders", Deny: []string{"* /{**}"}}
	guardrail := Rule{Name: "c-guardrail", From: []string{"/**"}, To: "any", Deny: []string{"* /{**}"}, Guardrail: true}
	except := deny
	except.Except = []string{"web"}
	other := deny
	other.Except = []string{"/n/orders", "anonymous", "spiffe://other.example/**"}
	for _, tc := range []struct {
		rules []Rule
		want  Reason
	}{
		{[]Rule{allow}, AllowRule},
		{[]Rule{allow, deny}, DenyRule},
		{[]Rule{allow, deny, guardrail}, GuardrailDeny},
		{[]Rule{allow, guardrail}, GuardrailDeny},
		{[]Rule{deny}, DenyRule},
		{[]Rule{allow, except}, AllowRule},
		{[]Rule{except}, NoSource},
		{[]Rule{allow, other}, DenyRule},
		{[]Rule{allow, except, guardrail}, GuardrailDeny},
		{nil, NoSource},
	} {
		table := mustCompile(t, newSet(t, services, tc.rules...), "orders")
		if got := ask(t, table, web, "GET", "/a"); got.Reason != tc.want {
			t.Errorf("%+v: got %s, want %s", tc.rules, got.Reason, tc.want)
		}
	}
}

// gRPC is POST, whatever announces it; TCP is one decision about a port.
func TestGRPCAndTCP(t *testing.T) {
	services := []Service{
		{Name: "calls", Identities: []string{"/n/calls"}, Protocol: GRPC},
		{Name: "db", Identities: []string{"/n/db"}, Protocol: TCP},
		{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
	}
	set := newSet(t, services,
		Rule{Name: "list", From: []string{"web"}, To: "calls", Allow: []string{"grpc shop.v1.Orders/List", "grpc shop.v1.Health/*"}},
		Rule{Name: "pg", From: []string{"web"}, To: "db", Allow: []string{"tcp 5432"}},
		Rule{Name: "admin", From: []string{"/n/root"}, To: "db", Allow: []string{"tcp"}},
		Rule{Name: "not-replication", From: []string{"any"}, To: "db", Deny: []string{"tcp 5433"}},
	)
	calls := mustCompile(t, set, "calls")
	for _, r := range []struct {
		method, path string
		want         Effect
	}{
		{"POST", "/shop.v1.Orders/List", Allow},
		{"POST", "/shop.v1.Orders/list", Deny},
		{"GET", "/shop.v1.Orders/List", Deny},
		{"POST", "/shop.v1.Orders/List/", Deny},
		{"POST", "/shop.v1.Orders/Delete", Deny},
		{"POST", "/shop.v1.Health/Check", Allow},
		{"POST", "/shop.v1.Health/", Deny},
		{"POST", "/shop-v1-Orders/List", Deny},
	} {
		for _, protocol := range []Protocol{GRPC, HTTP} {
			got := calls.Decide(calls.Peer(mustID(t, web)), Request{Protocol: protocol, Method: r.method, Path: r.path, GRPC: protocol == GRPC})
			if got.Effect != r.want {
				t.Errorf("%s %s as %s: %+v", r.method, r.path, protocol, got)
			}
		}
	}
	db := mustCompile(t, set, "db")
	for _, tc := range []struct {
		peer string
		port uint16
		want Reason
	}{
		{web, 5432, AllowRule},
		{web, 5434, NoRule},
		{web, 5433, DenyRule},
		{web, 0, DenyRule}, // the port is not known: a deny that names one holds
		{"/n/root", 5434, AllowRule},
		{"/n/root", 5433, DenyRule},
		{"", 5432, NoSource},
	} {
		if got := db.Decide(resolvePeer(t, db, tc.peer), Request{Protocol: TCP, Port: tc.port}); got.Reason != tc.want {
			t.Errorf("%q to port %d: got %s, want %s", tc.peer, tc.port, got.Reason, tc.want)
		}
	}
	delete(set.Rules, "not-replication")
	db = mustCompile(t, set, "db")
	for peer, want := range map[string]Reason{web: NoRule, "/n/root": AllowRule} {
		if got := db.Decide(resolvePeer(t, db, peer), Request{Protocol: TCP}); got.Reason != want {
			t.Errorf("%s to an unknown port: got %s, want %s", peer, got.Reason, want)
		}
	}
}

func TestPeersOfAnotherTableAreLookedUpAgain(t *testing.T) {
	open := wideOpen(t, PathOptions{})
	closed := mustCompile(t, newSet(t, []Service{{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP}},
		Rule{Name: "padding", From: []string{"/x/y", "anonymous"}, To: "orders", Allow: []string{"GET /anonymous"}},
	), "orders")
	r := Request{Protocol: HTTP, Method: "GET", Path: "/a"}
	if d := closed.Decide(open.Peer(mustID(t, web)), r); d.Reason != NoSource {
		t.Errorf("got %+v", d)
	}
	if d := open.Decide(closed.Peer(mustID(t, web)), r); d.Effect != Allow {
		t.Errorf("got %+v", d)
	}
	r.Path = "/anonymous"
	if d := closed.Decide(open.Anonymous(), r); d.Effect != Allow {
		t.Errorf("got %+v", d)
	}
}

func TestDecidingAllocatesNothing(t *testing.T) {
	table := wideOpen(t, PathOptions{})
	peer, anonymous := table.Peer(mustID(t, web)), table.Anonymous()
	for _, path := range []string{"/v1/orders/7", "/admin/x", "/a%20b/%21", "/" + strings.Repeat("%C3%A9", 100), "/" + strings.Repeat("x", 300) + "/y"} {
		for _, p := range []Peer{peer, anonymous} {
			r := Request{Protocol: HTTP, Method: "PURGE", Path: path}
			if n := testing.AllocsPerRun(100, func() { table.Decide(p, r) }); n != 0 {
				t.Errorf("%.40s: %v allocations", path, n)
			}
		}
	}
}

// A denial costs no more than an allow, and neither do conditions in the shapes
// that most have.
func TestConditionsAndDenialsAllocateNothing(t *testing.T) {
	services := shop()
	services[0].Mode, services[0].Forwarded = Observe, Forwarded{By: []string{"web"}}
	table := mustCompile(t, newSet(t, services,
		Rule{Name: "a", From: []string{"web"}, To: "orders", Allow: []string{"GET /{**}"}, When: `request.headers["x-env"] == "prod" && request.query["page"] == "2" && "write" in jwt.scope && request.host == "shop.example"`},
		Rule{Name: "b", From: []string{"any"}, To: "orders", Deny: []string{"* /secret"}, When: `request.source_ip.within(["10.0.0.0/8", "fd00::/8"]) || request.time.getHours() > 18 || peer.path[0] == "m" || request.sni == "y"`},
		Rule{Name: "c", From: []string{"any"}, To: "any", Boundary: []string{"GET,PUT /{**}", "tcp"}},
		Rule{Name: "d", From: []string{"any"}, To: "orders", Deny: []string{"* /later"}, Mode: Shadow},
	), "orders")
	peer := table.Peer(mustID(t, web))
	headers, token := http.Header{"X-Env": {"prod"}, "X-Forwarded-For": {"192.0.2.1"}}, Token(fixed{"scope": "read write"})
	for path, want := range map[string]Reason{"/": AllowRule, "/later": AllowRule, "/secret": AllowRule, "/put": NoRule, "/post": OutsideBoundary} {
		method := map[string]string{"/put": "PUT", "/post": "POST"}[path]
		if method == "" {
			method = "GET"
		}
		decide := func() Decision {
			f := Facts{Time: noon(), SNI: "x", Query: "a=b&page=2", Headers: headers, Token: token}
			return table.Decide(peer, Request{Protocol: HTTP, Method: method, Path: path, Host: "shop.example:443", Facts: &f})
		}
		if d := decide(); d.Reason != want {
			t.Errorf("%s: got %+v, want %s", path, d, want)
		}
		if n := testing.AllocsPerRun(100, func() { decide() }); n != 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

// fixed is a valid token.
type fixed map[string]any

func (f fixed) Claims() (map[string]any, TokenState) { return f, TokenValid }

func TestManyMethodsExceptListsAndTiers(t *testing.T) {
	set := newSet(t, []Service{{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP}})
	letters := "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for i := range 22 {
		name := "m-" + strings.ToLower(letters[i:i+1])
		set.Rules[name] = Rule{Name: name, From: []string{"any"}, To: "orders", Allow: []string{"X" + letters[i:i+1] + " /m"}}
	}
	for i := range 26 {
		for j := range 5 {
			name := "x-" + strings.ToLower(letters[i:i+1]+letters[j:j+1])
			set.Rules[name] = Rule{Name: name, From: []string{"any"}, To: "orders", Deny: []string{"* /except"}, Except: []string{"/n/" + name}}
		}
	}
	table := mustCompile(t, set, "orders")
	for i := range 26 {
		want := Allow
		if i >= 22 {
			want = Deny
		}
		if got := ask(t, table, web, "X"+letters[i:i+1], "/m"); got.Effect != want {
			t.Errorf("method X%s: %+v", letters[i:i+1], got)
		}
	}
	if got := ask(t, table, "/n/x-aa", "GET", "/except"); got.Rule != "x-ab" {
		t.Errorf("excepted from the first deny only: %+v", got)
	}
	if got := ask(t, table, "/n/x-zz", "GET", "/except"); got.Rule != "x-aa" {
		t.Errorf("not excepted: %+v", got)
	}
	set.Rules["one-more"] = Rule{Name: "one-more", From: []string{"any"}, To: "orders", Allow: []string{"XW /m"}}
	if _, err := Compile(set, "orders"); err == nil {
		t.Error("more methods than the mask has bits compile")
	}
	if _, err := set.Validate(); err == nil {
		t.Error("more methods than the mask has bits are valid")
	}
}

func TestOneTableServesManyGoroutines(t *testing.T) {
	table := wideOpen(t, PathOptions{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				peer := table.Peer(mustID(t, web))
				if d := table.Explain(peer, Request{Protocol: HTTP, Method: "GET", Path: "/a"}); d.Effect != Allow {
					t.Errorf("got %+v", d)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzCompileDecide(f *testing.F) {
	f.Add("web", "orders", "GET /v1/{**}", "any", "* /v1/{x}/", "/n/web", "GET", "/v1/a/", "/n/*", uint16(0), true)
	f.Add("web", "orders", "tcpish /v1/{**}", "any", "* /v1/{x}/", "/n/web", "GET", "/v2", "/n/*", uint16(0), true)
	f.Add("/n/*", "any", "tcp 5432", "anonymous", "tcp", "", "", "", "any", uint16(5432), false)
	f.Add("spiffe://other.example/**", "/n/orders", "grpc a.B/*", "/**", "POST /a.B/%21", "spiffe://other.example/x", "POST", "/a.B/!", "web", uint16(1), true)
	f.Fuzz(func(t *testing.T, from, to, allow, denyFrom, deny, peer, method, path, except string, port uint16, http bool) {
		protocol := TCP
		if http {
			protocol = HTTP
		}
		set := newSet(t, []Service{
			{Name: "orders", Identities: []string{"/n/orders"}, Protocol: protocol},
			{Name: "web", Identities: []string{"/n/web", "spiffe://other.example/x"}, Protocol: protocol},
		},
			Rule{Name: "allow", From: []string{from}, To: to, Allow: []string{allow}},
			Rule{Name: "deny", From: []string{denyFrom}, To: to, Deny: []string{deny}, Except: []string{except}},
		)
		_, verr := set.Validate()
		table, err := Compile(set, "orders")
		if verr == nil && err != nil {
			t.Fatalf("valid but does not compile: %v", err)
		}
		if err != nil || verr != nil {
			return
		}
		who := table.Anonymous()
		if peer != "" {
			id, err := spiffe.ParseID(refWhole(peer))
			if err != nil || id.Path() == "" {
				return
			}
			who, peer = table.Peer(id), id.String()
		}
		normal, err := NormalizePath(path, PathOptions{})
		if http && err != nil || len(method) == 0 || method == "tcp" || method == "grpc" {
			return
		}
		a, errA := ParseAction(allow)
		d, errD := ParseAction(deny)
		if errA != nil || errD != nil {
			return // does not bind orders, so nothing has read it
		}
		for name, r := range map[string]Rule{"allow": {Allow: []string{a.String()}}, "deny": {Deny: []string{d.String()}}} {
			rule := set.Rules[name]
			rule.Allow, rule.Deny = r.Allow, r.Deny // the reference reads canonical text only
			set.Rules[name] = rule
		}
		r := Request{Protocol: protocol, Method: method, Path: normal, Port: port}
		want := reference(set, "orders", peer, r)
		if got := table.Explain(who, r); !want.agrees(got) {
			t.Fatalf("%q asks %+v of %+v: got %+v, want %+v", peer, r, set.Rules, got, want)
		}
	})
}
