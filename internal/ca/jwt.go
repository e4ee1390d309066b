package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// JWTLifetime is how long a JWT-SVID lives, at most: whoever gets hold of one
// is its subject until then.
const JWTLifetime = 5 * time.Minute

// JWTRequest is what a JWT-SVID is made of. All but the audience comes from the
// rule that was evaluated.
type JWTRequest struct {
	ID       spiffe.ID
	Audience []string      // as registry.ValidateAudience allows
	TTL      time.Duration // that of the rule; 0 or over JWTLifetime: JWTLifetime

	// For the journal, not the token.
	Requester string
	Rule      string
	Revision  uint64
}

// JWTResult is what became of one request of a batch.
type JWTResult struct {
	SVID *spiffe.JWTSVID
	Err  error
}

type jwtHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

type jwtClaims struct {
	Issuer    string        `json:"iss,omitempty"`
	Subject   string        `json:"sub"`
	Audience  []string      `json:"aud,omitempty"`
	Expiry    int64         `json:"exp"`
	NotBefore int64         `json:"nbf,omitzero"`
	IssuedAt  int64         `json:"iat,omitzero"`
	ID        string        `json:"jti"` // the serial of its journal entry
	Holder    *confirmation `json:"cnf,omitempty"`
}

// tokenJob is one token on its way, whatever its kind.
type tokenJob struct {
	key    jwtKey
	claims jwtClaims
	entry  Entry              // of the journal
	lint   func(string) error // reads what was signed, and keeps it if it is as it must be
	err    error
}

// SignJWTs signs up to 1024 JWT-SVIDs with one write to the journal, on all
// cores. Results are as those of SignBatch, and so are the steps; the numbers
// are those of DESIGN.md.
func (c *CA) SignJWTs(ctx context.Context, requests []JWTRequest) []JWTResult {
	jobs, linted := make([]tokenJob, len(requests)), make([]lintedJWT, len(requests))
	now := c.config.Now().UTC().Truncate(time.Second)
	ring, err := c.jwtReady(ctx, now, len(requests)) // 1
	for i := range jobs {
		if jobs[i].err = err; err == nil {
			jobs[i].err = c.planJWT(&jobs[i], &linted[i], requests[i], ring, now) // 2
		}
	}
	c.signTokens(ctx, now, jobs) // 3 to 7
	results, issued := make([]JWTResult, len(jobs)), 0
	for i, j := range jobs { // 8: what the linter made, and nothing else
		switch {
		case j.err != nil:
			results[i].Err = j.err
		case linted[i].svid == nil:
			results[i].Err = fmt.Errorf("sign JWT of %s: nothing was made", requests[i].ID)
		default:
			results[i].SVID = linted[i].svid
			issued++
		}
	}
	c.metrics.jwtIssued.Add(float64(issued))
	return results
}

// signTokens takes planned tokens from the journal to the lint.
func (c *CA) signTokens(ctx context.Context, now time.Time, jobs []tokenJob) {
	begin := time.Now()
	defer func() { c.metrics.seconds.Observe(time.Since(begin).Seconds()) }()
	c.journalTokens(ctx, now, jobs) // 3
	inParallel(len(jobs), func(i int) {
		if jobs[i].err == nil {
			c.makeToken(&jobs[i]) // 4, 5, 6
		}
	})
	c.voidTokens(ctx, now, jobs) // 7
}

func (c *CA) jwtReady(ctx context.Context, now time.Time, n int) (*jwtRing, error) {
	if n > maxBatch {
		return nil, c.refuse(refusedInvalid, fault.Invalidf("batch of %d requests, at most %d are allowed", n, maxBatch))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.checkClock(now); err != nil {
		return nil, c.refuse(refusedClock, err)
	}
	return c.jwt.Load(), nil
}

// algorithmFor is what the receivers of a token read: RS256 all of them do.
func (c *CA) algorithmFor(audience []string) string {
	if slices.ContainsFunc(audience, func(name string) bool { return slices.Contains(c.config.RS256Audiences, name) }) {
		return rs256
	}
	return es256
}

// planJWT chooses the key and makes the claims and, apart from them, what the
// result must be.
func (c *CA) planJWT(j *tokenJob, linted *lintedJWT, r JWTRequest, ring *jwtRing, now time.Time) error {
	if err := c.validateJWT(r); err != nil {
		return c.refuse(refusedInvalid, fmt.Errorf("sign JWT of %s: %w", r.ID, err))
	}
	algorithm := c.algorithmFor(r.Audience)
	key, ok := ring.signing(keyKind{"", algorithm})
	if !ok {
		return c.refuse(refusedIssuer, fmt.Errorf("there is no key for %s yet that every node knows", algorithm))
	}
	id, err := randomID()
	if err != nil {
		return err
	}
	ttl := JWTLifetime
	if r.TTL > 0 {
		ttl = min(ttl, r.TTL.Truncate(time.Second))
	}
	want := jwtExpectation{issuer: c.config.Issuer, id: r.ID, audience: r.Audience, issuedAt: now, expiry: now.Add(ttl), jti: id, keyID: key.id, algorithm: algorithm}
	j.key = key
	j.claims = jwtClaims{Issuer: c.config.Issuer, Subject: r.ID.String(), Audience: r.Audience, Expiry: now.Add(ttl).Unix(), IssuedAt: now.Unix(), ID: id}
	j.lint = func(token string) (err error) {
		*linted, err = lintJWT(token, want)
		return err
	}
	j.entry = Entry{
		Kind: JWTEntry, Time: now, Serial: id, ID: r.ID.String(), NotAfter: want.expiry, Issuer: key.id,
		Audience: strings.Join(r.Audience, " "), Requester: r.Requester, Rule: r.Rule, Revision: r.Revision,
	}
	return nil
}

func (c *CA) validateJWT(r JWTRequest) error {
	switch {
	case r.ID.TrustDomain() != c.td:
		return fault.Invalidf("it is not in trust domain %s", c.td)
	case r.ID.Path() == "":
		return fault.Invalidf("it has no path") // JWT-SVID 3.1
	case r.TTL != 0 && r.TTL < minLeaf:
		return fault.Invalidf("ttl %s is under %s", r.TTL, minLeaf)
	case len(r.Requester) > 2048 || len(r.Rule) > 256:
		return fault.Invalidf("requester or rule is too long")
	}
	return registry.ValidateAudience(r.Audience)
}

// journalTokens writes down what is about to be signed. If that fails, nothing is.
func (c *CA) journalTokens(ctx context.Context, now time.Time, jobs []tokenJob) {
	var entries []Entry
	for _, j := range jobs {
		if j.err == nil {
			entries = append(entries, j.entry)
		}
	}
	if len(entries) == 0 {
		return
	}
	err := c.journal.add(ctx, now, entries...)
	c.checkAlarm()
	if err == nil {
		return
	}
	for i := range jobs {
		if jobs[i].err == nil {
			jobs[i].err = c.refuse(refusedJournal, err)
		}
	}
}

// makeToken signs, parses what was signed, and lints it.
func (c *CA) makeToken(j *tokenJob) {
	j.key.signed(j.entry.NotAfter) // before it is: a key that has signed is kept
	token, err := c.encode(j.key, j.claims)
	if err != nil {
		j.err = c.refuse(refusedInternal, fmt.Errorf("sign %s of %s: %w", j.entry.Kind, j.entry.ID, err))
		return
	}
	if err := j.lint(token); err != nil {
		j.err = c.refuse(refusedLint, fmt.Errorf("sign %s of %s: %w", j.entry.Kind, j.entry.ID, err))
		c.log.Error("token failed the lint", "kind", string(j.entry.Kind), "id", j.entry.ID, "jti", j.entry.Serial, "error", err)
	}
}

// encodeJWT is the compact serialization, signed. RFC 7515 7.1, RFC 7518 3.3, 3.4.
func encodeJWT(key jwtKey, claims jwtClaims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	token := make([]byte, 0, 1024)
	token = append(append(token, key.header...), '.')
	token = base64.RawURLEncoding.AppendEncode(token, payload)
	digest := sha256.Sum256(token)
	signature, err := key.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	if key.algorithm == es256 {
		halves, err := signatureHalves(signature)
		if err != nil {
			return "", err
		}
		signature = halves[:]
	}
	return string(base64.RawURLEncoding.AppendEncode(append(token, '.'), signature)), nil
}

// signatureHalves turns an ECDSA signature of P-256 from its ASN.1 form, two
// integers in a sequence, into that of JWS: both in full.
func signatureHalves(der []byte) (halves [64]byte, err error) {
	malformed := errors.New("the signature is malformed")
	if len(der) < 2 || der[0] != 0x30 || int(der[1]) != len(der)-2 { // at most 72 bytes: one byte of length
		return halves, malformed
	}
	rest := der[2:]
	for _, half := range [][]byte{halves[:32], halves[32:]} {
		if len(rest) < 2 || rest[0] != 0x02 || int(rest[1]) > len(rest)-2 {
			return halves, malformed
		}
		n := rest[2 : 2+rest[1]]
		rest = rest[2+len(n):]
		if n = bytes.TrimLeft(n, "\x00"); len(n) > len(half) {
			return halves, malformed
		}
		copy(half[len(half)-len(n):], n)
	}
	if len(rest) > 0 {
		return halves, malformed
	}
	return halves, nil
}

// voidTokens notes which intents came to nothing, as journalVoids does.
func (c *CA) voidTokens(ctx context.Context, now time.Time, jobs []tokenJob) {
	var entries []Entry
	for _, j := range jobs {
		if j.err == nil || j.entry.Serial == "" || refusedBy(j.err) == refusedJournal {
			continue
		}
		entries = append(entries, Entry{
			Kind: VoidEntry, Time: now, Serial: j.entry.Serial, ID: j.entry.ID,
			Requester: j.entry.Requester, Reason: string(refusedBy(j.err)),
		})
	}
	if len(entries) == 0 {
		return
	}
	if err := c.journal.add(ctx, now, entries...); err != nil {
		c.log.Warn("void issuance not journalled", "error", err)
	}
}
