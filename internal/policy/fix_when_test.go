package policy

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A fix for a call that missed a condition alone is no wider than the call: it keeps
// what held and asks for what was seen. Where that cannot be told it says that it
// leaves the condition out.
func TestFixesKeepConditions(t *testing.T) {
	const open = `kith allow web "GET /a" on orders` + wider
	facts := &Facts{
		Time: time.Date(2027, 1, 1, 12, 0, 0, 0, time.UTC), Source: netip.MustParseAddr("10.1.2.3"), Query: "dry=1&many=1&many=2&odd=%22%5C%0a&tab=%09",
		Headers: http.Header{"X-Env": {"te\"st, x-b is \"b\""}, "X-Key": {"s3cr3t"}, "X-Ok": {"yes"}, "X-Long": {strings.Repeat("a", 100)}},
		Token:   claims{TokenValid, `{"sub": "mallory", "level": 2, "email_verified": false}`},
	}
	for when, want := range map[string]string{
		`request.headers["x-ok"] == "no"`:                                                 `request.headers["x-ok"] == "yes"`,
		`request.headers["x-ok"] == "yes" && request.query["dry"] == "0"`:                 `request.headers["x-ok"] == "yes" && request.query["dry"] == "1"`,
		`request.headers["x-env"] == "prod" && request.query["dry"] == "0"`:               `request.headers["x-env"] == "te\"st, x-b is \"b\"" && request.query["dry"] == "1"`,
		`(request.method == "PUT" || request.host == "x") && request.query["dry"] == "1"`: ``, // the host is missing
		`(request.method == "PUT" || request.query["dry"] == "0") && request.port == 0`:   ``,
		`request.method == "PUT" || request.query["dry"] == "0"`:                          `request.method == "GET" && request.query["dry"] == "1"`,
		`request.source_ip.within("192.168.0.0/16")`:                                      `request.source_ip.within("10.1.2.3")`,
		`request.headers["x-none"] == "a" && request.headers["x-ok"] == "yes"`:            `!present(request.headers["x-none"]) && request.headers["x-ok"] == "yes"`,
		`jwt.number("level") > 2`:                                                         `jwt.number("level") == 2`,
		`jwt.email_verified`:                                                              `!jwt.email_verified`,
		`jwt.sub == "alice"`:                                                              ``, // who somebody is, is not shown
		`request.headers["x-key"] == "a"`:                                                 ``, // nor what may be a secret
		`request.headers["x-long"] == "a"`:                                                ``, // nor what is long
		`request.query["many"] == "1"`:                                                    ``, // two values are none
		`request.query["odd"] == "1"`:                                                     ``, // a line end in it
		`request.time.getHours() == 3`:                                                    ``,
		`"read" in jwt.scope`:                                                             ``,
		`request.query["tab"] == "1" && jwt.sub == ""`:                                    ``,
	} {
		rule := Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /a"}, When: when}
		table := mustCompile(t, newSet(t, shop(), rule), "orders")
		request := Request{Protocol: HTTP, Method: "GET", Path: "/a", Facts: facts}
		d := table.Explain(table.Peer(mustID(t, web)), request)
		if !d.Denies() || d.Near.Field != FieldWhen {
			t.Errorf("%s: got %+v, want a denial for the condition", when, d)
			continue
		}
		got := Fix(d, "web", "orders", "GET", "/a", when)
		line := open
		if want != "" {
			line = strings.TrimSuffix(open, wider) + " --when " + quote(want)
		}
		if got != line {
			t.Errorf("%s\n got %s\nwant %s", when, got, line)
		}
		if want != "" {
			fixed := mustCompile(t, newSet(t, shop(), rule, Rule{Name: "fix", From: []string{"web"}, To: "orders", Allow: []string{"GET /a"}, When: want}), "orders")
			if d := fixed.Decide(fixed.Peer(mustID(t, web)), request); d.Effect != Allow {
				t.Errorf("%s: with %s: got %+v, want it allowed", when, line, d)
			}
			if d := fixed.Decide(fixed.Peer(mustID(t, web)), Request{Protocol: HTTP, Method: "GET", Path: "/a", Facts: &Facts{}}); d.Effect == Allow && !strings.HasPrefix(want, "!") {
				t.Errorf("%s: with %s a call without anything is allowed", when, line)
			}
		}
	}
}

// A fix for a call that missed something else than the condition of the nearest rule
// leaves that condition out, and says so.
func TestFixesSayThatTheyLeaveAConditionOut(t *testing.T) {
	const when = `peer.path[0] == "n"`
	set := newSet(
		t, shop(),
		Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /a"}, When: when},
		Rule{Name: "pg", From: []string{"web"}, To: "db", Allow: []string{"tcp 5432"}, When: when},
	)
	for _, tc := range []struct {
		to, from string
		r        Request
		field    string
	}{
		{"orders", web, Request{Protocol: HTTP, Method: "PUT", Path: "/a"}, FieldMethod},
		{"orders", web, Request{Protocol: HTTP, Method: "GET", Path: "/b"}, FieldPath},
		{"orders", "/n/batch", Request{Protocol: HTTP, Method: "GET", Path: "/a"}, FieldFrom},
		{"db", web, Request{Protocol: TCP, Port: 5433}, FieldPort},
	} {
		table := mustCompile(t, set, tc.to)
		d := table.Explain(resolvePeer(t, table, tc.from), tc.r)
		if d.Near.Field != tc.field {
			t.Errorf("%+v: got %+v, want the %s missed", tc.r, d, tc.field)
		}
		conditional, plain := Fix(d, "x", tc.to, tc.r.Method, tc.r.Path, when), Fix(d, "x", tc.to, tc.r.Method, tc.r.Path, "")
		if plain == "" || strings.Contains(plain, "#") || conditional != plain+wider {
			t.Errorf("%+v: got %s, and %s of a rule without a condition", tc.r, conditional, plain)
		}
	}
}

// What a node says was missed is not believed beyond plain values: a condition of
// its own making does not get into what an operator is shown.
func TestFixesTakeNoConditionFromANode(t *testing.T) {
	const when = `request.headers["x-env"] == "prod" && request.query["dry"] == "1"`
	for _, near := range []NearMiss{
		{Want: `true`, Got: ``},
		{Want: when, Got: `request.headers["x-env"] is "a" || true`},
		{Want: `request.headers["x-env"] == "prod"`, Got: `request.headers["x-env"] is "a"|| true, `},
		{Want: `request.headers["x-env"] == "prod"`, Got: `request.headers["x-env"] is prod`},
		{Want: `request.headers["x-env"] == "prod"`, Got: `request.headers["x-other"] is "prod"`},
		{Want: `request.headers["x-env"] == "prod"`, Got: `request.headers["x-env"] is "a", request.query["dry"] is "1"`},
		{Want: `request.headers["x-env"] == "prod" && `, Got: `request.headers["x-env"] is "a"`},
		{Want: `request.headers["x-env"] == "prod"`, Got: "request.headers[\"x-env\"] is `a`"},
		{Want: `request.headers["x-env"] == "prod"`, Got: `request.headers["x-env"] is "\x1b[2J"`},
		{},
	} {
		near.Rule, near.Field = "r", FieldWhen
		d := Decision{Effect: Deny, Reason: CondFalse, Near: near}
		if got := Fix(d, "web", "orders", "GET", "/a", when); got != `kith allow web "GET /a" on orders`+wider {
			t.Errorf("%q %q: got %s", near.Want, near.Got, got)
		}
	}
}
