package kith_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// Who keeps connections by endpoint takes a new one whenever identity, bundle or
// the set of who may answer has changed, and the same one otherwise.
func TestEndpointsChangeWithTrust(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	_, addr := serveSDK(t, agent, "orders", func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "hi") })
	w, _ := client(t, agent, "web")
	one := func() kith.Endpoint {
		t.Helper()
		all, err := w.Endpoints(nil, "Orders")
		if err != nil || len(all) != 1 || all[0].Service() != "orders" {
			t.Fatalf("got %v, %v", all, err)
		}
		return all[0]
	}
	first := one()
	agent.Rules(proxytest.Allow("any", "web", "orders", "GET /{**}"))
	if again := one(); again != first {
		t.Error("a change of rules is another endpoint")
	}
	rotated := func(renew bool) kith.Endpoint {
		t.Helper()
		before := w.Stats().Rotations
		if renew {
			agent.CA.Renew()
		}
		agent.Rotate()
		for deadline := time.Now().Add(proxytest.Patience); w.Stats().Rotations == before; <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no rotation")
			}
		}
		return one()
	}
	second := rotated(false)
	third := rotated(true)
	if first == second || second == third {
		t.Errorf("got %v, %v, %v, want three endpoints", first, second, third)
	}
	conn, err := third.Dial(within(t), "http/1.1")
	for deadline := time.Now().Add(proxytest.Patience); err != nil && time.Now().Before(deadline); {
		<-time.After(time.Millisecond) // orders rotates when it does, not when web has
		conn, err = third.Dial(within(t), "http/1.1")
	}
	if err != nil || conn.RemoteAddr().String() != addr {
		t.Fatalf("dial: %v, want %s", err, addr)
	}
	conn.Close()
	var unknown *kith.UnknownServiceError
	if _, err := w.Endpoints(nil, "order"); !errors.As(err, &unknown) || unknown.Nearest != "orders" {
		t.Errorf("got %v", err)
	}
}

func TestPathOf(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{"/a": "/a", "/a?b": "/a", "/a?b?c": "/a", "/a#b?c": "/a#b?c", "/a?b#c": "/a?b#c", "*": "*", "": ""} {
		if got := kith.PathOf(target); got != want {
			t.Errorf("%q: got %q, want %q", target, got, want)
		}
	}
	if got := kith.PathOf("/" + strings.Repeat("x", 1<<16) + "?"); len(got) != 1<<16+1 {
		t.Errorf("got %d bytes", len(got))
	}
}
