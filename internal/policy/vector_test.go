package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
)

// A test of rules says what conditions read of its call; what it does not say is
// not there, the time included.
func TestVectorsSayWhatConditionsRead(t *testing.T) {
	conditions := map[string]string{
		"header": `request.headers["x-env"] == "prod"`, "query": `request.query["page"] == "2"`, "host": `request.host == "shop.example"`,
		"sni": `request.sni == "shop.example"`, "source": `request.source_ip.within("10.0.0.0/8")`, "port": `request.port == 8080`,
		"time": `request.time.getHours() < 18`, "claims": `"staff" in jwt.groups`,
	}
	var rules []policy.Rule
	for name, when := range conditions {
		rules = append(rules, policy.Rule{Name: name, From: []string{"web"}, To: "orders", Allow: []string{"GET /" + name}, When: when})
	}
	check := policy.NewVectors(flowSet(rules...))
	day := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	for what, v := range map[string]policy.Vector{
		"header":  {Supposed: policy.Supposed{Headers: []string{"X-Env: prod"}}},
		"query":   {Supposed: policy.Supposed{Query: "page=2"}},
		"in call": {Call: "GET /query?page=2"},
		"host":    {Supposed: policy.Supposed{Host: "shop.example:443"}},
		"sni":     {Supposed: policy.Supposed{SNI: "shop.example"}},
		"source":  {Supposed: policy.Supposed{Source: "10.1.2.3"}},
		"port":    {Port: 8080},
		"time":    {Supposed: policy.Supposed{At: day}},
		"claims":  {Supposed: policy.Supposed{Claims: `{"groups": ["staff"]}`}},
	} {
		v.From, v.To, v.Expect = "web", "orders", policy.Allow
		if v.Call == "" {
			v.Call = "GET /" + what
		}
		if _, wrong, err := check.Check(v); wrong != "" || err != nil {
			t.Errorf("%s: %s, %v", what, wrong, err)
		}
		bare := policy.Vector{From: "web", To: "orders", Call: strings.TrimSuffix(v.Call, "?page=2"), Expect: policy.Deny}
		if _, wrong, err := check.Check(bare); wrong != "" || err != nil {
			t.Errorf("%s, not said: %s, %v", what, wrong, err)
		}
	}
	if covered, missed := check.Coverage(); len(missed) > 0 || len(covered) != len(conditions) {
		t.Errorf("covered %q, missed %q: tests decide rules with conditions too", covered, missed)
	}
	twice := policy.Vector{Call: "GET /header", Supposed: policy.Supposed{Headers: []string{"x-env: prod", "x-env: prod"}}}
	twice.From, twice.To, twice.Expect, twice.Reason = "web", "orders", policy.Deny, "cond_error"
	if _, wrong, err := check.Check(twice); wrong != "" || err != nil {
		t.Errorf("a header twice: %s, %v", wrong, err)
	}
	for what, v := range map[string]policy.Vector{
		"a header without a name": {Supposed: policy.Supposed{Headers: []string{": prod"}}},
		"an address with a port":  {Supposed: policy.Supposed{Source: "10.1.2.3:80"}},
		"claims that are a list":  {Supposed: policy.Supposed{Claims: `["staff"]`}},
		"two queries":             {Call: "GET /query?page=2", Supposed: policy.Supposed{Query: "page=2"}},
	} {
		v.From, v.To, v.Expect = "web", "orders", policy.Deny
		if v.Call == "" {
			v.Call = "GET /x"
		}
		if _, _, err := check.Check(v); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want an Invalid error", what, err)
		}
	}
}
