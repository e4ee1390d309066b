package policy

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

func proven(p Proof) Service {
	return Service{Name: "orders", Identities: []string{"/vms/orders"}, Protocol: HTTP, Proof: p}
}

func TestProofOfAServiceIsChecked(t *testing.T) {
	const audience = "https://orders.acme.example"
	for _, good := range []Proof{
		{}, {Audience: audience}, {Audience: audience, Accept: "signature", Via: "https://lb.acme.example:8443"}, {Audience: "orders", Accept: "wpt", Via: "https://[::1]/"},
	} {
		if err := proven(good).Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	tcp := proven(Proof{Audience: audience})
	tcp.Protocol = TCP
	for want, s := range map[string]Service{
		"services.orders.proof: a tcp service": tcp,
		"proof.audience: empty":                proven(Proof{Accept: "wpt"}),
		"proof.audience: \"a,b\" is no name":   proven(Proof{Audience: "a,b"}),
		"proof.audience: \"a b\" is no name":   proven(Proof{Audience: "a b"}),
		"is no name of a receiver":             proven(Proof{Audience: strings.Repeat("a", 513)}),
		"proof.accept: unknown kind":           proven(Proof{Audience: audience, Accept: "bearer"}),
		`proof.via: "http://lb"`:               proven(Proof{Audience: audience, Via: "http://lb"}),
		`proof.via: "https://lb/path"`:         proven(Proof{Audience: audience, Via: "https://lb/path"}),
		`proof.via: "https://lb?"`:             proven(Proof{Audience: audience, Via: "https://lb?"}),
		`proof.via: "https://u@lb"`:            proven(Proof{Audience: audience, Via: "https://u@lb"}),
		`proof.via: "https://:8443"`:           proven(Proof{Audience: audience, Via: "https://:8443"}),
		"proof.ca: there is nobody":            proven(Proof{Audience: audience, CA: "x"}),
		"proof.ca: holds no certificate":       proven(Proof{Audience: audience, Via: "https://lb", CA: "x"}),
	} {
		if err := s.Validate(); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", s.Proof, err, want)
		}
	}
}

func TestProofOfAServiceTravels(t *testing.T) {
	want := proven(Proof{Audience: "https://a", Accept: "wpt", Via: "https://lb", CA: "pem"})
	got, err := ServiceFromPB(want.PB())
	if err != nil || got.Proof != want.Proof {
		t.Errorf("got %+v, %v", got.Proof, err)
	}
	if proven(Proof{}).PB().Proof != nil {
		t.Error("no proof is one on the wire")
	}
	other := want
	other.Proof.Via = ""
	if want.same(other) {
		t.Error("a service with another proof is the same")
	}
	newer := &pb.ServiceProof{Audience: "a"}
	newer.ProtoReflect().SetUnknown([]byte{0x78, 1})
	m := want.PB()
	m.Proof = newer
	if _, err := ServiceFromPB(proto.CloneOf(m)); err == nil {
		t.Error("a proof of a newer schema is enforced in part")
	}
}

func TestLintOfProofs(t *testing.T) {
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	set := Set{TrustDomain: td, Services: map[string]Service{}, Rules: map[string]Rule{}}
	for name, p := range map[string]Proof{"a": {Audience: "x", Accept: "signature"}, "b": {Audience: "x", Accept: "signature"}, "c": {Audience: "y"}, "d": {Audience: "z", Accept: "signature"}} {
		s := proven(p)
		s.Name, s.Identities = name, []string{"/vms/" + name}
		if name == "d" {
			s.Protocol = GRPC
		}
		set.Services[name] = s
	}
	found, err := set.Lint()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, f.At+" "+f.ID+" "+f.Severity.String())
	}
	want := "services.b.proof.audience shared-audience warning\nservices.c.proof.accept weak-proof note\nservices.d.proof.accept streams-unsigned warning"
	if strings.Join(got, "\n") != want {
		t.Errorf("got %s", strings.Join(got, "\n"))
	}
}

// Where the server issues no WIT-SVIDs nobody can prove anything.
func TestLintOfProofsThatNobodyCanGive(t *testing.T) {
	set := newSet(t, []Service{proven(Proof{Audience: "x", Accept: "signature"}), {Name: "web", Identities: []string{"/vms/web"}, Protocol: HTTP}})
	for unprovable, want := range map[bool]string{false: "", true: "services.orders.proof unprovable warning features.wit: true"} {
		set.Unprovable = unprovable
		found, err := set.Lint()
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range found {
			got += f.At + " " + f.ID + " " + f.Severity.String() + " " + f.Fix
		}
		if got != want {
			t.Errorf("unprovable %t: got %q, want %q", unprovable, got, want)
		}
	}
}
