package ca

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// WITLifetime is how long a WIT-SVID lives, at most. It may be longer than that
// of a JWT-SVID: whoever gets hold of one is nobody without its key.
const WITLifetime = time.Hour

// WITRequest is what a WIT-SVID is made of: the evaluated rule, and a public key
// whose other half somebody has proved to hold, through ParseCSR.
type WITRequest struct {
	ID        spiffe.ID
	PublicKey crypto.PublicKey
	TTL       time.Duration // that of the rule; 0 or over WITLifetime: WITLifetime

	// For the journal, not the token.
	Requester string
	Rule      string
	Revision  uint64
}

// WITResult is what became of one request of a batch.
type WITResult = Outcome[spiffe.WITSVID]

// confirmation is cnf. RFC 7800 3.2.
type confirmation struct {
	JWK json.RawMessage `json:"jwk"`
}

// SignWITs signs up to 1024 WIT-SVIDs as SignJWTs signs JWT-SVIDs, with keys of
// their own.
func (c *CA) SignWITs(ctx context.Context, requests []WITRequest) []WITResult {
	results, _ := signAll(ctx, c, kind[WITRequest, *jwtRing, spiffe.WITSVID]{c.ringReady, c.planWIT, c.metrics.witIssued}, requests)
	return results
}

// planWIT makes the claims and, apart from them, what the result must be. iss is
// left out: no OpenID provider's verifier shall find its way here (WIT-SVID 3.7).
func (c *CA) planWIT(i *intent, made *linted[spiffe.WITSVID], r WITRequest, ring *jwtRing, now time.Time) error {
	jwk, err := c.validateWIT(r)
	if err != nil {
		return c.refuse(refusedInvalid, fmt.Errorf("sign WIT of %s: %w", r.ID, err))
	}
	key, ok := ring.signing(keyKind{forWIT, es256})
	if !ok {
		return c.refuse(refusedIssuer, errors.New("there is no key for WIT-SVIDs yet that every node knows"))
	}
	id, err := randomID()
	if err != nil {
		return err
	}
	spki, err := encodeKey(r.PublicKey)
	if err != nil {
		return fault.Invalidf("sign WIT of %s: %w", r.ID, err)
	}
	ttl := WITLifetime
	if r.TTL > 0 {
		ttl = min(ttl, r.TTL.Truncate(time.Second))
	}
	want := witExpectation{id: r.ID, public: r.PublicKey, notBefore: now.Add(-backdate(ttl)), issuedAt: now, expires: now.Add(ttl), jti: id, keyID: key.id}
	sum := sha256.Sum256(spki)
	i.entry = Entry{
		Kind: WITEntry, Time: now, Serial: id, ID: r.ID.String(), KeyHash: hex.EncodeToString(sum[:]), NotAfter: want.expires,
		Issuer: key.id, Requester: r.Requester, Rule: r.Rule, Revision: r.Revision,
	}
	claims := jwtClaims{
		Subject: r.ID.String(), Expiry: want.expires.Unix(), NotBefore: want.notBefore.Unix(), IssuedAt: now.Unix(), ID: id,
		Holder: &confirmation{jwk},
	}
	i.make = c.makeToken(key, claims, want.expires, func(token string) (err error) {
		*made, err = lintWIT(token, want)
		return err
	})
	return nil
}

func (c *CA) validateWIT(r WITRequest) (jwk []byte, err error) {
	switch {
	case r.ID.TrustDomain() != c.td:
		return nil, fault.Invalidf("it is not in trust domain %s", c.td)
	case r.ID.Path() == "":
		return nil, fault.Invalidf("it has no path") // WIT-SVID 3.1
	case r.TTL != 0 && r.TTL < minLeaf:
		return nil, fault.Invalidf("ttl %s is under %s", r.TTL, minLeaf)
	case len(r.Requester) > 2048 || len(r.Rule) > 256:
		return nil, fault.Invalidf("requester or rule is too long")
	}
	if err := spiffe.CheckKey(r.PublicKey); err != nil {
		return nil, fault.Invalidf("%w", err)
	}
	if jwk, err = spiffe.MarshalProofJWK(r.PublicKey); err != nil {
		return nil, fault.Invalidf("%w", err) // WIT-SVID 3.2: one of the nine algorithms
	}
	return jwk, nil
}
