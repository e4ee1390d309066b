// Package keys holds the private keys of authorities: it makes them, signs
// with them, and seals them at rest under a key encryption key. A key never
// leaves it in the clear; leaf keys of workloads are not its business.
package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

const redacted = "[authority key]"

// Authority is the private key of an authority. It is a crypto.Signer, can be
// sealed, and gives the key away in no other manner: it prints as a fixed
// text, and encoders refuse it. It may be used from several goroutines.
type Authority struct {
	public crypto.PublicKey

	mu     sync.RWMutex
	signer crypto.Signer // nil once wiped; guarded by mu
}

// rsaBits is the size of RSA keys: what AWS, GCP, Azure and Vault read, and the
// smallest that still does. A signature costs 1.6 ms of a core, twenty-five times
// that of P-256, and four times as much with 3072 bits.
const rsaBits = 2048

// Generate makes a new P-256 key. P-256 and not something larger: each verify
// of a chain checks a signature of this key, and its peers are many.
func Generate() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate authority key: %w", err)
	}
	return newAuthority(key), nil
}

// GenerateRSA makes a new RSA key of 2048 bits, for receivers that read nothing
// else.
func GenerateRSA() (*Authority, error) {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return nil, fmt.Errorf("generate authority key: %w", err)
	}
	return newAuthority(key), nil
}

func newAuthority(key crypto.Signer) *Authority {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		public := key.PublicKey
		return &Authority{public: &public, signer: key}
	case *rsa.PrivateKey:
		public := key.PublicKey
		return &Authority{public: &public, signer: key}
	}
	return nil
}

// OpenAuthority unseals a key that [Authority.Seal] has sealed for the same
// purpose under the same key encryption key.
func OpenAuthority(kek *KEK, purpose string, sealed []byte) (*Authority, error) {
	der, err := kek.Open(purpose, sealed)
	if err != nil {
		return nil, fmt.Errorf("unseal authority key: %w", err)
	}
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("unseal authority key: what was sealed is not a key")
	}
	switch key := parsed.(type) {
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() {
			return newAuthority(key), nil
		}
	case *rsa.PrivateKey:
		if key.N.BitLen() == rsaBits {
			return newAuthority(key), nil
		}
	}
	return nil, fmt.Errorf("unseal authority key: it is neither on P-256 nor RSA of %d bits", rsaBits)
}

// Public is the public half, as crypto.Signer has it.
func (a *Authority) Public() crypto.PublicKey { return a.public }

// Sign signs a digest, as crypto.Signer has it. A wiped key is an error.
func (a *Authority) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	a.mu.RLock()
	key := a.signer
	a.mu.RUnlock()
	if key == nil {
		return nil, errors.New("sign: the authority key has been wiped")
	}
	return key.Sign(random, digest, opts)
}

// Seal encrypts the key under kek. The purpose is bound into the result: a key
// sealed as one thing cannot be opened as another.
func (a *Authority) Seal(kek *KEK, purpose string) ([]byte, error) {
	a.mu.RLock()
	key := a.signer
	a.mu.RUnlock()
	if key == nil {
		return nil, errors.New("seal: the authority key has been wiped")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("seal: the authority key cannot be encoded")
	}
	defer clear(der)
	return kek.Seal(purpose, der)
}

// Wipe forgets the key; signing and sealing fail from then on. The memory is
// the garbage collector's afterwards: crypto/ecdsa gives no way to overwrite
// it, which is why a root is opened only for the moment it signs.
func (a *Authority) Wipe() {
	a.mu.Lock()
	a.signer = nil
	a.mu.Unlock()
}

// String says what this is and never what it holds.
func (*Authority) String() string { return redacted }

// Format is String for every verb, %+v and %#v included.
func (*Authority) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the key out of logs.
func (*Authority) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses, so that no encoder writes the key by accident.
func (*Authority) MarshalText() ([]byte, error) {
	return nil, errors.New("an authority key cannot be encoded, only sealed")
}
