package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// designState is the example of DESIGN 5 without what belongs to kith.yaml.
const designState = `trust_domain: acme.example
owner: shop
nodes:
  - {name: vms,  require: 'node.x509.issuer == "CN=acme hosts"'}
identities:
  - {name: pods,    nodes: [eks], id: "/{node.class}/{workload.k8s.ns}/{workload.k8s.sa}", ttl: 30m, default: true, hint: main}
services:
  orders: {identities: [/eks/shop/orders], protocol: http, run_as: [orders, 1000], paths: {encoded_slash: keep}, mode: observe, forwarded: {by: edge, hops: 2}}
rules:
  - {name: web-reads, from: /eks/shop/web, to: orders, allow: ["GET /v1/orders/{**}", "POST /v1/orders"]}
  - {name: no-batch,  from: ["/vms/*", any], to: orders, deny: ["tcp"], except: /vms/admin, guardrail: true, mode: enforce}
  - {name: shop-only, from: "/eks/shop/**", to: any, boundary: ["* /{**}", tcp], when: 'request.time < timestamp("2030-01-01T00:00:00Z")', mode: shadow}
federation:
  - {trust_domain: other.example, url: "https://other.example/", profile: https_spiffe, endpoint_id: spiffe://other.example/e, bundle: '{"keys":[]}'}
`

func designObjects() []*pb.Object {
	return []*pb.Object{
		{Kind: &pb.Object_NodeRule{NodeRule: &pb.NodeRule{Name: "vms", Require: `node.x509.issuer == "CN=acme hosts"`, Owner: "shop"}}},
		{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{
			Name: "pods", Nodes: []string{"eks"}, Id: "/{node.class}/{workload.k8s.ns}/{workload.k8s.sa}",
			Default: true, Hint: "main", Ttl: &durationpb.Duration{Seconds: 1800}, Owner: "shop",
		}}},
		{Kind: &pb.Object_Service{Service: &pb.Service{
			Name: "orders", Identities: []string{"/eks/shop/orders"}, Protocol: "http",
			RunAs: []string{"orders", "1000"}, Paths: &pb.PathOptions{KeepEncodedSlash: true}, Owner: "shop",
			Mode: "observe", Forwarded: &pb.Forwarded{By: []string{"edge"}, Hops: 2},
		}}},
		{Kind: &pb.Object_Rule{Rule: &pb.Rule{
			Name: "web-reads", From: []string{"/eks/shop/web"}, To: "orders",
			Allow: []string{"GET /v1/orders/{**}", "POST /v1/orders"}, Owner: "shop",
		}}},
		{Kind: &pb.Object_Rule{Rule: &pb.Rule{
			Name: "no-batch", From: []string{"/vms/*", "any"}, To: "orders", Deny: []string{"tcp"},
			Except: []string{"/vms/admin"}, Guardrail: true, Owner: "shop",
		}}},
		{Kind: &pb.Object_Rule{Rule: &pb.Rule{
			Name: "shop-only", From: []string{"/eks/shop/**"}, To: "any", Boundary: []string{"* /{**}", "tcp"},
			When: `request.time < timestamp("2030-01-01T00:00:00Z")`, Mode: "shadow", Owner: "shop",
		}}},
		{Kind: &pb.Object_Federation{Federation: &pb.Federation{
			TrustDomain: "other.example", Url: "https://other.example/", Profile: "https_spiffe",
			EndpointId: "spiffe://other.example/e", Bundle: []byte(`{"keys":[]}`), Owner: "shop",
		}}},
	}
}

func TestParseState(t *testing.T) {
	s, err := config.ParseState("f.yaml", []byte(designState))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(designObjects(), s.Objects, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if owner, err := s.Owner(); owner != "shop" || err != nil {
		t.Errorf("Owner = %q, %v", owner, err)
	}
	if got := s.TrustDomain.String(); got != "acme.example" {
		t.Errorf("TrustDomain = %s", got)
	}
	for key, want := range map[[2]string]string{
		{"node", "vms"}: "f.yaml:4", {"service", "orders"}: "f.yaml:8", {"rule", "no-batch"}: "f.yaml:11", {"federation", "other.example"}: "f.yaml:14", {"rule", "none"}: "",
	} {
		if got := s.At(key[0], key[1]); got != want {
			t.Errorf("At(%v) = %q, want %q", key, got, want)
		}
	}
}

func TestStateFaultsNameTheLine(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"misspelt key", "rules:\n  - {name: a, form: b}", `s:2: unknown key "form" (nearest: from)`},
		{"mode of a rule", "rules:\n  - name: a\n    mode: shadw", `s:3: "shadw" is not one of enforce, shadow (nearest: shadow)`},
		{"mode of a service", "services:\n  a: {mode: shadow}", `s:2: "shadow" is not one of enforce, observe`},
		{"unknown key", "rules:\n  - {name: a, priority: 1}", `s:2: unknown key "priority" (known: name, from, to, allow, deny, except, guardrail, boundary, when, mode)`},
		{"hops", "services:\n  a: {forwarded: {by: edge, hops: many}}", `s:2: "many" is not a number from 0 to 65535`},
		{"survive", "survive: {control_plane_outage: 1h}", `s:1: key "survive" does not belong here: it configures a process; put it in kith.yaml`},
		{"rule twice", "rules:\n- name: a\n- name: a", `s:3: rule "a" twice (first at s:2)`},
		{"trust domain twice", "federation:\n- trust_domain: a.example\n- trust_domain: a.example", `s:3: federation "a.example" twice (first at s:2)`},
		{"service twice", "services:\n  a: {}\n  a: {}", `s:3: key "a" twice (first in line 2)`},
		{"no name", "nodes:\n- require: x", `s:2: node rule without a name`},
		{"text for list", "rules:\n- {name: a, allow: GET /}", `s:2: want a list, got "GET /"`},
		{"bool", "rules:\n- {name: a, guardrail: 1}", `s:2: want true or false, got a number`},
		{"keep", "services:\n  a:\n    paths: {encoded_slash: decode}", `s:3: "decode" is not possible: only keep is`},
		{"yes is no name", "rules:\n- {name: true}", "s:2: true is true or false, not text: put it in quotes\ns:2: rule without a name"},
		{"trust domain", "owner: x\ntrust_domain: a.example\n---\ntrust_domain: b.example", `s:4: trust_domain b.example, but a.example before: apply them apart`},
		{"binary", "owner: !!binary aGk=", `s:1: want text, got a value tagged !!binary`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.ParseState("s", []byte(tc.text))
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("kind = %v, want invalid", fault.KindOf(err))
			}
		})
	}
}

func TestReadStateFromManyFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "rules:\n- {name: a, from: x, to: y}", "b.yml": "services: {y: {}}", "notes.txt": "{",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := config.ReadState([]string{dir, "-"}, strings.NewReader("rules: [{name: c}]"))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Objects) != 3 || s.At("rule", "c") != "stdin:1" {
		t.Errorf("%d objects, c at %q", len(s.Objects), s.At("rule", "c"))
	}
	_, err = config.ReadState([]string{dir, "-"}, strings.NewReader("rules: [{name: a}]"))
	if want := `stdin:1: rule "a" twice (first at ` + filepath.Join(dir, "a.yaml") + ":2)"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err = config.ReadState([]string{filepath.Join(dir, "none")}, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("no file: %v, want not_found", err)
	}
	if _, err = config.ReadState([]string{t.TempDir()}, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("empty directory: %v, want not_found", err)
	}
}

func TestTwoOwnersAreNotOneApply(t *testing.T) {
	s, err := config.ParseState("s", []byte("owner: a\nrules: [{name: x}]\n---\nrules: [{name: y}]"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Owner(); !fault.Is(err, fault.Invalid) {
		t.Errorf("Owner: %v, want invalid", err)
	}
}

func TestServiceSpeaksHTTPUnlessItSays(t *testing.T) {
	s, err := config.ParseState("s", []byte("services: {a: {}, b: {protocol: tcp}}"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"http", "tcp"} {
		if got := s.Objects[i].GetService().GetProtocol(); got != want {
			t.Errorf("protocol %q, want %q", got, want)
		}
	}
}

func TestEncodeIsReadable(t *testing.T) {
	got, err := config.EncodeObject(designObjects()[3])
	if err != nil {
		t.Fatal(err)
	}
	want := `owner: shop
rules:
  - name: web-reads
    from: /eks/shop/web
    to: orders
    allow:
      - GET /v1/orders/{**}
      - POST /v1/orders
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got, err = config.EncodeObject(designObjects()[2])
	if err != nil {
		t.Fatal(err)
	}
	want = `owner: shop
services:
  orders:
    identities: [/eks/shop/orders]
    protocol: http
    run_as: [orders, "1000"]
    paths:
      encoded_slash: keep
    mode: observe
    forwarded:
      by: edge
      hops: 2
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDiff(t *testing.T) {
	before, after := designObjects()[3], designObjects()[3]
	after.GetRule().Allow[1] = "PUT /v1/orders"
	got, err := config.Diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	want := ` owner: shop
 rules:
   - name: web-reads
     from: /eks/shop/web
     to: orders
     allow:
       - GET /v1/orders/{**}
-      - POST /v1/orders
+      - PUT /v1/orders
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, _ := config.Diff(nil, before); strings.Count(got, "+") != 8 || strings.Contains(got, "-owner") {
		t.Errorf("created object:\n%s", got)
	}
}

// roundTrip fails unless the encoded state reads back as the same objects.
func roundTrip(t interface{ Fatalf(string, ...any) }, s config.State) {
	data, err := config.EncodeState(s)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	again, err := config.ParseState("again", data)
	if err != nil {
		t.Fatalf("read back: %v\n%s", err, data)
	}
	twice, err := config.EncodeState(again)
	if err != nil || string(twice) != string(data) {
		t.Fatalf("not stable (%v):\n%s\nthen\n%s", err, data, twice)
	}
	want := map[string]*pb.Object{}
	for _, o := range s.Objects {
		want[o.String()] = o
	}
	for _, o := range again.Objects {
		found := false
		for _, w := range want {
			found = found || proto.Equal(o, w)
		}
		if !found {
			t.Fatalf("read back as something new: %v\n%s", o, data)
		}
	}
	if len(again.Objects) != len(s.Objects) || again.TrustDomain != s.TrustDomain {
		t.Fatalf("%d objects, %d read back", len(s.Objects), len(again.Objects))
	}
}

func TestEncodeRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
			"1000", "0x10", "yes", "null", "~", "", " a", "a\n b\n", "\n", "a: b", "# x", "- a", "<<", "2001-01-01", "\u0085", "\ufeff", "a\tb", "*a", "'", `"`,
		}))
		list := rapid.SliceOfN(text, 0, 6)
		s := config.State{Objects: []*pb.Object{
			{Kind: &pb.Object_NodeRule{NodeRule: &pb.NodeRule{Name: "n" + text.Draw(t, "name"), Require: text.Draw(t, "require"), Owner: text.Draw(t, "owner")}}},
			{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{Name: "i", Nodes: list.Draw(t, "nodes"), Id: text.Draw(t, "id"), Hint: text.Draw(t, "hint")}}},
			{Kind: &pb.Object_Service{Service: &pb.Service{
				Name: text.Draw(t, "service") + "s", Protocol: rapid.SampledFrom([]string{"http", "grpc", "tcp"}).Draw(t, "protocol"), RunAs: list.Draw(t, "run_as"),
				Mode: rapid.SampledFrom([]string{"", "observe"}).Draw(t, "mode"), Forwarded: rapid.SampledFrom([]*pb.Forwarded{nil, {By: list.Draw(t, "by"), Hops: 3}}).Draw(t, "forwarded"),
			}}},
			{Kind: &pb.Object_Rule{Rule: &pb.Rule{
				Name: "r", From: list.Draw(t, "from"), Allow: list.Draw(t, "allow"), Guardrail: rapid.Bool().Draw(t, "guardrail"),
				Boundary: list.Draw(t, "boundary"), When: text.Draw(t, "when"), Mode: rapid.SampledFrom([]string{"", "shadow"}).Draw(t, "shadow"),
			}}},
			{Kind: &pb.Object_Federation{Federation: &pb.Federation{TrustDomain: "t" + text.Draw(t, "td"), Url: text.Draw(t, "url"), Bundle: []byte(text.Draw(t, "bundle"))}}},
		}}
		roundTrip(t, s)
	})
}

func FuzzParseState(f *testing.F) {
	f.Add("")
	f.Add("trust_domain: acme.example")
	f.Add(designState)
	f.Add("rules:\n- {name: a, from: [b, c], allow: ['grpc a.B/C']}\n---\nowner: x\nservices: {1000: {}}")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := config.ParseState("f", []byte(text))
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("kind %v, want invalid: %v", fault.KindOf(err), err)
			}
			return
		}
		roundTrip(t, s)
	})
}
