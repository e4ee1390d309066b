package spiffe

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
)

// maxJWK bounds a key in JSON; an RSA key of 4096 bits with all its parts has
// some 3 KiB.
const maxJWK = 16 << 10

// proofKey is the public key a WIT-SVID is bound to, and the only algorithm it
// proves by.
type proofKey struct {
	public crypto.PublicKey
	alg    algorithm
}

// parseConfirmation reads cnf. RFC 7800 3.1: it names one key; ours is in jwk, in
// full, with its algorithm (WIT-SVID 3.2).
func parseConfirmation(raw json.RawMessage) (proofKey, error) {
	if raw == nil {
		return proofKey{}, errors.New("cnf is missing: a token without a key would be whoever holds it")
	}
	confirmation, err := parseObject(raw)
	if err != nil {
		return proofKey{}, fmt.Errorf("cnf: %w", err)
	}
	for _, other := range []string{"jwe", "jku", "kid", "jkt", "x5t#S256"} {
		if _, ok := confirmation[other]; ok {
			return proofKey{}, fmt.Errorf("cnf: has %q; a key in jwk is all that counts", other)
		}
	}
	if confirmation["jwk"] == nil {
		return proofKey{}, errors.New("cnf: jwk is missing")
	}
	object, err := parseObject(confirmation["jwk"])
	if err != nil {
		return proofKey{}, fmt.Errorf("cnf.jwk: %w", err)
	}
	if err := publicOnly(object); err != nil {
		return proofKey{}, fmt.Errorf("cnf.jwk: %w", err)
	}
	key, err := parseProofKey(object)
	if err != nil {
		return proofKey{}, fmt.Errorf("cnf.jwk: %w", err)
	}
	return key, nil
}

// parseProofKey reads the public part of a key that proves.
func parseProofKey(object map[string]json.RawMessage) (proofKey, error) {
	if raw, ok := object["use"]; ok {
		if use, _ := stringOf(raw); use != "sig" {
			return proofKey{}, errors.New("is not for signatures")
		}
	}
	name, _ := stringOf(object["alg"])
	alg, err := parseAlgorithm(name)
	if err != nil {
		return proofKey{}, fmt.Errorf("alg %s is not one of the nine allowed", clip(string(object["alg"])))
	}
	key := proofKey{alg: alg}
	if key.public, err = parseSigningKey(object); err != nil {
		return proofKey{}, err
	}
	return key, JWTKey{ID: "cnf", Public: key.public, Algorithm: alg.name}.check()
}

// ProofAlgorithm is the algorithm that proofs of the token's key are made by: it
// says so itself, signed by its issuer, and nothing that comes with a request can
// say otherwise.
func (s *WITSVID) ProofAlgorithm() string { return s.holder.alg.name }

// PublicKey is the key the token is bound to.
func (s *WITSVID) PublicKey() crypto.PublicKey { return s.holder.public }

// VerifyProof says nil if signature is that of the token's key over content.
// Content must belong to one request, or somebody else can show it again.
func (s *WITSVID) VerifyProof(content, signature []byte) error {
	digest := s.holder.alg.hash.New()
	digest.Write(content)
	if !s.holder.alg.verify(s.holder.public, digest.Sum(nil), signature) {
		return errors.New("the proof is not of the key the WIT-SVID is bound to")
	}
	return nil
}

// ProofKey is the private half of the key that a WIT-SVID is bound to. It prints
// as nothing but its kind.
type ProofKey struct {
	signer crypto.Signer
	alg    algorithm
}

// NewProofKey makes a key to prove with out of one there is: ECDSA on P-256,
// P-384 or P-521, by ES256, ES384 or ES512.
func NewProofKey(key *ecdsa.PrivateKey) (*ProofKey, error) {
	name, err := ProofAlgorithmOf(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	alg, err := parseAlgorithm(name)
	return &ProofKey{signer: key, alg: alg}, err
}

// ProofAlgorithmOf is the algorithm for a key to be bound to a WIT-SVID: that of
// its curve, or PS256.
func ProofAlgorithmOf(public crypto.PublicKey) (string, error) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return "PS256", nil
	case *ecdsa.PublicKey:
		switch key.Params().BitSize {
		case 256:
			return "ES256", nil
		case 384:
			return "ES384", nil
		case 521:
			return "ES512", nil
		}
	}
	return "", fmt.Errorf("key of type %T proves nothing: ECDSA and RSA do", public)
}

// MarshalProofJWK is the public half as cnf.jwk has it.
func MarshalProofJWK(public crypto.PublicKey) ([]byte, error) {
	name, err := ProofAlgorithmOf(public)
	if err != nil {
		return nil, err
	}
	out := proofJWK{Algorithm: name}
	if err := out.set(public); err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// proofJWK is a key that proves, as JSON.
type proofJWK struct {
	Algorithm string `json:"alg"`
	KeyType   string `json:"kty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
	D         string `json:"d,omitempty"`
}

func (k *proofJWK) set(public crypto.PublicKey) error {
	var entry jwk
	if err := entry.setPublic(public); err != nil {
		return err
	}
	k.KeyType, k.Curve, k.X, k.Y, k.N, k.E = entry.KeyType, entry.Curve, entry.X, entry.Y, entry.N, entry.E
	return nil
}

// MarshalJWK is the key with its private half as a JWK (RFC 7517), the form in
// which the SPIFFE Workload API hands it out: a secret.
func (k *ProofKey) MarshalJWK() ([]byte, error) {
	key, ok := k.signer.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key of type %T stays where it is", k.signer)
	}
	out := proofJWK{Algorithm: k.alg.name}
	if err := out.set(k.signer.Public()); err != nil {
		return nil, err
	}
	d, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("marshal proof key: %w", err)
	}
	out.D = base64.RawURLEncoding.EncodeToString(d)
	return json.Marshal(out)
}

// ParseProofKey reads a private JWK, of at most 16 KiB, that MarshalJWK or another
// SPIFFE implementation wrote. Only elliptic curves are read.
func ParseProofKey(text []byte) (*ProofKey, error) {
	if len(text) > maxJWK {
		return nil, fmt.Errorf("proof key: has %d bytes, at most %d are allowed", len(text), maxJWK)
	}
	object, err := parseStrict(text)
	if err != nil {
		return nil, fmt.Errorf("proof key: %w", err)
	}
	parsed, err := parseProofKey(object)
	if err != nil {
		return nil, fmt.Errorf("proof key: %w", err)
	}
	public, ok := parsed.public.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("proof key: is not one on an elliptic curve")
	}
	text1, _ := stringOf(object["d"])
	d, err := decodeBase64(text1)
	if err != nil {
		return nil, errors.New("proof key: d is missing or malformed")
	}
	private, err := ecdsa.ParseRawPrivateKey(public.Curve, d)
	if err != nil || !private.PublicKey.Equal(public) {
		return nil, errors.New("proof key: d is not that of the public key")
	}
	return &ProofKey{signer: private, alg: parsed.alg}, nil
}

// WithKey is the token in the hands of its owner, who can prove by it. It is an
// error if the key is not the one the token is bound to.
func (s *WITSVID) WithKey(key *ProofKey) (*WITSVID, error) {
	public, ok := key.signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(s.holder.public) || key.alg.name != s.holder.alg.name {
		return nil, fmt.Errorf("the key is not the one the %s is bound to", s)
	}
	out := *s
	out.own = key
	return &out, nil
}

// Prove signs content with the token's key. Only its owner can.
func (s *WITSVID) Prove(content []byte) (signature []byte, err error) {
	if s.own == nil {
		return nil, fmt.Errorf("the key of the %s is not here", s)
	}
	return s.own.sign(content)
}

// Key is the private half of the token's key, nil for all but its owner.
func (s *WITSVID) Key() *ProofKey { return s.own }

func (k *ProofKey) sign(content []byte) ([]byte, error) {
	digest := k.alg.hash.New()
	digest.Write(content)
	der, err := k.signer.Sign(rand.Reader, digest.Sum(nil), k.alg.hash)
	if err != nil {
		return nil, fmt.Errorf("sign proof: %w", err)
	}
	var halves struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &halves); err != nil || len(rest) > 0 {
		return nil, errors.New("sign proof: the signature is malformed")
	}
	size := (k.alg.curve.Params().BitSize + 7) / 8 // RFC 7518 3.4, RFC 9421 3.3.4: both halves in full
	out := make([]byte, 2*size)
	halves.R.FillBytes(out[:size])
	halves.S.FillBytes(out[size:])
	return out, nil
}

// String says what it is, and never the key.
func (k *ProofKey) String() string { return "proof key for " + k.alg.name }

// Format is String for every verb, %+v and %#v included.
func (k *ProofKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue keeps the key out of logs.
func (k *ProofKey) LogValue() slog.Value { return slog.StringValue(k.String()) }
