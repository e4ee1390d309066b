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
