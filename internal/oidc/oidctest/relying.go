// Package oidctest has stand-ins for the clouds that take tokens: each enforces
// the limits that the cloud documents and refuses in the cloud's own words where
// those are known. They share no code with the product, so that both cannot be
// wrong in one way; they give no credentials.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// Token is a token as a receiver reads it.
type Token struct {
	Algorithm, KeyID  string
	Issuer, Subject   string
	Audience          []string
	AuthorizedParty   string
	IssuedAt, Expires time.Time
	Raw               string

	content   string
	signature []byte
}

// read takes a token apart.
func read(text string) (*Token, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, errors.New("not three parts")
	}
	var header struct{ Alg, Kid string }
	var claims struct {
		Iss, Sub, Azp string
		Aud           json.RawMessage
		Exp, Iat      float64
	}
	for i, into := range []any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return nil, err
		}
	}
	t := &Token{
		Algorithm: header.Alg, KeyID: header.Kid, Issuer: claims.Iss, Subject: claims.Sub, AuthorizedParty: claims.Azp,
		Expires: time.Unix(int64(claims.Exp), 0), Raw: text, content: parts[0] + "." + parts[1],
	}
	if claims.Iat != 0 {
		t.IssuedAt = time.Unix(int64(claims.Iat), 0)
	}
	var one string
	if json.Unmarshal(claims.Aud, &one) == nil {
		t.Audience = []string{one}
	} else if err := json.Unmarshal(claims.Aud, &t.Audience); err != nil {
		return nil, err
	}
	var err error
	t.signature, err = base64.RawURLEncoding.DecodeString(parts[2])
	return t, err
}

// jwk is a published key.
type jwk struct {
	Kty, Kid, Alg, Use, N, E, Crv, X, Y string
	X5c                                 []string
	X5t                                 string
}

// metadata is a discovery document.
type metadata struct {
	Issuer     string   `json:"issuer"`
	KeysURI    string   `json:"jwks_uri"`
	Responses  []string `json:"response_types_supported"`
	Subjects   []string `json:"subject_types_supported"`
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
	Claims     []string `json:"claims_supported"`
}

// fetch gets a document of an issuer.
func fetch(client *http.Client, at string, into any) error {
	answer, err := client.Get(at)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", answer.Status, errors.Join(err, errors.New("no document")))
	}
	return json.Unmarshal(body, into)
}

// discover gets both documents.
func discover(client *http.Client, issuer string) (metadata, []jwk, error) {
	var m metadata
	if err := fetch(client, issuer+"/.well-known/openid-configuration", &m); err != nil {
		return m, nil, err
	}
	var set struct{ Keys []jwk }
	err := fetch(client, m.KeysURI, &set)
	return m, set.Keys, err
}

func number(text string) *big.Int {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return new(big.Int)
	}
	return new(big.Int).SetBytes(raw)
}

// verifiedBy says whether one of the keys made the signature.
func (t *Token) verifiedBy(keys []jwk) bool {
	sums := map[string]func() hash.Hash{"256": sha256.New, "384": sha512.New384, "512": sha512.New}
	kinds := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	if len(t.Algorithm) != 5 || sums[t.Algorithm[2:]] == nil {
		return false
	}
	sum := sums[t.Algorithm[2:]]()
	sum.Write([]byte(t.content))
	digest := sum.Sum(nil)
	for _, key := range keys {
		if key.Kid != t.KeyID || key.Use != "sig" {
			continue
		}
		switch {
		case key.Kty == "RSA" && t.Algorithm[:2] == "RS":
			public := &rsa.PublicKey{N: number(key.N), E: int(number(key.E).Int64())}
			return rsa.VerifyPKCS1v15(public, kinds[t.Algorithm[2:]], digest, t.signature) == nil
		case key.Kty == "EC" && key.Crv == "P-256" && t.Algorithm == "ES256" && len(t.signature) == 64:
			point := append([]byte{4}, number(key.X).FillBytes(make([]byte, 32))...)
			public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(point, number(key.Y).FillBytes(make([]byte, 32))...))
			return err == nil && ecdsa.Verify(public, digest, new(big.Int).SetBytes(t.signature[:32]), new(big.Int).SetBytes(t.signature[32:]))
		}
	}
	return false
}

// answer writes JSON with a status.
func answer(rw http.ResponseWriter, status int, body any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(body)
}
