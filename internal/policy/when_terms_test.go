package policy

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// Two things that are read are compared, looked for and chosen between as literals
// are, without an interpreter and without allocating; what else there is in CEL is
// the interpreter's.
func TestTermsAndQuantifiers(t *testing.T) {
	f := factsOf()
	f.Token = fixed{"sub": "alice", "scope": "read write", "groups": []any{"shop", "GET"}, "level": json.Number("8080"), "on": true, "off": false}
	r := requestOf(&f)
	in := inputOf(&r, "/eks/shop/web")
	for text, want := range map[string]outcome{
		`request.headers["x-env"] != request.method`:                                    holds,
		`request.headers["x-env"] == request.headers["x-env"]`:                          holds,
		`request.headers["x-none"] != request.method`:                                   unknown,
		`request.method == request.headers["x-none"]`:                                   unknown,
		`request.method < request.path`:                                                 fails,
		`request.path < "/v2"`:                                                          holds,
		`"/v2" >= request.path`:                                                         holds,
		`request.port == jwt.number("level")`:                                           holds,
		`request.port > jwt.number("none")`:                                             unknown,
		`size(jwt.scope) < size(peer.path)`:                                             holds,
		`request.time.getHours() == request.time.getDayOfMonth()`:                       fails,
		`peer.path[1] == jwt.groups[0]`:                                                 holds,
		`peer.path[1] == jwt.groups[2]`:                                                 unknown,
		`request.path.startsWith(jwt.sub)`:                                              fails,
		`"alice@shop".endsWith(peer.path[1])`:                                           holds,
		`request.headers["x-none"].endsWith(jwt.sub)`:                                   unknown,
		`request.method in jwt.groups`:                                                  holds,
		`jwt.sub in jwt.groups`:                                                         fails,
		`jwt.sub in jwt.list("none")`:                                                   unknown,
		`peer.path[0].matches("^e.s$")`:                                                 holds,
		`request.method == "GET" ? request.port == 8080 : request.port == 1`:            holds,
		`request.method == "PUT" ? request.headers["x-none"] == "a" : true`:             holds,
		`request.headers["x-none"] == "a" ? true : true`:                                unknown,
		`peer.path.exists(segment, segment == "shop")`:                                  holds,
		`peer.path.exists(segment, segment == request.method)`:                          fails,
		`peer.path.all(segment, size(segment) < 5)`:                                     holds,
		`peer.path.exists(s, s == "shop" || request.headers["x-none"] == s)`:            holds,
		`peer.path.exists(s, s == "none" || request.headers["x-none"] == s)`:            unknown,
		`peer.path.all(s, s == "eks" && request.headers["x-none"] == s)`:                fails,
		`jwt.scope.all(s, s in ["read", "write", "admin"])`:                             holds,
		`jwt.list("none").all(s, s == "a")`:                                             unknown,
		`["/v1/orders", "/v1/bills"].exists(p, request.path.startsWith(p))`:             holds,
		`["a", "b"].all(p, !(p in jwt.groups) && jwt.flag("on"))`:                       holds,
		`jwt.groups.exists(g, g in peer.path) && !peer.path.exists(s, s == jwt.sub)`:    holds,
		`jwt.flag("on") == jwt.flag("off")`:                                             fails,
		`(request.method == "GET" ? "prod" : "test") == request.headers["x-env"]`:       holds,
		`request.time.getHours() in [size(jwt.scope), 12]`:                              holds,
		`jwt.aud == jwt.groups`:                                                         unknown,
		`[request.method, "GET"].exists(m, m == "GET")`:                                 holds,
		`[1, 2].exists(n, n == request.port)`:                                           fails,
		`peer.path.exists(s, s == "shop" ? jwt.flag("off") : jwt.flag("none") == true)`: unknown,
	} {
		c, err := compileCondition(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		program, err := standardProgram(text, c)
		if err != nil {
			t.Fatal(err)
		}
		if got, interpreted := c.eval(in), program.eval(in); got != want || interpreted != want {
			t.Errorf("%s: got %d, the interpreter %d; want %d", text, got, interpreted, want)
		}
	}
}

// Which shapes the interpreter has to be asked about: a list that nobody extends
// without thinking about it.
func TestWhatTheInterpreterIsAskedAbout(t *testing.T) {
	for text, want := range map[string]bool{
		`request.method == request.path`:                                          false,
		`jwt.groups.all(g, g.startsWith("team-") || g in ["admins"])`:             false,
		`request.method == "GET" ? true : jwt.sub in jwt.groups`:                  false,
		`jwt.flag("on") == jwt.flag("off")`:                                       true,
		`jwt.aud == jwt.groups`:                                                   true,
		`(request.method == "GET" ? "prod" : "test") == request.headers["x-env"]`: true,
		`jwt.groups[request.port] == "a"`:                                         true,
		`[1, 2].exists(n, n == request.port)`:                                     true,
		`request.source_ip == request.source_ip`:                                  true,
		`request.method in [request.host, "GET"]`:                                 true,
	} {
		c, err := compileCondition(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := c.clauses[0].program != nil; got != want {
			t.Errorf("%s: interpreted is %t", text, got)
		}
	}
}

// CEL writes more blanks and parentheses than people do: a condition is measured as
// it was written.
func TestConditionsAreAsLongAsTheyAreWritten(t *testing.T) {
	for name, text := range spacious() {
		c, err := compileCondition(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d, err := standardDialect()
		if err == nil {
			_, err = d.interpret(c.clauses[0].text, c.clauses[0].refs)
		}
		if err != nil {
			t.Errorf("%s, in CEL's spelling: %v", name, err)
		}
	}
}

// spacious are conditions within the bounds whose own spelling in CEL is not.
func spacious() map[string]string {
	return map[string]string{
		"no blanks":              strings.Repeat("request.port==1||", 118) + "false",
		"no blanks, no ops":      strings.Repeat(`jwt.flag("a")==jwt.flag("b")||`, 67) + "false",
		"control characters":     `request.path == "` + strings.Repeat("\u0085", 1000) + `"`,
		"no parentheses":         strings.Repeat("request.port == 1 ? true : ", 28) + "false",
		"no parentheses, no ops": strings.Repeat(`jwt.flag("a") == jwt.flag("b") ? true : `, 28) + "false",
	}
}

// Whatever condition compiles comes to the same by its ops and in the interpreter.
func FuzzOpsAndInterpreterAgree(f *testing.F) {
	for _, text := range []string{
		`request.headers["x-env"] != request.method`, `peer.path.exists(s, s == jwt.sub)`, `jwt.scope.all(s, s in ["a", "b"] || s.startsWith(request.host))`,
		`["a"].exists(p, request.path.contains(p)) ? size(jwt.groups) >= request.port : "a" in jwt.scope`, `request.query["q"] in jwt.groups && !(peer.path[1] < jwt.sub)`,
	} {
		f.Add(text, "GET", "/a", "a.example:80", uint16(80), "prod", "q=a", "alice", "read write", "/eks/shop/web")
	}
	for _, text := range spacious() {
		f.Add(text, "GET", "/a", "a.example:80", uint16(80), "prod", "q=a", "alice", "read write", "/eks/shop/web")
	}
	d, err := standardDialect()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text, method, path, host string, port uint16, env, query, sub, scope, peer string) {
		c, err := compileCondition(text)
		if err != nil {
			return
		}
		facts := Facts{
			Time: noon(), Query: query, Headers: http.Header{"X-Env": {env}},
			Token: fixed{"sub": sub, "scope": scope, "groups": []any{sub, env}, "level": float64(port)},
		}
		r := Request{Protocol: HTTP, Method: method, Path: path, Host: host, Port: port, Facts: &facts}
		in := inputOf(&r, "/eks/shop/web")
		if id, err := wholeID(peer, trustDomain(t)); err == nil {
			in.peer.r.name(id)
		}
		if quick, whole := c.outcome(in), c.eval(in); quick != whole {
			t.Fatalf("%s of %+v %+v: asked the quickest way %d, else %d", text, r, facts, quick, whole)
		}
		for i := range c.clauses {
			part := &c.clauses[i]
			if len(part.ops) == 0 {
				continue
			}
			program, err := d.interpret(part.text, part.refs)
			if err != nil {
				t.Fatalf("%s: %v", part.text, err)
			}
			if ops, interpreted := part.eval(in), program.eval(in); ops != interpreted {
				t.Fatalf("%s of %+v %+v: ops say %d, the interpreter %d", part.text, r, facts, ops, interpreted)
			}
		}
	})
}
