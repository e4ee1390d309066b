package extauthz

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
)

// documents are those of an application that was written for OPA.
func documents() []Document {
	return []Document{
		{Path: "httpapi/authz", Service: "orders", Reading: &Reading{
			From: "user", Method: "method", Path: "path", Headers: "request.headers", Host: "request.host", Prefix: "spiffe://acme.example/vms/",
		}},
		{Path: "system/main", Service: "orders"},
		{Path: "envoy/authz"},
	}
}

// call sends one request as the process 7 and returns the answer.
func call(t testing.TB, s *Service, method, target, body string, head http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(WithCaller(t.Context(), attest.Peer{PID: 7}), method, "http://kith/", strings.NewReader(body))
	var err error
	if r.URL, err = url.ParseRequestURI(target); err != nil {
		t.Fatal(err)
	}
	if head != nil {
		r.Header = head
	}
	out := httptest.NewRecorder()
	s.ServeHTTP(out, r)
	return out
}

// fill exchanges WEB for the caller's ID.
func fill(text string) string { return strings.ReplaceAll(text, "WEB", web) }

// asksOPA is the result, "undefined" if there is none.
func asksOPA(t testing.TB, s *Service, path, body string) string {
	t.Helper()
	out := call(t, s, http.MethodPost, "/v1/data/"+path, fill(body), nil)
	if out.Code != http.StatusOK {
		t.Fatalf("%s %s: got %d %s", path, body, out.Code, out.Body)
	}
	var answer struct{ Result json.RawMessage }
	if err := json.Unmarshal(out.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Result == nil {
		return "undefined"
	}
	return string(answer.Result)
}

func TestOPADocumentsAreDecisions(t *testing.T) {
	_, s := newDesk(t, slice(service("orders", policy.HTTP)))
	const may = `{"input":{"from":"WEB","method":"GET","path":"/v1/x?a=b"}}`
	for _, c := range []struct{ what, path, body, want string }{
		{"by the rule", "kith/allow", may, "true"},
		{"a service by name", "kith/allow", `{"input":{"from":"WEB","to":"orders","method":"GET","path":"/v1/x","host":"orders","port":80,"address":"10.0.0.1","headers":{"a":"b","c":["d","e"]},"protocol":"http"}}`, "true"},
		{"path segments", "kith/allow", `{"input":{"from":"WEB","method":"GET","path":["v1","x y"]}}`, "true"},
		{"part of a decision", "kith/decision/rule", may, `"web-orders"`},
		{"a slash at the end", "kith/allow/", may, "true"},
		{"no part of it", "kith/decision/colour", may, "undefined"},
		{"too deep", "kith/decision/near_miss/rule/x", may, "undefined"},
		{"below a boolean", "kith/allow/x", may, "undefined"},
		{"another document", "kith/deny", may, "undefined"},
		{"another package", "other/allow", may, "undefined"},
		{"all there is", "", may, "undefined"},
		{"another method", "kith/allow", `{"input":{"from":"WEB","method":"POST","path":"/v1/x"}}`, "false"},
		{"another path", "kith/allow", `{"input":{"from":"WEB","method":"GET","path":"/admin"}}`, "false"},
		{"another service", "kith/allow", `{"input":{"from":"WEB","to":"billing","method":"GET","path":"/v1/x"}}`, "false"},
		{"another caller", "kith/allow", `{"input":{"from":"spiffe://acme.example/vms/x","method":"GET","path":"/v1/x"}}`, "false"},
		{"no SPIFFE ID", "kith/allow", `{"input":{"from":"web","method":"GET","path":"/v1/x"}}`, "false"},
		{"nobody", "kith/allow", `{"input":{"from":"anonymous","method":"GET","path":"/v1/x"}}`, "false"},
		{"no caller", "kith/allow", `{"input":{"method":"GET","path":"/v1/x"}}`, "false"},
		{"a word that is not known", "kith/allow", `{"input":{"from":"WEB","method":"GET","path":"/v1/x","form":"x"}}`, "false"},
		{"a number for a method", "kith/allow", `{"input":{"from":"WEB","method":1,"path":"/v1/x"}}`, "false"},
		{"no input", "kith/allow", `{}`, "false"},
		{"no body", "kith/allow", ``, "false"},
		{"input null", "kith/allow", `{"input":null}`, "false"},
		{"input a list", "kith/allow", `{"input":[]}`, "false"},
		{"a path that is not normal", "kith/decision/reason", `{"input":{"from":"WEB","method":"GET","path":"/v1/../admin"}}`, `"path_not_canonical"`},
		{"dots in segments", "kith/decision/reason", `{"input":{"from":"WEB","method":"GET","path":["v1","..","admin"]}}`, `"path_not_canonical"`},
		{"a slash in a segment", "kith/decision/reason", `{"input":{"from":"WEB","method":"GET","path":["v1","a/b"]}}`, `"path_not_canonical"`},
		{"as its application asks", "httpapi/authz/allow", `{"input":{"user":"web","method":"GET","path":["v1","x"],"token":"y"}}`, "true"},
		{"of its package", "httpapi/authz/decision/rule", `{"input":{"user":"web","method":"GET","path":["v1","x"],"request":{"headers":{"a":"b"},"host":"o"}}}`, `"web-orders"`},
		{"a name that is an ID", "httpapi/authz/allow", `{"input":{"user":"WEB","method":"GET","path":["v1","x"]}}`, "false"},
		{"a name of two segments", "httpapi/authz/allow", `{"input":{"user":"x/web","method":"GET","path":["v1","x"]}}`, "false"},
		{"no name", "httpapi/authz/allow", `{"input":{"method":"GET","path":["v1","x"]}}`, "false"},
		{"headers that are none", "httpapi/authz/allow", `{"input":{"user":"web","method":"GET","path":["v1","x"],"request":{"headers":[]}}}`, "false"},
		{"as the Envoy plugin", "envoy/authz/allow", `{"input":{"attributes":{"source":{"principal":"WEB"},"request":{"time":"x","http":{"method":"GET","path":"/v1/x","headers":{":path":"/admin"}}}},"parsed_path":["admin"]}}`, "true"},
		{"below kith too", "kith/allow", `{"input":{"attributes":{"source":{"principal":"WEB"},"request":{"http":{"method":"GET","path":"/v1/x"}}}}}`, "true"},
		{"an anonymous one", "kith/allow", `{"input":{"attributes":{"request":{"http":{"method":"GET","path":"/v1/x"}}}}}`, "false"},
		{"attributes that are none", "kith/allow", `{"input":{"attributes":[]}}`, "false"},
		{"an input about another service", "system/main/allow", `{"input":{"from":"WEB","to":"billing","method":"GET","path":"/v1/x"}}`, "false"},
	} {
		if got := asksOPA(t, s, c.path, c.body); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}

func TestOPADecisionSaysWhy(t *testing.T) {
	d, s := newDesk(t, slice(service("orders", policy.HTTP)))
	var got map[string]any
	text := asksOPA(t, s, "kith/decision", `{"input":{"from":"WEB","method":"POST","path":"/v1/x"}}`)
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	near, _ := got["near_miss"].(map[string]any)
	if got["allow"] != false || got["reason"] != "no_rule" || got["service"] != "orders" || got["from"] != web || got["revision"] != 7.0 ||
		near["rule"] != "web-orders" || near["field"] != "method" || near["got"] != "POST" {
		t.Errorf("got %s", text)
	}
	last := d.kept[len(d.kept)-1]
	if last.GetId() == "" || last.GetId() != got["decision_id"] || last.GetPath() != "/v1/x" || last.GetFrom() != web {
		t.Errorf("reported: %v, want the decision %v", last, got["decision_id"])
	}
	if n := len(d.flows); n != 1 || d.flows[0].Method != "POST" {
		t.Errorf("counted: %+v", d.flows)
	}
	said := asksOPA(t, s, "kith/decision/error", `{"input":{"from":"WEB","method":"GET","path":"/v1/x","form":"x"}}`)
	if said != `"input.form is not known"` {
		t.Errorf("what cannot be read: got %s", said)
	}
}

// The forms around a result, and errors in OPA's words.
func TestOPAAnswersHaveItsForm(t *testing.T) {
	_, s := newDesk(t, slice(service("orders", policy.HTTP)))
	const body = `{"input":{"from":"WEB","method":"GET","path":"/v1/x"}}`
	input := url.QueryEscape(fill(`{"from":"WEB","method":"GET","path":"/v1/x"}`))
	deep := `{"input":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}"
	for _, c := range []struct {
		what, method, target, body string
		code                       int
		want                       string
	}{
		{"GET", "GET", "/v1/data/kith/allow?input=" + input, "", 200, `"result":true`},
		{"GET without input", "GET", "/v1/data/kith/allow", "", 200, `{"result":false,"decision_id":"`},
		{"GET with what is no JSON", "GET", "/v1/data/kith/allow?input=x", "", 400, `"code": "invalid_parameter"`},
		{"GET with two", "GET", "/v1/data/kith/allow?input=1&input=" + input, "", 400, `"code": "invalid_parameter"`},
		{"pretty", "POST", "/v1/data/other?pretty", body, 200, "{}\n"},
		{"pretty and defined", "POST", "/v1/data/kith/allow?pretty=true", body, 200, "{\n  \"result\": true"},
		{"no input is warned of", "POST", "/v1/data/kith/allow", "{}", 200, `"warning":{"code":"api_usage_warning","message":"'input' key missing from the request"}`},
		{"metrics", "POST", "/v1/data/kith/allow?metrics=true", body, 200, `"metrics":{"timer_server_handler_ns":`},
		{"provenance", "POST", "/v1/data/kith/allow?provenance=true", body, 200, `"provenance":{"version":"1.2.3","build_commit":"","build_timestamp":"","build_hostname":"","bundles":{"kith":{"revision":"7"}}}`},
		{"what is passed over", "POST", "/v1/data/kith/allow?explain=full&strict-builtin-errors=true&pretty=false", body, 200, `"result":true`},
		{"malformed", "POST", "/v1/data/kith/allow", `{"input":`, 400, `"code": "invalid_parameter"`},
		{"no object", "POST", "/v1/data/kith/allow", `[]`, 400, `"code": "invalid_parameter"`},
		{"a name twice", "POST", "/v1/data/kith/allow", `{"input":{"from":"a","from":"WEB"}}`, 400, `says \"from\" twice`},
		{"too deep", "POST", "/v1/data/kith/allow", deep, 400, `nested more than 32 deep`},
		{"more behind it", "POST", "/v1/data/kith/allow", body + body, 400, `something follows`},
		{"not UTF-8", "POST", "/v1/data/kith/allow", "{\"input\":\"\xff\"}", 400, `not UTF-8`},
		{"too long", "POST", "/v1/data/kith/allow", strings.Repeat(" ", maxBody+1), 400, `too large`},
		{"v0", "POST", "/v0/data/kith/allow", fill(`{"from":"WEB","method":"GET","path":"/v1/x"}`), 200, "true\n"},
		{"v0, undefined", "POST", "/v0/data/other/allow", "{}", 404, "{\n  \"code\": \"undefined_document\",\n  \"message\": \"document missing: data.other.allow\"\n}\n"},
		{"v0 with GET", "GET", "/v0/data/kith/allow", "", 405, `"code": "invalid_operation"`},
		{"the default", "POST", "/", fill(`{"from":"WEB","method":"GET","path":"/v1/x"}`), 200, `"allow":true`},
		{"writing", "PUT", "/v1/data/kith/allow", "true", 405, `"code": "invalid_operation"`},
		{"deleting", "DELETE", "/v1/data/kith", "", 405, `"code": "invalid_operation"`},
		{"policies", "GET", "/v1/policies", "", 200, `{"result":[]}`},
		{"a policy", "PUT", "/v1/policies/x", "package x", 404, `"code": "resource_not_found"`},
		{"queries", "POST", "/v1/query", "{}", 404, `"code": "resource_not_found"`},
		{"beside data", "POST", "/v1/datax", "{}", 404, `"code": "resource_not_found"`},
		{"health", "GET", "/health?plugins&bundles", "", 200, "{}\n"},
	} {
		out := call(t, s, c.method, c.target, fill(c.body), nil)
		if out.Code != c.code || !strings.Contains(out.Body.String(), c.want) || out.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: got %d %s, want %d with %s", c.what, out.Code, out.Body, c.code, c.want)
		}
	}
}

func TestOPABodiesMayBeCompressed(t *testing.T) {
	_, s := newDesk(t, slice(service("orders", policy.HTTP)))
	compress := func(text string) string {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		if _, err := z.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	body := fill(`{"input":{"from":"WEB","method":"GET","path":"/v1/x"}}`)
	for _, c := range []struct {
		what, coding, body string
		code               int
	}{
		{"gzip", "gzip", compress(body), 200},
		{"a bomb", "gzip", compress(strings.Repeat(" ", 8<<20) + body), 400},
		{"no gzip", "gzip", body, 400},
		{"another coding", "br", body, 400},
	} {
		out := call(t, s, http.MethodPost, "/v1/data/kith/allow", c.body, http.Header{"Content-Encoding": {c.coding}})
		if out.Code != c.code {
			t.Errorf("%s: got %d %s, want %d", c.what, out.Code, out.Body, c.code)
		}
	}
}

// Who asks and is nobody is told nothing, and no is the answer to everything.
func TestWhoMayNotAskIsToldNothing(t *testing.T) {
	d, s := newDesk(t, slice(service("orders", policy.HTTP)))
	const body = `{"input":{"from":"WEB","method":"GET","path":"/v1/x"}}`
	const nothing = `{"allow":false,"reason":"no_policy"}`
	d.err = fault.Deniedf("process 7 has no identity, unlike orders")
	if got := asksOPA(t, s, "kith/decision", body); got != nothing {
		t.Errorf("a stranger: got %s", got)
	}
	evaluation := fill(`{"subject":{"type":"spiffe","id":"WEB"},"action":{"name":"GET"},"resource":{"type":"route","id":"/v1/x"}}`)
	if out := authzen(t, s, evaluationPath, evaluation); out.Body.String() != `{"decision":false,"context":{"reason":"no_policy"}}`+"\n" {
		t.Errorf("a stranger by AuthZEN: got %s", out.Body)
	}
	if out := call(t, s, http.MethodGet, "/health", "", nil); out.Code != 500 || strings.Contains(out.Body.String(), "orders") {
		t.Errorf("health to a stranger: got %d %s", out.Code, out.Body)
	}
	d.err = nil
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/data/kith/decision", strings.NewReader(fill(body)))
	out := httptest.NewRecorder()
	if s.ServeHTTP(out, r); out.Body.String() != `{"result":`+nothing+"}\n" {
		t.Errorf("a caller nobody knows: got %s", out.Body)
	}
}

func TestWithoutPolicyAllQuestionsOfApplicationsAreDenied(t *testing.T) {
	_, s := newDesk(t, nil)
	const body = `{"input":{"from":"WEB","method":"GET","path":"/v1/x"}}`
	if got := asksOPA(t, s, "kith/decision/reason", body); got != `"no_policy"` {
		t.Errorf("got %s, want no_policy", got)
	}
	if out := call(t, s, http.MethodGet, "/health", "", nil); out.Code != 500 {
		t.Errorf("health: got %d, want 500", out.Code)
	}
	d, s := newDesk(t, slice(service("orders", policy.HTTP)))
	d.stale = true
	if got := asksOPA(t, s, "kith/allow", body); got != "false" {
		t.Errorf("with a policy that is too old: got %s, want false", got)
	}
	if out := call(t, s, http.MethodGet, "/health", "", nil); out.Code != 500 {
		t.Errorf("health with a policy that is too old: got %d, want 500", out.Code)
	}
}

// Whatever the body holds, the answer is yes only for the rule's caller.
func FuzzDataAPI(f *testing.F) {
	for _, seed := range []string{
		`{"input":{"from":"anonymous","method":"GET","path":"/v1/x"}}`, `{"input":{"user":"x","method":"GET","path":["v1"]}}`,
		`{"input":{"attributes":{"source":{"principal":"spiffe://acme.example/vms/x"},"request":{"http":{"method":"GET","path":"/v1/x"}}}}}`,
		`{"input":{"from":"spiffe://acme.example/vms/x","method":"GET","path":"/v1/x","headers":{"a":["b"]},"port":1,"address":"::1","protocol":"tcp"}}`,
	} {
		f.Add("kith/decision", seed)
		f.Add("httpapi/authz", seed)
	}
	sl := slice(service("orders", policy.HTTP))
	sl.Named["web"].Identities = []string{"/vms/nobody-who-asks"}
	_, s := newDesk(f, sl)
	f.Fuzz(func(t *testing.T, path, body string) {
		if strings.Contains(body, "nobody-who-asks") || strings.Contains(body, `\`) {
			return
		}
		target := "/v1/data/" + url.PathEscape(path)
		if strings.Count(path, "/") < 4 && !strings.ContainsAny(path, " %?#") {
			target = "/v1/data/" + path
		}
		if _, err := url.ParseRequestURI(target); err != nil {
			return
		}
		out := call(t, s, http.MethodPost, target, body, nil)
		if out.Code != 200 && out.Code != 400 {
			t.Errorf("%q %q: got %d", path, body, out.Code)
		}
		var answer struct{ Result json.RawMessage }
		if err := json.Unmarshal(out.Body.Bytes(), &answer); err != nil {
			t.Errorf("%q %q: the answer is no JSON: %s", path, body, out.Body)
		}
		if result := string(answer.Result); result == "true" || strings.Contains(result, `"allow":true`) {
			t.Errorf("%q %q: allowed", path, body)
		}
	})
}
