// Package wimse says whose an HTTP request is that carries a WIT-SVID and a proof
// of its key: a Workload Proof Token or an HTTP message signature, as the WIMSE
// drafts profile RFC 9421. It leaves out where requests come from, which trust
// domains count, and what their callers may do.
package wimse

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The header fields that carry token and proof.
const (
	TokenField     = "Workload-Identity-Token"
	ProofField     = "Workload-Proof-Token"
	InputField     = "Signature-Input"
	SignatureField = "Signature"

	digestField = "Content-Digest"
	authField   = "Authorization"
	typeField   = "Content-Type"
	txnField    = "Txn-Token"
)

// tag marks the signature of the profile among others.
const tag = "wimse-workload-to-workload"

const (
	// Lifetime is how long a proof lives that is made here.
	Lifetime = 30 * time.Second
	// MaxLifetime is the longest life of a proof that is accepted.
	MaxLifetime = 5 * time.Minute
	// Skew is how far the clocks of both ends may differ.
	Skew = 30 * time.Second

	maxField = 16 << 10 // of any field that is looked at
)

// Fields gives the values of a header field, as an http.Header does.
type Fields interface{ Values(name string) []string }

// Holder is a WIT-SVID that was validated; *spiffe.WITSVID is one.
type Holder interface {
	// ProofAlgorithm is the only algorithm its key proves by.
	ProofAlgorithm() string
	// VerifyProof says nil if a signature is that of its key over content.
	VerifyProof(content, signature []byte) error
}

// Owner is a WIT-SVID whose key is here; *spiffe.WITSVID with one is.
type Owner interface {
	Token() string
	ProofAlgorithm() string
	Prove(content []byte) ([]byte, error)
}

// Message is a request as both ends see it.
type Message struct {
	Method string
	// Target is the request target as it was sent, in origin form: path and query.
	Target string
	// Host is the authority it was sent to.
	Host   string
	Fields Fields
	// Body gives all of the body, nil for none. It is called at most once, and only
	// when what was signed has been found good.
	Body func() ([]byte, error)
}

// Kind is how a caller proves its key.
type Kind string

// The kinds of proof.
const (
	Signature Kind = "signature" // binds method, target, body and the tokens of a request
	Token     Kind = "wpt"       // binds receiver, path and the tokens of a request
)

// ParseKind reads a kind.
func ParseKind(text string) (Kind, error) {
	switch kind := Kind(text); kind {
	case Signature, Token:
		return kind, nil
	}
	return "", fmt.Errorf("proof %q is neither %s nor %s", text, Signature, Token)
}

// ErrNoToken says that a request carries nothing of what this package reads: its
// caller is nobody.
var ErrNoToken = errors.New("the request carries no WIT-SVID")

// ErrSignResponse says that the caller wants its answer signed, which is not done
// here: the draft has such a request refused.
var ErrSignResponse = errors.New("the caller wants a signed response, which is not offered")

// one is the only value of a field that must not come twice, "" if it is absent.
func one(fields Fields, name string) (value string, there bool, err error) {
	values := fields.Values(name)
	if len(values) == 0 {
		return "", false, nil
	}
	if len(values) > 1 {
		return "", true, fmt.Errorf("there are %d fields %s: which of them counts cannot be told", len(values), name)
	}
	value = strings.Trim(values[0], " \t")
	if err := plain(value); err != nil {
		return "", true, fmt.Errorf("%s: %w", name, err)
	}
	return value, true, nil
}

// plain refuses what could pretend to be several lines of what is signed.
func plain(value string) error {
	if len(value) > maxField {
		return fmt.Errorf("has %d bytes, at most %d are read", len(value), maxField)
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c >= 0x7f {
			return errors.New("has a byte that is no printable ASCII")
		}
	}
	return nil
}

// pathOf is the path of a target in origin form, and queryOf its query with the
// question mark, which is there even if the query is not (RFC 9421 2.2.7).
func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}

func queryOf(target string) string {
	_, query, _ := strings.Cut(target, "?")
	return "?" + query
}

// originForm refuses targets that are no path: what they say twice could differ.
func originForm(target string) error {
	if !strings.HasPrefix(target, "/") || strings.Contains(target, "#") {
		return errors.New("the request target is no path")
	}
	return plain(target)
}
