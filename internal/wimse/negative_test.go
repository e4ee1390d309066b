package wimse

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// attack is what somebody does to a good request, and a word of the refusal.
type attack struct {
	name string
	do   func(s *scene)
	why  string
}

func TestGoodRequests(t *testing.T) {
	for _, kind := range []Kind{Signature, Token} {
		s := newScene(t, kind).prove()
		if err := s.verify(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		s = newScene(t, kind)
		s.header.Set("Authorization", "Bearer user")
		s.header.Set("Txn-Token", "txn")
		if err := s.prove().verify(); err != nil {
			t.Errorf("%s with tokens of others: %v", kind, err)
		}
		s = newScene(t, kind)
		s.m.Method, s.m.Target, s.body = "GET", "/", nil
		s.header.Del("Content-Type")
		if err := s.prove().verify(); err != nil {
			t.Errorf("%s of nothing: %v", kind, err)
		}
	}
}

// both are attacks on either kind of proof. Rule 59 and 60: the token alone is
// nobody. Attack 18: of two fields none counts; attack 53: no replay.
func both() []attack {
	twice := func(name string) func(*scene) {
		return func(s *scene) { s.header[name] = append(s.header[name], s.header[name]...) }
	}
	return []attack{
		{"bearer: no proof", func(s *scene) { s.header.Del(ProofField); s.header.Del(InputField); s.header.Del(SignatureField) }, "no bearer"},
		{"no token", func(s *scene) { s.header.Del(TokenField) }, "no WIT-SVID"},
		{"two tokens", twice(TokenField), "which of them counts"},
		{"another's token", func(s *scene) { s.header.Set(TokenField, "U.U.U") }, "not the one"},
		{"another's key", func(s *scene) { s.owner.edHolder = newOwner('b').edHolder }, "not of this key"},
		{"other receiver", func(s *scene) { s.check.Audience = "https://billing.acme.example" }, "is for"},
		{"receiver of a longer name", func(s *scene) { s.check.Audience = own + ".evil" }, "is for"},
		{"receiver of a shorter name", func(s *scene) { s.check.Audience = strings.TrimSuffix(own, "e") }, "is for"},
		{"ended", func(s *scene) { s.check.Now = epoch.Add(Lifetime + Skew) }, "ended"},
		{"to come", func(s *scene) { s.check.Now = epoch.Add(-Skew - time.Second) }, "does not begin"},
		{"kind not accepted", func(s *scene) { s.check.Accept = []Kind{"other"} }, "not accepted"},
		{"nothing accepted", func(s *scene) { s.check.Accept = nil }, "without"},
		{"no audience configured", func(s *scene) { s.check.Audience = "" }, "without"},
		{"absolute target", func(s *scene) { s.m.Target = "http://orders/v1/orders" }, "no path"},
		{"fragment", func(s *scene) { s.m.Target += "#x" }, "no path"},
		{"line end in the target", func(s *scene) { s.m.Target = "/v1\n\"@path\": /x" }, "no printable"},
		{"authorization added", func(s *scene) { s.header.Set("Authorization", "Bearer thief") }, ""},
		{"two authorizations", func(s *scene) { s.header["Authorization"] = []string{"Bearer a", "Bearer b"} }, "which of them counts"},
		{"transaction token added", func(s *scene) { s.header.Set("Txn-Token", "x") }, ""},
		{"no memory", func(s *scene) { s.check.Seen = nil }, "without"},
		{"full memory", func(s *scene) { s.check.Seen = &Replays{limit: 1, count: 1} }, "remembered"},
		{"proofs of two kinds", func(s *scene) {
			s.header.Set(ProofField, "x")
			s.header.Set(InputField, "x")
			s.header.Set(SignatureField, "x")
		}, "two kinds"},
	}
}

// signed are attacks on signatures: what is changed on the way, and what somebody
// with a good key could say to be understood in two ways.
func signed() []attack {
	edit := func(name, before, after, why string) attack {
		return attack{name, func(s *scene) { s.input(before, after) }, why}
	}
	return []attack{
		{"method changed", func(s *scene) { s.m.Method = "DELETE" }, "not of this key"},
		{"method in lower case", func(s *scene) { s.m.Method = "post" }, "not of this key"},
		{"path changed", func(s *scene) { s.m.Target = "/v1/admin?dry=1" }, "not of this key"},
		{"query changed", func(s *scene) { s.m.Target = "/v1/orders?dry=0" }, "not of this key"},
		{"query dropped", func(s *scene) { s.m.Target = "/v1/orders" }, "not of this key"},
		{"body changed", func(s *scene) { s.body = []byte(`{"n":2}`) }, "not the one that was signed"},
		{"body dropped", func(s *scene) { s.body = nil }, "not the one that was signed"},
		{"body not readable", func(s *scene) { s.m.Body = func() ([]byte, error) { return nil, errors.New("too long") } }, "too long"},
		{"digest changed", func(s *scene) { s.header.Set("Content-Digest", "sha-256=:AAAA:") }, "not of this key"},
		{"digest dropped", func(s *scene) { s.header.Del("Content-Digest") }, "does not have"},
		{"type changed", func(s *scene) { s.header.Set("Content-Type", "text/plain") }, "not of this key"},
		{"two types", func(s *scene) { s.header.Add("Content-Type", "text/plain") }, "which of them counts"},
		{"two inputs", func(s *scene) { s.header.Add(InputField, s.header.Get(InputField)) }, "which of them counts"},
		{"two signatures", func(s *scene) { s.header.Add(SignatureField, "x=:AAAA:") }, "which of them counts"},
		{"signature dropped", func(s *scene) { s.header.Del(SignatureField) }, "is missing"},
		{"signature under another label", func(s *scene) {
			s.header.Set(SignatureField, strings.Replace(s.header.Get(SignatureField), "wimse=", "other=", 1))
		}, "has no wimse"},
		{"signature twice in one", func(s *scene) {
			s.header.Set(SignatureField, s.header.Get(SignatureField)+", "+s.header.Get(SignatureField))
		}, "twice"},
		{"padded signature", func(s *scene) { s.header.Set(SignatureField, "wimse=:AAA:") }, "is not a structured field"},
		edit("method not covered", `"@method" `, ``, "does not cover method"),
		edit("path not covered", `"@path" `, ``, "does not cover method"),
		edit("query not covered", ` "@query"`, ``, "does not cover method"),
		edit("token not covered", ` "workload-identity-token"`, ``, "does not cover Workload-Identity-Token"),
		edit("type not covered", ` "content-type"`, ``, "does not cover Content-Type"),
		edit("digest not covered", ` "content-digest"`, ``, "does not cover Content-Digest"),
		edit("a component twice", `"@method"`, `"@method" "@method"`, "twice"),
		edit("a component of the answer", `"@method"`, `"@method" "@status"`, "not one of a request"),
		edit("a component with a parameter", `"@method"`, `"@method";req`, "has parameters"),
		edit("a field that is not there", `"@method"`, `"@method" "x-none"`, "does not have"),
		edit("a field in upper case", `"content-type"`, `"content-type" "Accept"`, "not one of a request"),
		edit("a signature over signatures", `"@method"`, `"@method" "signature-input"`, "covers signatures"),
		edit("keyid", `;tag=`, `;keyid="k";tag=`, "parameter keyid"),
		edit("alg", `;tag=`, `;alg="none";tag=`, "parameter alg"),
		edit("no tag", `;tag="wimse-workload-to-workload"`, ``, "have the tag"),
		edit("another tag", `;tag="wimse-`, `;tag="x-wimse-`, "have the tag"),
		edit("tag twice", `;tag=`, `;tag="x";tag=`, "twice"),
		edit("no created", fmt.Sprintf(`;created=%d`, epoch.Unix()), ``, "lacks one of"),
		edit("no expires", fmt.Sprintf(`;expires=%d`, epoch.Add(Lifetime).Unix()), ``, "lacks one of"),
		edit("no audience", `;wimse-aud="`+own+`"`, ``, "lacks one of"),
		edit("audience of several", `;wimse-aud="`, `;wimse-aud="https://other `, "is for"),
		edit("audience a token", `;wimse-aud="`+own+`"`, `;wimse-aud=x`, "is not a structured field"),
		edit("a long life", fmt.Sprintf(`;expires=%d`, epoch.Add(Lifetime).Unix()), fmt.Sprintf(`;expires=%d`, epoch.Add(time.Hour).Unix()), "longer than"),
		edit("ends before it begins", fmt.Sprintf(`;expires=%d`, epoch.Add(Lifetime).Unix()), fmt.Sprintf(`;expires=%d`, epoch.Unix()-1), "before it begins"),
		edit("a negative time", `;created=`, `;created=-`, "is not a structured field"),
		edit("a time of 16 digits", `;created=`, `;created=000000`, "is not a structured field"),
		edit("response to be signed", `;tag=`, `;wimse-sign-response;tag=`, "signed response"),
		edit("two signatures of the profile", `wimse=(`, `a=("@method");tag="wimse-workload-to-workload", wimse=(`, "have the tag"),
		edit("a label twice", `wimse=(`, `wimse=("@method"), wimse=(`, "twice"),
		edit("a space too many", `"@method" "`, `"@method"  "`, "is not a structured field"),
		edit("a space before a parameter", `;created`, `; created`, "is not a structured field"),
		edit("a short nonce", `;nonce="`, `;nonce="a";x="`, "nonce has not"),
	}
}

// tokens are attacks on proof tokens.
func tokens() []attack {
	claim := func(name, why string, members ...string) attack {
		return attack{name, func(s *scene) { s.token(wptHeader, s.claims(members...)) }, why}
	}
	head := func(name, header, why string) attack {
		return attack{name, func(s *scene) { s.token(header, s.claims()) }, why}
	}
	other := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	return []attack{
		{"path changed", func(s *scene) { s.m.Target = "/v1/admin" }, "is for"},
		{"two proofs", func(s *scene) { s.header.Add(ProofField, s.header.Get(ProofField)) }, "which of them counts"},
		{"no signature", func(s *scene) {
			s.header.Set(ProofField, strings.TrimRight(s.header.Get(ProofField), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"))
		}, "is empty"},
		head("alg none", `{"alg":"none","typ":"wpt+jwt"}`, "signed by"),
		head("alg of another family", `{"alg":"HS256","typ":"wpt+jwt"}`, "signed by"),
		head("alg of another key", `{"alg":"ES256","typ":"wpt+jwt"}`, "signed by"),
		head("typ of a JWT", `{"alg":"EdDSA","typ":"JWT"}`, "typ"),
		head("typ of a WIT", `{"alg":"EdDSA","typ":"wit+jwt"}`, "typ"),
		head("no typ", `{"alg":"EdDSA"}`, "typ"),
		head("crit", `{"alg":"EdDSA","typ":"wpt+jwt","crit":["x"]}`, "not accepted"),
		head("b64", `{"alg":"EdDSA","typ":"wpt+jwt","b64":false}`, "not accepted"),
		head("alg twice", `{"alg":"none","alg":"EdDSA","typ":"wpt+jwt"}`, "twice"),
		claim("audience a list", "aud is not one", `"aud":["`+own+`"]`),
		claim("no audience", "aud is not one", `"aud":`),
		claim("another audience", "is for", `"aud":"https://billing.acme.example"`),
		claim("audience with a query", "is for", `"aud":"`+own+`/v1/orders?dry=1"`),
		claim("audience of a longer path", "is for", `"aud":"`+own+`/v1/orders/x"`),
		claim("no end", "exp is missing", `"exp":`),
		claim("ended", "ended", fmt.Sprintf(`"exp":%d`, epoch.Add(-Skew).Unix())),
		claim("a long life", "longer than", fmt.Sprintf(`"exp":%d`, epoch.Add(time.Hour).Unix())),
		claim("to come", "does not begin", fmt.Sprintf(`"nbf":%d`, epoch.Add(Skew+time.Second).Unix())),
		claim("no jti", "jti", `"jti":`),
		claim("a short jti", "jti", `"jti":"x"`),
		claim("no wth", "wth", `"wth":`),
		claim("of another WIT", "wth", `"wth":"`+other+`"`),
		claim("wth of another length", "wth", `"wth":"AAAA"`),
		claim("binds a token that is not there", "ath", `"ath":"`+other+`"`),
		claim("binds a transaction that is not there", "tth", `"tth":"`+other+`"`),
		claim("binds a field that is not there", "oth", `"oth":{"x-user":"`+other+`"}`),
		claim("binds another field", "oth", `"oth":{"accept":"`+other+`"}`),
		claim("binds a field in upper case", "lower case", `"oth":{"Accept":"`+other+`"}`),
		claim("binds what is no object", "oth", `"oth":["accept"]`),
	}
}

func TestAttacksOnProofs(t *testing.T) {
	for kind, own := range map[Kind][]attack{Signature: signed(), Token: tokens()} {
		for _, a := range append(both(), own...) {
			t.Run(string(kind)+"/"+a.name, func(t *testing.T) {
				s := newScene(t, kind).prove()
				a.do(s)
				if err := s.verify(); err == nil || !strings.Contains(err.Error(), a.why) {
					t.Errorf("got %v, want an error with %q", err, a.why)
				}
			})
		}
	}
}

// A key that the proof brings along is never looked at: the WIT-SVID's counts.
func TestKeyInTheHeaderIsIgnored(t *testing.T) {
	s := newScene(t, Token)
	s.token(`{"alg":"EdDSA","typ":"wpt+jwt","kid":"k","jwk":{"kty":"OKP"}}`, s.claims())
	if err := s.verify(); err != nil {
		t.Errorf("by the right key: %v", err)
	}
	thief := newScene(t, Token)
	thief.owner.key = newOwner('b').key
	thief.token(`{"alg":"EdDSA","typ":"wpt+jwt","jwk":{"kty":"OKP"}}`, thief.claims())
	if err := thief.verify(); err == nil {
		t.Error("by a key in its header: accepted")
	}
}

// A signature beside the profile's does not count, and does no harm.
func TestOtherSignaturesAreIgnored(t *testing.T) {
	s := newScene(t, Signature).prove()
	s.input("wimse=(", `other=("@method");tag="x";keyid="k", wimse=(`)
	if err := s.verify(); err != nil {
		t.Error(err)
	}
}

// Rule 62 and attack 53: a proof counts once, for as long as it could, and so does
// it with another request of the same nonce.
func TestRule62ProofsCountOnce(t *testing.T) {
	for _, kind := range []Kind{Signature, Token} {
		s := newScene(t, kind).prove()
		if err := s.verify(); err != nil {
			t.Fatal(err)
		}
		for _, later := range []time.Duration{0, time.Second, Lifetime, Lifetime + Skew - time.Second} {
			s.check.Now = epoch.Add(later)
			if err := s.verify(); !errors.Is(err, ErrReplayed) {
				t.Errorf("%s shown again after %s: %v", kind, later, err)
			}
		}
		s.check.Now = epoch.Add(Lifetime + Skew)
		if err := s.verify(); err == nil {
			t.Errorf("%s shown again after its end", kind)
		}
	}
}

// A request that fails spends nothing: whoever tampers cannot use up a proof.
func TestFailedRequestsSpendNothing(t *testing.T) {
	s := newScene(t, Signature).prove()
	good := s.body
	s.body = []byte("tampered")
	if err := s.verify(); err == nil {
		t.Fatal("accepted")
	}
	s.body = good
	if err := s.verify(); err != nil {
		t.Errorf("the good one afterwards: %v", err)
	}
}

func TestReplaysAreBounded(t *testing.T) {
	r := &Replays{limit: 10}
	for i := range 10 {
		if err := r.spend(fmt.Sprint("w", i), fmt.Sprint(i), epoch.Add(time.Minute), epoch); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.spend("w10", "10", epoch.Add(time.Minute), epoch); !errors.Is(err, ErrCrowded) {
		t.Errorf("one too many: %v", err)
	}
	if err := r.spend("w3", "3", epoch.Add(time.Minute), epoch); !errors.Is(err, ErrReplayed) {
		t.Errorf("one that is known: %v", err)
	}
	late := epoch.Add(time.Minute + 2*seenStep*time.Second)
	if err := r.spend("w10", "10", late.Add(time.Minute), late); err != nil || r.count != 1 || len(r.of) != 1 {
		t.Errorf("after they have ended: %v, %d are left", err, r.count)
	}
}

// T5, attack 55: a caller with good proofs that live as long as they may does not
// fill the memory for others.
func TestReplaysOfOneCallerLeaveRoom(t *testing.T) {
	r, taken := &Replays{limit: 64}, 0
	end := epoch.Add(MaxLifetime)
	for i := range 1000 {
		switch err := r.spend("flood", fmt.Sprint(i), end, epoch); {
		case err == nil:
			taken++
		case !errors.Is(err, ErrCrowded):
			t.Fatal(err)
		}
	}
	if taken != 32 {
		t.Errorf("one caller has %d of 64 places, want half at most", taken)
	}
	for who := range 4 {
		for i := range 8 {
			if err := r.spend(fmt.Sprint("other", who), fmt.Sprint(i), end, epoch); err != nil {
				t.Errorf("proof %d of another caller: %v", i, err)
			}
		}
	}
	if err := r.spend("flood", "7", end, epoch); !errors.Is(err, ErrReplayed) {
		t.Errorf("one that is known: %v", err)
	}
	if err := r.spend("other0", "2000", end, epoch); !errors.Is(err, ErrCrowded) {
		t.Errorf("beyond the last place: %v", err)
	}
}

// The body is read only when the signature over its digest was found good.
func TestBodyIsReadLast(t *testing.T) {
	s := newScene(t, Signature).prove()
	s.owner.edHolder = newOwner('b').edHolder
	s.m.Body = func() ([]byte, error) { t.Error("the body was read"); return nil, nil }
	if err := s.verify(); err == nil {
		t.Error("accepted")
	}
}
