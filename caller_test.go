package kith_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/spiffe"
)

// A server of its own listener resolves a caller once per connection as well, and
// knows where it calls from.
func TestCallerOnAnotherListenerIsResolvedOnce(t *testing.T) {
	agent, orders := benchService(t)
	agent.Rules(when("web", "orders", `request.source_ip.within("127.0.0.0/8")`))
	agent.MustBeInForce()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan *kith.Peer, 2)
	server := orders.Server(orders.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		caller, _ := kith.CallerOf(r.Context())
		seen <- caller.Peer
	}), 0))
	config := spiffe.ServerTLS(orders, time.Now, nil)
	config.NextProtos = []string{"http/1.1"}
	go server.Serve(tls.NewListener(inner, config))
	t.Cleanup(func() { server.Close() })

	transport := &http.Transport{TLSClientConfig: spiffe.ClientTLS(agent.CA.Source("/dev/web"), time.Now, func(spiffe.ID) error { return nil })}
	defer transport.CloseIdleConnections()
	for range 2 {
		req, err := http.NewRequestWithContext(within(t), http.MethodGet, "https://"+inner.Addr().String()+"/v1/orders", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("got %d, %v, want 200", res.StatusCode, err)
		}
		res.Body.Close()
	}
	if first, second := <-seen, <-seen; first == nil || first != second || first.ID().Path() != "/dev/web" {
		t.Errorf("got %v and %v on one connection", first, second)
	}
}
