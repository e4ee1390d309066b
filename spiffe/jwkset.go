package spiffe

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// JWKSet is the public keys of somebody outside who signs tokens that are no
// JWT-SVIDs, such as an OpenID provider. It is immutable.
type JWKSet struct{ keys []setKey }

// setKey is one key of a set; its ID may be empty.
type setKey struct {
	id     string
	alg    string // the only one it is for; empty: any that suits it
	public crypto.PublicKey
}

// ParseJWKSet reads a JWK Set (RFC 7517 5) of at most 1 MiB and 512 keys. Keys
// for encryption, of an unknown kind or too weak are left out, as the RFC
// demands. These make the whole set an error, so that its reader goes on with
// the last good one: a private or symmetric key, which everybody has by now; two
// usable keys with one kid; and no usable key at all.
func ParseJWKSet(data []byte) (*JWKSet, error) {
	if err := checkBundleSize(len(data)); err != nil {
		return nil, fmt.Errorf("JWK Set: %w", err)
	}
	entries, err := parseSetEntries(data)
	if err != nil {
		return nil, fmt.Errorf("JWK Set: %w", err)
	}
	s := &JWKSet{}
	var unusable error
	for i, entry := range entries {
		object, err := parseObject(entry)
		if err == nil {
			err = publicOnly(object)
		}
		if err != nil {
			return nil, fmt.Errorf("JWK Set: key %d: %w", i, err)
		}
		key, err := parseSetKey(object)
		switch {
		case err != nil:
			unusable = fmt.Errorf("key %d: %w", i, err)
		case slices.ContainsFunc(s.keys, func(k setKey) bool { return k.id == key.id }):
			return nil, fmt.Errorf("JWK Set: two keys have the kid %q", clip(key.id))
		default:
			s.keys = append(s.keys, key)
		}
	}
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("JWK Set: no key that verifies: %w", errors.Join(errors.New("none is for signatures"), unusable))
	}
	return s, nil
}

func parseSetEntries(data []byte) ([]json.RawMessage, error) {
	document, err := parseStrict(data)
	if err != nil {
		return nil, err
	}
	var entries []json.RawMessage
	if raw := document["keys"]; raw == nil || raw[0] != '[' || json.Unmarshal(raw, &entries) != nil {
		return nil, errors.New("keys is missing or not a list")
	}
	if len(entries) > maxBundleKeys {
		return nil, fmt.Errorf("has %d keys, at most %d are allowed", len(entries), maxBundleKeys)
	}
	return entries, nil
}

// publicOnly refuses what must never be published: RFC 7518 6.2.2, 6.3.2, 6.4.
func publicOnly(object map[string]json.RawMessage) error {
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := object[private]; ok {
			return errors.New("is a private key, so everybody has it")
		}
	}
	if kty, _ := stringOf(object["kty"]); kty == "oct" {
		return errors.New("is a symmetric key")
	}
	return nil
}

func parseSetKey(object map[string]json.RawMessage) (setKey, error) {
	var key setKey
	if raw, ok := object["kid"]; ok {
		if key.id, ok = stringOf(raw); !ok || key.id == "" || len(key.id) > maxKeyID {
			return setKey{}, fmt.Errorf("kid is not a text of 1 to %d bytes", maxKeyID)
		}
	}
	if raw, ok := object["use"]; ok {
		if use, _ := stringOf(raw); use != "sig" {
			return setKey{}, errors.New("is not for signatures")
		}
	}
	if raw, ok := object["key_ops"]; ok {
		var operations []string
		if json.Unmarshal(raw, &operations) != nil || !slices.Contains(operations, "verify") {
			return setKey{}, errors.New("is not for verifying")
		}
	}
	var err error
	switch kty, _ := stringOf(object["kty"]); kty {
	case "EC":
		key.public, err = parseECKey(object)
	case "RSA":
		key.public, err = parseRSAKey(object)
	case "OKP":
		key.public, err = parseEdKey(object)
	default:
		err = errors.New("kty is none of EC, RSA and OKP")
	}
	if err != nil {
		return setKey{}, err
	}
	if raw, ok := object["alg"]; ok {
		if key.alg, _ = stringOf(raw); !signs(key.alg, key.public) {
			return setKey{}, fmt.Errorf("alg %s does not go with the key", clip(string(raw)))
		}
	}
	return key, key.strong()
}

// parseEdKey is RFC 8037 2, for Ed25519 alone.
func parseEdKey(object map[string]json.RawMessage) (ed25519.PublicKey, error) {
	if crv, _ := stringOf(object["crv"]); crv != "Ed25519" {
		return nil, errors.New("crv is not Ed25519")
	}
	text, _ := stringOf(object["x"])
	x, err := decodeBase64(text)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return nil, errors.New("x is not an Ed25519 key")
	}
	return x, nil
}

// strong refuses keys that JWTKey refuses; Ed25519 has one strength.
func (k setKey) strong() error {
	if _, ok := k.public.(ed25519.PublicKey); ok {
		return nil
	}
	return JWTKey{ID: "any", Public: k.public}.check()
}

// find is the key that verifies a token: the one it names, or the only one for
// its algorithm if it names none.
func (s *JWKSet) find(id, alg string) (setKey, error) {
	var fit []setKey
	for _, key := range s.keys {
		suits := (key.alg == "" || key.alg == alg) && signs(alg, key.public)
		switch {
		case id == "" && suits:
			fit = append(fit, key)
		case id != "" && key.id == id && !suits:
			return setKey{}, fmt.Errorf("key %q is not for %s", clip(id), alg)
		case id != "" && key.id == id:
			return key, nil
		}
	}
	switch {
	case id != "":
		return setKey{}, ErrUnknownKey
	case len(fit) != 1:
		return setKey{}, fmt.Errorf("the token names no key, and %d are for %s", len(fit), alg)
	}
	return fit[0], nil
}

// Has says whether there is a key with this ID. With the empty ID it is true:
// asking its owner again would not help.
func (s *JWKSet) Has(id string) bool {
	return id == "" || s != nil && slices.ContainsFunc(s.keys, func(k setKey) bool { return k.id == id })
}

// Len is the number of usable keys.
func (s *JWKSet) Len() int {
	if s == nil {
		return 0
	}
	return len(s.keys)
}

// signs says whether an algorithm is one of those that count, for a key of this
// kind.
func signs(alg string, public crypto.PublicKey) bool {
	switch public.(type) {
	case ed25519.PublicKey:
		return alg == algEdDSA
	case *ecdsa.PublicKey, *rsa.PublicKey:
		a, err := parseAlgorithm(alg)
		return err == nil && a.suits(public) == nil
	default:
		return false
	}
}

// Marshal writes the usable keys, each with no more than checking needs, sorted
// by kid: equal sets have equal texts.
func (s *JWKSet) Marshal() ([]byte, error) {
	document := struct {
		Keys []jwk `json:"keys"`
	}{Keys: make([]jwk, 0, len(s.keys))}
	for _, key := range s.keys {
		out := jwk{Use: "sig", KeyID: key.id, Algorithm: key.alg}
		if err := out.setPublic(key.public); err != nil {
			return nil, fmt.Errorf("key %q: %w", clip(key.id), err)
		}
		document.Keys = append(document.Keys, out)
	}
	slices.SortFunc(document.Keys, func(a, b jwk) int { return strings.Compare(a.KeyID, b.KeyID) })
	return json.Marshal(document)
}
