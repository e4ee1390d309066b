package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

// A service that differs in anything is looked at again.
func TestSameServiceIsTheSameInEveryField(t *testing.T) {
	whole := Service{
		Name: "orders", Identities: []string{"/vms/orders"}, Protocol: HTTP, RunAs: []string{"orders"}, Paths: PathOptions{KeepEncodedSlash: true},
		Endpoints: []string{"10.0.0.7:8443"}, Mode: Observe, Forwarded: Forwarded{By: []string{"edge"}, Hops: 1}, Externals: []External{{}}, Owner: "shop", Team: "shop",
		Proof: Proof{Audience: "https://orders.acme.example"},
	}
	if !whole.same(whole) {
		t.Error("a service is not the same as itself")
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Service]()) {
		other := whole
		field := reflect.ValueOf(&other).Elem().FieldByIndex(f.Index)
		if field.IsZero() {
			t.Errorf("%s is not in this test", f.Name)
		}
		if field.SetZero(); whole.same(other) {
			t.Errorf("a service without %s is the same", f.Name)
		}
	}
	other := whole
	if other.Identities = slices.Clone(whole.Identities); whole.same(other) {
		t.Error("a service with other identities, which read the same, is the same without a look at them")
	}
}

// A set that came of a sound one is found as sound, or as faulty, as it is by
// itself, with the same warnings.
func TestValidateAfterFindsWhatValidateFinds(t *testing.T) {
	service := func(name string, identities ...string) Service {
		return Service{Name: name, Identities: identities, Protocol: HTTP}
	}
	td := newSet(t, nil).TrustDomain
	fronted := service("fronted", "/vms/fronted")
	fronted.Forwarded = Forwarded{By: []string{"web"}, Hops: 1}
	owned := service("owned", "/vms/owned")
	owned.Team = "shop"
	before := Set{TrustDomain: td, Services: map[string]Service{
		"orders": service("orders", "/vms/orders"), "web": service("web", "/vms/web"), "fronted": fronted, "owned": owned,
	}, Teams: map[string]Team{"shop": {Name: "shop", Identities: []string{"/vms/**"}}}, Rules: map[string]Rule{"r": {Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /"}}}}
	if _, err := before.Validate(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Set){
		"nothing":                          func(*Set) {},
		"a service of a new name":          func(s *Set) { s.Services["cart"] = service("cart", "/vms/cart") },
		"a service without a holder":       func(s *Set) { s.Services["cart"] = service("cart") },
		"a faulty identity":                func(s *Set) { s.Services["web"] = service("web", "/kith/node/a") },
		"another's identity":               func(s *Set) { s.Services["cart"] = service("cart", td.ID().String()+"/vms/web") },
		"a service that a rule names goes": func(s *Set) { delete(s.Services, "web") },
		"a gateway that goes": func(s *Set) {
			delete(s.Services, "web")
			delete(s.Rules, "r")
		},
		"a team that goes": func(s *Set) { s.Teams = nil },
		"a rule to nobody": func(s *Set) {
			s.Rules["x"] = Rule{Name: "x", From: []string{"wbe"}, To: "orders", Allow: []string{"GET /"}}
		},
	} {
		after := Set{TrustDomain: td, Services: map[string]Service{}, Rules: map[string]Rule{}, Teams: before.Teams}
		for name, s := range before.Services {
			after.Services[name] = s
		}
		for name, r := range before.Rules {
			after.Rules[name] = r
		}
		change(&after)
		want, wantErr := after.Validate()
		got, err := after.validateAfter(func(name string) (Service, bool) { s, ok := before.Services[name]; return s, ok })
		if !slices.Equal(got, want) || (err == nil) != (wantErr == nil) || err != nil && (err.Error() != wantErr.Error() || !fault.Is(err, fault.Invalid)) {
			t.Errorf("%s: got %q, %v; want %q, %v", what, got, err, want, wantErr)
		}
		if strings.Contains(what, "another's") && len(got) != 1 {
			t.Errorf("%s: got %d warnings, want one", what, len(got))
		}
	}
}

// The policy in force is looked at as a whole once, whatever kind of change comes
// first; from then on a change is looked at, and what it leaves is not. One that
// has a fault is never taken for sound.
func TestChangesOfServicesLookAtWhatTheyTouch(t *testing.T) {
	service := func(name, identity string) Service {
		return Service{Name: name, Identities: []string{identity}, Protocol: HTTP}
	}
	present := NewBook(newSet(t, nil).TrustDomain)
	present.PutService(service("broken", "/kith/node/a"))
	changed := func() error {
		next := present.Fork()
		next.PutService(service("web", "/vms/web"))
		_, err := next.ValidateAfter(present)
		return err
	}
	if err := changed(); !fault.Is(err, fault.Invalid) {
		t.Errorf("beside a faulty service: %v", err)
	}
	present.RemoveService("broken")
	if err := changed(); err != nil {
		t.Fatalf("once it is gone: %v", err)
	}
	present.PutService(service("broken", "/kith/node/a")) // as no change that was looked at could
	if err := changed(); err != nil {
		t.Errorf("what was found sound is looked at again: %v", err)
	}
}
