// Package attest holds the contracts of attestation - how a node proves what it
// is and how a process on a socket is told apart - and no way of doing either.
package attest

import (
	"context"
	"crypto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// The attestors of this repository, as they stand in Hello.method and in
// node.attestor.
const (
	JoinToken = "join_token"
	NodeKey   = "node_key"
)

// MaxMessage bounds one message of an exchange. Whoever implements Exchange
// refuses a longer one before reading it whole.
const MaxMessage = 64 << 10

// Exchange carries the messages of one attestation. Both methods block until
// the message is handed over or ctx is done; after an error the exchange is
// dead. One goroutine at a time uses it.
type Exchange interface {
	Send(ctx context.Context, message []byte) error
	Recv(ctx context.Context) ([]byte, error)
}

// Prover is the agent's half: it proves over the exchange what the node is. An
// error means that it could not even try; the verdict comes from the server.
type Prover interface {
	Prove(ctx context.Context, ex Exchange) error
}

// Verifier is the server's half. Everything in the Evidence it returns has been
// verified; an error of kind Denied refuses the node and says why to the log.
type Verifier interface {
	Verify(ctx context.Context, ex Exchange) (registry.Evidence, error)
}

// Bindings are the facts a proof is tied to, so that it is worth nothing over
// another channel or for another key.
type Bindings struct {
	// Server is the server's ID: its own on the server's side, on the agent's
	// side the one that TLS authenticated.
	Server spiffe.ID
	// Key is the node key: the agent's own on its side, on the server's side the
	// one whose certificate request opened the exchange, its possession proven.
	Key crypto.PublicKey
}

// Bound is an Exchange that knows its bindings.
type Bound interface {
	Exchange
	Bindings() Bindings
}

// Bind ties an exchange to the facts of its channel. Whoever opens an exchange
// binds it before a Prover or Verifier sees it.
func Bind(ex Exchange, to Bindings) Bound { return bound{Exchange: ex, to: to} }

type bound struct {
	Exchange
	to Bindings
}

func (b bound) Bindings() Bindings { return b.to }

// BindingsOf returns what ex is bound to; an exchange that is not bound to both
// a server and a key is an Invalid error.
func BindingsOf(ex Exchange) (Bindings, error) {
	b, ok := ex.(Bound)
	if !ok {
		return Bindings{}, fault.Invalidf("exchange is not bound to a channel")
	}
	to := b.Bindings()
	if to.Server.IsZero() || to.Key == nil {
		return Bindings{}, fault.Invalidf("exchange is bound to no server or no node key")
	}
	return to, nil
}
