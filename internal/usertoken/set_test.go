package usertoken_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/internal/usertoken/usertokentest"
	"github.com/kith-id/kith/spiffe"
)

const (
	login = "https://login.example"
	other = "https://other.example"
)

func now() time.Time { return time.Unix(1_900_000_000, 0) }

func provider(name, issuer string) usertoken.Provider {
	return usertoken.Provider{Name: name, Issuer: issuer, Audiences: []string{"orders"}, URL: issuer + "/jwks"}
}

func keysOf(t testing.TB, f *usertokentest.Forge) *spiffe.JWKSet {
	t.Helper()
	set, err := spiffe.ParseJWKSet([]byte(f.JWKS()))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func compile(t testing.TB, providers ...usertoken.Provider) *usertoken.Set {
	t.Helper()
	set, err := usertoken.Compile(providers, "orders")
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func header(lines ...string) usertoken.Carrier {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return usertoken.Carrier{Headers: h}
}

func refused(t *testing.T, name string, err error, why string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: got %v, want an error with %q", name, err, why)
	}
}

// keys are what was fetched, by URL.
type keys = map[string]*spiffe.JWKSet

// checker checks by these providers and what was fetched of them.
func checker(t testing.TB, known keys, providers ...usertoken.Provider) *usertoken.Checker {
	t.Helper()
	return usertoken.NewChecker(compile(t, providers...), known)
}

// shown is a request with a token where most have it.
func shown(token string) usertoken.Carrier { return header("Authorization: Bearer " + token) }

// Attack 44: a token of an issuer nobody named is no token, and neither is one
// whose issuer has no keys here.
func TestAttack44UnknownIssuer(t *testing.T) {
	theirs, ours := usertokentest.New(t, other), usertokentest.New(t, login)
	known := keys{login + "/jwks": keysOf(t, ours), other + "/jwks": keysOf(t, theirs)}
	check := checker(t, known, provider("login", login))
	_, err := check.Check(shown(theirs.Token(now(), nil)), nil, now())
	refused(t, "unknown issuer", err, "no provider's")
	good := shown(ours.Token(now(), nil))
	for name, without := range map[string]keys{"other keys": {other + "/jwks": known[login+"/jwks"]}, "no keys": nil} {
		_, err = checker(t, without, provider("login", login)).Check(good, nil, now())
		refused(t, name, err, "keys are not known here")
	}
	token, err := check.Check(good, nil, now())
	if err != nil || token.Provider != "login" || token.Claims["sub"] != "alice" {
		t.Errorf("with its keys: %v, %v", token, err)
	}
	var nobody *usertoken.Checker
	if token, err := nobody.Check(good, nil, now()); token != nil || err != nil || nobody.Providers().Len() != 0 {
		t.Errorf("without providers: %v, %v", token, err)
	}
}

// Attack 45: the keys of one provider make no token of another good, whatever
// the token says and however the kids collide.
func TestAttack45KeysOfAnotherProvider(t *testing.T) {
	ours, theirs := usertokentest.New(t, login), usertokentest.New(t, other) // both have a key k1
	check := checker(t, keys{login + "/jwks": keysOf(t, ours), other + "/jwks": keysOf(t, theirs)}, provider("login", login), provider("other", other))
	_, err := check.Check(shown(theirs.Token(now(), map[string]any{"iss": login})), nil, now())
	refused(t, "issuer of one, key of the other", err, "not that of")
	_, err = check.Check(shown(ours.Token(now(), map[string]any{"iss": login + "/"})), nil, now())
	refused(t, "a slash behind the issuer", err, "no provider's")
	// A new key is told from a forged one, so that it can be asked for.
	ours.Rotate("k2")
	_, err = check.Check(shown(ours.Token(now(), nil)), nil, now())
	var why *usertoken.Refused
	if !errors.As(err, &why) || !errors.Is(err, spiffe.ErrUnknownKey) || why.Provider != "login" || why.KeyID != "k2" {
		t.Errorf("new key: %v", err)
	}
}

// Attack 45: two providers of one issuer are refused unless no service has both.
func TestAttack45TwoProvidersOfOneIssuer(t *testing.T) {
	a, b := provider("a", login), provider("b", login)
	refused(t, "both for all", usertoken.Validate(map[string]usertoken.Provider{"a": a, "b": b}), "is that of provider a")
	_, err := usertoken.Compile([]usertoken.Provider{a, b}, "orders")
	refused(t, "compiled", err, "of one issuer")
	a.Services, b.Services = []string{"orders"}, []string{"orders", "billing"}
	refused(t, "both for orders", usertoken.Validate(map[string]usertoken.Provider{"a": a, "b": b}), "is that of provider a")
	b.Services = []string{"billing"}
	if err := usertoken.Validate(map[string]usertoken.Provider{"a": a, "b": b}); err != nil {
		t.Error(err)
	}
	if set := compile(t, a, b); set.Len() != 1 {
		t.Errorf("%d providers for orders, want its own", set.Len())
	}
}

// Attack 47: more than one token, and forms that two programs read differently.
func TestAttack47SeveralTokens(t *testing.T) {
	p := provider("login", login)
	p.Locations = []string{"bearer", "header X-User-Token", "cookie session", "query access_token"}
	set := compile(t, p)
	with := func(query string, lines ...string) usertoken.Carrier {
		c := header(lines...)
		c.Query = query
		return c
	}
	for name, c := range map[string]usertoken.Carrier{
		"Bearer": header("Authorization: Bearer a.b.c"), "bearer": header("Authorization: bearer a.b.c"), "BEARER": header("Authorization: BEARER a.b.c"),
		"own header": header("x-user-token: a.b.c"), "cookie": header("Cookie: x=1; session=a.b.c"), "quoted cookie": header(`Cookie: session="a.b.c"`),
		"query": with("x=1&access_token=a.b.c"), "escaped query": with("access%5ftoken=a%2eb.c"), "another scheme beside": with("access_token=a.b.c", "Authorization: Basic QTpC"),
	} {
		if found, err := set.Find(c); err != nil || found.Text != "a.b.c" {
			t.Errorf("%s: found %q, %v", name, found.Text, err)
		}
	}
	for name, c := range map[string]usertoken.Carrier{
		"nothing": {}, "another scheme": header("Authorization: Basic Bearer"), "other names": with("token=a.b.c", "Cookie: Session=a.b.c; sessions=a.b.c", "X-User: a.b.c"),
	} {
		if found, err := set.Find(c); err != nil || found.Text != "" {
			t.Errorf("%s: found %q, %v", name, found.Text, err)
		}
	}
	for name, c := range map[string]usertoken.Carrier{
		"two headers": header("Authorization: Bearer a.b.c", "Authorization: Bearer a.b.c"), "one of another scheme": header("Authorization: Basic QTpC", "Authorization: Bearer a.b.c"),
		"joined": header("Authorization: Bearer a.b.c, Bearer d.e.f"), "two spaces": header("Authorization: Bearer  a.b.c"), "a tab": header("Authorization: Bearer\ta.b.c"),
		"leading space": header("Authorization:   Bearer a.b.c"), "nothing behind": header("Authorization: Bearer"), "a space behind": header("Authorization: Bearer a.b.c "),
		"a quote": header(`Authorization: Bearer "a.b.c"`), "header and cookie": header("Authorization: Bearer a.b.c", "Cookie: session=a.b.c"),
		"header and query": with("access_token=a.b.c", "Authorization: Bearer a.b.c"), "cookie twice": header("Cookie: session=a.b.c; session=d.e.f"),
		"cookie lines": header("Cookie: session=a.b.c", "Cookie: session=a.b.c"), "query twice": with("access_token=a.b.c&access_token=a.b.c"),
		"query behind a semicolon": with("access_token=a.b.c;access_token=d.e.f"), "query spelt twice": with("access_token=a.b.c&access%5Ftoken=a.b.c"),
		"header twice": header("X-User-Token: a.b.c", "x-user-token: d.e.f"), "empty header": header("X-User-Token: "), "broken query": with("access_token=a%zz"),
		"empty query": with("access_token="), "space in a token": header("X-User-Token: a.b .c"),
	} {
		if found, err := set.Find(c); err == nil {
			t.Errorf("%s: found %q, want an error", name, found.Text)
		}
	}
}

// Attack 47: a token counts only where its own provider says.
func TestAttack47TokenInAnotherProvidersPlace(t *testing.T) {
	ours := usertokentest.New(t, login)
	a, b := provider("login", login), provider("other", other)
	b.Locations = []string{"header X-Other"}
	_, err := checker(t, keys{login + "/jwks": keysOf(t, ours)}, a, b).Check(header("X-Other: "+ours.Token(now(), nil)), nil, now())
	refused(t, "login's token where other's stand", err, "stands in header X-Other")
}

// Attack 48: the audiences are the provider's, the times those of now.
func TestAttack48AudienceAndTimeOfTheProvider(t *testing.T) {
	ours := usertokentest.New(t, login)
	check := checker(t, keys{login + "/jwks": keysOf(t, ours)}, provider("login", login))
	for name, c := range map[string]struct {
		claims map[string]any
		at     time.Time
		why    string
	}{
		"for another": {map[string]any{"aud": "billing"}, now(), "not for"}, "no audience": {map[string]any{"aud": nil}, now(), "aud"},
		"ended": {nil, now().Add(6 * time.Minute), "ended at"}, "to come": {nil, now().Add(-2 * time.Minute), "to come"},
	} {
		_, err := check.Check(shown(ours.Token(now(), c.claims)), nil, c.at)
		refused(t, name, err, c.why)
	}
}

// Attack 53: a token that is bound to a certificate is good on that connection
// only, and one bound to anything we are not shown is good nowhere.
func TestAttack53TokenReplay(t *testing.T) {
	ours := usertokentest.New(t, login)
	leaf, thief := sha256.Sum256([]byte("leaf")), sha256.Sum256([]byte("thief"))
	bind := func(hash [32]byte) map[string]any {
		return map[string]any{"cnf": map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(hash[:])}}
	}
	p := provider("login", login)
	known := keys{login + "/jwks": keysOf(t, ours)}
	check := checker(t, known, p)
	bound := shown(ours.Token(now(), bind(leaf)))
	for round := range 2 { // the second time it is remembered
		if token, err := check.Check(bound, &leaf, now()); err != nil || token.Subject != "alice" {
			t.Errorf("round %d: its owner: %v", round, err)
		}
		_, err := check.Check(bound, &thief, now())
		refused(t, "a thief", err, "bound to another certificate")
		_, err = check.Check(bound, nil, now())
		refused(t, "nobody", err, "bound to another certificate")
	}
	free := shown(ours.Token(now(), nil))
	if _, err := check.Check(free, &thief, now()); err != nil {
		t.Errorf("unbound token: %v", err)
	}
	for name, cnf := range map[string]any{
		"DPoP key": map[string]any{"jkt": "abc"}, "key": map[string]any{"jwk": map[string]any{}}, "two": map[string]any{"x5t#S256": "abc", "jkt": "abc"},
		"empty": map[string]any{}, "text": "abc", "malformed": map[string]any{"x5t#S256": "abc"}, "number": map[string]any{"x5t#S256": 1},
		"line end": map[string]any{"x5t#S256": strings.Repeat("A", 42) + "\nA"},
	} {
		_, err := check.Check(shown(ours.Token(now(), map[string]any{"cnf": cnf})), &leaf, now())
		refused(t, name, err, "bound")
	}
	p.Bound = true
	_, err := checker(t, known, p).Check(free, &leaf, now())
	refused(t, "unbound where it must be bound", err, "not bound to a certificate")
}

// A token that was good is looked at again when its time is over, and never
// where it was not found.
func TestRememberedTokensEnd(t *testing.T) {
	ours := usertokentest.New(t, login)
	p := provider("login", login)
	p.Locations = []string{"bearer"}
	q := provider("other", other)
	q.Locations = []string{"header X-Other"}
	check := checker(t, keys{login + "/jwks": keysOf(t, ours)}, p, q)
	token := ours.Token(now(), nil)
	if _, err := check.Check(shown(token), nil, now()); err != nil {
		t.Fatal(err)
	}
	_, err := check.Check(header("X-Other: "+token), nil, now())
	refused(t, "elsewhere", err, "stands in header X-Other")
	for i := range 1200 {
		if _, err := check.Check(shown(ours.Token(now(), map[string]any{"n": i})), nil, now()); err != nil {
			t.Fatal(err)
		}
	}
	_, err = check.Check(shown(token), nil, now().Add(6*time.Minute))
	refused(t, "later", err, "ended at")
}

// Keys that are given with the provider need nobody who fetches them.
func TestInlineKeys(t *testing.T) {
	ours := usertokentest.New(t, login)
	p := provider("login", login)
	p.URL, p.Keys = "", ours.JWKS()
	if _, err := checker(t, nil, p).Check(shown(ours.Token(now(), nil)), nil, now()); err != nil {
		t.Error(err)
	}
}

func TestNilSetFindsNothing(t *testing.T) {
	var none *usertoken.Set
	if found, err := none.Find(header("Authorization: Bearer a.b.c")); found.Text != "" || err != nil || none.Len() != 0 {
		t.Errorf("found %q, %v", found.Text, err)
	}
}

// FuzzFind holds what is found to one place and one spelling.
func FuzzFind(f *testing.F) {
	f.Add("Bearer a.b.c", "session=d.e.f", "access_token=g.h.i")
	f.Fuzz(func(t *testing.T, authorization, cookie, query string) {
		p := provider("login", login)
		p.Locations = []string{"bearer", "cookie session", "query access_token"}
		set := compile(t, p)
		h := http.Header{"Authorization": {authorization}, "Cookie": {cookie}}
		c := usertoken.Carrier{Headers: h, Query: query}
		found, err := set.Find(c)
		if err != nil || found.Text == "" {
			return
		}
		if strings.ContainsAny(found.Text, " \t,;&=%\"") {
			t.Fatalf("found %q", found.Text)
		}
		h.Add("Authorization", authorization)
		if again, err := set.Find(c); err == nil {
			t.Fatalf("with two Authorization headers %q is found", again.Text)
		}
	})
}
