package spiffe

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

const (
	useJWTSVID = "jwt-svid"
	useWITSVID = "wit-svid"
)

// JWTKey is a public key of a trust domain that its JWT-SVIDs, or its WIT-SVIDs,
// are verified with.
type JWTKey struct {
	// ID is the kid by which tokens name the key, unique in its bundle.
	ID string
	// Public is an ECDSA key on P-256, P-384 or P-521, or an RSA key of 2048 to
	// 4096 bits.
	Public crypto.PublicKey
	// Algorithm is the only alg the key is for; empty: any that suits it.
	Algorithm string
}

// WithJWTKeys is the bundle with these keys for JWT-SVIDs in place of those it
// had. It is an error if one is too weak, is for none of the algorithms of
// JWT-SVIDs, or shares its ID with another, for whatever kind of SVID that is.
func (b *Bundle) WithJWTKeys(keys ...JWTKey) (*Bundle, error) {
	next := *b
	next.jwtKeys = slices.Clone(keys)
	if err := next.checkKeys(); err != nil {
		return nil, err
	}
	return &next, nil
}

// WithWITKeys is the same with these keys for WIT-SVIDs.
func (b *Bundle) WithWITKeys(keys ...JWTKey) (*Bundle, error) {
	next := *b
	next.witKeys = slices.Clone(keys)
	if err := next.checkKeys(); err != nil {
		return nil, err
	}
	return &next, nil
}

// checkKeys holds what a bundle's keys have to be. WIT-SVID 6.1: a kid is unique
// in the whole bundle.
func (b *Bundle) checkKeys() error {
	seen := make(map[string]bool, len(b.jwtKeys)+len(b.witKeys))
	for _, key := range slices.Concat(b.jwtKeys, b.witKeys) {
		if err := key.check(); err != nil {
			return bundleErrorf(b.td, "key %q: %w", clip(key.ID), err)
		}
		if seen[key.ID] {
			return bundleErrorf(b.td, "two keys have the kid %q", clip(key.ID))
		}
		seen[key.ID] = true
	}
	return nil
}

// JWTKeys are the keys JWT-SVIDs are verified with. The slice is the caller's.
func (b *Bundle) JWTKeys() []JWTKey { return slices.Clone(b.jwtKeys) }

// JWTKey is the key for JWT-SVIDs with an ID, letter by letter.
func (b *Bundle) JWTKey(id string) (JWTKey, bool) { return keyOf(b.jwtKeys, id) }

// WITKeys are the keys WIT-SVIDs are verified with. The slice is the caller's.
func (b *Bundle) WITKeys() []JWTKey { return slices.Clone(b.witKeys) }

// WITKey is the key for WIT-SVIDs with an ID, letter by letter.
func (b *Bundle) WITKey(id string) (JWTKey, bool) { return keyOf(b.witKeys, id) }

func keyOf(keys []JWTKey, id string) (JWTKey, bool) {
	for _, key := range keys {
		if key.ID == id {
			return key, true
		}
	}
	return JWTKey{}, false
}

// MarshalJWTKeys is the bundle as a document with its keys for JWT-SVIDs alone:
// what the SPIFFE Workload API gives for them.
func (b *Bundle) MarshalJWTKeys() ([]byte, error) {
	only := *b
	only.roots, only.witKeys = nil, nil
	return only.Marshal()
}

// MarshalWITKeys is the same for WIT-SVIDs.
func (b *Bundle) MarshalWITKeys() ([]byte, error) {
	only := *b
	only.roots, only.jwtKeys = nil, nil
	return only.Marshal()
}

func (k JWTKey) check() error {
	if k.ID == "" || len(k.ID) > maxKeyID {
		return fmt.Errorf("kid has not 1 to %d bytes", maxKeyID)
	}
	if key, ok := k.Public.(*ecdsa.PublicKey); !ok || key == nil || key.Curve != elliptic.P521() {
		if err := CheckKey(k.Public); err != nil {
			return err
		}
	}
	switch k.Public.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
	default:
		return fmt.Errorf("key of type %T signs no JWT-SVID", k.Public)
	}
	if k.Algorithm == "" {
		return nil
	}
	alg, err := parseAlgorithm(k.Algorithm)
	if err != nil {
		return err
	}
	return alg.suits(k.Public)
}

func (k JWTKey) equal(other JWTKey) bool {
	public, ok := k.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.ID == other.ID && k.Algorithm == other.Algorithm && public.Equal(other.Public)
}

// sameKeys compares two sets of keys with unique IDs.
func sameKeys(a, b []JWTKey) bool {
	if len(a) != len(b) {
		return false
	}
	for _, key := range a {
		if other, ok := keyOf(b, key.ID); !ok || !key.equal(other) {
			return false
		}
	}
	return true
}

func (k JWTKey) jwk(use string) (jwk, error) {
	out := jwk{Use: use, KeyID: k.ID, Algorithm: k.Algorithm}
	err := out.setPublic(k.Public)
	return out, err
}

// parseTokenKeys takes the keys for JWT- and WIT-SVIDs out of a bundle document. One that
// cannot be used - without a kid, malformed, too weak, of another kind - is
// left out: nothing verifies with it, and the rest of the document holds. Two
// keys with one kid are an error.
func parseTokenKeys(b *Bundle, raw json.RawMessage) (*Bundle, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, bundleErrorf(b.td, "keys: %w", err)
	}
	for _, entry := range entries {
		object, err := parseObject(entry)
		if err != nil {
			return nil, bundleErrorf(b.td, "%w", err)
		}
		into := &b.jwtKeys
		switch use, _ := stringOf(object["use"]); use {
		case useJWTSVID: // JWT-SVID 6.2
		case useWITSVID: // WIT-SVID 6.2
			into = &b.witKeys
		default:
			continue
		}
		if key, err := parseJWTKey(object); err == nil {
			*into = append(*into, key)
		}
	}
	return b, b.checkKeys()
}

func parseJWTKey(object map[string]json.RawMessage) (JWTKey, error) {
	var key JWTKey
	key.ID, _ = stringOf(object["kid"])
	if raw, ok := object["alg"]; ok {
		if key.Algorithm, ok = stringOf(raw); !ok || key.Algorithm == "" {
			return JWTKey{}, errors.New("alg is not a text")
		}
	}
	if raw, ok := object["key_ops"]; ok {
		var operations []string
		if json.Unmarshal(raw, &operations) != nil || !slices.Contains(operations, "verify") {
			return JWTKey{}, errors.New("is not for verifying")
		}
	}
	for _, private := range []string{"d", "k"} {
		if _, ok := object[private]; ok {
			return JWTKey{}, errors.New("is a private key, so everybody has it")
		}
	}
	var err error
	if key.Public, err = parseSigningKey(object); err != nil {
		return JWTKey{}, err
	}
	return key, key.check()
}

// parseSigningKey is the public part of a key of the two kinds that sign tokens.
func parseSigningKey(object map[string]json.RawMessage) (crypto.PublicKey, error) {
	switch kty, _ := stringOf(object["kty"]); kty {
	case "EC":
		return parseECKey(object)
	case "RSA":
		return parseRSAKey(object)
	}
	return nil, errors.New("kty is neither EC nor RSA")
}

// parseECKey is RFC 7518 6.2.1.
func parseECKey(object map[string]json.RawMessage) (*ecdsa.PublicKey, error) {
	var curve elliptic.Curve
	switch name, _ := stringOf(object["crv"]); name {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	default:
		return nil, errors.New("crv is none of P-256, P-384 and P-521")
	}
	point := []byte{4} // uncompressed
	for _, name := range []string{"x", "y"} {
		text, _ := stringOf(object[name])
		value, err := decodeBase64(text)
		if err != nil || len(value) != (curve.Params().BitSize+7)/8 {
			return nil, fmt.Errorf("%s is not a coordinate of the curve", name)
		}
		point = append(point, value...)
	}
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}

// parseRSAKey is RFC 7518 6.3.1.
func parseRSAKey(object map[string]json.RawMessage) (*rsa.PublicKey, error) {
	var values [2][]byte
	for i, name := range []string{"n", "e"} {
		text, _ := stringOf(object[name])
		value, err := decodeBase64(text)
		if err != nil || value[0] == 0 || len(value) > maxRSABits/8 {
			return nil, fmt.Errorf("%s is not a number in its shortest form", name)
		}
		values[i] = value
	}
	if len(values[1]) > 4 {
		return nil, errors.New("e is too large")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(values[0]), E: int(new(big.Int).SetBytes(values[1]).Int64())}, nil
}
