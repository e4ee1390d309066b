package policy

import (
	"net/http"
	"testing"
)

// Attack 18: a header or a part of the query that is there twice is neither its
// first value nor its last nor both together: an allow that reads it does not
// allow, a deny that reads it denies.
func TestAttack18TwiceIsNotKnown(t *testing.T) {
	open := Rule{Name: "open", From: []string{"web"}, To: "orders", Allow: []string{"GET /{**}"}}
	for _, read := range []string{`request.headers["x-env"]`, `request.query["env"]`} {
		for _, condition := range []string{
			read + ` == "prod"`, read + ` != "test"`, read + ` in ["prod", "stage"]`, read + `.startsWith("pro")`, `"prod" == ` + read + ` || false`,
		} {
			allow := open
			allow.Name, allow.When = "when", condition
			deny := Rule{Name: "deny", From: []string{"any"}, To: "orders", Deny: []string{"GET /{**}"}, When: "!(" + condition + ")"}
			allows, denies := mustCompile(t, newSet(t, shop(), allow), "orders"), mustCompile(t, newSet(t, shop(), open, deny), "orders")
			for _, values := range [][]string{{"prod"}, {"prod", "prod"}, {"prod", "test"}, {"test", "prod"}, {"", "prod"}, {"prod", ""}} {
				facts, want := &Facts{Headers: http.Header{"X-Env": values}}, Deny
				for i, value := range values {
					if i > 0 {
						facts.Query += "&"
					}
					facts.Query += "env=" + value
				}
				if len(values) == 1 {
					want = Allow
				}
				for _, table := range []*Table{allows, denies} {
					got := table.Decide(table.Peer(mustID(t, web)), Request{Protocol: HTTP, Method: "GET", Path: "/a", Facts: facts})
					if got.Effect != want {
						t.Errorf("%s of %q: got %+v, want %v", condition, values, got, want)
					}
				}
			}
		}
	}
}

// Attack 19: a field under another spelling of its name, which back ends that are told
// of fields as CGI does take for the same, makes what it says unknown: an allow does
// not hold by it, a deny is not got round by it.
func TestAttack19OtherSpellingsOfAField(t *testing.T) {
	open := Rule{Name: "open", From: []string{"web"}, To: "orders", Allow: []string{"GET /{**}"}}
	for _, condition := range []string{
		`request.headers["x-env"] == "prod"`, `request.headers["x-env"] in ["prod", "stage"]`, `request.headers["x-env"].startsWith("pro")`,
		`request.headers["x-env"] == request.headers["x-env"]`, `"x-env" in request.headers`,
	} {
		allow := open
		allow.Name, allow.When = "when", condition
		deny := Rule{Name: "deny", From: []string{"any"}, To: "orders", Deny: []string{"GET /{**}"}, When: "!(" + condition + ")"}
		allows, denies := mustCompile(t, newSet(t, shop(), allow), "orders"), mustCompile(t, newSet(t, shop(), open, deny), "orders")
		for _, tc := range []struct {
			fields map[string][]string
			want   Effect
		}{
			{map[string][]string{"X-Env": {"prod"}}, Allow},
			{map[string][]string{"X-Env": {"prod"}, "X_other": {"a"}, "X_envy": {"a"}, "Xenv": {"a"}}, Allow},
			{map[string][]string{"X_env": {"prod"}}, Deny},
			{map[string][]string{"X-Env": {"prod"}, "X_env": {"test"}}, Deny},
			{map[string][]string{"X-Env": {"prod"}, "X_ENV": {"prod"}}, Deny},
		} {
			for _, table := range []*Table{allows, denies} {
				got := table.Decide(table.Peer(mustID(t, web)), Request{Protocol: HTTP, Method: "GET", Path: "/a", Facts: &Facts{Headers: HeadersOf(tc.fields)}})
				if got.Effect != tc.want {
					t.Errorf("%s of %q: got %+v, want %v", condition, tc.fields, got, tc.want)
				}
			}
		}
	}
	// The address of who calls is read from its own field, which proxies add to.
	from := Facts{Headers: HeadersOf(map[string][]string{"X-Forwarded-For": {"192.0.2.7"}, "X_forwarded_for": {"10.0.0.1"}})}
	if got := from.Headers.Values("X-Forwarded-For"); len(got) != 1 || got[0] != "192.0.2.7" {
		t.Errorf("X-Forwarded-For is %q", got)
	}
}

// Attack 29: what is not there does not make a negation true: neither a header
// nor a part of the query, nor a claim without a token or of one that was
// refused, nor a name of a caller without one.
func TestAttack29NegationOfWhatIsMissing(t *testing.T) {
	for condition, there := range map[string]*Facts{
		`request.headers["x-env"] != "test"`:             {Headers: http.Header{"X-Env": {"prod"}}},
		`!(request.headers["x-env"] == "test")`:          {Headers: http.Header{"X-Env": {"prod"}}},
		`!request.headers["x-env"].startsWith("test")`:   {Headers: http.Header{"X-Env": {"prod"}}},
		`!(request.headers["x-env"] in ["test", "dev"])`: {Headers: http.Header{"X-Env": {"prod"}}},
		`request.query["env"] != "test"`:                 {Query: "env=prod"},
		`jwt.sub != "mallory"`:                           {Token: claims{TokenValid, `{"sub": "alice"}`}},
		`!("guest" in jwt.roles)`:                        {Token: claims{TokenValid, `{"roles": ["clerk"]}`}},
		`!jwt.roles.exists(r, r == "guest")`:             {Token: claims{TokenValid, `{"roles": ["clerk"]}`}},
		`jwt.number("level") != 0`:                       {Token: claims{TokenValid, `{"level": 3}`}},
		`!jwt.flag("suspended")`:                         {Token: claims{TokenValid, `{"suspended": false}`}},
	} {
		allow := Rule{Name: "when", From: []string{"any"}, To: "orders", Allow: []string{"GET /{**}"}, When: condition}
		open := Rule{Name: "open", From: []string{"any"}, To: "orders", Allow: []string{"GET /{**}"}}
		deny := Rule{Name: "deny", From: []string{"any"}, To: "orders", Deny: []string{"GET /{**}"}, When: "!(" + condition + ")"}
		for name, table := range map[string]*Table{
			"allow": mustCompile(t, newSet(t, shop(), allow), "orders"),
			"deny":  mustCompile(t, newSet(t, shop(), open, deny), "orders"),
		} {
			for what, facts := range map[string]*Facts{
				"there": there, "no facts": nil, "nothing": {Headers: http.Header{}}, "refused token": {Token: claims{state: TokenRefused}}, "empty token": {Token: claims{TokenValid, `{}`}},
			} {
				want := Deny
				if what == "there" {
					want = Allow
				}
				if got := table.Decide(table.Peer(mustID(t, web)), Request{Protocol: HTTP, Method: "GET", Path: "/a", Facts: facts}); got.Effect != want {
					t.Errorf("%s %s, %s: got %+v, want %v", name, condition, what, got, want)
				}
			}
		}
	}
	nameless := Rule{Name: "nameless", From: []string{"anonymous"}, To: "orders", Allow: []string{"GET /{**}"}, When: `peer.trust_domain != "evil.example" && peer.id != "spiffe://acme.example/eks/shop/mallory"`}
	table := mustCompile(t, newSet(t, shop(), nameless), "orders")
	if got := table.Decide(table.Anonymous(), Request{Protocol: HTTP, Method: "GET", Path: "/a"}); got.Effect != Deny {
		t.Errorf("a caller without a name has none that was refused: got %+v, want %v", got, Deny)
	}
}
