package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// One rule among 100 000, of a gateway in front of a thousand services that asks for
// each request: from the delta to the table its next question is answered by.
func BenchmarkChangeForWhoAsks(b *testing.B) {
	const services, each = 1000, 100
	s := newServer(b)
	var ids []spiffe.ID
	var names []string
	td, _ := spiffe.ParseTrustDomain(domain)
	for i := range services {
		name := fmt.Sprintf("s-%d", i)
		names = append(names, name)
		id, err := spiffe.NewID(td, "/vms/"+name)
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, id)
		s.state.Objects = append(s.state.Objects, serviceObject(name, name))
		for j := range each {
			s.state.Objects = append(s.state.Objects, ruleObject(fmt.Sprintf("rule-%d-%d", i, j), fmt.Sprintf("s-%d", (i+j+1)%services), name, fmt.Sprintf("GET /v0/resource-%d/{id}", j)))
		}
	}
	w, err := newWorld(s.state)
	if err != nil {
		b.Fatal(err)
	}
	all := &points{
		all: make(map[*point]struct{}), limit: time.Hour,
		identify: func(*world, attest.Peer, registry.Attributes) []spiffe.ID { return ids }, interest: &interest{changed: func() {}},
		needed: func([]*pb.Provider) {}, acked: func(*pb.Ack) {},
	}
	all.interest.restore(names)
	all.push(w)
	p := &point{peer: attest.Peer{PID: 1}, open: &pb.Open{Serves: true, Schema: policy.Schema}, wake: make(chan struct{}, 1), inside: true}
	all.enter(func() *world { return w }, p)
	asks := extauthz.NewPoint(extauthz.PointConfig{Now: time.Now})
	swap := func() {
		next, _ := all.inForce(p)
		if next == nil {
			b.Fatal("nothing to put in force")
		}
		ack := asks.Rule(*next)
		if ack.GetError() != "" {
			b.Fatal(ack.GetError())
		}
		all.ack(p, ack)
	}
	swap()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		next, err := w.apply(&pb.Delta{Revision: w.revision + 1, Put: []*pb.Object{ruleObject("rule-7-7", "s-15", "s-7", fmt.Sprintf("GET /v%d/resource-7/{id}", n))}})
		if err != nil {
			b.Fatal(err)
		}
		w = next
		all.push(w)
		swap()
	}
}
