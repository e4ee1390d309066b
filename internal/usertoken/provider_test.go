package usertoken_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/internal/usertoken/usertokentest"
)

func TestProviderFaults(t *testing.T) {
	with := func(change func(*usertoken.Provider)) usertoken.Provider {
		p := provider("login", login)
		change(&p)
		return p
	}
	private := `{"keys":[{"kty":"oct","k":"AQ"}]}`
	for why, p := range map[string]usertoken.Provider{
		"only a-z, 0-9":               with(func(p *usertoken.Provider) { p.Name = "Login" }),
		"login.issuer":                with(func(p *usertoken.Provider) { p.Issuer = "" }),
		"printable":                   with(func(p *usertoken.Provider) { p.Issuer = "https://a b" }),
		"login.audiences: not 1":      with(func(p *usertoken.Provider) { p.Audiences = nil }),
		"\"a\" is listed twice":       with(func(p *usertoken.Provider) { p.Audiences = []string{"a", "a"} }),
		"login.jwks: empty":           with(func(p *usertoken.Provider) { p.URL = "" }),
		"both a url and the keys":     with(func(p *usertoken.Provider) { p.Keys = "{}" }),
		"is a private key":            with(func(p *usertoken.Provider) { p.URL, p.Keys = "", private }),
		"neither https nor http":      with(func(p *usertoken.Provider) { p.URL = "file:///etc/shadow" }),
		"has no host":                 with(func(p *usertoken.Provider) { p.URL = "https:///jwks" }),
		"carries a user":              with(func(p *usertoken.Provider) { p.URL = "https://root@login.example/" }),
		"has a fragment":              with(func(p *usertoken.Provider) { p.URL = "https://login.example/#" }),
		"unknown algorithm \"HS256\"": with(func(p *usertoken.Provider) { p.Algorithms = []string{"HS256"} }),
		"\"cookie\" is no location":   with(func(p *usertoken.Provider) { p.Locations = []string{"cookie"} }),
		"holds more than a token":     with(func(p *usertoken.Provider) { p.Locations = []string{"header authorization"} }),
		"\"bearer\" is listed twice":  with(func(p *usertoken.Provider) { p.Locations = []string{"bearer", "bearer"} }),
		"login.services":              with(func(p *usertoken.Provider) { p.Services = []string{"/eks/orders"} }),
	} {
		refused(t, why, p.Validate(), why)
	}
	if err := provider("login", login).Validate(); err != nil {
		t.Error(err)
	}
	refused(t, "many", usertoken.Validate(many(usertoken.MaxProviders+1)), "at most")
	refused(t, "kept", usertoken.Validate(map[string]usertoken.Provider{"x": provider("login", login)}), "kept under another name")
}

func many(n int) map[string]usertoken.Provider {
	all := map[string]usertoken.Provider{}
	for i := range n {
		name := strings.Repeat("a", i%50+1) + strings.Repeat("b", i/50+1)
		all[name] = provider(name, login+"/"+name)
	}
	return all
}

func TestProviderRoundTrip(t *testing.T) {
	p := usertoken.Provider{
		Name: "login", Issuer: login, Audiences: []string{"orders"}, Keys: usertokentest.New(t, login).JWKS(), Algorithms: []string{"ES256"},
		Locations: []string{"cookie session"}, Services: []string{"orders"}, Bound: true, Owner: "shop",
	}
	got, err := usertoken.FromPB(p.PB())
	if err != nil || !cmp.Equal(got, p) {
		t.Errorf("%v: %s", err, cmp.Diff(p, got))
	}
	newer := p.PB()
	newer.ProtoReflect().SetUnknown(protowire.AppendTag(nil, 99, protowire.VarintType))
	_, err = usertoken.FromPB(newer)
	refused(t, "a field of a newer schema", err, "newer schema")
	_, err = usertoken.FromPB(nil)
	refused(t, "nothing", err, "missing")
}

func TestProviderWarnings(t *testing.T) {
	p := provider("login", "http://login.example")
	p.Locations = []string{"query access_token"}
	if got := strings.Join(p.Warnings(), "\n"); !strings.Contains(got, "agent.user_tokens.hosts") || !strings.Contains(got, "logs") {
		t.Errorf("warnings: %s", got)
	}
	if got := provider("login", login).Warnings(); len(got) > 0 {
		t.Errorf("warnings of a sound provider: %q", got)
	}
}
