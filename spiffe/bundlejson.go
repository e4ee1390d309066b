package spiffe

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"time"
)

const (
	maxBundleBytes = 1 << 20
	maxBundleKeys  = 512
	maxMapBytes    = 16 << 20
	maxMapDomains  = 1024
	useX509SVID    = "x509-svid"
)

// ParseBundle reads a SPIFFE bundle document, which is a JWK Set of at most
// 1 MiB and 512 keys. Keys with an unknown kty or a use other than x509-svid,
// jwt-svid and wit-svid are left out, as the standard demands; a malformed root makes the
// whole document an error, so that its reader goes on with the last good one; a
// key for JWT- or WIT-SVIDs that cannot be used is left out, unless its kid
// occurs twice. Names are case sensitive and may not occur twice.
//
// A document with no usable key is not an error: it says that nothing of the
// trust domain is to be trusted any longer.
func ParseBundle(td TrustDomain, jwks []byte) (*Bundle, error) {
	if td.IsZero() {
		return nil, errors.New("bundle: trust domain is empty")
	}
	if err := checkBundleSize(len(jwks)); err != nil {
		return nil, err
	}
	document, err := parseObject(jwks)
	if err != nil {
		return nil, bundleErrorf(td, "%w", err)
	}
	sequence, err := parseInteger(document, "spiffe_sequence", math.MaxUint64)
	if err != nil {
		return nil, bundleErrorf(td, "%w", err)
	}
	hint, err := parseInteger(document, "spiffe_refresh_hint", uint64(math.MaxInt64/time.Second))
	if err != nil {
		return nil, bundleErrorf(td, "%w", err)
	}
	roots, err := parseKeys(document["keys"])
	if err != nil {
		return nil, bundleErrorf(td, "%w", err)
	}
	b, err := parseTokenKeys(NewBundle(td, sequence, time.Duration(hint)*time.Second, roots...), document["keys"])
	if err != nil {
		return nil, err
	}
	return b, nil
}

// ParseBundleMap reads a SPIFFE bundle map: bundle documents by the name of
// their trust domain, at most 16 MiB and 1024 of them. Refresh hints inside
// are ignored, as they do not count for the map. Bundles stay apart: each
// holds the roots given under its own name and no other.
func ParseBundleMap(data []byte) (BundleMap, error) {
	if len(data) > maxMapBytes {
		return nil, fmt.Errorf("bundle map has %d bytes, at most %d are allowed", len(data), maxMapBytes)
	}
	document, err := parseObject(data)
	if err != nil {
		return nil, fmt.Errorf("bundle map: %w", err)
	}
	if _, ok := document["trust_domains"]; !ok {
		return nil, errors.New("bundle map: trust_domains is missing")
	}
	entries, err := parseObject(document["trust_domains"])
	if err != nil {
		return nil, fmt.Errorf("bundle map: trust_domains: %w", err)
	}
	if len(entries) > maxMapDomains {
		return nil, fmt.Errorf("bundle map has %d trust domains, at most %d are allowed", len(entries), maxMapDomains)
	}
	bundles := make(BundleMap, len(entries))
	for name, raw := range entries {
		td, err := ParseTrustDomain(name)
		if err != nil {
			return nil, fmt.Errorf("bundle map: %w", err)
		}
		b, err := ParseBundle(td, raw)
		if err != nil {
			return nil, fmt.Errorf("bundle map: %w", err)
		}
		b.hint = 0 // Trust Domain and Bundle 5.1.1
		bundles[td] = b
	}
	return bundles, nil
}

// jwk is a key as the standard writes it: a root with one certificate and no
// kid, a key for tokens with a kid and no certificate.
type jwk struct {
	Use       string   `json:"use"`
	KeyType   string   `json:"kty"`
	KeyID     string   `json:"kid,omitempty"`
	Algorithm string   `json:"alg,omitempty"`
	Curve     string   `json:"crv,omitempty"`
	X         string   `json:"x,omitempty"`
	Y         string   `json:"y,omitempty"`
	N         string   `json:"n,omitempty"`
	E         string   `json:"e,omitempty"`
	Chain     []string `json:"x5c,omitempty"`
}

// Marshal writes the bundle as a SPIFFE bundle document. Sequence number and
// refresh hint are left out when the bundle has none.
func (b *Bundle) Marshal() ([]byte, error) {
	document := struct {
		Keys        []jwk  `json:"keys"`
		Sequence    uint64 `json:"spiffe_sequence,omitempty"`
		RefreshHint int64  `json:"spiffe_refresh_hint,omitempty"`
	}{Keys: make([]jwk, 0, len(b.roots)+len(b.jwtKeys)+len(b.witKeys)), Sequence: b.sequence, RefreshHint: int64(b.hint / time.Second)}
	for _, root := range b.roots {
		key, err := newJWK(root)
		if err != nil {
			return nil, bundleErrorf(b.td, "root %s: %w", root.Subject, err)
		}
		document.Keys = append(document.Keys, key)
	}
	for _, kind := range []struct {
		use  string
		keys []JWTKey
	}{{useJWTSVID, b.jwtKeys}, {useWITSVID, b.witKeys}} {
		for _, tokenKey := range kind.keys {
			key, err := tokenKey.jwk(kind.use)
			if err != nil {
				return nil, bundleErrorf(b.td, "key %q: %w", clip(tokenKey.ID), err)
			}
			document.Keys = append(document.Keys, key)
		}
	}
	return json.Marshal(document)
}

func newJWK(root *x509.Certificate) (jwk, error) {
	key := jwk{Use: useX509SVID, Chain: []string{base64.StdEncoding.EncodeToString(root.Raw)}}
	err := key.setPublic(root.PublicKey)
	return key, err
}

func (k *jwk) setPublic(key crypto.PublicKey) error {
	encode := base64.RawURLEncoding.EncodeToString
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // 0x04, then x and y of equal length
		if err != nil {
			return fmt.Errorf("marshal public key: %w", err)
		}
		half := 1 + len(point)/2
		k.KeyType, k.Curve = "EC", key.Params().Name
		k.X, k.Y = encode(point[1:half]), encode(point[half:])
	case *rsa.PublicKey:
		k.KeyType = "RSA"
		k.N, k.E = encode(key.N.Bytes()), encode(big.NewInt(int64(key.E)).Bytes())
	case ed25519.PublicKey:
		k.KeyType, k.Curve, k.X = "OKP", "Ed25519", encode(key)
	default:
		return fmt.Errorf("key of type %T is not supported", key)
	}
	return nil
}

func parseKeys(raw json.RawMessage) ([]*x509.Certificate, error) {
	if !bytes.HasPrefix(raw, []byte("[")) {
		return nil, errors.New("keys is missing or not a list")
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if len(entries) > maxBundleKeys {
		return nil, fmt.Errorf("has %d keys, at most %d are allowed", len(entries), maxBundleKeys)
	}
	var roots []*x509.Certificate
	for i, entry := range entries {
		root, err := parseKeyEntry(entry)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		if root != nil {
			roots = append(roots, root)
		}
	}
	return roots, nil
}

// parseKeyEntry returns nil for a key that is to be ignored.
func parseKeyEntry(raw json.RawMessage) (*x509.Certificate, error) {
	key, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	if use, ok := stringOf(key["use"]); !ok || use != useX509SVID {
		return nil, nil // Trust Domain and Bundle 4.2.2
	}
	switch kty, _ := stringOf(key["kty"]); kty {
	case "EC", "RSA", "OKP":
	default:
		return nil, nil // Trust Domain and Bundle 4.2.1
	}
	rawChain, ok := key["x5c"]
	if !ok {
		return nil, nil // X509-SVID 6.2
	}
	var chain []string
	if err := json.Unmarshal(rawChain, &chain); err != nil {
		return nil, errors.New("x5c is not a list of strings")
	}
	if len(chain) == 0 {
		return nil, nil // X509-SVID 6.2
	}
	der, err := base64.StdEncoding.Strict().DecodeString(chain[0]) // X509-SVID 6.2: the first one only
	if err != nil {
		return nil, fmt.Errorf("x5c: %w", err)
	}
	return x509.ParseCertificate(der)
}

// parseInteger reads a whole number without going through a float.
func parseInteger(object map[string]json.RawMessage, name string, most uint64) (uint64, error) {
	raw, ok := object[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(raw), 10, 64)
	if err != nil || n > most {
		return 0, fmt.Errorf("%s is not a whole number from 0 to %d", name, most)
	}
	return n, nil
}

func checkBundleSize(n int) error {
	if n > maxBundleBytes {
		return fmt.Errorf("bundle has %d bytes, at most %d are allowed", n, maxBundleBytes)
	}
	return nil
}

func bundleErrorf(td TrustDomain, format string, args ...any) error {
	return fmt.Errorf("bundle of %s: %w", td, fmt.Errorf(format, args...))
}
