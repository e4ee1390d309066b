package main

import (
	"testing"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// A caller is suggested by a name that stands for it alone: a service of several
// IDs would let in those that were not seen.
func TestSuggestedNamesStandForOneID(t *testing.T) {
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	set := policy.Set{TrustDomain: td, Services: map[string]policy.Service{
		"web":  {Name: "web", Identities: []string{"/vms/web"}, Protocol: policy.HTTP},
		"both": {Name: "both", Identities: []string{"/vms/web", "/eks/shop/web"}, Protocol: policy.HTTP},
		"twin": {Name: "twin", Identities: []string{"/vms/one"}, Protocol: policy.HTTP},
		"also": {Name: "also", Identities: []string{"/vms/one"}, Protocol: policy.HTTP},
	}}
	name, err := callerNames(set)
	if err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]string{
		"spiffe://acme.example/vms/web": "web", "spiffe://acme.example/eks/shop/web": "/eks/shop/web",
		"spiffe://acme.example/vms/one": "also", "spiffe://acme.example/vms/none": "/vms/none",
		"spiffe://other.example/vms/web": "spiffe://other.example/vms/web",
	} {
		id, err := spiffe.ParseID(uri)
		if err != nil {
			t.Fatal(err)
		}
		if got := name(id); got != want {
			t.Errorf("%s: got %s, want %s", uri, got, want)
		}
	}
}
