package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

// randomID is 128 random bits: a kid that no other key of any time has, or a
// token's jti.
func randomID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make an ID: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// jwtRing is a ring in use; immutable.
type jwtRing struct {
	sequence uint64
	stored   []byte
	keys     []jwtKey // oldest first
}

type jwtKey struct {
	id        string
	use       string // forWIT, or empty for JWT-SVIDs
	algorithm string
	header    string // of its tokens, encoded
	public    crypto.PublicKey
	signer    *keys.Authority // nil for one that is retired
	signs     bool
	until     *atomic.Int64 // Unix time when the last token ends that was signed with it here
}

func (k jwtKey) kind() keyKind { return keyKind{k.use, k.algorithm} }

// typ is that of the tokens a key signs.
func (k jwtKey) typ() string {
	if k.use == forWIT {
		return "wit+jwt"
	}
	return "JWT"
}

// signing is the key to sign with for a kind.
func (r *jwtRing) signing(kind keyKind) (jwtKey, bool) {
	if r == nil {
		return jwtKey{}, false
	}
	i := slices.IndexFunc(r.keys, func(k jwtKey) bool { return k.signs && k.kind() == kind })
	if i < 0 {
		return jwtKey{}, false
	}
	return r.keys[i], true
}

// signed notes that a token was signed which ends at a time.
func (k jwtKey) signed(expiry time.Time) {
	for ends := expiry.Unix(); ; {
		known := k.until.Load()
		if known >= ends || k.until.CompareAndSwap(known, ends) {
			return
		}
	}
}

// JWTSignedUntil is when the last token ends that this server has signed with a
// key; zero if it knows of none.
func (c *CA) JWTSignedUntil(kid string) time.Time {
	if ring := c.jwt.Load(); ring != nil {
		for _, key := range ring.keys {
			if until := key.until.Load(); key.id == kid && until > 0 {
				return time.Unix(until, 0)
			}
		}
	}
	return time.Time{}
}

// UseJWTRing makes a stored ring the one to sign with, and its keys part of the
// bundle. A ring that cannot be read, or is older than the present one, is an
// error and changes nothing.
func (c *CA) UseJWTRing(stored []byte) error {
	c.adopting.Lock()
	defer c.adopting.Unlock()
	present := c.jwt.Load()
	if present != nil && bytes.Equal(present.stored, stored) {
		return nil
	}
	ring, err := parseJWTRing(stored, c.td)
	if err != nil {
		return err
	}
	if present != nil && ring.Sequence <= present.sequence {
		return fault.Conflictf("stored JWT keys: sequence %d came after %d", ring.Sequence, present.sequence)
	}
	next := &jwtRing{sequence: ring.Sequence, stored: bytes.Clone(stored)}
	for _, key := range ring.Keys {
		opened, err := c.openJWTKey(present, key)
		if err != nil {
			return fmt.Errorf("JWT key %s: %w", key.ID, err)
		}
		next.keys = append(next.keys, opened)
	}
	bundle, err := c.bundleWith(next)
	if err != nil {
		return err
	}
	// Published before it is used: who has a token can have the bundle.
	c.bundle.Store(bundle)
	c.jwt.Store(next)
	c.log.Info("JWT keys in use", "keys", len(next.keys), "sequence", next.sequence)
	return nil
}

// openJWTKey unseals a key, unless it is open already or will not sign again.
func (c *CA) openJWTKey(present *jwtRing, stored storedJWTKey) (jwtKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(stored.Public)
	if err != nil {
		return jwtKey{}, fault.Invalidf("public key: %w", err)
	}
	public, ok := parsed.(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return jwtKey{}, fault.Invalidf("public key is a %T", parsed)
	}
	key := jwtKey{
		id: stored.ID, use: stored.Use, algorithm: stored.Algorithm, public: parsed, signs: stored.signing(), until: new(atomic.Int64),
	}
	header, err := json.Marshal(jwtHeader{Algorithm: key.algorithm, KeyID: key.id, Type: key.typ()})
	if err != nil {
		return jwtKey{}, err
	}
	key.header = base64.RawURLEncoding.EncodeToString(header)
	if present != nil {
		for _, open := range present.keys {
			if open.id == key.id && public.Equal(open.public) {
				key.signer, key.until = open.signer, open.until
			}
		}
	}
	if !stored.Retired.IsZero() || key.signer != nil {
		return key, nil
	}
	if key.signer, err = keys.OpenAuthority(c.config.KEK, jwtPurpose(c.td, key.use, key.id), stored.Key); err != nil {
		return jwtKey{}, err
	}
	if !public.Equal(key.signer.Public()) {
		key.signer.Wipe()
		return jwtKey{}, fault.Invalidf("the sealed key is not the published one's")
	}
	return key, key.provesItself(c.td)
}

// bundleWith is the bundle with the keys of a ring, which may be nil.
func (c *CA) bundleWith(ring *jwtRing) (*spiffe.Bundle, error) {
	if ring == nil {
		return spiffe.NewBundle(c.td, c.config.BundleSequence, c.config.RefreshHint, c.root.cert), nil
	}
	public := make(map[string][]spiffe.JWTKey)
	for _, key := range ring.keys {
		public[key.use] = append(public[key.use], spiffe.JWTKey{ID: key.id, Public: key.public, Algorithm: key.algorithm})
	}
	bundle, err := spiffe.NewBundle(c.td, c.config.BundleSequence+ring.sequence, c.config.RefreshHint, c.root.cert).WithJWTKeys(public[""]...)
	if err != nil {
		return nil, err
	}
	return bundle.WithWITKeys(public[forWIT]...)
}
