package policy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

func TestTheWireKeepsEverything(t *testing.T) {
	s := Service{
		Name: "orders", Identities: []string{"/n/orders"}, Protocol: GRPC, RunAs: []string{"orders"},
		Paths: PathOptions{KeepEncodedSlash: true}, Endpoints: []string{"10.0.0.1:80"}, Mode: Observe, Forwarded: Forwarded{By: []string{"edge"}, Hops: 2}, Owner: "cli",
		Externals: []External{{
			Name: "fraud", Actions: []string{"POST /v1/orders"}, OPA: "https://opa.example/v1/data/a", Socket: "/run/opa.sock", CA: "pem",
			Timeout: time.Second, Headers: []string{"*"},
		}, {Name: "gate", ExtAuthz: "http://127.0.0.1:9191"}},
	}
	if got, err := ServiceFromPB(s.PB()); err != nil || !cmp.Equal(got, s) {
		t.Errorf("got %+v, %v; want %+v", got, err, s)
	}
	r := Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /"}, Deny: []string{"GET /a"}, Except: []string{"any"}, Guardrail: true, Boundary: []string{"tcp"}, When: "true", Mode: Shadow, Owner: "cli"}
	if got, err := RuleFromPB(r.PB()); err != nil || !cmp.Equal(got, r) {
		t.Errorf("got %+v, %v; want %+v", got, err, r)
	}
	d := Decision{Rule: "r", Reason: GuardrailDeny, Revision: 9, Near: NearMiss{"a", "from", "b", "c"}}
	if got, err := DecisionFromPB(d.PB()); err != nil || got != d {
		t.Errorf("got %+v, %v; want %+v", got, err, d)
	}
	d = Decision{Effect: Allow, Reason: NoRule, Observed: true, Shadow: Shadowed{Allow, "s", AllowRule}}
	if got, err := DecisionFromPB(d.PB()); err != nil || got != d || !d.Denies() {
		t.Errorf("got %+v, %v; want %+v", got, err, d)
	}
	d = Decision{Effect: Allow, Reason: AllowRule, Rule: "r", Shadow: Shadowed{Deny, "s", DenyRule}}
	if got, err := DecisionFromPB(d.PB()); err != nil || got != d {
		t.Errorf("got %+v, %v; want %+v", got, err, d)
	}
	for _, m := range []*pb.Decision{nil, {}, {Effect: "allow", Reason: "because"}, {Effect: "observe", Reason: "no_rule"}, {Effect: "deny", Reason: "no_rule", ShadowEffect: "allow", ShadowReason: "x"}} {
		if got, err := DecisionFromPB(m); err == nil || got.Effect == Allow {
			t.Errorf("%v: got %+v, %v", m, got, err)
		}
	}
}

// slice is a small policy as a server sends it, changed.
func slice(change func(*pb.Slice)) *pb.Slice {
	m := &pb.Slice{
		Revision: 3, Schema: Schema, TrustDomain: ownDomain,
		Services: []*pb.Service{Service{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP}.PB()},
		Rules:    []*pb.Rule{Rule{Name: "r", From: []string{"any"}, To: "orders", Allow: []string{"GET /"}}.PB()},
		Named:    map[string]*pb.Service{},
	}
	change(m)
	return m
}

// Attack 31: a policy from a newer server is refused, never enforced in part.
func TestAttack31NewerSchemaIsRefused(t *testing.T) {
	set, err := FromSlice(slice(func(*pb.Slice) {}))
	if err != nil || set.Revision != 3 {
		t.Fatalf("got %+v, %v", set, err)
	}
	if table := mustCompile(t, set, "orders"); table.Revision() != 3 || table.Service() != "orders" || table.Protocol() != HTTP {
		t.Errorf("got %q at %d", table.Service(), table.Revision())
	}
	unknown := []byte{0xf8, 0x3f, 0x01} // field 1023, a varint
	for name, change := range map[string]func(*pb.Slice){
		"newer schema":             func(m *pb.Slice) { m.Schema = Schema + 1 },
		"unknown field of slice":   func(m *pb.Slice) { m.ProtoReflect().SetUnknown(unknown) },
		"unknown field of rule":    func(m *pb.Slice) { m.Rules[0].ProtoReflect().SetUnknown(unknown) },
		"unknown field of service": func(m *pb.Slice) { m.Services[0].ProtoReflect().SetUnknown(unknown) },
		"unknown field of paths": func(m *pb.Slice) {
			m.Services[0].Paths = &pb.PathOptions{}
			m.Services[0].Paths.ProtoReflect().SetUnknown(unknown)
		},
		"unknown field of named": func(m *pb.Slice) {
			m.Named["web"] = &pb.Service{Name: "web", Protocol: "http"}
			m.Named["web"].ProtoReflect().SetUnknown(unknown)
		},
		"unknown field of forwarded": func(m *pb.Slice) {
			m.Services[0].Forwarded = &pb.Forwarded{}
			m.Services[0].Forwarded.ProtoReflect().SetUnknown(unknown)
		},
		"mode of a rule":    func(m *pb.Slice) { m.Rules[0].Mode = "observe" },
		"mode of a service": func(m *pb.Slice) { m.Services[0].Mode = "shadow" },
		"unknown protocol":  func(m *pb.Slice) { m.Services[0].Protocol = "quic" },
		"no protocol":       func(m *pb.Slice) { m.Services[0].Protocol = "" },
		"no trust domain":   func(m *pb.Slice) { m.TrustDomain = "" },
		"rule twice":        func(m *pb.Slice) { m.Rules = append(m.Rules, m.Rules[0]) },
		"nil rule":          func(m *pb.Slice) { m.Rules = append(m.Rules, nil) },
		"nil service":       func(m *pb.Slice) { m.Services = append(m.Services, nil) },
		"other name":        func(m *pb.Slice) { m.Named["web"] = &pb.Service{Name: "wed", Protocol: "http"} },
	} {
		if _, err := FromSlice(slice(change)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want an Invalid error", name, err)
		}
	}
	if _, err := FromSlice(nil); err == nil {
		t.Error("no slice is a policy")
	}
}

// Attacks 31 and 32: what refers to something unknown, or not delivered, does
// not compile.
func TestAttack32WhatIsNotUnderstoodDoesNotCompile(t *testing.T) {
	for name, change := range map[string]func(*pb.Slice){
		"unknown action":  func(m *pb.Slice) { m.Rules[0].Deny = []string{"udp 53"} },
		"unknown source":  func(m *pb.Slice) { m.Rules[0].From = []string{"group:admins"} },
		"unknown service": func(m *pb.Slice) { m.Rules[0].From = []string{"web"} },
		"unknown target":  func(m *pb.Slice) { m.Rules[0].To = "label/app=x" },
		"no identities":   func(m *pb.Slice) { m.Services[0].Identities = nil },
		"no such service": func(m *pb.Slice) { m.Services = nil },
	} {
		set, err := FromSlice(slice(change))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if table, err := Compile(set, "orders"); err == nil || table != nil {
			t.Errorf("%s compiles", name)
		}
	}
}
