package wimse

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// Check is what a request must be to be somebody's. All must be given.
type Check struct {
	// Audience is the receiver's name, as https://orders.acme.example: it is
	// configured, never read from a request.
	Audience string
	// Accept are the kinds of proof that count.
	Accept []Kind
	// Seen remembers proofs, so that none counts twice.
	Seen *Replays
	// Now is the time to check at.
	Now time.Time
}

// Verify says nil if the request is one that the owner of the token made, for this
// audience, now, and for the first time. who names the owner, and holder is the
// token, which was validated: it is what the field of [TokenField] carries.
func Verify(m Message, token, who string, holder Holder, check Check) error {
	switch {
	case check.Audience == "" || check.Seen == nil || check.Now.IsZero() || len(check.Accept) == 0 || holder == nil:
		return errors.New("check of a request without audience, kinds, memory or time")
	}
	shown, err := TokenOf(m.Fields)
	if err != nil {
		return err
	}
	if shown != token {
		return errors.New("the token checked is not the one the request carries")
	}
	if err := originForm(m.Target); err != nil {
		return err
	}
	kind, err := kindOf(m.Fields)
	if err != nil {
		return err
	}
	if !slices.Contains(check.Accept, kind) {
		return fmt.Errorf("a proof of kind %s is not accepted here", kind)
	}
	var p proof
	if kind == Token {
		p, err = verifyToken(m, token, holder, check)
	} else {
		p, err = verifySignature(m, holder, check)
	}
	if err != nil {
		return err
	}
	return check.Seen.spend(who, string(kind)+"\x00"+p.id, p.until.Add(Skew), check.Now)
}

// proof is what the memory keeps of a good one.
type proof struct {
	id    string
	until time.Time
}

// TokenOf is the WIT-SVID that a request carries. [ErrNoToken] is a request without
// one, and without a proof; a proof alone is an error, and so is a token twice.
func TokenOf(fields Fields) (string, error) {
	token, there, err := one(fields, TokenField)
	switch {
	case err != nil:
		return "", err
	case there && token != "":
		return token, nil
	case there, len(fields.Values(ProofField)) > 0:
		return "", errors.New("the request carries a proof, and no WIT-SVID")
	}
	return "", ErrNoToken
}

// kindOf is the one kind of proof that a request carries.
func kindOf(fields Fields) (Kind, error) {
	tokens, inputs, signatures := len(fields.Values(ProofField)), len(fields.Values(InputField)), len(fields.Values(SignatureField))
	switch {
	case tokens == 0 && inputs == 0 && signatures == 0:
		return "", errors.New("a WIT-SVID came without a proof of its key: it is no bearer token") // WIT-SVID 5
	case tokens > 0 && inputs+signatures > 0:
		return "", errors.New("there are proofs of two kinds: which of them counts cannot be told")
	case tokens > 0:
		return Token, nil
	}
	return Signature, nil
}

// timely checks when a proof begins and ends. begins may be zero.
func timely(begins, ends, now time.Time) error {
	switch {
	case !now.Before(ends.Add(Skew)):
		return fmt.Errorf("the proof ended at %s", ends.UTC().Format(time.RFC3339))
	case begins.After(now.Add(Skew)):
		return fmt.Errorf("the proof does not begin before %s", begins.UTC().Format(time.RFC3339))
	case ends.Sub(now) > MaxLifetime+Skew, !begins.IsZero() && ends.Sub(begins) > MaxLifetime:
		return fmt.Errorf("the proof lives until %s, longer than %s", ends.UTC().Format(time.RFC3339), MaxLifetime)
	case !begins.IsZero() && !begins.Before(ends):
		return errors.New("the proof ends before it begins")
	}
	return nil
}

// verifyToken checks a Workload Proof Token.
func verifyToken(m Message, token string, holder Holder, check Check) (proof, error) {
	text, _, err := one(m.Fields, ProofField)
	if err != nil {
		return proof{}, err
	}
	p, err := spiffe.ParseProofToken(text)
	if err != nil {
		return proof{}, err
	}
	if p.Algorithm != holder.ProofAlgorithm() {
		return proof{}, fmt.Errorf("the proof token is signed by %.16q, and the key of the WIT-SVID is for %s", p.Algorithm, holder.ProofAlgorithm())
	}
	if err := holder.VerifyProof(p.Content(), p.Signature()); err != nil {
		return proof{}, err
	}
	begins := p.NotBefore
	if p.IssuedAt.After(begins) {
		begins = p.IssuedAt
	}
	if err := timely(begins, p.Expiry, check.Now); err != nil {
		return proof{}, err
	}
	if err := isFor(p.Audience, check.Audience, pathOf(m.Target)); err != nil {
		return proof{}, err
	}
	if !hashes(token, p.WITHash) {
		return proof{}, errors.New("wth: the proof token is for another WIT-SVID")
	}
	return proof{id: p.ID, until: p.Expiry}, bound(m, p)
}

// isFor holds an audience against the configured one: it is that name, or that name
// with the path of the request.
func isFor(audience, own, path string) error {
	if audience == own {
		return nil
	}
	if rest, ok := strings.CutPrefix(audience, strings.TrimSuffix(own, "/")); ok && rest == path {
		return nil
	}
	return fmt.Errorf("the proof is for %.128q, not for %s with this path", audience, own)
}

// bound checks the tokens that came with a proof token against it: those there are
// must be bound, and those bound must be there.
func bound(m Message, p *spiffe.ProofToken) error {
	authorization, there, err := one(m.Fields, authField)
	if err != nil {
		return err
	}
	_, access, _ := strings.Cut(authorization, " ")
	if err := bind("ath", strings.TrimLeft(access, " "), there, p.AccessHash); err != nil {
		return err
	}
	txn, there, err := one(m.Fields, txnField)
	if err != nil {
		return err
	}
	if err := bind("tth", txn, there, p.TxnHash); err != nil {
		return err
	}
	for name, hash := range p.OtherHashes {
		if name != strings.ToLower(name) || name == "" {
			return errors.New("oth: names a header field that is not written in lower case")
		}
		value, there, err := one(m.Fields, name)
		if err != nil {
			return err
		}
		if err := bind("oth", value, there, hash); err != nil {
			return err
		}
	}
	return nil
}

func bind(claim, value string, there bool, hash []byte) error {
	switch {
	case there && hash == nil:
		return fmt.Errorf("%s: the request carries a token that the proof does not bind", claim)
	case !there && hash != nil:
		return fmt.Errorf("%s: the proof binds a token that the request does not carry", claim)
	case there && !hashes(value, hash):
		return fmt.Errorf("%s: the proof binds another token", claim)
	}
	return nil
}

func hashes(text string, hash []byte) bool {
	sum := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(sum[:], hash) == 1
}

// verifySignature checks an HTTP message signature by the profile.
func verifySignature(m Message, holder Holder, check Check) (proof, error) {
	in, signature, err := signatureOf(m.Fields)
	if err != nil {
		return proof{}, err
	}
	p, begins, err := profile(in, m, check)
	if err != nil {
		return proof{}, err
	}
	base, err := signatureBase(in, m)
	if err != nil {
		return proof{}, err
	}
	if err := holder.VerifyProof(base, signature); err != nil {
		return proof{}, err
	}
	if err := timely(begins, p.until, check.Now); err != nil {
		return proof{}, err
	}
	if signs, ok := find(in.parameters, "wimse-sign-response").(bool); ok && signs {
		return proof{}, ErrSignResponse
	}
	return p, checkBody(m)
}

// signatureOf is the one signature that has the profile's tag, whatever its label.
func signatureOf(fields Fields) (input, []byte, error) {
	var texts [2]string
	for i, name := range []string{InputField, SignatureField} {
		var there bool
		var err error
		if texts[i], there, err = one(fields, name); err != nil {
			return input{}, nil, err
		}
		if !there {
			return input{}, nil, fmt.Errorf("%s is missing", name)
		}
	}
	inputs, err := parseInputs(texts[0])
	if err != nil {
		return input{}, nil, fmt.Errorf("%s %w", InputField, err)
	}
	signatures, err := parseBytes(texts[1])
	if err != nil {
		return input{}, nil, fmt.Errorf("%s %w", SignatureField, err)
	}
	var found []input
	for _, in := range inputs {
		if text, _ := in.text("tag"); text == tag {
			found = append(found, in)
		}
	}
	if len(found) != 1 {
		return input{}, nil, fmt.Errorf("%d signatures have the tag %s, one must", len(found), tag)
	}
	signature, ok := signatures[found[0].label]
	if !ok {
		return input{}, nil, fmt.Errorf("%s has no %s", SignatureField, found[0].label)
	}
	return found[0], signature, nil
}

// profile checks what a signature says of itself.
func profile(in input, m Message, check Check) (p proof, begins time.Time, err error) {
	for _, forbidden := range []string{"keyid", "alg"} {
		if find(in.parameters, forbidden) != nil {
			return p, begins, fmt.Errorf("the signature has the parameter %s; its key and algorithm are those of the WIT-SVID", forbidden)
		}
	}
	created, one := in.integer("created")
	expires, two := in.integer("expires")
	nonce, three := in.text("nonce")
	audience, four := in.text("wimse-aud")
	if !one || !two || !three || !four {
		return p, begins, errors.New("the signature lacks one of created, expires, nonce and wimse-aud")
	}
	if len(nonce) < 8 || len(nonce) > 256 {
		return p, begins, errors.New("the signature's nonce has not 8 to 256 bytes")
	}
	if err := isFor(audience, check.Audience, pathOf(m.Target)); err != nil {
		return p, begins, err
	}
	return proof{id: nonce, until: time.Unix(expires, 0)}, time.Unix(created, 0), covers(in, m.Fields)
}

// covers checks that nothing is left out that the receiver acts by.
func covers(in input, fields Fields) error {
	covered := make(map[string]bool, len(in.components))
	for _, c := range in.components {
		if len(c.parameters) > 0 {
			return fmt.Errorf("the component %.64q has parameters, which no component of a request has here", c.name)
		}
		covered[c.name] = true
	}
	if !covered["@method"] || !covered["@request-target"] && (!covered["@path"] || !covered["@query"]) {
		return errors.New("the signature does not cover method and target")
	}
	if !covered[strings.ToLower(TokenField)] {
		return fmt.Errorf("the signature does not cover %s", TokenField)
	}
	for _, name := range []string{typeField, digestField, authField, txnField} {
		if _, there, err := one(fields, name); err != nil {
			return err
		} else if there && !covered[strings.ToLower(name)] {
			return fmt.Errorf("the signature does not cover %s", name)
		}
	}
	return nil
}

// checkBody holds the body against Content-Digest, which must be there if the
// body is. RFC 9530; of the algorithms that are known all must agree.
func checkBody(m Message) error {
	text, there, err := one(m.Fields, digestField)
	if err != nil {
		return err
	}
	var body []byte
	if m.Body != nil {
		if body, err = m.Body(); err != nil {
			return fmt.Errorf("read the body: %w", err)
		}
	}
	if !there {
		if len(body) > 0 {
			return errors.New("there is a body and no Content-Digest")
		}
		return nil
	}
	digests, err := parseBytes(text)
	if err != nil {
		return fmt.Errorf("%s %w", digestField, err)
	}
	short, long := sha256.Sum256(body), sha512.Sum512(body)
	known := false
	for name, sum := range map[string][]byte{"sha-256": short[:], "sha-512": long[:]} {
		digest, ok := digests[name]
		if ok && subtle.ConstantTimeCompare(digest, sum) != 1 {
			return errors.New("the body is not the one that was signed")
		}
		known = known || ok
	}
	if !known {
		return errors.New("Content-Digest has neither sha-256 nor sha-512")
	}
	return nil
}
