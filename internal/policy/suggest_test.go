package policy_test

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/policy"
)

// What was allowed under a condition is suggested under it alone; where nobody
// knows the condition any more, that is said.
func TestSuggestionsKeepConditions(t *testing.T) {
	web := spiffeID(t, "spiffe://acme.example/vms/web")
	flow := func(path, rule string, effect policy.Effect, reason policy.Reason) policy.Flow {
		return policy.Flow{
			From: web, To: "orders", Protocol: policy.HTTP, Method: "GET", Template: path, Count: 1, Samples: []string{path},
			Effect: effect, Rule: rule, Reason: reason,
		}
	}
	conditions := map[string]string{"gold": `request.headers["tier"] == "gold"`, "plain": "", "no-x": `request.port == 1`}
	suggested := policy.Suggest([]policy.Flow{
		flow("/gold", "gold", policy.Allow, policy.AllowRule), flow("/both", "gold", policy.Allow, policy.AllowRule),
		flow("/both", "plain", policy.Allow, policy.AllowRule), flow("/was", "gone", policy.Allow, policy.AllowRule),
		flow("/observed", "no-x", policy.Allow, policy.DenyRule), flow("/denied", "no-x", policy.Deny, policy.DenyRule),
	}, policy.SuggestOptions{Condition: func(rule string) (string, bool) {
		when, there := conditions[rule]
		return when, there
	}})
	got := make(map[string][]string) // condition -> actions
	said := ""
	for _, s := range suggested {
		got[s.Rule.When] = append(got[s.Rule.When], s.Rule.Allow...)
		for _, e := range s.Evidence {
			said += e.Action + ": " + strings.Join(e.Wider, ", ") + "\n"
		}
	}
	if text := strings.Join(got[""], " "); text != "GET /both GET /denied GET /observed GET /was" {
		t.Errorf("without a condition: %s", text)
	}
	if text := strings.Join(got[conditions["gold"]], " "); text != "GET /both GET /gold" || len(got) != 2 {
		t.Errorf("under its condition: %s, of %v", text, got)
	}
	if !strings.Contains(said, "GET /was: rule gone allowed it and is gone") || strings.Count(said, "is gone") != 1 {
		t.Errorf("evidence:\n%s", said)
	}
	names := map[string]bool{}
	for _, s := range suggested {
		if names[s.Rule.Name] {
			t.Errorf("two rules %s", s.Rule.Name)
		}
		names[s.Rule.Name] = true
	}
}

func TestSuggestionsSayThatAPortWasNotKnown(t *testing.T) {
	web := spiffeID(t, "spiffe://acme.example/vms/web")
	flow := policy.Flow{From: web, To: "db", Protocol: policy.TCP, Count: 1}
	for port, want := range map[uint16]string{0: "the port was not known, any is allowed", 5432: ""} {
		flow.Port = port
		got := policy.Suggest([]policy.Flow{flow}, policy.SuggestOptions{})
		if len(got) != 1 || strings.Join(got[0].Evidence[0].Wider, ", ") != want {
			t.Errorf("port %d: got %+v, want %q", port, got, want)
		}
	}
}
