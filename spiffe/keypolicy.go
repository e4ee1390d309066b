package spiffe

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
)

const (
	minRSABits     = 2048
	maxRSABits     = 4096
	minRSAExponent = 65537 // FIPS 186-5 A.1.1: e > 2^16
)

// CheckKey refuses a public key that is too weak, or so large that checking it
// is an attack: only ECDSA on P-256 and P-384, Ed25519, and RSA of 2048 to
// 4096 bits are used.
func CheckKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key == nil || key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return fmt.Errorf("ECDSA key is on another curve than P-256 and P-384")
		}
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("Ed25519 key has %d bytes, not %d", len(key), ed25519.PublicKeySize)
		}
	case *rsa.PublicKey:
		if key == nil || key.N == nil {
			return fmt.Errorf("RSA key is empty")
		}
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("RSA key has %d bits, %d to %d are allowed", bits, minRSABits, maxRSABits)
		}
		if key.E < minRSAExponent || key.E%2 == 0 {
			return fmt.Errorf("RSA key has the exponent %d, an odd one of at least %d is needed", key.E, minRSAExponent)
		}
		if hasROCAShape(key.N) {
			return fmt.Errorf("RSA key is of a kind that can be factored (ROCA)")
		}
	default:
		return fmt.Errorf("key of type %T is not supported", key)
	}
	return nil
}
