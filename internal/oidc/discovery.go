// Package oidc publishes the keys of JWT-SVIDs where clouds look for them (OpenID
// Connect Discovery), and knows what each of those receivers demands of issuer,
// keys and tokens. It signs nothing and logs nobody in.
package oidc

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	"github.com/kith-id/kith/spiffe"
)

// Where the documents are, under the issuer.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/.well-known/jwks.json"
)

// The algorithms of the keys, and the first is what all receivers read.
const (
	rs256 = "RS256"
	es256 = "ES256"
)

// Discovery is the discovery document: what OpenID Connect Discovery 1.0, 3, and
// AWS demand, and nothing that would say people can log in here.
type Discovery struct {
	Issuer        string   `json:"issuer"`
	KeysURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	Claims        []string `json:"claims_supported"`
}

// Key is a public key as receivers read it: use is sig, which some of them insist
// on, where a SPIFFE bundle has jwt-svid; and no x5c or x5t, which Google refuses.
type Key struct {
	Type      string `json:"kty"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
	Modulus   string `json:"n,omitempty"`
	Exponent  string `json:"e,omitempty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
}

// KeySet is a JWKS document.
type KeySet struct {
	Keys []Key `json:"keys"`
}

// documents are the two documents that a bundle gives.
func documents(issuer string, bundle *spiffe.Bundle) (discovery, keys []byte, err error) {
	set := KeySet{Keys: []Key{}}
	algorithms := []string{}
	for _, key := range bundle.JWTKeys() {
		one, err := newKey(key)
		if err != nil {
			return nil, nil, fmt.Errorf("key %s: %w", key.ID, err)
		}
		set.Keys = append(set.Keys, one)
		if !slices.Contains(algorithms, one.Algorithm) {
			algorithms = append(algorithms, one.Algorithm)
		}
	}
	slices.Sort(algorithms)
	slices.Reverse(algorithms) // RS256 first
	keys, err = json.Marshal(set)
	if err != nil {
		return nil, nil, err
	}
	discovery, err = json.Marshal(Discovery{
		Issuer: issuer, KeysURI: issuer + KeysPath, ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"},
		Algorithms: algorithms, Claims: []string{"iss", "sub", "aud", "exp", "iat", "jti"},
	})
	return discovery, keys, err
}

// newKey is RFC 7518 6.2.1 and 6.3.1.
func newKey(key spiffe.JWTKey) (Key, error) {
	out := Key{Use: "sig", Algorithm: key.Algorithm, ID: key.ID}
	encode := base64.RawURLEncoding.EncodeToString
	switch public := key.Public.(type) {
	case *rsa.PublicKey:
		out.Type, out.Modulus, out.Exponent = "RSA", encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4, x, y
		if err != nil {
			return Key{}, err
		}
		half := len(point) / 2
		out.Type, out.Curve, out.X, out.Y = "EC", public.Params().Name, encode(point[1:1+half]), encode(point[1+half:])
	default:
		return Key{}, fmt.Errorf("is of type %T", key.Public)
	}
	return out, nil
}
