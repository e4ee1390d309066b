package kith_test

import (
	"context"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/spiffe"
)

// Rule 110: a number that means another process by now is nobody's: what the endpoint
// has for it goes to nobody, and nothing is kept.
func TestRule110ANumberThatIsUsedAgainIsAnother(t *testing.T) {
	t.Parallel()
	agent, w, config := mesh(t)
	child := exec.Command("sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ends := sync.OnceFunc(func() { _ = child.Process.Kill(); _ = child.Wait() })
	t.Cleanup(ends)
	ref, err := spiffe.ProcessReference(int64(child.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	other := identityOf(t, agent.CA, "spiffe://"+proxytest.Domain+"/dev/other", nil)
	e := serveBroker(t, config, identityOf(t, agent.CA, webID, nil), other)
	source, err := brokerAt(t, w, e, time.Minute).Follow(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	ends()
	e.more <- status.Error(codes.Unavailable, "restarting")
	arrives(t, source.Done())
	if svid, err := source.X509SVID(); fault.KindOf(err) != fault.NotFound || svid != nil {
		t.Errorf("after its end: %v, %v", svid, err)
	}
	if n, _ := e.questions(); n != 1 {
		t.Errorf("asked %d times: of whoever has the number now, too", n)
	}
}

// Close ends also what was followed before the own SVID was renewed.
func TestClosedClientsKeepNothing(t *testing.T) {
	t.Parallel()
	agent, w, config := mesh(t)
	e := serveBroker(t, config, identityOf(t, agent.CA, webID, nil))
	b := brokerAt(t, w, e, time.Minute)
	former, err := b.Follow(t.Context(), process(t))
	if err != nil {
		t.Fatal(err)
	}
	renewed := w.Renewed()
	agent.Rotate()
	arrives(t, renewed)
	if _, err := b.Follow(t.Context(), process(t)); err != nil { // by another connection
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	arrives(t, former.Done())
	if svid, err := former.X509SVID(); err == nil {
		t.Errorf("held after Close: %v", svid.ID)
	}
}

// The socket that is dialled is the one that was named, whatever its name has in it.
func TestRule101TheSocketThatIsNamed(t *testing.T) {
	t.Parallel()
	_, w, _ := mesh(t)
	expect, err := spiffe.ParseID(brokerID)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "b?%41#x")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.Broker(kith.BrokerConfig{Endpoint: (&url.URL{Scheme: "unix", Path: path}).String(), Expect: expect, Wait: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	go func() {
		_, _ = b.X509Bundles(ctx, process(t)) // nobody answers
		close(asked)
	}()
	time.AfterFunc(time.Minute, func() { l.Close() })
	conn, err := l.Accept()
	if err != nil {
		t.Fatalf("nobody dialled %s", path)
	}
	cancel()
	conn.Close()
	<-asked
}
