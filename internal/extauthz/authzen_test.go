package extauthz

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/policy"
)

func authzen(t testing.TB, s *Service, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	return call(t, s, http.MethodPost, path, fill(body), http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"bfe9eb29"}})
}

// wants asks, and fails unless status and decisions are these.
func wants(t *testing.T, s *Service, path, body string, code int, decisions ...bool) *httptest.ResponseRecorder {
	t.Helper()
	out := authzen(t, s, path, body)
	if out.Code != code || out.Header().Get("Content-Type") != "application/json" || out.Header().Get(requestID) != "bfe9eb29" {
		t.Fatalf("%s\ngot %d %s %v, want %d", body, out.Code, out.Body, out.Header(), code)
	}
	if code != 200 {
		var why string // AuthZEN 10.1.2: an error message string
		if err := json.Unmarshal(out.Body.Bytes(), &why); err != nil || why == "" {
			t.Errorf("%s\ngot the error %s", body, out.Body)
		}
		return out
	}
	var answer struct {
		Decision    *bool
		Evaluations []struct{ Decision *bool }
	}
	if err := json.Unmarshal(out.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	var got []bool
	if answer.Decision != nil {
		got = append(got, *answer.Decision)
	}
	for _, e := range answer.Evaluations {
		if e.Decision == nil || answer.Decision != nil {
			t.Fatalf("%s\ngot %s", body, out.Body)
		}
		got = append(got, *e.Decision)
	}
	if !reflect.DeepEqual(got, decisions) {
		t.Errorf("%s\ngot %s, want %v", body, out.Body, decisions)
	}
	return out
}

const (
	subject  = `"subject":{"type":"spiffe","id":"WEB"}`
	reading  = `"action":{"name":"GET"}`
	resource = `"resource":{"type":"service","id":"orders","properties":{"path":"/v1/x"}}`
)

func newPDP(t *testing.T) (*desk, *Service) { return newDesk(t, slice(service("orders", policy.HTTP))) }

// AuthZEN 5 and 6: what is asked, and that a denial is an answer.
func TestAuthZEN6Evaluation(t *testing.T) {
	_, s := newPDP(t)
	for what, want := range map[string]bool{
		subject + "," + reading + "," + resource: true,
		`"subject":{"type":"workload","id":"WEB","properties":{"ip_address":"10.0.0.1","department":"sales"}},` + reading + "," + resource:     true,
		subject + "," + reading + `,"resource":{"type":"route","id":"/v1/x?y=z"}`:                                                              true,
		subject + "," + reading + `,"resource":{"type":"route","id":"/v1/x","properties":{"service":"orders","host":"o","headers":{"a":"b"}}}`: true,
		subject + "," + reading + "," + resource + `,"context":{"time":"2025-06-27T18:03-07:00"}`:                                              true,
		subject + `,"action":{"name":"POST"},` + resource:                                                                                      false,
		`"subject":{"type":"spiffe","id":"spiffe://acme.example/vms/x"},` + reading + "," + resource:                                           false,
		`"subject":{"type":"spiffe","id":"web"},` + reading + "," + resource:                                                                   false,
		`"subject":{"type":"user","id":"WEB"},` + reading + "," + resource:                                                                     false,
		`"subject":{"type":"spiffe","id":"anonymous"},` + reading + "," + resource:                                                             false,
		`"subject":{"type":"anonymous","id":"anonymous"},` + reading + "," + resource:                                                          false,
		`"subject":{"type":"spiffe","id":"WEB","properties":{"ip_address":"x"}},` + reading + "," + resource:                                   false,
		subject + "," + reading + `,"resource":{"type":"service","id":"orders"}`:                                                               false,
		subject + "," + reading + `,"resource":{"type":"service","id":"billing","properties":{"path":"/v1/x"}}`:                                false,
		subject + "," + reading + `,"resource":{"type":"account","id":"orders","properties":{"path":"/v1/x"}}`:                                 false,
		subject + "," + reading + `,"resource":{"type":"route","id":"/v1/../admin"}`:                                                           false,
		subject + "," + reading + `,"resource":{"type":"route","id":"/v1/x","properties":{"headers":1}}`:                                       false,
	} {
		wants(t, s, evaluationPath, "{"+what+"}", 200, want)
	}
}

// AuthZEN 5.5.1: the context of an answer says why, and names the decision.
func TestAuthZEN551DecisionContext(t *testing.T) {
	d, s := newPDP(t)
	out := wants(t, s, evaluationPath, "{"+subject+`,"action":{"name":"POST"},`+resource+"}", 200, false)
	last := d.kept[len(d.kept)-1]
	for _, want := range []string{`"reason":"no_rule"`, fmt.Sprintf(`"decision_id":%q`, last.GetId()), `"near_miss":{"field":"method"`} {
		if !strings.Contains(out.Body.String(), want) {
			t.Errorf("got %s, want %s in it", out.Body, want)
		}
	}
}

// AuthZEN 10.1.1: what is not known is passed over.
func TestAuthZEN1011UnknownFieldsArePassedOver(t *testing.T) {
	_, s := newPDP(t)
	wants(t, s, evaluationPath, "{"+subject+","+reading+","+resource+`,"foo":"bar","futureField":{"nested":true}}`, 200, true)
	wants(t, s, evaluationPath, `{"subject":{"type":"spiffe","id":"WEB","foo":1},"action":{"name":"GET","foo":1,"properties":{"method":"POST"}},`+resource+`}`, 200, true)
}

// AuthZEN 5.1 to 5.3 and 10.1.2: a request without what is REQUIRED, or of the
// wrong form, is a bad request and no decision.
func TestAuthZEN51To53AndErrors1012(t *testing.T) {
	d, s := newPDP(t)
	for _, body := range []string{
		reading + "," + resource, subject + "," + resource, subject + "," + reading,
		`"subject":{"id":"WEB"},` + reading + "," + resource, `"subject":{"type":"spiffe"},` + reading + "," + resource,
		subject + `,"action":{},` + resource, subject + "," + reading + `,"resource":{"id":"orders"}`, subject + "," + reading + `,"resource":{"type":"service"}`,
		`"subject":"alice",` + reading + "," + resource, subject + `,"action":{"name":123},` + resource, subject + "," + reading + `,"resource":[]`,
		`"subject":{"type":"spiffe","id":"WEB","properties":[]},` + reading + "," + resource, subject + "," + reading + "," + resource + `,"context":1`,
		subject + "," + subject + "," + reading + "," + resource,
	} {
		wants(t, s, evaluationPath, "{"+body+"}", 400)
	}
	for _, body := range []string{"", "{", "[]", "null", `"x"`, "{}{}", "{" + subject + "," + reading + "," + resource + "} x"} {
		wants(t, s, evaluationPath, body, 400)
	}
	whole := fill("{" + subject + "," + reading + "," + resource + "}")
	for _, kind := range []string{"text/plain", "", "application/x-www-form-urlencoded"} {
		if out := call(t, s, http.MethodPost, evaluationPath, whole, http.Header{"Content-Type": {kind}}); out.Code != 400 {
			t.Errorf("content type %q: got %d, want 400", kind, out.Code)
		}
	}
	if out := call(t, s, http.MethodGet, evaluationPath, "", nil); out.Code != 405 || out.Header().Get("Allow") != "POST" {
		t.Errorf("GET: got %d", out.Code)
	}
	if len(d.kept) != 0 {
		t.Errorf("%d decisions about bad requests, want none", len(d.kept))
	}
}

// AuthZEN 7.1: without evaluations a batch is one evaluation.
func TestAuthZEN71WithoutEvaluations(t *testing.T) {
	_, s := newPDP(t)
	one := subject + "," + reading + "," + resource
	wants(t, s, batchPath, "{"+one+"}", 200, true)
	wants(t, s, batchPath, "{"+one+`,"evaluations":[]}`, 200, true)
	wants(t, s, batchPath, "{"+reading+`,"evaluations":[]}`, 400)
	wants(t, s, batchPath, "{"+one+`,"evaluations":{}}`, 400)
	wants(t, s, batchPath, "{"+one+`,"evaluations":[`+strings.Repeat("{},", maxEvaluations)+"{}]}", 400)
}

// AuthZEN 7.1.1: what stands at the top is the default of each evaluation.
func TestAuthZEN711DefaultValues(t *testing.T) {
	_, s := newPDP(t)
	const post = `{"action":{"name":"POST"}}`
	wants(t, s, batchPath, "{"+subject+","+resource+`,"evaluations":[{`+reading+`},`+post+`]}`, 200, true, false)
	wants(t, s, batchPath, "{"+subject+","+resource+","+reading+`,"evaluations":[`+post+`,{}]}`, 200, false, true)
	wants(t, s, batchPath, `{"evaluations":[{`+subject+","+reading+","+resource+`},{`+subject+`,"action":{"name":"POST"},`+resource+`}]}`, 200, true, false)
	// Entities are exchanged as a whole, but for what each must have.
	wants(t, s, batchPath, "{"+subject+","+reading+`,"resource":{"type":"service","properties":{"path":"/v1/x"}},"evaluations":[{"resource":{"id":"orders"}},`+
		`{"resource":{"id":"orders","properties":{"path":"/v1/y"}}}]}`, 200, false, true)
	wants(t, s, batchPath, "{"+subject+","+reading+`,"context":{"time":"x"},"evaluations":[{`+resource+`},{`+resource+`,"context":{"time":"y"}}]}`, 200, true, true)
}

// AuthZEN 7.1.2.1: all of them, until the first denial, until the first permit.
func TestAuthZEN7121Semantics(t *testing.T) {
	d, s := newPDP(t)
	batch := func(semantic string, methods ...string) string {
		var all []string
		for _, m := range methods {
			all = append(all, `{"action":{"name":"`+m+`"}}`)
		}
		return "{" + subject + "," + resource + `,"options":` + semantic + `,"evaluations":[` + strings.Join(all, ",") + "]}"
	}
	with := func(name string) string { return `{"evaluations_semantic":"` + name + `","another_option":"value"}` }
	wants(t, s, batchPath, batch("{}", "GET", "PUT", "GET"), 200, true, false, true)
	wants(t, s, batchPath, batch("null", "PUT", "GET"), 200, false, true)
	wants(t, s, batchPath, batch(with(executeAll), "PUT", "GET"), 200, false, true)
	before := len(d.flows)
	wants(t, s, batchPath, batch(with(denyOnFirstDeny), "GET", "PUT", "GET"), 200, true, false)
	wants(t, s, batchPath, batch(with(permitOnFirstPermit), "PUT", "GET", "PUT"), 200, false, true)
	if got := len(d.flows) - before; got != 4 {
		t.Errorf("%d decisions, want 4: what is not answered is not decided", got)
	}
	wants(t, s, batchPath, batch(with("guess"), "GET"), 400)
	wants(t, s, batchPath, batch(`{"evaluations_semantic":1}`, "GET"), 400)
	wants(t, s, batchPath, batch(`[]`, "GET"), 400)
}

// AuthZEN 7.2.1: an evaluation that cannot be read is denied, the others answered.
func TestAuthZEN721ErrorsOfOneEvaluation(t *testing.T) {
	_, s := newPDP(t)
	out := wants(t, s, batchPath, "{"+subject+","+reading+`,"evaluations":[{},{`+resource+`},7,{"resource":"x"}]}`, 200, false, true, false, false)
	if !strings.Contains(out.Body.String(), `"error":{"message":"resource is missing","status":400}`) {
		t.Errorf("got %s", out.Body)
	}
	out = wants(t, s, batchPath, "{"+subject+","+reading+`,"options":{"evaluations_semantic":"deny_on_first_deny"},"evaluations":[{},{`+resource+`}]}`, 200, false)
	if strings.Count(out.Body.String(), "decision\":") != 1 {
		t.Errorf("got %s, want the first alone", out.Body)
	}
}

// AuthZEN 9.1.1 and 9.2.2: what is there is told, at the https URL that it is asked
// by, and what is not is not.
func TestAuthZEN911And922Metadata(t *testing.T) {
	s := NewService(Config{Desk: &desk{}, AuthZENURL: "https://pdp.example:8443", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	out := call(t, s, http.MethodGet, metadataPath, "", http.Header{"X-Request-Id": {"x"}})
	const want = `{"policy_decision_point":"https://pdp.example:8443","access_evaluation_endpoint":"https://pdp.example:8443/access/v1/evaluation","access_evaluations_endpoint":"https://pdp.example:8443/access/v1/evaluations"}`
	if out.Code != 200 || strings.TrimSpace(out.Body.String()) != want || out.Header().Get("Content-Type") != "application/json" || out.Header().Get(requestID) != "x" {
		t.Errorf("got %d %s", out.Code, out.Body)
	}
}

// AuthZEN 9.1.1: a decision point is named by an https URL. One that has none, as on
// a unix socket, publishes nothing (9), and says why.
func TestAuthZEN911NoMetadataWithoutHTTPS(t *testing.T) {
	_, s := newPDP(t)
	out := call(t, s, http.MethodGet, metadataPath, "", http.Header{"X-Request-Id": {"x"}})
	var why string // 10.1.2: an error message string
	if err := json.Unmarshal(out.Body.Bytes(), &why); err != nil || out.Code != 404 || !strings.Contains(why, "agent.authzen_url") || out.Header().Get(requestID) != "x" {
		t.Errorf("got %d %s", out.Code, out.Body)
	}
	if out := call(t, s, http.MethodPost, metadataPath, "", nil); out.Code != 405 {
		t.Errorf("POST: got %d, want 405", out.Code)
	}
	for _, path := range []string{"/access/v1/search/subject", "/access/v1/search/resource", "/access/v1/search/action", "/access/v2/evaluation"} {
		wants(t, s, path, "{}", 404)
	}
}

// AuthZEN 10.1.3: without an identifier there is none in the answer either.
func TestAuthZEN1013RequestID(t *testing.T) {
	_, s := newPDP(t)
	out := call(t, s, http.MethodPost, evaluationPath, fill("{"+subject+","+reading+","+resource+"}"), http.Header{"Content-Type": {"application/json; charset=utf-8"}})
	if out.Code != 200 || len(out.Header().Values(requestID)) != 0 {
		t.Errorf("got %d %v", out.Code, out.Header())
	}
}

// TCP has no path: the action is tcp, and a rule may name the port.
func TestAuthZENConnections(t *testing.T) {
	_, s := newDesk(t, slice(service("db", policy.TCP)))
	db := func(port string) string {
		return "{" + subject + `,"action":{"name":"tcp"},"resource":{"type":"service","id":"db","properties":{` + port + `}}}`
	}
	wants(t, s, evaluationPath, db(`"port":5432`), 200, true)
	wants(t, s, evaluationPath, db(`"port":22`), 200, false)
	wants(t, s, evaluationPath, db(`"port":"5432"`), 200, false)
	wants(t, s, evaluationPath, db(`"port":5432,"path":"/v1/x"`), 200, false)
	if got := asksOPA(t, s, "kith/allow", `{"input":{"from":"WEB","protocol":"tcp","port":5432}}`); got != "true" {
		t.Errorf("by OPA's data API: got %s, want true", got)
	}
	if got := asksOPA(t, s, "kith/allow", `{"input":{"from":"WEB","protocol":"udp","port":5432}}`); got != "false" {
		t.Errorf("by OPA's data API, UDP: got %s, want false", got)
	}
}

// Whatever the body holds, nobody but the rule's caller is permitted, and what is
// answered has AuthZEN's form.
func FuzzAuthZEN(f *testing.F) {
	f.Add("{" + subject + "," + reading + "," + resource + "}")
	f.Add("{" + subject + `,"options":{"evaluations_semantic":"permit_on_first_permit"},"evaluations":[{` + reading + "," + resource + `},{}]}`)
	sl := slice(service("orders", policy.HTTP))
	sl.Named["web"].Identities = []string{"/vms/nobody-who-asks"}
	_, s := newDesk(f, sl)
	f.Fuzz(func(t *testing.T, body string) {
		if strings.Contains(body, "nobody-who-asks") || strings.Contains(body, `\`) {
			return
		}
		for _, path := range []string{evaluationPath, batchPath} {
			out := call(t, s, http.MethodPost, path, fill(body), http.Header{"Content-Type": {"application/json"}})
			if out.Code != 200 && out.Code != 400 || strings.Contains(out.Body.String(), `"decision":true`) || !json.Valid(out.Body.Bytes()) {
				t.Errorf("%s %q: got %d %s", path, body, out.Code, out.Body)
			}
		}
	})
}
