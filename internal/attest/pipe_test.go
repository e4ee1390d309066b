package attest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

func TestPipeCarriesMessagesBothWays(t *testing.T) {
	agent, server := Pipe()
	message := []byte("proof")
	if err := agent.Send(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	message[0] = 'X' // the pipe has its own copy
	got, err := server.Recv(t.Context())
	if err != nil || !bytes.Equal(got, []byte("proof")) {
		t.Errorf("got %q, %v, want proof", got, err)
	}
	if err := server.Send(t.Context(), []byte("nonce")); err != nil {
		t.Fatal(err)
	}
	if got, err := agent.Recv(t.Context()); err != nil || string(got) != "nonce" {
		t.Errorf("got %q, %v, want nonce", got, err)
	}
}

func TestPipeEnds(t *testing.T) {
	agent, server := Pipe()
	if err := agent.Send(t.Context(), []byte("last")); err != nil {
		t.Fatal(err)
	}
	agent.Close()
	agent.Close()
	if got, err := server.Recv(t.Context()); err != nil || string(got) != "last" {
		t.Errorf("before the end: got %q, %v, want last", got, err)
	}
	if _, err := server.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: got %v, want EOF", err)
	}
	if err := server.Send(t.Context(), []byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("send after the end: got %v, want closed", err)
	}
	silent, _ := Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := silent.Recv(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("recv without a partner: got %v, want canceled", err)
	}
}

func TestPipeRefusesLongMessages(t *testing.T) {
	agent, _ := Pipe()
	if err := agent.Send(t.Context(), make([]byte, MaxMessage+1)); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want Invalid", err)
	}
}

func TestBindingsMustBeWhole(t *testing.T) {
	agent, _ := Pipe()
	id, err := spiffe.ParseID("spiffe://acme.example/kith/server/a")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, ex := range map[string]Exchange{
		"unbound": agent, "no key": Bind(agent, Bindings{Server: id}), "no server": Bind(agent, Bindings{Key: key.Public()}),
	} {
		if _, err := BindingsOf(ex); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
	if to, err := BindingsOf(Bind(agent, Bindings{Server: id, Key: key.Public()})); err != nil || to.Server != id {
		t.Errorf("got %v, %v", to, err)
	}
}
