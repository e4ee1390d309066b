package proof

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// TokenSize is the length of a join token: 256 random bits.
const TokenSize = 32

// Token is a join token. It never shows itself in a log or an error.
type Token [TokenSize]byte

// ParseToken reads the text form: base64url without padding. Both lengths are
// looked at: the standard library's strict mode skips line ends.
func ParseToken(text string) (Token, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != TokenSize || len(text) != base64.RawURLEncoding.EncodedLen(TokenSize) {
		return Token{}, fault.Hint(fault.Invalidf("malformed join token"),
			"copy the whole join line printed by: kith nodes add NAME --class CLASS")
	}
	return Token(raw), nil
}

// Encode is the text form that ParseToken reads.
func (t Token) Encode() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// Hash is what the server keeps of the token.
func (t Token) Hash() [32]byte { return sha256.Sum256(t[:]) }

// String hides the token.
func (Token) String() string { return "join token (hidden)" }

// GoString hides the token.
func (Token) GoString() string { return "join token (hidden)" }

// Format hides the token from every verb.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// LogValue hides the token.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// TokenProver presents a join token. It goes out only over an exchange bound to
// a server that TLS authenticated.
type TokenProver struct{ Token Token }

// Prove implements attest.Prover.
func (p TokenProver) Prove(ctx context.Context, ex attest.Exchange) error {
	if _, err := attest.BindingsOf(ex); err != nil {
		return err
	}
	return ex.Send(ctx, p.Token[:])
}

// Tokens consumes join tokens.
type Tokens interface {
	// Consume removes the token with this hash and returns what it stood for.
	// Of any number of callers exactly one gets it. A token that never was, is
	// used up or has been removed is a NotFound or Denied error.
	Consume(ctx context.Context, hash [32]byte) (registry.JoinToken, error)
}

// TokenVerifier admits whoever brings an unused join token, under the name and
// class it was made for, and binds the node to the key that asked.
type TokenVerifier struct {
	Tokens Tokens
	Now    func() time.Time
}

// Verify implements attest.Verifier. The key is looked at before the token is
// spent: a request that can never be admitted costs nobody a token.
func (v TokenVerifier) Verify(ctx context.Context, ex attest.Exchange) (registry.Evidence, error) {
	_, keyHash, err := boundTo(ex)
	if err != nil {
		return registry.Evidence{}, err
	}
	message, err := ex.Recv(ctx)
	if err != nil {
		return registry.Evidence{}, fmt.Errorf("receive join token: %w", err)
	}
	if len(message) != TokenSize {
		return registry.Evidence{}, fault.Deniedf("join token of %d bytes", len(message))
	}
	token, err := v.Tokens.Consume(ctx, Token(message).Hash())
	if fault.Is(err, fault.NotFound) {
		return registry.Evidence{}, fault.Deniedf("join token is unknown or already used: %w", err)
	}
	if err != nil {
		return registry.Evidence{}, fmt.Errorf("consume join token: %w", err)
	}
	if !v.Now().Before(token.Expires) {
		return registry.Evidence{}, fault.Deniedf("join token of node %s expired at %s", token.Node, token.Expires.UTC().Format(time.RFC3339))
	}
	return registry.Evidence{
		Attestor: attest.JoinToken,
		Name:     token.Node,
		Class:    token.Class,
		KeyHash:  keyHash,
	}, nil
}
