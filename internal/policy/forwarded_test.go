package policy

import "testing"

// Whoever a service takes X-Forwarded-For of is in what its enforcement points get,
// also where no rule names them.
func TestSliceHasWhoForwards(t *testing.T) {
	td := trustDomain(t)
	book := NewBook(td)
	book.PutService(Service{Name: "orders", Identities: []string{"/vms/orders"}, Protocol: HTTP, Forwarded: Forwarded{By: []string{"edge"}, Hops: 1}})
	book.PutService(Service{Name: "edge", Identities: []string{"/vms/edge"}, Protocol: HTTP})
	book.PutRule(Rule{Name: "r", From: []string{"any"}, To: "orders", Allow: []string{"GET /"}})
	if _, err := book.Set().Validate(); err != nil {
		t.Fatal(err)
	}
	for what, set := range map[string]Set{"of the book": book.Slice("orders"), "of the set": book.Set().Slice("orders")} {
		if _, err := Compile(set, "orders"); err != nil {
			t.Errorf("slice %s: got %v, want it to compile", what, err)
		}
	}
}
