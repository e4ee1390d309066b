package policy

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

// wideOpen is everything allowed to web on orders but /admin and /user/profile.
func wideOpen(t testing.TB, paths PathOptions) *Table {
	return mustCompile(t, newSet(t, []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP, Paths: paths},
		{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
	},
		Rule{Name: "all", From: []string{"web"}, To: "orders", Allow: []string{"* /{**}"}},
		Rule{Name: "not-admin", From: []string{"any", "anonymous"}, To: "orders", Deny: []string{"* /admin/{**}", "* /user/profile"}},
	), "orders")
}

// ask sends a request target's path as an enforcement point does.
func ask(t testing.TB, table *Table, peer, method, raw string) Decision {
	t.Helper()
	path, err := NormalizePath(raw, table.Paths())
	if err != nil {
		return table.Refuse(PathNotCanonical)
	}
	return table.Decide(resolvePeer(t, table, peer), Request{Protocol: HTTP, Method: method, Path: path})
}

const web = "spiffe://acme.example/n/web"

// Attacks 1-5, 8, 9 and 12 of the list of attacks: no spelling of a path reaches
// what a rule denies.
func TestAttackPathSpellings(t *testing.T) {
	table := wideOpen(t, PathOptions{})
	for _, tc := range []struct {
		attack int
		raw    string
		want   Reason
	}{
		{1, "/admin", DenyRule},
		{1, "//admin", PathNotCanonical},
		{1, "/admin//", PathNotCanonical},
		{1, "/admin/", DenyRule},
		{1, "/%2fadmin", PathNotCanonical},
		{1, "/admin%2f", PathNotCanonical},
		{1, "/%5cadmin", PathNotCanonical},
		{1, "/\\admin", PathNotCanonical},
		{1, "/%61dmin", DenyRule},
		{2, "/user/profile", DenyRule},
		{2, "/user/profile#x", PathNotCanonical},
		{2, "/user/profile%23x", AllowRule}, // a segment of its own, escaped for every reader
		{3, "/user/profile?x", PathNotCanonical},
		{3, "/user/profile#", PathNotCanonical},
		{4, "/x/../admin", DenyRule},
		{4, "/x/%2e%2e/admin", DenyRule},
		{4, "/x/%2E./admin", DenyRule},
		{4, "/x/%252e%252e/admin", PathNotCanonical},
		{4, "/x/%25252e%25252e/admin", PathNotCanonical},
		{4, "/x/%25%32%65%25%32%65/admin", PathNotCanonical},
		{4, "/x/%c0%ae%c0%ae/admin", PathNotCanonical},
		{4, "/x/..;/admin", PathNotCanonical},
		{4, "/x/.;/admin", PathNotCanonical},
		{4, "/admin;jsessionid=1", PathNotCanonical},
		{4, "/admin;a=b", PathNotCanonical},
		{4, "/admin%3Ba=b", PathNotCanonical},
		{4, "/.../admin", AllowRule}, // ... is a name like any other
		{4, "/../admin", PathNotCanonical},
		{4, "/./admin", DenyRule},
		{5, "/Admin", AllowRule}, // paths are case-sensitive, here and in the back end
		{8, "/admin%00", PathNotCanonical},
		{8, "/admin%0d%0a", PathNotCanonical},
		{8, "/admin\x00", PathNotCanonical},
		{8, "/admin\x7f", PathNotCanonical},
		{8, "/\xff", PathNotCanonical},
		{8, "/%ff", PathNotCanonical},
		{12, "/user/profile+x", AllowRule},
		{12, "/user/profile;v=1", PathNotCanonical},
	} {
		if got := ask(t, table, web, "GET", tc.raw); got.Reason != tc.want {
			t.Errorf("attack %d: %q: got %s, want %s", tc.attack, tc.raw, got.Reason, tc.want)
		}
	}
}

// Attack 1 where the service keeps double and encoded slashes: they are matched
// in the segments as sent.
func TestAttack01KeptSlashes(t *testing.T) {
	table := wideOpen(t, PathOptions{KeepEncodedSlash: true, KeepDoubleSlash: true})
	for raw, want := range map[string]Reason{
		"/admin%2Fx":         AllowRule, // one segment named admin%2Fx
		"/a%2fb":             AllowRule,
		"//admin":            AllowRule, // an empty segment first
		"/admin//x":          DenyRule,
		"/admin/a%2fb":       DenyRule,
		"/x%2F..%2Fadmin":    PathNotCanonical,
		"/x/..%2fadmin":      PathNotCanonical,
		"/x/%252e%252e/%2fa": PathNotCanonical,
		"/%5cadmin":          PathNotCanonical,
	} {
		if got := ask(t, table, web, "GET", raw); got.Reason != want {
			t.Errorf("%q: got %s, want %s", raw, got.Reason, want)
		}
	}
}

// Attack 5: methods are compared as sent.
func TestAttack05And41MethodCase(t *testing.T) {
	table := mustCompile(t, newSet(t, []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP},
		{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
	}, Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET,PURGE /{**}"}}), "orders")
	for method, want := range map[string]Effect{"GET": Allow, "PURGE": Allow, "get": Deny, "Get": Deny, "purge": Deny, "HEAD": Deny, "LINK": Deny, "": Deny, "GET ": Deny} {
		if got := ask(t, table, web, method, "/a"); got.Effect != want {
			t.Errorf("method %q: got %s, want %s", method, got.Effect, want)
		}
	}
}

// Attack 9: the edges of templates are in TestTemplatesMatch; here with the
// segments a keeping service has.
func TestAttack09TemplateEdges(t *testing.T) {
	set := newSet(t, []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP, Paths: PathOptions{true, true}},
		{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
	}, Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /one/{x}", "GET /tail/{**}/end", "GET /e//f", "GET /s/a%2fb"}})
	table := mustCompile(t, set, "orders")
	for raw, want := range map[string]Effect{
		"/one/": Deny, "/one/a": Allow, "/one/a%2Fb": Allow, "/one//": Deny, "/one/a/": Deny,
		"/tail/end": Allow, "/tail//end": Allow, "/tail/a/b/end": Allow, "/tail/a%2Fend": Deny, "/tail/end/": Deny,
		"/e//f": Allow, "/e/f": Deny, "/e///f": Deny,
		"/s/a%2Fb": Allow, "/s/a%2fb": Allow, "/s/a/b": Deny,
	} {
		if got := ask(t, table, web, "GET", raw); got.Effect != want {
			t.Errorf("%q: got %s, want %s", raw, got.Effect, want)
		}
	}
}

// Attack 10: no prefix matches without a segment's boundary; the form is refused.
func TestAttack10PrefixWithoutBoundary(t *testing.T) {
	for _, action := range []string{"GET /api*", "GET /api{**}", "GET /api/v*", "GET /*x"} {
		if _, err := ParseAction(action); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%q: got %v, want an Invalid error with a hint", action, err)
		}
	}
	table := wideOpen(t, PathOptions{})
	if got := ask(t, table, web, "GET", "/administrator"); got.Effect != Allow {
		t.Errorf("/admin/{**} reaches /administrator: %+v", got)
	}
}

// Attacks 21 and 23: no name acts as a pattern, and no ID matches from its middle.
func TestAttack21And23NamesAreLiteral(t *testing.T) {
	set := newSet(t, []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP},
		{Name: "mysa", Identities: []string{"/ns/victim/my.sa"}, Protocol: HTTP},
	},
		Rule{Name: "named", From: []string{"mysa", "/ns/victim/a.b"}, To: "orders", Allow: []string{"GET /a.b"}},
		Rule{Name: "under", From: []string{"/ns/team/*"}, To: "orders", Allow: []string{"GET /a.b"}},
	)
	table := mustCompile(t, set, "orders")
	for peer, want := range map[string]Effect{
		"/ns/victim/my.sa": Allow, "/ns/victim/myXsa": Deny, "/ns/victim/a.b": Allow, "/ns/victim/aXb": Deny,
		"/x/ns/victim/my.sa": Deny, "/x/ns/victim/my.sa/y": Deny, "/ns/victim/my.sa/y": Deny,
		"/ns/team/a": Allow, "/ns/team": Deny, "/ns/team/a/b": Deny, "/x/ns/team/a": Deny, "/ns/teams/a": Deny,
	} {
		if got := ask(t, table, peer, "GET", "/a.b"); got.Effect != want {
			t.Errorf("%s: got %s, want %s", peer, got.Effect, want)
		}
	}
	if got := ask(t, table, "/ns/victim/my.sa", "GET", "/aXb"); got.Effect != Deny {
		t.Error("the dot of a path matched another character")
	}
	for _, source := range []string{"/ns/vic*", "/ns/[a-z]", "/ns/*.sa", "/ns/**/x", "web*", "*", "/ns//x", "/ns/x/", "ns/x", "spiffe://acme.*/x", "spiffe://acme.example", "spiffe://Acme.example/x", "https://acme.example/x"} {
		set.Rules = map[string]Rule{"r": {Name: "r", From: []string{source}, To: "orders", Allow: []string{"GET /"}}}
		if _, err := set.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("source %q: got %v, want an Invalid error", source, err)
		}
		if _, err := Compile(set, "orders"); err == nil {
			t.Errorf("source %q compiles", source)
		}
	}
}

// Attack 22: a deny fires for every form of source, on every protocol.
func TestAttack22DenyFiresForEverySource(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, GRPC, TCP} {
		action, r := "* /{**}", Request{Protocol: protocol, Method: "POST", Path: "/a.B/C"}
		if protocol == TCP {
			action, r = "tcp", Request{Protocol: TCP, Port: 5432}
		}
		for source, peer := range map[string]string{
			"web": web, "/n/web": web, "/n/*": web, "/n/**": web, "/**": web, "/*/web": web, "/*/*": web, "/n/web/**": web, "any": web,
			"spiffe://acme.example/n/web": web, "spiffe://acme.example/n/*": web, "spiffe://acme.example/**": web,
			"spiffe://other.example/**": "spiffe://other.example/n/web", "spiffe://other.example/n/web": "spiffe://other.example/n/web",
			"anonymous": "",
		} {
			for _, guardrail := range []bool{false, true} {
				set := newSet(t, []Service{
					{Name: "orders", Identities: []string{"/n/orders"}, Protocol: protocol},
					{Name: "web", Identities: []string{"/n/web"}, Protocol: protocol},
				},
					Rule{Name: "allow", From: []string{"any", "anonymous", "spiffe://other.example/**"}, To: "orders", Allow: []string{action}},
					Rule{Name: "deny", From: []string{source}, To: "orders", Deny: []string{action}, Guardrail: guardrail},
				)
				table := mustCompile(t, set, "orders")
				if got := table.Decide(resolvePeer(t, table, peer), r); got.Rule != "deny" || got.Effect != Deny {
					t.Errorf("%s from %s: got %+v, want a denial by rule deny", protocol, source, got)
				}
				delete(set.Rules, "deny")
				table = mustCompile(t, set, "orders")
				if got := table.Decide(resolvePeer(t, table, peer), r); got.Effect != Allow {
					t.Errorf("%s from %s: without the deny: %+v", protocol, source, got)
				}
			}
		}
	}
}

// Attack 24: a source that says no trust domain means the own one.
func TestAttack24TrustDomains(t *testing.T) {
	set := newSet(t, []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP},
		{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
	},
		Rule{Name: "own", From: []string{"web", "/n/*", "any"}, To: "orders", Allow: []string{"GET /own"}},
		Rule{Name: "partner", From: []string{"spiffe://partner.example/n/*"}, To: "orders", Allow: []string{"GET /partner"}},
	)
	table := mustCompile(t, set, "orders")
	for _, tc := range []struct {
		peer, path string
		want       Reason
	}{
		{web, "/own", AllowRule},
		{web, "/partner", NoRule},
		{"spiffe://partner.example/n/web", "/partner", AllowRule},
		{"spiffe://partner.example/n/web", "/own", NoRule},
		{"spiffe://partner.example/m/web", "/partner", UnknownTrustDomain},
		{"spiffe://acme.example.evil/n/web", "/own", UnknownTrustDomain},
		{"spiffe://acme.example-x/n/web", "/own", UnknownTrustDomain},
		{"spiffe://acme/n/web", "/own", UnknownTrustDomain},
		{"spiffe://partner.example.evil/n/web", "/partner", UnknownTrustDomain},
		{"spiffe://acme.example", "/own", NoSource},
		{"", "/own", NoSource},
	} {
		if got := ask(t, table, tc.peer, "GET", tc.path); got.Reason != tc.want {
			t.Errorf("%q %s: got %s, want %s", tc.peer, tc.path, got.Reason, tc.want)
		}
	}
}

// Attack 28: what an enforcement point cannot see is refused when applied, and
// denied when it is asked about anyway.
func TestAttack28ProtocolsDoNotMix(t *testing.T) {
	services := []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP},
		{Name: "calls", Identities: []string{"/n/calls"}, Protocol: GRPC},
		{Name: "db", Identities: []string{"/n/db"}, Protocol: TCP},
	}
	for _, tc := range []struct {
		to, action string
		ok         bool
	}{
		{"db", "GET /", false},
		{"db", "* /{**}", false},
		{"db", "grpc *", false},
		{"db", "tcp", true},
		{"orders", "tcp", false},
		{"orders", "tcp 80", false},
		{"orders", "grpc *", true},
		{"calls", "tcp", false},
		{"calls", "POST /a.B/C", true},
		{"any", "tcp", false},
		{"any", "* /{**}", false},
		{"/n/db", "GET /", false},
	} {
		for _, deny := range []bool{false, true} {
			r := Rule{Name: "r", From: []string{"any"}, To: tc.to, Allow: []string{tc.action}}
			if deny {
				r.Allow, r.Deny = nil, r.Allow
			}
			set := newSet(t, services, r)
			if _, err := set.Validate(); (err == nil) != tc.ok || err != nil && !strings.Contains(err.Error(), "cannot be enforced") {
				t.Errorf("%q on %s: Validate: %v", tc.action, tc.to, err)
			}
			if tc.to == "any" || tc.to == "/n/db" {
				continue
			}
			if _, err := Compile(set, tc.to); (err == nil) != tc.ok {
				t.Errorf("%q on %s: Compile: %v", tc.action, tc.to, err)
			}
		}
	}
	everywhere := newSet(t, services, Rule{Name: "r", From: []string{"any"}, To: "any", Allow: []string{"* /{**}", "tcp"}})
	for service, right := range map[string]Request{
		"orders": {Protocol: HTTP, Method: "GET", Path: "/"},
		"calls":  {Protocol: GRPC, Method: "POST", Path: "/a.B/C"},
		"db":     {Protocol: TCP, Port: 5432},
	} {
		table := mustCompile(t, everywhere, service)
		for _, r := range []Request{right, {Protocol: TCP, Port: 1}, {Protocol: HTTP, Method: "GET", Path: "/"}, {}, {Protocol: 9, Method: "GET", Path: "/"}} {
			fits := r == right || r.Protocol.carriesRequests() && right.Protocol.carriesRequests() || r.Protocol == TCP && service == "db"
			if got := table.Decide(resolvePeer(t, table, web), r); (got.Effect == Allow) != fits {
				t.Errorf("%s asked about %+v: %+v", service, r, got)
			}
		}
	}
}

// Attack 30: an empty list never means everything.
func TestAttack30EmptyLists(t *testing.T) {
	orders := Service{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP}
	allow := []string{"GET /"}
	for name, r := range map[string]Rule{
		"nothing":      {To: "orders"},
		"no from":      {To: "orders", Allow: allow},
		"empty from":   {To: "orders", From: []string{}, Allow: allow},
		"blank from":   {To: "orders", From: []string{""}, Allow: allow},
		"no to":        {From: []string{"any"}, Allow: allow},
		"no actions":   {To: "orders", From: []string{"any"}, Allow: []string{}, Deny: []string{}},
		"blank action": {To: "orders", From: []string{"any"}, Allow: []string{""}},
		"blank deny":   {To: "orders", From: []string{"any"}, Deny: []string{" "}},
		"blank except": {To: "orders", From: []string{"any"}, Deny: allow, Except: []string{""}},
	} {
		r.Name = "r"
		set := newSet(t, []Service{orders}, r)
		if _, err := set.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: Validate: %v", name, err)
		}
		table, err := Compile(set, "orders")
		if err == nil && table.Decide(table.Peer(mustID(t, web)), Request{Protocol: HTTP, Method: "GET", Path: "/"}).Effect == Allow {
			t.Errorf("%s: allows", name)
		}
	}
	for name, s := range map[string]Service{
		"no identities":    {Name: "orders", Protocol: HTTP},
		"blank identity":   {Name: "orders", Protocol: HTTP, Identities: []string{""}},
		"root identity":    {Name: "orders", Protocol: HTTP, Identities: []string{"/"}},
		"domain identity":  {Name: "orders", Protocol: HTTP, Identities: []string{"spiffe://acme.example"}},
		"no protocol":      {Name: "orders", Identities: []string{"/n/orders"}},
		"pattern identity": {Name: "orders", Protocol: HTTP, Identities: []string{"/n/*"}},
	} {
		if err := s.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Compile(newSet(t, []Service{s}), "orders"); err == nil {
			t.Errorf("%s compiles", name)
		}
	}
	none := mustCompile(t, newSet(t, []Service{orders}), "orders")
	for _, peer := range []string{"", web} {
		if got := ask(t, none, peer, "GET", "/"); got.Reason != NoSource || got.Effect != Deny {
			t.Errorf("no rules, %q: %+v", peer, got)
		}
	}
}
