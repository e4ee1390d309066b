package agent

import (
	"slices"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// announce replaces what a point answers on.
func (s *points) announce(p *point, r *pb.Register) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := r.GetService(); want != "" && !slices.Contains(p.services, want) {
		return fault.Deniedf("process %d does not answer for service %q: its identity belongs to %s",
			p.peer.PID, cut(want, 64), p.name())
	}
	p.register = r
	return nil
}

// idsOf is the point's SPIFFE IDs, default first.
func (s *points) idsOf(p *point) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.slice.GetIds()
}

// servicesOf is what the point's identity belongs to.
func (s *points) servicesOf(p *point) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.services
}

// endpoints is the addresses of the attached points. A point announces itself
// only for services that its identity belongs to.
func (s *points) endpoints(w *world) []*pb.LocalEndpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*pb.LocalEndpoint
	for p := range s.all {
		for _, service := range p.services {
			if want := p.register.GetService(); want != "" && want != service {
				continue
			}
			id := p.idFor(w, service)
			for _, address := range p.register.GetAddresses() {
				out = append(out, &pb.LocalEndpoint{Service: service, Address: address, SpiffeId: id})
			}
		}
	}
	return out
}

func (p *point) idFor(w *world, service string) string {
	for _, id := range p.ids {
		if slices.Contains(w.byID[id], service) {
			return id.String()
		}
	}
	return ""
}
