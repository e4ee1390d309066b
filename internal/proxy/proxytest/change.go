package proxytest

import (
	"maps"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/pb"
)

// Service declares a service whose identity is /dev/<name>.
func (a *Agent) Service(name, protocol string, endpoints ...string) {
	a.Change(func() {
		a.services[name] = &pb.Service{Name: name, Identities: []string{"/dev/" + name}, Protocol: protocol, Endpoints: endpoints}
	})
}

// Replace declares a service as it is.
func (a *Agent) Replace(service *pb.Service) {
	a.Change(func() { a.services[service.GetName()] = service })
}

// Rules replaces all rules and returns once every enforcement point has acked.
func (a *Agent) Rules(rules ...*pb.Rule) {
	a.t.Helper()
	a.Change(func() { a.rules = rules })
	a.Settled()
}

// Allow is a rule that lets a service do something.
func Allow(name, from, to string, actions ...string) *pb.Rule {
	return &pb.Rule{Name: name, From: []string{from}, To: to, Allow: actions}
}

// Schema sets the schema number slices carry.
func (a *Agent) Schema(n uint32) { a.Change(func() { a.schema = n }) }

// Silence stops, or starts again, the sending of slices.
func (a *Agent) Silence(silent bool) { a.Change(func() { a.silent = silent }) }

// Change changes the state and pushes it.
func (a *Agent) Change(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	a.revision++
	a.changed.Broadcast()
}

// Rotate issues new SVIDs to everybody.
func (a *Agent) Rotate() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identity++
	a.changed.Broadcast()
}

// Federate gives everybody the roots of another trust domain; none takes them
// away.
func (a *Agent) Federate(trustDomain string, roots []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := maps.Clone(a.federated)
	if next == nil {
		next = make(map[string][]byte)
	}
	next["spiffe://"+trustDomain] = roots
	if roots == nil {
		delete(next, "spiffe://"+trustDomain)
	}
	a.federated = next
	a.identity++
	a.changed.Broadcast()
}

// Await waits until what is true, which it asks under the agent's lock.
func (a *Agent) Await(what string, is func() bool) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	late := false
	timer := time.AfterFunc(Patience, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		late = true
		a.changed.Broadcast()
	})
	defer timer.Stop()
	for !is() {
		if late {
			a.t.Fatalf("no %s within %v", what, Patience)
		}
		a.changed.Wait()
	}
}

// Settled waits until every enforcement point has acked the newest revision.
func (a *Agent) Settled() {
	a.t.Helper()
	a.Await("ack of the newest revision", func() bool {
		for l := range a.links {
			if l.acked < a.revision {
				return false
			}
		}
		return true
	})
}

// AckError waits for a refused slice and returns what the ack said.
func (a *Agent) AckError() (text string) {
	a.t.Helper()
	a.Await("ack with an error", func() bool {
		for l := range a.links {
			if l.ackError != "" {
				text = l.ackError
			}
		}
		return text != ""
	})
	return text
}

// MustBeInForce fails the test where an enforcement point has refused its slice.
func (a *Agent) MustBeInForce() {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.links {
		if l.ackError != "" {
			a.t.Errorf("%s refuses its policy: %s", l.as, l.ackError)
		}
	}
}

// Registered waits until a service has registered its endpoints.
func (a *Agent) Registered(service string) (addresses []string) {
	a.t.Helper()
	a.Await("endpoint of "+service, func() bool {
		for l := range a.links {
			if l.as == service && len(l.addresses) > 0 {
				addresses = slices.Clone(l.addresses)
			}
		}
		return addresses != nil
	})
	a.Settled()
	return addresses
}

// Decision waits for a reported decision that fits.
func (a *Agent) Decision(what string, fits func(*pb.Decision) bool) (found *pb.Decision) {
	a.t.Helper()
	a.Await("decision: "+what, func() bool {
		for _, d := range a.decisions {
			if fits(d) {
				found = d
			}
		}
		return found != nil
	})
	return found
}

// Decisions are all decisions reported so far.
func (a *Agent) Decisions() []*pb.Decision {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.decisions)
}

// Attached is the number of enforcement points attached now.
func (a *Agent) Attached() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.links)
}

// AttachedLocked is Attached inside Await.
func (a *Agent) AttachedLocked() int { return len(a.links) }

// AddressesLocked is the number of addresses a service has registered, inside
// Await.
func (a *Agent) AddressesLocked(service string) (n int) {
	for l := range a.links {
		if l.as == service {
			n += len(l.addresses)
		}
	}
	return n
}
