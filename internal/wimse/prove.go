package wimse

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Proof is the fields to set on a request, besides [TokenField].
type Proof map[string]string

// Prove makes the fields that show a request to be its owner's, for an audience:
// the name the receiver is configured with. For a signature, body is all of the
// body, and what is there of Content-Digest is replaced.
func Prove(m Message, kind Kind, audience string, owner Owner, now time.Time, body []byte) (Proof, error) {
	if err := originForm(m.Target); err != nil {
		return nil, err
	}
	if err := plain(audience); err != nil || audience == "" {
		return nil, errors.New("the audience is empty or malformed")
	}
	id := make([]byte, 16)
	rand.Read(id) //nolint:errcheck // it never fails
	nonce := base64.RawURLEncoding.EncodeToString(id)
	switch kind {
	case Token:
		return proveByToken(m, strings.TrimSuffix(audience, "/")+pathOf(m.Target), nonce, owner, now)
	case Signature:
		return proveBySignature(m, audience, nonce, owner, now, body)
	}
	return nil, fmt.Errorf("there is no proof of kind %q", kind)
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func proveByToken(m Message, audience, nonce string, owner Owner, now time.Time) (Proof, error) {
	claims := map[string]any{"aud": audience, "exp": now.Add(Lifetime).Unix(), "iat": now.Unix(), "jti": nonce, "wth": hashOf(owner.Token())}
	authorization, there, err := one(m.Fields, authField)
	if err != nil {
		return nil, err
	}
	if there {
		_, access, _ := strings.Cut(authorization, " ")
		claims["ath"] = hashOf(strings.TrimLeft(access, " "))
	}
	txn, there, err := one(m.Fields, txnField)
	if err != nil {
		return nil, err
	}
	if there {
		claims["tth"] = hashOf(txn)
	}
	header, err := json.Marshal(map[string]string{"alg": owner.ProofAlgorithm(), "typ": "wpt+jwt"})
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return nil, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	content := encode(header) + "." + encode(payload)
	signature, err := owner.Prove([]byte(content))
	if err != nil {
		return nil, err
	}
	return Proof{TokenField: owner.Token(), ProofField: content + "." + encode(signature)}, nil
}

func proveBySignature(m Message, audience, nonce string, owner Owner, now time.Time, body []byte) (Proof, error) {
	out := Proof{TokenField: owner.Token()}
	names := []string{"@method", "@path", "@query", strings.ToLower(TokenField)}
	if len(body) > 0 {
		sum := sha256.Sum256(body)
		out[digestField] = "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
		names = append(names, strings.ToLower(digestField))
	} else if len(m.Fields.Values(digestField)) > 0 {
		return nil, errors.New("the request has a Content-Digest and no body")
	}
	for _, name := range []string{typeField, authField, txnField} {
		if _, there, err := one(m.Fields, name); err != nil {
			return nil, err
		} else if there {
			names = append(names, strings.ToLower(name))
		}
	}
	in := input{}
	for i, name := range names {
		in.components = append(in.components, component{name: name})
		names[i] = quote(name)
	}
	in.raw = fmt.Sprintf("(%s);created=%d;expires=%d;nonce=%s;tag=%s;wimse-aud=%s",
		strings.Join(names, " "), now.Unix(), now.Add(Lifetime).Unix(), quote(nonce), quote(tag), quote(audience))
	with := m
	with.Fields = overlay{m.Fields, out}
	base, err := signatureBase(in, with)
	if err != nil {
		return nil, err
	}
	signature, err := owner.Prove(base)
	if err != nil {
		return nil, err
	}
	out[InputField] = "wimse=" + in.raw
	out[SignatureField] = "wimse=:" + base64.StdEncoding.EncodeToString(signature) + ":"
	return out, nil
}

// overlay is fields with those of a proof in place of their own.
type overlay struct {
	under Fields
	over  Proof
}

// Values implements Fields.
func (o overlay) Values(name string) []string {
	for field, value := range o.over {
		if strings.EqualFold(field, name) {
			return []string{value}
		}
	}
	return o.under.Values(name)
}
