package kith_test

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// A program links the SDK and go-spiffe: that it starts at all is the test, and
// both get an identity.
func TestStartsBesideGoSPIFFE(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	w := open(t, agent, kith.Config{As: "web"})
	svid, err := workloadapi.FetchX509SVID(within(t), workloadapi.WithAddr("unix://"+agent.SocketOf("orders")))
	if err != nil {
		t.Fatal(err)
	}
	if got := svid.ID.String(); got != "spiffe://test.example/dev/orders" || w.ID().String() != "spiffe://test.example/dev/web" {
		t.Errorf("got %s for go-spiffe and %s for the SDK", got, w.ID())
	}
}
