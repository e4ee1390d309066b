package policy

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// claims is a token as an enforcement point would hand it in.
type claims struct {
	state TokenState
	json  string
}

func (c claims) Claims() (map[string]any, TokenState) {
	var out map[string]any
	if c.json != "" {
		if err := json.Unmarshal([]byte(c.json), &out); err != nil {
			panic(err)
		}
	}
	return out, c.state
}

// noon is a Monday.
func noon() time.Time { return time.Date(2026, 3, 2, 12, 30, 0, 0, time.UTC) }

func factsOf() Facts {
	return Facts{
		Time: noon(), Source: netip.MustParseAddr("10.1.2.3"), SNI: "Orders.Shop.Example", Query: "page=2&q=a%20b&twice=1&twice=2&flag",
		Headers: http.Header{"X-Env": {"prod"}, "X-Twice": {"a", "b"}, "X-Empty": {""}, "X-Forwarded-For": {"203.0.113.9, 198.51.100.7"}},
		Token: claims{TokenValid, `{"iss": "https://id.example", "sub": "alice", "aud": ["orders", "billing"], "scope": "read write",
			"groups": "shop", "realm": {"roles": ["clerk"], "level": 3, "half": 1.5, "on": true}, "email_verified": true, "bad": ["a", 1]}`},
	}
}

func requestOf(f *Facts) Request {
	return Request{Protocol: HTTP, Method: "GET", Path: "/v1/orders/7", Host: "Shop.Example.:8443", Port: 8080, Facts: f}
}

// inputOf is the request of a peer, as conditions are asked about it.
func inputOf(r *Request, peer string) *input {
	p := &resolved{anonymous: peer == ""}
	if peer != "" {
		p.name(identity(peer))
	}
	return &input{r: r, peer: &Peer{p}, hops: 1}
}

// A condition is true, false, or not known: then an allow does not allow, and a
// deny denies. What is missing, there twice or of another type is not known.
func TestConditionsKnowThreeAnswers(t *testing.T) {
	f := factsOf()
	r := requestOf(&f)
	for text, want := range map[string]outcome{
		`request.method == "GET"`:                                                holds,
		`request.method != "GET"`:                                                fails,
		`"GET" == request.method`:                                                holds,
		`request.method in ["POST", "PUT"]`:                                      fails,
		`request.path.startsWith("/v1/")`:                                        holds,
		`request.path.endsWith("/8")`:                                            fails,
		`request.path.contains("orders")`:                                        holds,
		`request.path.matches("^/v[0-9]+/")`:                                     holds,
		`request.host == "shop.example"`:                                         holds,
		`request.sni == "orders.shop.example"`:                                   holds,
		`request.port == 8080`:                                                   holds,
		`request.port in [80, 443]`:                                              fails,
		`request.port > 8080`:                                                    fails,
		`8080 <= request.port`:                                                   holds,
		`request.headers["x-env"] == "prod"`:                                     holds,
		`request.headers["x-env"] != "prod"`:                                     fails,
		`request.headers["x-none"] == "prod"`:                                    unknown,
		`request.headers["x-none"] != "prod"`:                                    unknown,
		`request.headers["x-twice"] == "a"`:                                      unknown,
		`!(request.headers["x-none"] == "a")`:                                    unknown,
		`request.headers["x-empty"] == ""`:                                       holds,
		`"x-env" in request.headers`:                                             holds,
		`"x-none" in request.headers`:                                            fails,
		`"x-twice" in request.headers`:                                           unknown,
		`present(request.headers["x-env"])`:                                      holds,
		`!present(request.headers["x-none"])`:                                    holds,
		`present(request.headers["x-none"]) && request.headers["x-none"] == "a"`: fails,
		`request.headers["x-none"] == "a" || request.method == "GET"`:            holds,
		`request.headers["x-none"] == "a" && request.method == "PUT"`:            fails,
		`request.query["page"] == "2"`:                                           holds,
		`request.query["q"] == "a b"`:                                            holds,
		`request.query["twice"] == "1"`:                                          unknown,
		`request.query["flag"] == ""`:                                            holds,
		`"none" in request.query`:                                                fails,
		`request.source_ip.within("10.0.0.0/8")`:                                 holds,
		`request.source_ip.within(["10.1.2.4", "fd00::/8"])`:                     fails,
		`request.time < timestamp("2030-01-01T00:00:00Z")`:                       holds,
		`timestamp("2030-01-01T00:00:00Z") < request.time`:                       fails,
		`request.time.getHours() == 12`:                                          holds,
		`request.time.getHours("+02:00") == 14`:                                  holds,
		`request.time.getHours("-13:00") == 23`:                                  holds,
		`request.time.getDayOfWeek() in [1, 2, 3, 4, 5]`:                         holds,
		`request.time.getDayOfWeek("-13:00") == 0`:                               holds,
		`request.time.getFullYear() >= 2027`:                                     fails,
		`request.time.getMonth() == 2 && request.time.getDate() == 2 && request.time.getDayOfMonth() == 1 && request.time.getDayOfYear() == 60 && request.time.getMinutes() == 30 && request.time.getSeconds() == 0`: holds,
		`peer.trust_domain == "acme.example"`:                                holds,
		`peer.id == "spiffe://acme.example/eks/shop/web"`:                    holds,
		`peer.path[1] == "shop"`:                                             holds,
		`peer.path[1] != "shop"`:                                             fails,
		`peer.path[3] == "shop"`:                                             unknown,
		`"shop" in peer.path`:                                                holds,
		`size(peer.path) == 3`:                                               holds,
		`jwt.sub == "alice"`:                                                 holds,
		`jwt.iss in ["https://id.example"]`:                                  holds,
		`jwt.azp == "x"`:                                                     unknown,
		`"orders" in jwt.aud`:                                                holds,
		`"admin" in jwt.aud`:                                                 fails,
		`"write" in jwt.scope`:                                               holds,
		`"read write" in jwt.scope`:                                          fails,
		`"shop" in jwt.groups`:                                               holds,
		`jwt.email_verified`:                                                 holds,
		`jwt.email_verified == false`:                                        fails,
		`jwt.email_verified != false`:                                        holds,
		`"clerk" in jwt.list("realm", "roles")`:                              holds,
		`jwt.list("realm", "roles")[0] == "clerk"`:                           holds,
		`jwt.number("realm", "level") >= 3`:                                  holds,
		`jwt.number("realm", "half") >= 1`:                                   unknown,
		`jwt.flag("realm", "on")`:                                            holds,
		`jwt.text("realm", "level") == "3"`:                                  unknown,
		`jwt.text("bad") == "a"`:                                             unknown,
		`"a" in jwt.list("bad")`:                                             unknown,
		`present(jwt.sub) && present(jwt.number("realm", "level"))`:          holds,
		`present(jwt.azp)`:                                                   fails,
		`present(jwt.text("bad"))`:                                           unknown,
		`jwt.roles.exists(r, r.startsWith("a"))`:                             unknown,
		`jwt.aud.exists(a, a.startsWith("bill"))`:                            holds,
		`jwt.aud.all(a, a in ["orders", "billing", "x"])`:                    holds,
		`request.method == "GET" ? request.port == 8080 : request.port == 1`: holds,
		`true`:                                holds,
		`false || !true`:                      fails,
		`request.path == "/v1/orders/" + "7"`: unknown, // refused below: no concatenation
	} {
		c, err := compileCondition(text)
		if err != nil {
			if strings.Contains(text, " + ") {
				continue
			}
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := c.eval(inputOf(&r, "/eks/shop/web")); got != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
}

// A typo or a wrong type is refused when the rule is loaded, with the nearest name.
func TestAttack42ConditionsAreCheckedWhenLoaded(t *testing.T) {
	for text, want := range map[string]string{
		`request.methd == "GET"`:                      `unknown name "request.methd" (did you mean request.method?)`,
		`request.method == 1`:                         "no matching overload",
		`request.port == "8080"`:                      "no matching overload",
		`request.method`:                              "condition has type string; want bool",
		`request.headers["X-Env"] == "a"`:             `header names are lower-case: "x-env"`,
		`request.headers["host"] == "a"`:              "say request.host",
		`request.headers["x env"] == "a"`:             "is no header name",
		`request.headers[request.path] == "a"`:        `request.headers is read one entry at a time (as in request.headers["x-env"])`,
		`size(request.query) > 0`:                     "request.query is read one entry at a time",
		`request.path in request.query`:               "only a literal can be looked for in request.query",
		`request.source_ip == "10.0.0.1"`:             "no matching overload",
		`request.source_ip.within("10.0.0.1/8")`:      "10.0.0.1/8 has bits beyond its mask (write 10.0.0.0/8)",
		`request.source_ip.within("ten")`:             `"ten" is no network`,
		`request.source_ip.within(request.path)`:      "within() takes a network",
		`request.source_ip.within([])`:                "within() takes a network",
		`request.time.getHours("Europe/London") == 1`: "a time zone is an offset from UTC",
		`request.time.getHours(request.path) == 1`:    "a time zone is an offset from UTC",
		`request.time < timestamp("tomorrow")`:        "invalid timestamp argument",
		`request.time < "2030"`:                       "no matching overload",
		`jwt.role == "x"`:                             `unknown name "jwt.role"`,
		`jwt.department == "x"`:                       `other claims are read with their type, as in jwt.text("department")`,
		`jwt.text() == "x"`:                           "want the names that lead to a claim",
		`jwt.text(request.path) == "x"`:               "a claim's name is text in quotes",
		`jwt.text("a") == 1`:                          "no matching overload",
		`present(request.path + "x")`:                 "present() takes one thing",
		`present(jwt)`:                                "present() takes one thing",
		`[1].exists(request, true)`:                   `variable "request" would hide`,
		`jwt.aud.exists(a, jwt.groups.exists(g, jwt.roles.exists(r, a == g && g == r)))`: "",
		`request.path.matches("(")`:          "invalid matches argument",
		`request.path.matches(request.host)`: "",
		`string(request.port) == "1"`:        "undeclared reference",
		`dyn(request.port) == 1`:             "undeclared reference",
		`has(request.path)`:                  "",
		`request.path == "a`:                 "Syntax error",
		` `:                                  "condition is blank",
		strings.Repeat("!", 3000) + "true":   "condition is longer than",
	} {
		_, err := compileCondition(text)
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want an Invalid error", text, err)
			continue
		}
		if all := err.Error() + " (" + fault.HintOf(err) + ")"; !strings.Contains(strings.ReplaceAll(all, "\n", " "), want) {
			t.Errorf("%s:\n got %s\nwant %s", text, all, want)
		}
	}
}

// Each condition that is not met gives its reason: what can be mended by a token
// first, then what could not be evaluated, then what is false.
func TestReasonsOfConditions(t *testing.T) {
	env := Rule{Name: "env", From: []string{"web"}, To: "orders", Allow: []string{"GET /{**}"}, When: `request.method == "GET" && request.headers["x-env"] == "prod"`}
	user := Rule{Name: "user", From: []string{"web"}, To: "orders", Allow: []string{"GET /{**}"}, When: `jwt.sub == "alice"`}
	deny := Rule{Name: "deny", From: []string{"any"}, To: "orders", Deny: []string{"GET /{**}"}, When: `request.headers["authorization"] == "guest"`}
	open := Rule{Name: "open", From: []string{"web"}, To: "orders", Allow: []string{"GET /{**}"}}
	header := func(pairs ...string) Headers {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	for name, tc := range map[string]struct {
		rules  []Rule
		facts  *Facts
		reason Reason
		near   NearMiss
	}{
		"holds":         {[]Rule{env}, &Facts{Headers: header("X-Env", "prod")}, AllowRule, NearMiss{}},
		"false":         {[]Rule{env}, &Facts{Headers: header("X-Env", "test")}, CondFalse, NearMiss{"env", "when", `request.headers["x-env"] == "prod"`, `request.headers["x-env"] is "test"`}},
		"missing":       {[]Rule{env}, nil, CondError, NearMiss{"env", "when", `request.headers["x-env"] == "prod"`, `request.headers["x-env"] is missing`}},
		"twice":         {[]Rule{env}, &Facts{Headers: header("X-Env", "prod", "X-Env", "prod")}, CondError, NearMiss{"env", "when", `request.headers["x-env"] == "prod"`, `request.headers["x-env"] is not one plain value`}},
		"no token":      {[]Rule{env, user}, nil, TokenMissing, NearMiss{"user", "when", `jwt.sub == "alice"`, `jwt.sub is missing: there is no token`}},
		"bad token":     {[]Rule{env, user}, &Facts{Token: claims{state: TokenRefused}}, TokenInvalid, NearMiss{"user", "when", `jwt.sub == "alice"`, `jwt.sub is of an invalid token`}},
		"other token":   {[]Rule{user}, &Facts{Token: claims{TokenValid, `{"sub": "mallory"}`}}, CondFalse, NearMiss{"user", "when", `jwt.sub == "alice"`, `jwt.sub is something else`}},
		"empty token":   {[]Rule{user}, &Facts{Token: claims{TokenValid, `{}`}}, CondError, NearMiss{"user", "when", `jwt.sub == "alice"`, `jwt.sub is missing`}},
		"deny":          {[]Rule{open, deny}, &Facts{Headers: header("Authorization", "guest")}, DenyRule, NearMiss{}},
		"deny not met":  {[]Rule{open, deny}, &Facts{Headers: header("Authorization", "other")}, AllowRule, NearMiss{}},
		"deny unknown":  {[]Rule{open, deny}, nil, CondError, NearMiss{"deny", "when", deny.When, `request.headers["authorization"] is missing`}},
		"another allow": {[]Rule{env, user, open}, nil, AllowRule, NearMiss{}},
	} {
		table := mustCompile(t, newSet(t, shop(), tc.rules...), "orders")
		d := table.Explain(table.Peer(mustID(t, web)), Request{Protocol: HTTP, Method: "GET", Path: "/a", Facts: tc.facts})
		if d.Reason != tc.reason || d.Near != tc.near || (d.Effect == Allow) != (tc.reason == AllowRule) {
			t.Errorf("%s: got %+v, want %s, near %+v", name, d, tc.reason, tc.near)
		}
	}
}

// Attacks 28 and 42: a condition that connections know nothing about, or that has
// no bound, is refused when it is applied and when it is compiled.
func TestAttack28ConditionsThatCannotBeEnforcedAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		rule Rule
		want string
	}{
		"tcp":      {Rule{From: []string{"web"}, To: "db", Allow: []string{"tcp"}, When: `request.headers["a"] == "b"`}, `"tcp" cannot be enforced when request.headers["a"] == "b"`},
		"tcp deny": {Rule{From: []string{"web"}, To: "any", Deny: []string{"* /{**}", "tcp"}, When: `jwt.sub == "b"`}, `"tcp" cannot be enforced when jwt.sub == "b"`},
		"cost":     {Rule{From: []string{"web"}, To: "orders", Allow: []string{"GET /"}, When: `jwt.aud.exists(a, a.matches("(x|y)+z") || a.matches("(x|y)+w") || a.matches("(x|y)+v"))`}, "condition could cost"},
		"typo":     {Rule{From: []string{"web"}, To: "orders", Allow: []string{"GET /"}, When: `request.hots == "b"`}, `unknown name "request.hots"`},
		"boundary": {Rule{From: []string{"web"}, To: "any", Boundary: []string{"* /{**}", "tcp"}, When: `request.path == "/"`}, `"tcp" cannot be enforced when request.path == "/"`},
	} {
		tc.rule.Name = "r"
		set := newSet(t, shop(), tc.rule)
		service := tc.rule.To
		if service == "any" {
			service = "db"
		}
		_, verr := set.Validate()
		_, cerr := Compile(set, service)
		for _, err := range []error{verr, cerr} {
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: got %v, want %s", name, err, tc.want)
			}
		}
	}
	set := newSet(t, shop(), Rule{Name: "r", From: []string{"web"}, To: "db", Allow: []string{"tcp"}, When: `peer.path[0] == "n" && request.source_ip.within("10.0.0.0/8") && request.port == 5432 && request.time.getHours() < 18 && request.sni == "db"`})
	if _, err := set.Validate(); err != nil {
		t.Errorf("what a connection has is refused: %v", err)
	}
}

func TestTablesSayWhatTheirConditionsRead(t *testing.T) {
	for when, want := range map[string]Reads{
		"":                          0,
		`peer.path[0] == "n"`:       0,
		`request.method == "GET"`:   0,
		`request.sni == "x"`:        ReadsSNI,
		`"x" in request.headers`:    ReadsHeaders,
		`request.query["a"] == "b"`: ReadsQuery,
		`present(jwt.sub)`:          ReadsToken,
		`request.time.getHours() == 1 && request.source_ip.within("::1")`: ReadsTime | ReadsSource | ReadsHeaders,
	} {
		table := mustCompile(t, newSet(t, shop(), Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /"}, When: when}), "orders")
		if got := table.Reads(); got != want {
			t.Errorf("%s: got %b, want %b", when, got, want)
		}
	}
	var none *Table
	if none.Reads() != 0 {
		t.Error("no table reads something")
	}
}
