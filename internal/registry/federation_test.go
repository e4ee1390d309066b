package registry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const noKeys = `{"keys":[],"spiffe_sequence":7}`

func domainOf(t *testing.T, name string) spiffe.TrustDomain {
	t.Helper()
	td, err := spiffe.ParseTrustDomain(name)
	if err != nil {
		t.Fatal(err)
	}
	return td
}

// Rule 118: URL, profile and trust domain are each given, and none follows from
// another. Rule 120: https, no user. Rule 121: https_web takes nothing further.
// Rule 125: https_spiffe takes the endpoint's ID, and a bundle to know it by.
func TestFederationSaysEverythingItself(t *testing.T) {
	own := domainOf(t, "acme.example")
	web := func() *pb.Federation {
		return &pb.Federation{TrustDomain: "other.example", Url: "https://bundles.other.example/", Profile: "https_web"}
	}
	strict := func() *pb.Federation {
		return &pb.Federation{
			TrustDomain: "other.example", Url: "https://10.0.0.7:8443/", Profile: "https_spiffe",
			EndpointId: "spiffe://other.example/kith/federation", Bundle: []byte(noKeys),
		}
	}
	for _, tc := range []struct {
		name string
		make func() *pb.Federation
		edit func(*pb.Federation)
		want string // of the error; "" for none
	}{
		{"web", web, func(*pb.Federation) {}, ""},
		{"spiffe", strict, func(*pb.Federation) {}, ""},
		{"endpoint of another domain", strict, func(f *pb.Federation) { f.EndpointId, f.Bundle = "spiffe://hub.example/bundles", nil }, ""},
		{"no trust domain", web, func(f *pb.Federation) { f.TrustDomain = "" }, "trust domain is empty"},
		{"upper case", web, func(f *pb.Federation) { f.TrustDomain = "Other.example" }, "only a-z"},
		{"own", web, func(f *pb.Federation) { f.TrustDomain = "acme.example" }, "acme.example is this trust domain"},
		{"no URL", web, func(f *pb.Federation) { f.Url = "" }, "federation.other.example.url: empty"},
		{"http", web, func(f *pb.Federation) { f.Url = "http://other.example/" }, `scheme is "http", must be https`},
		{"user", web, func(f *pb.Federation) { f.Url = "https://a@other.example/" }, "user name"},
		{"no host", web, func(f *pb.Federation) { f.Url = "https:///bundle" }, "no host"},
		{"opaque", web, func(f *pb.Federation) { f.Url = "https:other" }, "no host"},
		{"fragment", web, func(f *pb.Federation) { f.Url = "https://other.example/#x" }, "fragment"},
		{"port", web, func(f *pb.Federation) { f.Url = "https://other.example:0/" }, "port"},
		{"long", web, func(f *pb.Federation) { f.Url = "https://other.example/" + strings.Repeat("a", 2048) }, "at most 2048"},
		{"no profile", web, func(f *pb.Federation) { f.Profile = "" }, "https_web or https_spiffe"},
		{"web with ID", web, func(f *pb.Federation) { f.EndpointId = "spiffe://other.example/x" }, "https_spiffe only"},
		{"spiffe without ID", strict, func(f *pb.Federation) { f.EndpointId = "" }, "needs the SPIFFE ID"},
		{"ID without path", strict, func(f *pb.Federation) { f.EndpointId = "spiffe://other.example" }, "no path"},
		{"no first bundle", strict, func(f *pb.Federation) { f.Bundle = nil }, "first bundle"},
		{"bundle is no bundle", strict, func(f *pb.Federation) { f.Bundle = []byte("<html>") }, "not a JSON object"},
		{"huge bundle", strict, func(f *pb.Federation) { f.Bundle = make([]byte, MaxFederatedBundle+1) }, "at most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := tc.make()
			tc.edit(in)
			got, err := FederationFromPB(in, own)
			if tc.want == "" {
				if err != nil {
					t.Fatalf("got %v, want none", err)
				}
				if again, err := FederationFromPB(got.PB(), own); err != nil || !cmp.Equal(again, got, cmp.Comparer(func(a, b spiffe.ID) bool { return a == b }), cmp.Comparer(func(a, b spiffe.TrustDomain) bool { return a == b })) {
					t.Errorf("read back: %v %v, want %v", again, err, got)
				}
				return
			}
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an invalid error with %q", err, tc.want)
			}
		})
	}
}

func TestFederationsAreCheckedTogether(t *testing.T) {
	own := domainOf(t, "acme.example")
	hub, err := spiffe.ParseID("spiffe://hub.example/bundles")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]Federation{"other.example": {TrustDomain: domainOf(t, "other.example"), Profile: HTTPSSPIFFE, EndpointID: hub}}
	if err := CheckFederations(all, own); err == nil || !strings.Contains(err.Error(), "whose bundle is not here") {
		t.Errorf("an endpoint of an unknown trust domain: got %v, want a refusal", err)
	}
	if err := CheckFederations(all, hub.TrustDomain()); err != nil {
		t.Errorf("an endpoint of the own trust domain: %v", err)
	}
	all["hub.example"] = Federation{TrustDomain: hub.TrustDomain(), Profile: HTTPSWeb}
	if err := CheckFederations(all, own); err != nil {
		t.Errorf("an endpoint of a federated trust domain: %v", err)
	}
	for i := range MaxFederations {
		name := fmt.Sprintf("d%d.example", i)
		all[name] = Federation{TrustDomain: domainOf(t, name), Profile: HTTPSWeb}
	}
	if err := CheckFederations(all, own); err == nil || !strings.Contains(err.Error(), "at most 256") {
		t.Errorf("%d relationships: got %v, want a refusal", len(all), err)
	}
	clear(all)
	for i := range 9 {
		name := fmt.Sprintf("d%d.example", i)
		all[name] = Federation{TrustDomain: domainOf(t, name), Profile: HTTPSWeb, Bundle: make([]byte, MaxFederatedBundle)}
	}
	if err := CheckFederations(all, own); err == nil || !strings.Contains(err.Error(), "together") {
		t.Errorf("%d bundles of full size: got %v, want a refusal", len(all), err)
	}
}

// Rule 72, 119: the name of the trust domain is kept apart from the document,
// and what the document says of itself besides is not kept.
func TestStoredBundleKeepsItsName(t *testing.T) {
	now := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	record, err := NewFederatedBundle(domainOf(t, "other.example"), []byte(`{"trust_domain":"acme.example","keys":[],"spiffe_sequence":7}`), now)
	if err != nil {
		t.Fatal(err)
	}
	value, err := record.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := StoredBundle(value)
	if err != nil {
		t.Fatal(err)
	}
	if got.TrustDomain != "other.example" || got.Bundle.TrustDomain().String() != "other.example" || got.Bundle.Sequence() != 7 || !got.Changed.Equal(now) {
		t.Errorf("read back %+v", got)
	}
	if want := noKeys; string(got.Document) != want {
		t.Errorf("document %s, want %s", got.Document, want)
	}
	for _, bad := range []string{``, `{}`, `{"trust_domain":"x.example","document":{}}`, `{"trust_domain":"X","document":{"keys":[]}}`, `{"more":1}`} {
		if _, err := StoredBundle([]byte(bad)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v, want invalid", bad, err)
		}
	}
}
