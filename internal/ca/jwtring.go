package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

// A key for JWT-SVIDs goes through three phases by age alone: prepared, when it
// is published and signs nothing yet, so that whoever fetches bundles has it in
// time; active; and retired, when it only verifies what is still about. A
// prepared key comes at the end of a period, so never are there more than three.
const (
	jwtPeriod  = 24 * time.Hour // how long a key signs
	jwtLead    = time.Hour      // how long it is published before
	jwtKeep    = time.Hour      // and after: twelve times the life of a token
	maxJWTKeys = 3

	jwtRingVersion  = 1
	maxJWTRingBytes = 64 << 10
	jwtAlgorithm    = "ES256"
)

// JWTRingConfig is what a ring of keys for JWT-SVIDs is made of.
type JWTRingConfig struct {
	TrustDomain spiffe.TrustDomain
	KEK         *keys.KEK // seals the keys
	Now         time.Time
}

// storedJWTRing is the form in which the caller keeps a ring. There is one for
// a trust domain, however many servers it has.
type storedJWTRing struct {
	Version     int            `json:"version"`
	TrustDomain string         `json:"trust_domain"`
	Sequence    uint64         `json:"sequence"` // grows with each change
	Keys        []storedJWTKey `json:"keys"`     // oldest first
}

type storedJWTKey struct {
	ID        string    `json:"kid"`
	Public    []byte    `json:"public"` // SubjectPublicKeyInfo
	Key       []byte    `json:"key"`    // sealed
	Created   time.Time `json:"created"`
	SignsFrom time.Time `json:"signs_from"`
}

// AdvanceJWTRing is what the ring must be now: with a new key prepared when the
// active one has signed for a day, and without those no token is signed with
// any longer. No ring makes the first one, whose key is active at once. It
// reports whether anything changed; the caller stores the result and gives it
// to [CA.UseJWTRing].
func AdvanceJWTRing(stored []byte, config JWTRingConfig) (next []byte, changed bool, err error) {
	ring := storedJWTRing{Version: jwtRingVersion, TrustDomain: config.TrustDomain.String()}
	if stored != nil {
		if ring, err = parseJWTRing(stored, config.TrustDomain); err != nil {
			return nil, false, err
		}
	}
	before := len(ring.Keys)
	ring.Keys = slices.DeleteFunc(ring.Keys, func(k storedJWTKey) bool { return ring.over(k, config.Now) })
	changed = len(ring.Keys) != before
	if from, due := ring.nextSigns(config.Now); due {
		key, err := newJWTKey(config, from)
		if err != nil {
			return nil, false, err
		}
		ring.Keys, changed = append(ring.Keys, key), true
	}
	if !changed {
		return stored, false, nil
	}
	ring.Sequence++
	next, err = json.Marshal(ring)
	return next, true, err
}

// over says whether no token of a key can be about any more: another has signed
// in its place for long enough.
func (r storedJWTRing) over(key storedJWTKey, now time.Time) bool {
	return slices.ContainsFunc(r.Keys, func(later storedJWTKey) bool {
		return later.SignsFrom.After(key.SignsFrom) && !now.Before(later.SignsFrom.Add(jwtKeep))
	})
}

// nextSigns says from when a new key is to sign, if one is due.
func (r storedJWTRing) nextSigns(now time.Time) (time.Time, bool) {
	now = now.UTC().Truncate(time.Second)
	if len(r.Keys) == 0 {
		return now, true
	}
	newest := r.Keys[len(r.Keys)-1].SignsFrom
	return now.Add(jwtLead), len(r.Keys) < maxJWTKeys && !now.Before(newest.Add(jwtPeriod-jwtLead))
}

func newJWTKey(config JWTRingConfig, from time.Time) (storedJWTKey, error) {
	key, err := keys.Generate()
	if err != nil {
		return storedJWTKey{}, err
	}
	defer key.Wipe()
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return storedJWTKey{}, fmt.Errorf("encode JWT key: %w", err)
	}
	id, err := randomID()
	if err != nil {
		return storedJWTKey{}, err
	}
	sealed, err := key.Seal(config.KEK, jwtPurpose(config.TrustDomain, id))
	if err != nil {
		return storedJWTKey{}, err
	}
	return storedJWTKey{ID: id, Public: public, Key: sealed, Created: config.Now.UTC().Truncate(time.Second), SignsFrom: from}, nil
}

// randomID is 128 random bits: a kid that no other key of any time has, or a
// token's jti.
func randomID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make an ID: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// jwtPurpose binds a sealed key to its kid, so that two cannot be exchanged.
func jwtPurpose(td spiffe.TrustDomain, id string) string {
	return "JWT key " + id + " of " + td.String()
}

func parseJWTRing(stored []byte, td spiffe.TrustDomain) (storedJWTRing, error) {
	var ring storedJWTRing
	if len(stored) > maxJWTRingBytes || json.Unmarshal(stored, &ring) != nil {
		return ring, fault.Invalidf("stored JWT keys: cannot be read")
	}
	switch {
	case ring.Version != jwtRingVersion:
		return ring, fault.Invalidf("stored JWT keys: have version %d, this program knows version %d", ring.Version, jwtRingVersion)
	case ring.TrustDomain != td.String():
		return ring, fault.Invalidf("stored JWT keys: are of trust domain %q, not %s", ring.TrustDomain, td)
	case len(ring.Keys) == 0 || len(ring.Keys) > maxJWTKeys:
		return ring, fault.Invalidf("stored JWT keys: %d, 1 to %d are allowed", len(ring.Keys), maxJWTKeys)
	}
	for i, key := range ring.Keys[1:] {
		if !key.SignsFrom.After(ring.Keys[i].SignsFrom) {
			return ring, fault.Invalidf("stored JWT keys: %s is not after %s", key.ID, ring.Keys[i].ID)
		}
	}
	return ring, nil
}

// jwtRing is a ring in use; immutable.
type jwtRing struct {
	sequence uint64
	stored   []byte
	keys     []jwtKey // oldest first
}

type jwtKey struct {
	id     string
	header string // of its tokens, encoded
	public *ecdsa.PublicKey
	signer *keys.Authority // nil for one that is retired
	from   time.Time
}

// signing is the key to sign with: the last of those whose time has come.
func (r *jwtRing) signing(now time.Time) (jwtKey, bool) {
	if r == nil {
		return jwtKey{}, false
	}
	for _, key := range slices.Backward(r.keys) {
		if !now.Before(key.from) {
			return key, key.signer != nil
		}
	}
	return jwtKey{}, false
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
	for i, key := range ring.Keys {
		retired := i+1 < len(ring.Keys) && !c.config.Now().Before(ring.Keys[i+1].SignsFrom)
		opened, err := c.openJWTKey(present, key, retired)
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
func (c *CA) openJWTKey(present *jwtRing, stored storedJWTKey, retired bool) (jwtKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(stored.Public)
	if err != nil {
		return jwtKey{}, fault.Invalidf("public key: %w", err)
	}
	public, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return jwtKey{}, fault.Invalidf("public key is a %T", parsed)
	}
	header, err := json.Marshal(jwtHeader{Algorithm: jwtAlgorithm, KeyID: stored.ID, Type: "JWT"})
	if err != nil {
		return jwtKey{}, err
	}
	key := jwtKey{id: stored.ID, public: public, from: stored.SignsFrom, header: base64.RawURLEncoding.EncodeToString(header)}
	if retired {
		return key, nil
	}
	if present != nil {
		for _, open := range present.keys {
			if open.id == key.id && open.public.Equal(public) && open.signer != nil {
				key.signer = open.signer
				return key, nil
			}
		}
	}
	if key.signer, err = keys.OpenAuthority(c.config.KEK, jwtPurpose(c.td, key.id), stored.Key); err != nil {
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
	var public []spiffe.JWTKey
	for _, key := range ring.keys {
		public = append(public, spiffe.JWTKey{ID: key.id, Public: key.public, Algorithm: jwtAlgorithm})
	}
	return spiffe.NewBundle(c.td, c.config.BundleSequence+ring.sequence, c.config.RefreshHint, c.root.cert).WithJWTKeys(public...)
}
