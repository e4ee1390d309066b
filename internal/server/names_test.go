package server_test

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// T13: one grammar of names, for every way in: what is not in its normal form is
// refused wherever a path, a trust domain or a name of one segment is taken.
func TestThreatT13OneGrammarForEveryWayIn(t *testing.T) {
	r := start(t, remotely)
	r.apply(&pb.ApplyRequest{Put: shop()})
	paths := []string{
		"/a/../b", "/a/./b", "/..", "/.", "//a", "/a//b", "/a/", "/", "/%2e%2e/a", "/a%2fb", "/a?x", "/a#x", "/a;b", "/a b",
		"/a\\b", "/ä", "/a\x00b", "/a\nb", "/" + strings.Repeat("a", 2048),
	}
	domains := []string{"", "Other.example", "other.example:443", "user@other.example", "other%2eexample", "öther.example", "[::1]", strings.Repeat("a", 256)}
	segments := []string{"", ".", "..", "a/b", "a%2fb", "a b", "ä", "a\x00b", "a\nb", strings.Repeat("a", 300)}
	put := func(o *pb.Object) error {
		_, err := r.admin.Apply(t.Context(), puts(o))
		return err
	}
	for what, way := range map[string]struct {
		bad []string
		try func(name string) error
	}{
		"identity of a service": {paths, func(n string) error { return put(service("s", n)) }},
		"source of a rule":      {paths, func(n string) error { return put(rule("r", n, "orders", "GET /")) }},
		"source by its URI":     {paths, func(n string) error { return put(rule("r", "spiffe://acme.example"+n, "orders", "GET /")) }},
		"target of a rule":      {paths, func(n string) error { return put(rule("r", "web", n, "GET /")) }},
		"template of an identity rule": {paths, func(n string) error {
			return put(&pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{Name: "x", Nodes: []string{"vms"}, Id: n, Require: `workload.unix.user == "a"`}}})
		}},
		"pattern of a team": {paths, func(n string) error {
			return put(&pb.Object{Kind: &pb.Object_Team{Team: &pb.Team{Name: "x", Identities: []string{n}}}})
		}},
		"trust domain of a team": {domains, func(n string) error {
			return put(&pb.Object{Kind: &pb.Object_Team{Team: &pb.Team{Name: "x", Platform: true, TrustDomains: []string{n}}}})
		}},
		"trust domain of a source": {domains, func(n string) error { return put(rule("r", "spiffe://"+n+"/a", "orders", "GET /")) }},
		"federated trust domain": {domains, func(n string) error {
			return put(&pb.Object{Kind: &pb.Object_Federation{Federation: &pb.Federation{TrustDomain: n, Url: "https://bundle.example/", Profile: "https_web"}}})
		}},
		"ID of a bundle endpoint": {paths, func(n string) error {
			return put(&pb.Object{Kind: &pb.Object_Federation{Federation: &pb.Federation{TrustDomain: "other.example", Url: "https://bundle.example/", Profile: "https_spiffe", EndpointId: "spiffe://other.example" + n}}})
		}},
		"name of a service": {segments, func(n string) error { return put(service(n, "/vms/s")) }},
		"name of a rule":    {segments, func(n string) error { return put(rule(n, "web", "orders", "GET /")) }},
		"name of a node": {segments, func(n string) error {
			_, err := r.admin.AddNode(t.Context(), &pb.AddNodeRequest{Name: n, Class: "vms"})
			return err
		}},
		"name of an admin": {segments, func(n string) error {
			_, err := r.admin.AddAdmin(t.Context(), &pb.AddAdminRequest{Name: n, Role: "viewer"})
			return err
		}},
	} {
		for _, name := range way.bad {
			if err := api.FromWire(way.try(name)); !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: %.80q: got %v, want invalid", what, name, err)
			}
		}
	}
	if got := r.status().GetNodes(); got != 0 {
		t.Errorf("%d nodes", got)
	}
}
