package wimse

import (
	"bufio"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// edHolder is a key of the published examples, which are Ed25519; WIT-SVIDs have
// none of those, so none passes spiffe.ParseWIT.
type edHolder ed25519.PublicKey

func (h edHolder) ProofAlgorithm() string { return "EdDSA" }

func (h edHolder) VerifyProof(content, signature []byte) error {
	if !ed25519.Verify(ed25519.PublicKey(h), content, signature) {
		return errors.New("not of this key")
	}
	return nil
}

// vector is a published example of this name.
func vector(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// requestOf reads a published request.
func requestOf(t *testing.T, name string) (*http.Request, Message) {
	t.Helper()
	text := strings.ReplaceAll(vector(t, name), "\n", "\r\n") + "\r\n\r\n"
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	return r, Message{Method: r.Method, Target: r.RequestURI, Host: r.Host, Fields: r.Header}
}

// confirmed is the key in cnf of a published token.
func confirmed(t *testing.T, token string) edHolder {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Cnf struct {
			JWK struct{ X string }
		}
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	x, err := base64.RawURLEncoding.DecodeString(claims.Cnf.JWK.X)
	if err != nil || len(x) != ed25519.PublicKeySize {
		t.Fatalf("key %q: %v", claims.Cnf.JWK.X, err)
	}
	return edHolder(x)
}

// privateOf is a published key.
func privateOf(t *testing.T, name string) ed25519.PrivateKey {
	t.Helper()
	var jwk struct{ D string }
	if err := json.Unmarshal([]byte(vector(t, name)), &jwk); err != nil {
		t.Fatal(err)
	}
	seed, err := base64.RawURLEncoding.DecodeString(jwk.D)
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// Rule 61: the example of draft-ietf-wimse-wpt, its token bound to the WIT and to
// what is in Authorization.
func TestRule61PublishedProofToken(t *testing.T) {
	r, m := requestOf(t, "wpt-request.txt")
	token := r.Header.Get(TokenField)
	if token != vector(t, "wit.txt") || TokenField+": "+token != vector(t, "wit-header.txt") || r.Header.Get(ProofField) != vector(t, "wpt.txt") {
		t.Fatal("the examples differ from each other")
	}
	p, err := spiffe.ParseProofToken(vector(t, "wpt.txt"))
	if err != nil {
		t.Fatal(err)
	}
	check := Check{Audience: "https://workload.example.com", Accept: []Kind{Token}, Seen: &Replays{}, Now: p.Expiry.Add(-time.Minute)}
	if err := Verify(m, token, "workload", confirmed(t, token), check); err != nil {
		t.Fatalf("the published example: %v", err)
	}
	if err := Verify(m, token, "workload", confirmed(t, token), check); !errors.Is(err, ErrReplayed) {
		t.Errorf("the second time: %v", err)
	}
	check.Now = p.Expiry.Add(Skew)
	if err := Verify(m, token, "workload", confirmed(t, token), check); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("after it has ended: %v", err)
	}
}

// The example of draft-ietf-wimse-http-signature asks for a signed response, which
// is refused; its signature itself is checked, and so is the one of its response.
func TestRule61PublishedSignatures(t *testing.T) {
	r, m := requestOf(t, "sigs-request.txt")
	token := r.Header.Get(TokenField)
	holder := confirmed(t, token)
	if string(holder) != string(privateOf(t, "sigs-svca-jwk.txt").Public().(ed25519.PublicKey)) {
		t.Fatal("the request is not of the caller's key")
	}
	check := Check{Audience: "https://svcb.example.com/gimme-ice-cream", Accept: []Kind{Signature}, Seen: &Replays{}, Now: time.Unix(1785155800, 0)}
	if err := Verify(m, token, "svca", holder, check); !errors.Is(err, ErrSignResponse) {
		t.Errorf("a signed response is asked for: %v", err)
	}
	check.Audience = "https://svcb.example.com"
	if err := Verify(m, token, "svca", holder, check); !errors.Is(err, ErrSignResponse) {
		t.Errorf("with the name and the path: %v", err)
	}
	check.Audience = "https://svcc.example.com"
	if err := Verify(m, token, "svca", holder, check); err == nil || errors.Is(err, ErrSignResponse) || !strings.Contains(err.Error(), "is for") {
		t.Errorf("of another receiver: %v", err)
	}
	in, signature, err := signatureOf(r.Header)
	if err != nil {
		t.Fatal(err)
	}
	base, err := signatureBase(in, m)
	if err != nil || holder.VerifyProof(base, signature) != nil {
		t.Errorf("the signature of %q: %v", base, err)
	}
}

// The response's base is written out here: responses are not read elsewhere.
func TestPublishedResponse(t *testing.T) {
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(strings.ReplaceAll(vector(t, "sigs-response.txt"), "\n", "\r\n")+"\n")), nil)
	if err != nil {
		t.Fatal(err)
	}
	in, signature, err := signatureOf(res.Header)
	if err != nil {
		t.Fatal(err)
	}
	token := res.Header.Get(TokenField)
	base := "\"@status\": 404\n\"workload-identity-token\": " + token + "\n\"content-type\": text/plain\n\"content-digest\": " + res.Header.Get("Content-Digest") +
		"\n\"@method\";req: GET\n\"@request-target\";req: /gimme-ice-cream?flavor=vanilla\n\"@signature-params\": " + in.raw
	if err := confirmed(t, token).VerifyProof([]byte(base), signature); err != nil {
		t.Errorf("the published response: %v", err)
	}
	body := []byte("No ice cream today.\n\n")
	if err := checkBody(Message{Fields: res.Header, Body: func() ([]byte, error) { return body, nil }}); err != nil {
		t.Errorf("its digest: %v", err)
	}
}
