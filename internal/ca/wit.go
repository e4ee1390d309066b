package ca

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
type WITResult struct {
	SVID *spiffe.WITSVID
	Err  error
}

// confirmation is cnf. RFC 7800 3.2.
type confirmation struct {
	JWK json.RawMessage `json:"jwk"`
}

// lintedWIT is a token that may leave the process. Only lintWIT makes one, out of
// the text that was signed.
type lintedWIT struct{ svid *spiffe.WITSVID }

// witExpectation is what a token was asked to be.
type witExpectation struct {
	id                 spiffe.ID
	public             crypto.PublicKey
	notBefore, expires time.Time
	issuedAt           time.Time
	jti, keyID         string
}

// SignWITs signs up to 1024 WIT-SVIDs as SignJWTs signs JWT-SVIDs, with keys of
// their own. The numbers are those of DESIGN.md.
func (c *CA) SignWITs(ctx context.Context, requests []WITRequest) []WITResult {
	jobs, linted := make([]tokenJob, len(requests)), make([]lintedWIT, len(requests))
	now := c.config.Now().UTC().Truncate(time.Second)
	ring, err := c.jwtReady(ctx, now, len(requests)) // 1
	for i := range jobs {
		if jobs[i].err = err; err == nil {
			jobs[i].err = c.planWIT(&jobs[i], &linted[i], requests[i], ring, now) // 2
		}
	}
	c.signTokens(ctx, now, jobs) // 3 to 7
	results, issued := make([]WITResult, len(jobs)), 0
	for i, j := range jobs { // 8: what the linter made, and nothing else
		switch {
		case j.err != nil:
			results[i].Err = j.err
		case linted[i].svid == nil:
			results[i].Err = fmt.Errorf("sign WIT of %s: nothing was made", requests[i].ID)
		default:
			results[i].SVID = linted[i].svid
			issued++
		}
	}
	c.metrics.witIssued.Add(float64(issued))
	return results
}

// planWIT makes the claims and, apart from them, what the result must be. iss is
// left out: no OpenID provider's verifier shall find its way here (WIT-SVID 3.7).
func (c *CA) planWIT(j *tokenJob, linted *lintedWIT, r WITRequest, ring *jwtRing, now time.Time) error {
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
	j.key = key
	j.claims = jwtClaims{
		Subject: r.ID.String(), Expiry: want.expires.Unix(), NotBefore: want.notBefore.Unix(), IssuedAt: now.Unix(), ID: id,
		Holder: &confirmation{jwk},
	}
	j.lint = func(token string) (err error) {
		*linted, err = lintWIT(token, want)
		return err
	}
	sum := sha256.Sum256(spki)
	j.entry = Entry{
		Kind: WITEntry, Time: now, Serial: id, ID: r.ID.String(), KeyHash: hex.EncodeToString(sum[:]), NotAfter: want.expires,
		Issuer: key.id, Requester: r.Requester, Rule: r.Rule, Revision: r.Revision,
	}
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

// lintWIT reads what was signed as its receiver will and holds it against the
// request, as lintJWT does.
func lintWIT(token string, want witExpectation) (lintedWIT, error) {
	svid, err := spiffe.ParseWIT(token)
	if err != nil {
		return lintedWIT{}, fmt.Errorf("lint parse: %w", err)
	}
	public, ok := want.public.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case svid.ID != want.id:
		return lintedWIT{}, fmt.Errorf("lint sub: is %s, not %s", svid.ID, want.id)
	case !ok || !public.Equal(svid.PublicKey()):
		return lintedWIT{}, errors.New("lint cnf: is not the key that was asked for")
	case !svid.NotBefore.Equal(want.notBefore) || !svid.IssuedAt.Equal(want.issuedAt) || !svid.Expiry.Equal(want.expires):
		return lintedWIT{}, fmt.Errorf("lint validity: is %s to %s, not %s to %s", svid.NotBefore, svid.Expiry, want.notBefore, want.expires)
	case svid.KeyID() != want.keyID:
		return lintedWIT{}, errors.New("lint kid: is not that of the signing key")
	case svid.Algorithm() != es256:
		return lintedWIT{}, fmt.Errorf("lint alg: is %s, not %s", svid.Algorithm(), es256)
	case string(svid.Claim("jti")) != `"`+want.jti+`"`:
		return lintedWIT{}, errors.New("lint jti: is not the journalled one")
	}
	if names := svid.ClaimNames(); !slices.Equal(names, []string{"cnf", "exp", "iat", "jti", "nbf", "sub"}) {
		return lintedWIT{}, fmt.Errorf("lint claims: are %s", strings.Join(names, " "))
	}
	return lintedWIT{svid}, nil
}

// provesItselfByWIT is provesItself for a key for WIT-SVIDs.
func (k jwtKey) provesItselfByWIT(td spiffe.TrustDomain) error {
	now := time.Unix(1, 0)
	jwk, err := spiffe.MarshalProofJWK(k.public)
	if err != nil {
		return err
	}
	token, err := encodeJWT(k, jwtClaims{Subject: td.ID().String() + "/kith/self-test", Expiry: now.Unix() + 1, ID: "self-test", Holder: &confirmation{jwk}})
	if err != nil {
		return err
	}
	bundle, err := spiffe.NewBundle(td, 0, 0).WithWITKeys(spiffe.JWTKey{ID: k.id, Public: k.public, Algorithm: k.algorithm})
	if err != nil {
		return err
	}
	_, err = spiffe.ValidateWIT(token, spiffe.WITCheck{
		Now: now, Bundle: func(of spiffe.TrustDomain) (*spiffe.Bundle, bool) { return bundle, of == td },
	})
	return err
}
