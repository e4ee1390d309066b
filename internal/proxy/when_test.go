package proxy

import (
	"net/http"
	"testing"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// Conditions see the same of a request on each way through the proxy: the one for
// usual requests, and the one for those that upgrade or stream.
func TestConditionsOnBothWays(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, echo))
	_, client := h.outbound("web")
	rule := func(condition string) *pb.Rule {
		r := proxytest.Allow("conditional", "web", "orders", "* /{**}")
		r.When = condition
		return r
	}
	for condition, want := range map[string]int{
		`request.headers["x-env"] == "prod"`:     200,
		`request.headers["x-env"] == "test"`:     403,
		`request.headers["x-twice"] == "a"`:      403,
		`"x-twice" in request.headers`:           403,
		`!("x-none" in request.headers)`:         200,
		`request.query["page"] == "2"`:           200,
		`request.query["page"] == "1"`:           403,
		`request.host == "orders"`:               200,
		`request.source_ip.within("127.0.0.1")`:  200,
		`request.source_ip.within("192.0.2.1")`:  403,
		`request.headers["x-env"].matches("^p")`: 200,
		`request.headers["x-user-id"] == "a"`:    403, // attack 19: it comes with underscores
		`!("x-user-id" in request.headers)`:      403,
	} {
		h.agent.Rules(rule(condition))
		for _, accept := range []string{"*/*", "text/event-stream"} {
			req, err := http.NewRequest(http.MethodGet, "http://orders/v1?page=2", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"X-Env": {"prod"}, "X-Twice": {"a", "a"}, "X_User_id": {"a"}, "Accept": {accept}}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%s, %s: got %d, want %d", condition, accept, res.StatusCode, want)
			}
		}
	}
}
