// Package proof holds the proofs a node can always give, without a cloud or a
// chip: a join token handed over by an operator, and the node key it was bound
// to. Other proofs are rooms of their own beside it.
package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
)

// KeyHash names a node key: SHA-256 of its SubjectPublicKeyInfo.
func KeyHash(key crypto.PublicKey) ([32]byte, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return [32]byte{}, fault.Invalidf("node key on curve %s; P-256 and P-384 are accepted", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return [32]byte{}, fault.Invalidf("node key of type %T; ECDSA and Ed25519 are accepted", key)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return [32]byte{}, fault.Invalidf("node key: %w", err)
	}
	return sha256.Sum256(der), nil
}

// boundTo is what an exchange is bound to, and the name of the node key in it.
func boundTo(ex attest.Exchange) (to attest.Bindings, keyHash [32]byte, err error) {
	if to, err = attest.BindingsOf(ex); err != nil {
		return to, keyHash, err
	}
	keyHash, err = KeyHash(to.Key)
	return to, keyHash, err
}
