package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

func loginObject() *pb.Object {
	return &pb.Object{Kind: &pb.Object_Provider{Provider: &pb.Provider{
		Name: "login", Issuer: "https://login.example/", Audiences: []string{"orders", "https://api.example"}, JwksUrl: "https://login.example/jwks?v=1",
		Algorithms: []string{"ES256"}, Locations: []string{"bearer", "cookie session"}, Services: []string{"orders"}, Bound: true, Owner: "shop",
	}}}
}

func TestProvidersComeBackAsTheyWereWritten(t *testing.T) {
	text, err := config.EncodeObject(loginObject())
	if err != nil {
		t.Fatal(err)
	}
	s, err := config.ParseState("f.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff([]*pb.Object{loginObject()}, s.Objects, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text)
	}
	if owner, _ := s.Owner(); owner != "shop" || s.At("provider", "login") != "f.yaml:3" {
		t.Errorf("owner %q, at %q", owner, s.At("provider", "login"))
	}
}

// The keys of a provider may lie in a file beside the one that names it.
func TestKeysOfAProviderFromAFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const state = "providers:\n- {name: a, jwks: {file: keys.json}}"
	write("a.yaml", state)
	write("keys.json", `{"keys":[]}`)
	s, err := config.ReadState([]string{filepath.Join(dir, "a.yaml")}, nil)
	if err != nil || s.Objects[0].GetProvider().GetJwks() != `{"keys":[]}` {
		t.Errorf("%v, %v", err, s.Objects)
	}
	for name, c := range map[string]struct{ text, why string }{
		"missing": {"providers:\n- {name: a, jwks: {file: none.json}}", "a.yaml:2: keys of provider a"},
		"two":     {"providers:\n- {name: a, jwks: {file: keys.json, url: x}}", "jwks has a file and something else"},
	} {
		write("a.yaml", c.text)
		if _, err := config.ReadState([]string{filepath.Join(dir, "a.yaml")}, nil); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
	}
	if _, err := config.ParseState("s", []byte(state)); !fault.Is(err, fault.Invalid) {
		t.Errorf("where no files are read: %v", err)
	}
}

func TestWhereKeysMayBeFetched(t *testing.T) {
	good := "agent:\n  user_tokens: {allow: [10.1.0.0/16, 127.0.0.1, \"fd00::/8\"], hosts: [login.internal, \"login.internal:8080\"], ca_file: /etc/kith/login.pem}\n"
	f, err := config.Parse("k", []byte(good))
	if err != nil || len(f.Agent.UserTokens.Allow) != 3 || len(f.Agent.UserTokens.Hosts) != 2 {
		t.Errorf("%+v, %v", f.Agent.UserTokens, err)
	}
	for text, why := range map[string]string{
		"allow: [login.internal]": "agent.user_tokens.allow[0]", "allow: [10.1.2.3/16]": "neither an address nor a network", "hosts: [\"https://login\"]": "agent.user_tokens.hosts[0]",
		"hosts: [\"login:0\"]": "agent.user_tokens.hosts[0]", "hosts: [\"\"]": "agent.user_tokens.hosts[0]",
	} {
		if _, err := config.Parse("k", []byte("agent:\n  user_tokens: {"+text+"}\n")); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", text, err, why)
		}
	}
}
