package agent

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/pb"
)

// application is one that asks on the socket for questions, as a process.
type application struct {
	t      testing.TB
	client *http.Client
}

func (n *node) application(pid int32) application {
	n.t.Helper()
	n.people.be(pid, uint32(pid)*10)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.cfg.AuthzSocket)
	}}
	n.t.Cleanup(transport.CloseIdleConnections)
	a := application{n.t, &http.Client{Transport: transport, Timeout: time.Minute}}
	a.ask("/v1/data/none", "{}") // so that the connection is this process's
	return a
}

func (a application) ask(path, body string) string {
	a.t.Helper()
	resp, err := a.client.Post("http://kith"+path, "application/json", strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		a.t.Fatalf("%s: %d %s %v", path, resp.StatusCode, text, err)
	}
	return strings.TrimSpace(string(text))
}

// An application is told about its own service, by the rules of the moment; a
// process that is another workload, or none, is told nothing of it.
func TestApplicationsAskAboutTheirOwnService(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.cfg.Documents = []extauthz.Document{{Path: "httpapi/authz", Service: "shop", Reading: &extauthz.Reading{
		From: "user", Method: "method", Path: "path", Prefix: "spiffe://" + domain + "/vms/",
	}}}
	n.start()
	const (
		opa   = `{"input":{"from":"spiffe://` + domain + `/vms/web","to":"shop","method":"GET","path":"/v1/x"}}`
		old   = `{"input":{"user":"web","method":"GET","path":["v1","x"],"token":"…"}}`
		evals = `{"subject":{"type":"spiffe","id":"spiffe://` + domain + `/vms/web"},"resource":{"type":"service","id":"shop","properties":{"path":"/v1/x"}},` +
			`"evaluations":[{"action":{"name":"GET"}},{"action":{"name":"POST"}}]}`
	)
	shop := n.application(200)
	for path, body := range map[string]string{"/v1/data/kith/allow": opa, "/v1/data/httpapi/authz/allow": old} {
		if got := shop.ask(path, body); !strings.HasPrefix(got, `{"result":true`) {
			t.Errorf("%s: got %s, want true", path, got)
		}
	}
	if got := shop.ask("/access/v1/evaluations", evals); !strings.Contains(got, `[{"decision":true,`) || !strings.Contains(got, `{"decision":false,`) {
		t.Errorf("AuthZEN: got %s", got)
	}
	var denied struct {
		Result struct {
			DecisionID string `json:"decision_id"`
		}
	}
	if err := json.Unmarshal([]byte(shop.ask("/v1/data/kith/decision", strings.Replace(opa, "GET", "DELETE", 1))), &denied); err != nil {
		t.Fatal(err)
	}
	found := n.agent.why(&pb.WhyQuery{Id: denied.Result.DecisionID})
	if denied.Result.DecisionID == "" || len(found) != 1 || found[0].GetMethod() != "DELETE" || found[0].GetTo() != "shop" || found[0].GetNearRule() != "web-shop" {
		t.Errorf("decision %q: %v", denied.Result.DecisionID, found)
	}
	stranger := n.application(300)
	if got := stranger.ask("/v1/data/kith/decision", opa); got != `{"result":{"allow":false,"reason":"no_policy"}}` {
		t.Errorf("a stranger: got %s", got)
	}
	if got := stranger.ask("/access/v1/evaluations", evals); strings.Contains(got, "shop") || strings.Contains(got, "true") {
		t.Errorf("a stranger by AuthZEN: got %s", got)
	}
}

// An ack means in force for applications too.
func TestAckOfApplicationsMeansInForce(t *testing.T) {
	t.Parallel()
	s := shopServer(t)
	n := newNode(t, s)
	n.start()
	shop := n.application(200)
	const body = `{"input":{"from":"spiffe://` + domain + `/vms/web","method":"GET","path":"/more"}}`
	if got := shop.ask("/v1/data/kith/allow", body); !strings.HasPrefix(got, `{"result":false`) {
		t.Fatalf("before: got %s", got)
	}
	r := s.change([]*pb.Object{ruleObject("more", "web", "shop", "GET /more")})
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	if got := shop.ask("/v1/data/kith/allow", body); !strings.HasPrefix(got, `{"result":true`) {
		t.Errorf("after the ack: got %s", got)
	}
}
