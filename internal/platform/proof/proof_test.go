package proof

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	now      = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	serverID = mustID("spiffe://acme.example/kith/server/a")
)

func mustID(text string) spiffe.ID {
	id, err := spiffe.ParseID(text)
	if err != nil {
		panic(err)
	}
	return id
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// prove runs both halves against each other, each with its own view of the
// channel.
func prove(t *testing.T, p attest.Prover, at attest.Bindings, v attest.Verifier, on attest.Bindings) (registry.Evidence, error) {
	t.Helper()
	agent, server := attest.Pipe()
	var proving sync.WaitGroup
	var proveErr error
	proving.Go(func() {
		if proveErr = p.Prove(t.Context(), attest.Bind(agent, at)); proveErr != nil {
			agent.Close()
		}
	})
	evidence, err := v.Verify(t.Context(), attest.Bind(server, on))
	server.Close()
	proving.Wait()
	if err == nil && proveErr != nil {
		t.Fatalf("prove: %v", proveErr)
	}
	return evidence, err
}

// vault holds tokens as the server does: the first to ask gets it.
type vault struct {
	mu   sync.Mutex
	held map[[32]byte]registry.JoinToken
}

func (v *vault) Consume(_ context.Context, hash [32]byte) (registry.JoinToken, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	token, ok := v.held[hash]
	if !ok {
		return registry.JoinToken{}, fault.NotFoundf("no such token")
	}
	delete(v.held, hash)
	return token, nil
}

func newToken(t *testing.T) (Token, *vault) {
	t.Helper()
	var token Token
	rand.Read(token[:])
	return token, &vault{held: map[[32]byte]registry.JoinToken{
		token.Hash(): {Node: "vm-7", Class: "vms", Expires: now.Add(10 * time.Minute)},
	}}
}

func TestTokenAdmitsOnceAndBindsTheKey(t *testing.T) {
	token, tokens := newToken(t)
	v := TokenVerifier{Tokens: tokens, Now: func() time.Time { return now }}
	key := newKey(t)
	to := attest.Bindings{Server: serverID, Key: key.Public()}
	got, err := prove(t, TokenProver{token}, to, v, to)
	if err != nil {
		t.Fatal(err)
	}
	hash, _ := KeyHash(key.Public())
	if got.Name != "vm-7" || got.Class != "vms" || got.Attestor != attest.JoinToken || got.KeyHash != hash {
		t.Errorf("got %+v", got)
	}
	if _, err := prove(t, TokenProver{token}, to, v, to); !fault.Is(err, fault.Denied) {
		t.Errorf("second use: got %v, want Denied", err)
	}
}

func TestTokenAdmitsExactlyOneOfMany(t *testing.T) {
	token, tokens := newToken(t)
	v := TokenVerifier{Tokens: tokens, Now: func() time.Time { return now }}
	to := attest.Bindings{Server: serverID, Key: newKey(t).Public()}
	var admitted, refused int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			_, err := prove(t, TokenProver{token}, to, v, to)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				admitted++
			} else if fault.Is(err, fault.Denied) {
				refused++
			}
		})
	}
	all.Wait()
	if admitted != 1 || refused != 199 {
		t.Errorf("admitted %d, refused %d, want 1 and 199", admitted, refused)
	}
}

func TestTokenThatCannotAdmitIsRefused(t *testing.T) {
	token, tokens := newToken(t)
	to := attest.Bindings{Server: serverID, Key: newKey(t).Public()}
	late := TokenVerifier{Tokens: tokens, Now: func() time.Time { return now.Add(10 * time.Minute) }}
	if _, err := prove(t, TokenProver{token}, to, late, to); !fault.Is(err, fault.Denied) {
		t.Errorf("expired: got %v, want Denied", err)
	}
	token, tokens = newToken(t)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	v := TokenVerifier{Tokens: tokens, Now: func() time.Time { return now }}
	if _, err := prove(t, TokenProver{token}, to, v, attest.Bindings{Server: serverID, Key: weak.Public()}); err == nil {
		t.Error("a key that cannot be a node's was admitted")
	}
	if len(tokens.held) != 1 {
		t.Error("a request that cannot be admitted used up the token")
	}
	if _, err := prove(t, raw("short"), to, v, to); !fault.Is(err, fault.Denied) {
		t.Errorf("short token: got %v, want Denied", err)
	}
}

// raw sends a message as it is.
type raw string

func (r raw) Prove(ctx context.Context, ex attest.Exchange) error { return ex.Send(ctx, []byte(r)) }

func TestTokenNeverShowsItself(t *testing.T) {
	token, _ := newToken(t)
	text := token.Encode()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		shown := fmt.Sprintf(verb, token) + fmt.Sprintf(verb, TokenProver{token}) + fmt.Sprintf(verb, &token)
		if strings.Contains(shown, text) || strings.Contains(shown, fmt.Sprintf("%x", token[:])) {
			t.Errorf("%s shows the token", verb)
		}
	}
	back, err := ParseToken(text)
	if err != nil || back != token {
		t.Errorf("parse of the text form: %v", err)
	}
	for _, bad := range []string{"", text[1:], text + "A", text + "=", " " + text, text[:9] + "\r" + text[9:], text + "\n", strings.Repeat("!", 43)} {
		if _, err := ParseToken(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseToken(%q): got %v, want Invalid", bad, err)
		}
	}
}

func TestTokenNeedsABoundExchange(t *testing.T) {
	token, tokens := newToken(t)
	agent, server := attest.Pipe()
	if err := (TokenProver{token}).Prove(t.Context(), agent); err == nil {
		t.Error("the token went out over a channel that nobody authenticated")
	}
	if _, err := (TokenVerifier{Tokens: tokens}).Verify(t.Context(), server); err == nil {
		t.Error("an exchange without a key was verified")
	}
}

// register is one admitted node.
type register struct{ node registry.Node }

func (r register) NodeByKey(_ context.Context, hash [32]byte) (registry.Node, error) {
	if [32]byte(r.node.KeyHash) != hash {
		return registry.Node{}, fault.NotFoundf("no node has this key")
	}
	return r.node, nil
}

func member(t *testing.T, key crypto.PublicKey) registry.Node {
	t.Helper()
	hash, err := KeyHash(key)
	if err != nil {
		t.Fatal(err)
	}
	return registry.Node{Name: "vm-7", Class: "vms", KeyHash: hash, Expires: now}
}

func keyVerifier(node registry.Node, at time.Time) KeyVerifier {
	return KeyVerifier{Nodes: register{node}, Now: func() time.Time { return at }}
}

func TestNodeKeyLetsTheNodeBackIn(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{newKey(t), edwards} {
		to := attest.Bindings{Server: serverID, Key: key.Public()}
		v := keyVerifier(member(t, key.Public()), now.Add(29*24*time.Hour))
		got, err := prove(t, KeyProver{key}, to, v, to)
		if err != nil || got.Name != "vm-7" || got.Class != "vms" || got.Attestor != attest.NodeKey {
			t.Errorf("%T: got %+v, %v", key, got, err)
		}
	}
}

func TestNodeKeyIsBoundToChannelAndKey(t *testing.T) {
	key, other := newKey(t), newKey(t)
	to := attest.Bindings{Server: serverID, Key: key.Public()}
	elsewhere := attest.Bindings{Server: mustID("spiffe://acme.example/kith/server/b"), Key: key.Public()}
	foreign := attest.Bindings{Server: mustID("spiffe://other.example/kith/server/a"), Key: key.Public()}
	for name, c := range map[string]struct {
		prover attest.Prover
		at, on attest.Bindings
		node   registry.Node
	}{
		"relayed to another server":       {KeyProver{key}, elsewhere, to, member(t, key.Public())},
		"relayed to another trust domain": {KeyProver{key}, foreign, to, member(t, key.Public())},
		"request for another key":         {KeyProver{key}, to, attest.Bindings{Server: serverID, Key: other.Public()}, member(t, key.Public())},
		"signed by another key":           {KeyProver{other}, to, to, member(t, key.Public())},
		"key of nobody":                   {KeyProver{other}, attest.Bindings{Server: serverID, Key: other.Public()}, attest.Bindings{Server: serverID, Key: other.Public()}, member(t, key.Public())},
		"no signature":                    {raw(""), to, to, member(t, key.Public())},
		"long signature":                  {raw(strings.Repeat("x", 1000)), to, to, member(t, key.Public())},
	} {
		if _, err := prove(t, c.prover, c.at, keyVerifier(c.node, now), c.on); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: got %v, want Denied", name, err)
		}
	}
}

func TestNodeKeyReplayIsRefused(t *testing.T) {
	key := newKey(t)
	to := attest.Bindings{Server: serverID, Key: key.Public()}
	v := keyVerifier(member(t, key.Public()), now)
	agent, server := attest.Pipe()
	var first sync.WaitGroup
	tape := &recorder{Exchange: agent}
	first.Go(func() { _ = KeyProver{key}.Prove(t.Context(), attest.Bind(tape, to)) })
	if _, err := v.Verify(t.Context(), attest.Bind(server, to)); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	if _, err := prove(t, raw(tape.sent), to, v, to); !fault.Is(err, fault.Denied) {
		t.Errorf("replayed signature: got %v, want Denied", err)
	}
}

type recorder struct {
	attest.Exchange
	sent string
}

func (r *recorder) Send(ctx context.Context, m []byte) error {
	r.sent = string(m)
	return r.Exchange.Send(ctx, m)
}

func TestNodeKeyOfBannedOrLongGoneNodeIsRefused(t *testing.T) {
	key := newKey(t)
	to := attest.Bindings{Server: serverID, Key: key.Public()}
	banned := member(t, key.Public())
	banned.Banned = true
	if _, err := prove(t, KeyProver{key}, to, keyVerifier(banned, now), to); !fault.Is(err, fault.Denied) {
		t.Errorf("banned: got %v, want Denied", err)
	}
	gone := keyVerifier(member(t, key.Public()), now.Add(RejoinWindow+time.Second))
	if _, err := prove(t, KeyProver{key}, to, gone, to); !fault.Is(err, fault.Denied) {
		t.Errorf("beyond the rejoin window: got %v, want Denied", err)
	}
}

func TestExchangeEndsWithItsContext(t *testing.T) {
	_, server := attest.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := TokenVerifier{Tokens: &vault{}, Now: func() time.Time { return now }}
	if _, err := v.Verify(ctx, attest.Bind(server, attest.Bindings{Server: serverID, Key: newKey(t).Public()})); err == nil {
		t.Error("verified a silent prover")
	}
}

func FuzzToken(f *testing.F) {
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\rAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := ParseToken(text); err == nil && token.Encode() != text {
			t.Fatalf("%q is not the text form of what it parses to", text)
		}
	})
}
