package proof

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// RejoinWindow is how long after its SVID ended a node may come back by its key
// when nothing else is configured.
const RejoinWindow = 30 * 24 * time.Hour

const (
	nonceSize    = 32
	maxSignature = 256
)

// KeyProver proves possession of the node key by signing the server's nonce.
type KeyProver struct{ Key crypto.Signer }

// Prove implements attest.Prover. The server's ID in what is signed is the one
// TLS authenticated, so a server that passes another's nonce on gains nothing.
func (p KeyProver) Prove(ctx context.Context, ex attest.Exchange) error {
	to, err := attest.BindingsOf(ex)
	if err != nil {
		return err
	}
	nonce, err := ex.Recv(ctx)
	if err != nil {
		return fmt.Errorf("receive nonce: %w", err)
	}
	if len(nonce) != nonceSize {
		return fault.Invalidf("nonce of %d bytes, want %d", len(nonce), nonceSize)
	}
	keyHash, err := KeyHash(p.Key.Public())
	if err != nil {
		return err
	}
	signed := statement(to, keyHash, nonce)
	signature, err := sign(p.Key, signed)
	if err != nil {
		return fmt.Errorf("sign with node key: %w", err)
	}
	return ex.Send(ctx, signature)
}

// statement is what is signed: each part with its length in front, so that no
// two different sets of parts read the same.
func statement(to attest.Bindings, keyHash [32]byte, nonce []byte) []byte {
	out := []byte("kith.v1 node key proof\x00")
	for _, part := range [][]byte{
		[]byte(to.Server.TrustDomain().String()), []byte(to.Server.String()), keyHash[:], nonce,
	} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return out
}

func sign(key crypto.Signer, message []byte) ([]byte, error) {
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, message, crypto.Hash(0))
	}
	digest := sha256.Sum256(message)
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

func verified(key crypto.PublicKey, message, signature []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(message)
		return ecdsa.VerifyASN1(k, digest[:], signature)
	default:
		return false
	}
}

// Nodes finds admitted nodes.
type Nodes interface {
	// NodeByKey is the node whose key has this hash; none is a NotFound error.
	NodeByKey(ctx context.Context, hash [32]byte) (registry.Node, error)
}

// KeyVerifier lets a node back in that was away for longer than its SVID.
type KeyVerifier struct {
	Nodes  Nodes
	Now    func() time.Time
	Window time.Duration // after the end of the node's SVID; 0 is RejoinWindow
}

// Verify implements attest.Verifier. The nonce lives in this call alone, so it
// is used once. The node is looked up only after the signature held.
func (v KeyVerifier) Verify(ctx context.Context, ex attest.Exchange) (registry.Evidence, error) {
	to, keyHash, err := boundTo(ex)
	if err != nil {
		return registry.Evidence{}, err
	}
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	if err := ex.Send(ctx, nonce); err != nil {
		return registry.Evidence{}, fmt.Errorf("send nonce: %w", err)
	}
	signature, err := ex.Recv(ctx)
	if err != nil {
		return registry.Evidence{}, fmt.Errorf("receive proof: %w", err)
	}
	if len(signature) > maxSignature || !verified(to.Key, statement(to, keyHash, nonce), signature) {
		return registry.Evidence{}, fault.Deniedf("node key: the signature does not hold")
	}
	node, err := v.Nodes.NodeByKey(ctx, keyHash)
	if fault.Is(err, fault.NotFound) {
		return registry.Evidence{}, fault.Deniedf("node key belongs to no admitted node: %w", err)
	}
	if err != nil {
		return registry.Evidence{}, fmt.Errorf("find node by key: %w", err)
	}
	return v.readmit(node, keyHash)
}

func (v KeyVerifier) readmit(node registry.Node, keyHash [32]byte) (registry.Evidence, error) {
	if node.KeyHash != keyHash {
		return registry.Evidence{}, fault.Deniedf("node %s is bound to another key", node.Name)
	}
	if node.Banned {
		return registry.Evidence{}, fault.Deniedf("node %s is banned", node.Name)
	}
	window := v.Window
	if window <= 0 {
		window = RejoinWindow
	}
	last := node.Expires
	if last.IsZero() {
		last = node.LastAttested
	}
	if v.Now().After(last.Add(window)) {
		return registry.Evidence{}, fault.Deniedf("node %s was away since %s, longer than %s",
			node.Name, last.UTC().Format(time.RFC3339), window)
	}
	return registry.Evidence{
		Attestor: attest.NodeKey,
		Name:     node.Name,
		Class:    node.Class,
		KeyHash:  keyHash,
	}, nil
}
