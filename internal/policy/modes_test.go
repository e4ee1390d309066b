package policy

import (
	"net/http"
	"net/netip"
	"testing"
)

// observed is a shop whose orders are only observed, under rules of the platform.
func observed(t testing.TB, mode Mode) Set {
	services := shop()
	services[0].Mode = mode
	return newSet(t, services,
		Rule{Name: "reads", From: []string{"web"}, To: "orders", Allow: []string{"GET /v1/{**}"}},
		Rule{Name: "no-deletes", From: []string{"any"}, To: "orders", Deny: []string{"DELETE /{**}"}},
		Rule{Name: "no-internals", From: []string{"any"}, To: "any", Deny: []string{"* /internal/{**}", "tcp 1"}, Guardrail: true},
		Rule{Name: "here-only", From: []string{"/n/**"}, To: "any", Boundary: []string{"* /{**}", "tcp"}},
		Rule{Name: "maybe", From: []string{"any"}, To: "any", Deny: []string{"* /maybe", "tcp 2"}, Guardrail: true, When: `request.sni == "x"`},
	)
}

// Where a service is only observed nothing is denied but by the platform's rules:
// guardrails, also one whose condition cannot be evaluated, and boundaries.
func TestGuardrailsBindWhereAServiceIsOnlyObserved(t *testing.T) {
	for _, tc := range []struct {
		peer, method, path string
		rule               string
		reason             Reason
		platform           bool
	}{
		{web, "GET", "/v1/a", "reads", AllowRule, false},
		{web, "POST", "/v1/a", "", NoRule, false},
		{web, "DELETE", "/v1/a", "no-deletes", DenyRule, false},
		{"/n/other", "GET", "/v1/a", "", NoSource, false},
		{web, "GET", "/internal/a", "no-internals", GuardrailDeny, true},
		{web, "GET", "/maybe", "maybe", CondError, true},
		{"/m/other", "GET", "/v1/a", "here-only", OutsideBoundary, true},
		{"", "GET", "/v1/a", "here-only", OutsideBoundary, true},
	} {
		for _, mode := range []Mode{Enforce, Observe} {
			d := ask(t, mustCompile(t, observed(t, mode), "orders"), tc.peer, tc.method, tc.path)
			denied := tc.reason != AllowRule
			want := Decision{Rule: tc.rule, Reason: tc.reason, Revision: 7, Observed: mode == Observe && denied && !tc.platform}
			if !denied || want.Observed {
				want.Effect = Allow
			}
			if d != want || d.Denies() != denied {
				t.Errorf("%s %s by %q, mode %q: got %+v, want %+v", tc.method, tc.path, tc.peer, mode, d, want)
			}
		}
	}
}

// What is malformed, or asked where there is no policy, is refused in every mode.
func TestObservingRefusesWhatHasNoDecision(t *testing.T) {
	table := mustCompile(t, observed(t, Observe), "orders")
	for name, d := range map[string]Decision{
		"ambiguous path":    ask(t, table, web, "GET", "/a%2fb"),
		"no peer":           table.Decide(Peer{}, Request{Protocol: HTTP, Method: "GET", Path: "/"}),
		"another protocol":  table.Decide(table.Peer(mustID(t, web)), Request{Protocol: TCP, Port: 1}),
		"no protocol":       table.Decide(table.Peer(mustID(t, web)), Request{Method: "GET", Path: "/"}),
		"no method":         table.Decide(table.Peer(mustID(t, web)), Request{Protocol: HTTP, Path: "/"}),
		"the zero decision": {},
	} {
		if d.Effect != Deny || d.Observed {
			t.Errorf("%s: got %+v", name, d)
		}
	}
}

// Rules in shadow mode decide nothing. What they would change is in the decision.
func TestShadowRulesAreComputedAndNeverEnforced(t *testing.T) {
	deny := Rule{Name: "s-deny", From: []string{"any"}, To: "orders", Deny: []string{"* /v1/secret"}, Mode: Shadow}
	guardrail := Rule{Name: "s-rail", From: []string{"web"}, To: "any", Deny: []string{"* /v1/secret", "tcp"}, Guardrail: true, Mode: Shadow}
	fence := Rule{Name: "s-fence", From: []string{"web"}, To: "orders", Boundary: []string{"GET /{**}"}, Except: []string{"/n/free"}, Mode: Shadow}
	allow := Rule{Name: "s-allow", From: []string{"any"}, To: "orders", Allow: []string{"PUT /v1/{**}"}, Mode: Shadow}
	conditional := Rule{Name: "s-when", From: []string{"any"}, To: "orders", Allow: []string{"PUT /v1/{**}"}, Mode: Shadow, When: `request.sni == "x"`}
	enforced := Rule{Name: "all", From: []string{"web", "/n/free"}, To: "orders", Allow: []string{"GET,POST /{**}"}}
	no := Rule{Name: "no", From: []string{"any"}, To: "orders", Deny: []string{"PUT /v1/no"}}
	for _, tc := range []struct {
		rules              []Rule
		peer, method, path string
		reason             Reason
		want               Shadowed
	}{
		{[]Rule{enforced, deny}, web, "GET", "/v1/secret", AllowRule, Shadowed{Deny, "s-deny", DenyRule}},
		{[]Rule{enforced, deny}, web, "GET", "/v1/open", AllowRule, Shadowed{}},
		{[]Rule{enforced, deny}, web, "PUT", "/v1/secret", NoRule, Shadowed{}},
		{[]Rule{enforced, deny, guardrail}, web, "GET", "/v1/secret", AllowRule, Shadowed{Deny, "s-rail", GuardrailDeny}},
		{[]Rule{enforced, fence}, web, "POST", "/v1/a", AllowRule, Shadowed{Deny, "s-fence", OutsideBoundary}},
		{[]Rule{enforced, fence}, web, "GET", "/v1/a", AllowRule, Shadowed{}},
		{[]Rule{enforced, fence}, "/n/free", "POST", "/v1/a", AllowRule, Shadowed{}},
		{[]Rule{enforced, allow}, web, "PUT", "/v1/a", NoRule, Shadowed{Allow, "s-allow", AllowRule}},
		{[]Rule{enforced, allow, no}, web, "PUT", "/v1/no", DenyRule, Shadowed{}},
		{[]Rule{enforced, allow, deny}, web, "PUT", "/v1/secret", NoRule, Shadowed{}},
		{[]Rule{enforced, allow, fence}, web, "PUT", "/v1/a", NoRule, Shadowed{}},
		{[]Rule{allow}, "/n/other", "PUT", "/v1/a", NoSource, Shadowed{Allow, "s-allow", AllowRule}},
		{[]Rule{conditional}, "/n/other", "PUT", "/v1/a", NoSource, Shadowed{}},
	} {
		d := ask(t, mustCompile(t, newSet(t, shop(), tc.rules...), "orders"), tc.peer, tc.method, tc.path)
		if d.Reason != tc.reason || d.Shadow != tc.want {
			t.Errorf("%s %s by %s: got %+v, want %s and %+v", tc.method, tc.path, tc.peer, d, tc.reason, tc.want)
		}
	}
}

// No allow can leave a boundary, and of several each binds: one more only narrows.
func TestAttack37EveryBoundaryBinds(t *testing.T) {
	all := Rule{Name: "all", From: []string{"any", "anonymous"}, To: "orders", Allow: []string{"* /{**}"}}
	reads := Rule{Name: "reads", From: []string{"any"}, To: "any", Boundary: []string{"GET,HEAD /{**}", "tcp"}, Except: []string{"/n/admin"}}
	v1 := Rule{Name: "v1", From: []string{"web", "/n/admin"}, To: "orders", Boundary: []string{"* /v1/{**}"}}
	timed := Rule{Name: "timed", From: []string{"any"}, To: "orders", Boundary: []string{"* /{**}"}, When: `request.time < timestamp("2027-01-01T00:00:00Z")`}
	elsewhere := Rule{Name: "elsewhere", From: []string{"/m/none"}, To: "/m/**", Boundary: []string{"* /{**}"}}
	for _, tc := range []struct {
		rules              []Rule
		peer, method, path string
		by                 string
		near               NearMiss
	}{
		{[]Rule{all, reads}, web, "GET", "/v1/a", "", NearMiss{}},
		{[]Rule{all, reads, elsewhere}, web, "GET", "/v1/a", "", NearMiss{}},
		{[]Rule{all, reads}, web, "PUT", "/v1/a", "reads", NearMiss{"reads", "method", "GET,HEAD", "PUT"}},
		{[]Rule{all, reads}, "/n/admin", "PUT", "/v1/a", "", NearMiss{}},
		{[]Rule{all, reads}, "", "GET", "/v1/a", "reads", NearMiss{"reads", "from", "any", "anonymous"}},
		{[]Rule{all, reads}, "spiffe://other.example/n/web", "GET", "/v1/a", "reads", NearMiss{"reads", "from", "any", "spiffe://other.example/n/web"}},
		{[]Rule{all, reads, v1}, web, "GET", "/v1/a", "", NearMiss{}},
		{[]Rule{all, reads, v1}, web, "GET", "/v2/a", "v1", NearMiss{"v1", "path", "/v1/{**}", "/v2/a"}},
		{[]Rule{all, reads, v1}, web, "PUT", "/v2/a", "reads", NearMiss{"reads", "method", "GET,HEAD", "PUT"}},
		{[]Rule{all, reads, v1}, "/n/other", "GET", "/v1/a", "v1", NearMiss{"v1", "from", "web,/n/admin", "spiffe://acme.example/n/other"}},
		{[]Rule{all, timed}, web, "GET", "/v1/a", "timed", NearMiss{"timed", "when", timed.When, "request.time is missing"}},
	} {
		table := mustCompile(t, newSet(t, shop(), tc.rules...), "orders")
		d := table.Explain(resolvePeer(t, table, tc.peer), Request{Protocol: HTTP, Method: tc.method, Path: tc.path})
		reason := AllowRule
		if tc.by != "" {
			reason = OutsideBoundary
		} else {
			tc.by = "all"
		}
		if d.Reason != reason || d.Rule != tc.by || d.Near != tc.near {
			t.Errorf("%s %s by %q: got %+v, want %s by %s, near %+v", tc.method, tc.path, tc.peer, d, reason, tc.by, tc.near)
		}
	}
}

// Attack 16: X-Forwarded-For counts only from gateways the service names, and
// only the entry that they can vouch for.
func TestAttack16ForwardedAddressesNeedATrustedGateway(t *testing.T) {
	for _, tc := range []struct {
		peer    string
		hops    int
		headers []string
		want    Effect
	}{
		{web, 0, nil, Deny},                                         // a caller speaks for itself
		{web, 0, []string{"10.1.1.1"}, Deny},                        // whatever it says
		{"/n/edge", 0, []string{"10.1.1.1"}, Allow},                 // the gateway added it
		{"/n/edge", 0, []string{"10.1.1.1, 203.0.113.9"}, Deny},     // the caller of the gateway said 10.1.1.1
		{"/n/edge", 2, []string{"10.1.1.1, 203.0.113.9"}, Allow},    // two gateways
		{"/n/edge", 2, []string{"10.1.1.1", "203.0.113.9"}, Allow},  // on two lines
		{"/n/edge", 3, []string{"10.1.1.1, 203.0.113.9"}, Deny},     // there are not so many
		{"/n/edge", 0, nil, Deny},                                   // the gateway does not say
		{"/n/edge", 0, []string{"unknown"}, Deny},                   // nor here
		{"/n/edge", 0, []string{"10.1.1.1:5123"}, Allow},            // with a port
		{"/n/edge", 0, []string{"[::ffff:10.1.1.1]:5123"}, Allow},   // the same address in six words
		{"/n/edge", 0, []string{"10.1.1.1, "}, Deny},                // an empty entry is one
		{"/n/edge", 16, []string{"10.1.1.1, 203.0.113.9,,,"}, Deny}, // and not enough of them
	} {
		services := shop()
		services[0].Forwarded = Forwarded{By: []string{"/n/edge"}, Hops: tc.hops}
		table := mustCompile(t, newSet(t, services,
			Rule{Name: "inside", From: []string{"any"}, To: "orders", Allow: []string{"* /{**}"}, When: `request.source_ip.within("10.0.0.0/8")`},
		), "orders")
		head := http.Header{}
		for _, line := range tc.headers {
			head.Add("X-Forwarded-For", line)
		}
		f := Facts{Source: netip.MustParseAddr("192.0.2.1"), Headers: head}
		d := table.Decide(resolvePeer(t, table, tc.peer), Request{Protocol: HTTP, Method: "GET", Path: "/", Facts: &f})
		if d.Effect != tc.want {
			t.Errorf("%s, %d hops, %q: got %+v, want %s", tc.peer, tc.hops, tc.headers, d, tc.want)
		}
	}
}

// Attack 17: an address makes nobody a gateway, be it this host's own, private or
// link-local: only the identity that the service names does.
func TestAttack17PrivateAddressesAreNotTrusted(t *testing.T) {
	services := shop()
	services[0].Forwarded = Forwarded{By: []string{"/n/edge"}}
	table := mustCompile(t, newSet(t, services,
		Rule{Name: "office", From: []string{"any"}, To: "orders", Allow: []string{"* /{**}"}, When: `request.source_ip.within("203.0.113.0/24")`},
	), "orders")
	head := http.Header{"X-Forwarded-For": {"203.0.113.7"}, "X-Real-Ip": {"203.0.113.7"}, "Forwarded": {"for=203.0.113.7"}, "True-Client-Ip": {"203.0.113.7"}}
	for _, source := range []string{"127.0.0.1", "::1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.1.1", "100.64.0.1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"} {
		for peer, want := range map[string]Effect{web: Deny, "/n/edge": Allow} {
			f := Facts{Source: netip.MustParseAddr(source), Headers: head}
			if d := table.Decide(resolvePeer(t, table, peer), Request{Protocol: HTTP, Method: "GET", Path: "/", Facts: &f}); d.Effect != want {
				t.Errorf("%s from %s: got %+v, want %s", peer, source, d, want)
			}
		}
	}
}
