package extauthz

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// Requests as AuthZEN's interop scenarios and its certification publish them, about
// users and records: Kith knows neither, so each is denied; but each is of the
// right form, and answered as one.
func TestPublishedAuthZENRequestsHaveTheRightForm(t *testing.T) {
	_, s := newPDP(t)
	for what, body := range map[string]string{
		"todo 1.0": `{"subject":{"type":"user","id":"rick@the-citadel.com","identity":"CiRmZDA2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs"},` +
			`"action":{"name":"can_update_todo"},"resource":{"type":"todo","id":"7240d0db-8ff0-41ec-98b2-34a096273b92","ownerID":"rick@the-citadel.com"}}`,
		"certification 2.2.1": `{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}`,
		"certification 2.2.3": `{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"},` +
			`"context":{"time":"2025-06-27T18:03-07:00","ip":"192.168.1.1"}}`,
		"certification 2.2.5": `{"subject":{"type":"user","id":"bob","properties":{"role":"admin"}},"action":{"name":"write"},` +
			`"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}`,
		"certification 2.2.6": `{"subject":{"type":"user","id":"alice"},"action":{"name":"delete","properties":{"soft":true}},"resource":{"type":"record","id":"record-1"}}`,
		"certification 2.2.9": `{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"},"foo":"bar","futureField":{"nested":true}}`,
	} {
		out := wants(t, s, evaluationPath, body, 200, false)
		if !strings.Contains(out.Body.String(), `"error":"subject.type \"user\" is not known`) {
			t.Errorf("%s: got %s", what, out.Body)
		}
	}
	for what, c := range map[string]struct {
		body string
		n    int
	}{
		"certification 3.2.1": {`{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"evaluations":[` +
			`{"resource":{"type":"record","id":"record-1"}},{"resource":{"type":"record","id":"record-2"}}]}`, 2},
		"certification 3.2.7": {`{"subject":{"type":"user","id":"alice"},"action":{"name":"write"},"resource":{"type":"record"},"evaluations":[` +
			`{"resource":{"id":"record-1","properties":{"status":"active"}}},{"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}]}`, 2},
		"certification 3.4.1": {`{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"evaluations":[{"resource":{"type":"record","id":"record-1"}},{}]}`, 2},
	} {
		out := authzen(t, s, batchPath, c.body)
		var answer struct{ Evaluations []struct{ Decision *bool } }
		if err := json.Unmarshal(out.Body.Bytes(), &answer); err != nil || out.Code != http.StatusOK || len(answer.Evaluations) != c.n {
			t.Errorf("%s: got %d %s", what, out.Code, out.Body)
		}
		for _, e := range answer.Evaluations {
			if e.Decision == nil || *e.Decision {
				t.Errorf("%s: got %s", what, out.Body)
			}
		}
	}
	// Certification 2.6: the same question, the same answer.
	for range 5 {
		wants(t, s, evaluationPath, "{"+subject+","+reading+","+resource+"}", 200, true)
	}
}
