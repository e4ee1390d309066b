package spiffe

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // RS256, ES256, PS256
	_ "crypto/sha512" // the other six
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"unicode/utf8"
)

// signedJWT is the three parts of a token, decoded.
type signedJWT struct {
	header, payload, signature []byte

	content string // what the signature is over
	alg     algorithm
	keyID   string
}

// splitJWT takes a compact serialization apart. RFC 7515 7.1.
func splitJWT(token string) (signedJWT, error) {
	if len(token) > maxTokenBytes {
		return signedJWT{}, fmt.Errorf("has %d bytes, at most %d are allowed", len(token), maxTokenBytes)
	}
	header, rest, one := strings.Cut(token, ".")
	payload, signature, two := strings.Cut(rest, ".")
	if !one || !two || strings.Contains(signature, ".") {
		return signedJWT{}, errors.New("is not three parts with dots between: only compact serialization is read") // JWT-SVID 1
	}
	if len(header) > maxHeaderBytes {
		return signedJWT{}, fmt.Errorf("header has %d bytes, at most %d are allowed", len(header), maxHeaderBytes)
	}
	var s signedJWT
	var err error
	for _, part := range []struct {
		name, text string
		into       *[]byte
	}{{"header", header, &s.header}, {"payload", payload, &s.payload}, {"signature", signature, &s.signature}} {
		if *part.into, err = decodeBase64(part.text); err != nil {
			return signedJWT{}, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	s.content = token[:len(header)+1+len(payload)]
	return s, nil
}

func (s *signedJWT) parseHeader() error {
	header, err := parseStrict(s.header)
	if err != nil {
		return err
	}
	if _, ok := header["crit"]; ok {
		return errors.New("has critical extensions, and none is known") // RFC 7515 4.1.11
	}
	for name := range header {
		if name != "alg" && name != "kid" && name != "typ" {
			return fmt.Errorf("has %q; alg, kid and typ are all there may be", clip(name)) // JWT-SVID 2
		}
	}
	name, ok := stringOf(header["alg"])
	if s.alg, err = parseAlgorithm(name); !ok || err != nil {
		return fmt.Errorf("alg %s is not one of the nine allowed", clip(string(header["alg"]))) // JWT-SVID 2.1
	}
	if s.keyID, ok = stringOf(header["kid"]); !ok || s.keyID == "" || len(s.keyID) > maxKeyID {
		return fmt.Errorf("kid is not a text of 1 to %d bytes", maxKeyID)
	}
	if raw, ok := header["typ"]; ok {
		if typ, _ := stringOf(raw); typ != "JWT" && typ != "JOSE" { // JWT-SVID 2.3
			return fmt.Errorf("typ %s is neither JWT nor JOSE", clip(string(raw)))
		}
	}
	return nil
}

// decodeBase64 is base64url as RFC 7515 has it, one spelling for each value.
// The standard library's strict mode still skips line ends.
func decodeBase64(text string) ([]byte, error) {
	if text == "" {
		return nil, errors.New("is empty")
	}
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("has a line end in it")
	}
	value, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("is not strict base64url without padding")
	}
	return value, nil
}

// parseStrict is parseObject for UTF-8 only, with names unique at every depth:
// what two parsers read differently is read by none.
func parseStrict(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("is not UTF-8")
	}
	object, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	for name, value := range object {
		if value[0] != '{' && value[0] != '[' {
			continue
		}
		if err := uniqueNames(value, 1); err != nil {
			return nil, fmt.Errorf("in %q: %w", clip(name), err)
		}
	}
	return object, nil
}

// algorithm is one of the nine of JWT-SVID 2.1.
type algorithm struct {
	name  string
	hash  crypto.Hash
	curve elliptic.Curve // of ES*
	pss   bool           // of PS*
}

func parseAlgorithm(name string) (algorithm, error) {
	a := algorithm{name: name}
	if len(name) != 5 {
		return algorithm{}, errors.New("no such algorithm")
	}
	var curve elliptic.Curve
	switch name[2:] {
	case "256":
		a.hash, curve = crypto.SHA256, elliptic.P256()
	case "384":
		a.hash, curve = crypto.SHA384, elliptic.P384()
	case "512":
		a.hash, curve = crypto.SHA512, elliptic.P521()
	default:
		return algorithm{}, errors.New("no such algorithm")
	}
	switch name[:2] {
	case "RS":
	case "PS":
		a.pss = true
	case "ES":
		a.curve = curve
	default:
		return algorithm{}, errors.New("no such algorithm")
	}
	return a, nil
}

// suits checks that a key is of the kind and curve that the algorithm is for.
// RFC 7518 3.3 to 3.5.
func (a algorithm) suits(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if a.curve != nil && a.curve == key.Curve {
			return nil
		}
	case *rsa.PublicKey:
		if a.curve == nil {
			return nil
		}
	}
	return fmt.Errorf("the key is not one for %s", a.name)
}

// Verify checks a signature in JWS compact serialization by this key, in all as
// strictly as [ValidateJWT] does, and returns what was signed. It looks at no
// claim, so what it accepts is no JWT-SVID yet.
func (k JWTKey) Verify(token string) (payload []byte, err error) {
	s, err := splitJWT(token)
	if err != nil {
		return nil, err
	}
	if err := s.parseHeader(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if s.keyID != k.ID {
		return nil, fmt.Errorf("kid is %q, not %q", clip(s.keyID), clip(k.ID))
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	if err := s.verify(k); err != nil {
		return nil, err
	}
	return s.payload, nil
}

// verify checks the signature by the key that the token names.
func (s *signedJWT) verify(key JWTKey) error {
	if key.Algorithm != "" && key.Algorithm != s.alg.name {
		return fmt.Errorf("key %q is for %s, not %s", clip(key.ID), key.Algorithm, s.alg.name)
	}
	if err := s.alg.suits(key.Public); err != nil {
		return err
	}
	digest := s.alg.hash.New()
	_, _ = io.WriteString(digest, s.content)
	if !s.alg.verify(key.Public, digest.Sum(nil), s.signature) {
		return errors.New("the signature is not that of the key it names")
	}
	return nil
}

// verifyIn finds the key that a token names in the bundle of its subject's trust
// domain, among those of one use, and checks the signature by it.
func (s *signedJWT) verifyIn(bundle func(TrustDomain) (*Bundle, bool), td TrustDomain, keys func(*Bundle) []JWTKey, what string) error {
	b, ok := bundle(td)
	switch {
	case !ok || b == nil:
		return fmt.Errorf("no bundle for trust domain %s", td)
	case b.td != td:
		return fmt.Errorf("the bundle given is that of trust domain %s", b.td)
	case len(keys(b)) == 0:
		return fmt.Errorf("the bundle of %s has no key for %s", td, what) // JWT-SVID 6.2, WIT-SVID 6.2
	}
	key, ok := keyOf(keys(b), s.keyID)
	if !ok {
		return fmt.Errorf("the bundle of %s has no key %q", td, clip(s.keyID))
	}
	return s.verify(key)
}

// verify checks a signature by a key that suits.
func (a algorithm) verify(key crypto.PublicKey, digest, signature []byte) bool {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		size := (a.curve.Params().BitSize + 7) / 8
		if len(signature) != 2*size { // RFC 7518 3.4: both halves in full
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(key, digest, r, s) // which refuses 0 and what is not below the order
	case *rsa.PublicKey:
		if a.pss {
			options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.hash} // RFC 7518 3.5
			return rsa.VerifyPSS(key, a.hash, digest, signature, options) == nil
		}
		return rsa.VerifyPKCS1v15(key, a.hash, digest, signature) == nil
	}
	return false
}
