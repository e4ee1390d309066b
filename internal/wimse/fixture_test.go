package wimse

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// epoch is the now of these tests, and own the audience of their receiver.
var epoch = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

const own = "https://orders.acme.example"

// edOwner is an Owner of the token "T".
type edOwner struct {
	edHolder
	key ed25519.PrivateKey
}

func newOwner(seed byte) edOwner {
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(seed), ed25519.SeedSize)))
	return edOwner{edHolder(key.Public().(ed25519.PublicKey)), key}
}

func (o edOwner) Token() string                        { return "T.T.T" }
func (o edOwner) Prove(content []byte) ([]byte, error) { return ed25519.Sign(o.key, content), nil }

// scene is one request on its way, and how it is checked.
type scene struct {
	t      testing.TB
	m      Message
	header http.Header
	body   []byte
	owner  edOwner
	kind   Kind
	check  Check
}

func newScene(t testing.TB, kind Kind) *scene {
	s := &scene{
		t: t, kind: kind, header: http.Header{"Content-Type": {"application/json"}, "Accept": {"*/*"}}, body: []byte(`{"n":1}`), owner: newOwner('a'),
		check: Check{Audience: own, Accept: []Kind{Signature, Token}, Seen: &Replays{}, Now: epoch},
	}
	s.m = Message{Method: "POST", Target: "/v1/orders?dry=1", Host: "lb.example", Fields: s.header, Body: func() ([]byte, error) { return s.body, nil }}
	return s
}

// prove sets what proves the request.
func (s *scene) prove() *scene {
	s.t.Helper()
	fields, err := Prove(s.m, s.kind, own, s.owner, epoch, s.body)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range fields {
		s.header.Set(name, value)
	}
	return s
}

func (s *scene) verify() error {
	return Verify(s.m, "T.T.T", "spiffe://acme.example/web", s.owner, s.check)
}

// input replaces a piece of Signature-Input and signs again: what it says then is
// what the owner of the key says.
func (s *scene) input(before, after string) {
	s.t.Helper()
	text := s.header.Get(InputField)
	if !strings.Contains(text, before) {
		s.t.Fatalf("%q is not in %s", before, text)
	}
	s.header.Set(InputField, strings.Replace(text, before, after, 1))
	s.sign()
}

// sign signs what Signature-Input says, as far as it can be read.
func (s *scene) sign() {
	s.t.Helper()
	inputs, err := parseInputs(s.header.Get(InputField))
	if err != nil {
		return
	}
	var out []string
	for _, in := range inputs {
		base, err := signatureBase(in, s.m)
		if err != nil {
			base = nil
		}
		out = append(out, in.label+"=:"+base64.StdEncoding.EncodeToString(ed25519.Sign(s.owner.key, base))+":")
	}
	s.header.Set(SignatureField, strings.Join(out, ", "))
}

// claims are those of a lawful proof token; token is one of these two texts, signed.
func (s *scene) claims(members ...string) string {
	sum := sha256.Sum256([]byte("T.T.T"))
	all := []string{
		fmt.Sprintf(`"aud":%q`, own+"/v1/orders"), fmt.Sprintf(`"exp":%d`, epoch.Add(Lifetime).Unix()), `"jti":"0123456789"`,
		fmt.Sprintf(`"wth":%q`, base64.RawURLEncoding.EncodeToString(sum[:])),
	}
	for _, m := range members {
		name, value, _ := strings.Cut(m, ":")
		kept := all[:0]
		for _, have := range all {
			if !strings.HasPrefix(have, name+":") {
				kept = append(kept, have)
			}
		}
		if all = kept; value != "" {
			all = append(all, m)
		}
	}
	return "{" + strings.Join(all, ",") + "}"
}

func (s *scene) token(header, claims string) {
	encode := base64.RawURLEncoding.EncodeToString
	content := encode([]byte(header)) + "." + encode([]byte(claims))
	s.header.Set(TokenField, "T.T.T")
	s.header.Set(ProofField, content+"."+encode(ed25519.Sign(s.owner.key, []byte(content))))
}

const wptHeader = `{"alg":"EdDSA","typ":"wpt+jwt"}`
