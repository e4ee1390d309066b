package kith

import (
	"context"
	"crypto/tls"
	"strings"
)

// Endpoint is one place where a service answers, as seen by this program at this
// moment. Endpoints can be compared: connections made to equal ones serve alike.
// When the identities that may answer change, or our own leaf, or a bundle, the
// same place is another Endpoint, so who keeps connections by endpoint takes new
// ones from then on.
type Endpoint struct {
	w                                   *Workload
	service, address, generation, epoch string
}

// Endpoints appends to dst where to try a service, best first: the next one in
// turn, and those that could not be reached a moment ago last.
func (w *Workload) Endpoints(dst []Endpoint, service string) ([]Endpoint, error) {
	dest, err := w.directory.Load().find(strings.ToLower(service))
	if err != nil {
		return dst, err
	}
	epoch := w.epoch()
	for _, address := range w.calls.order(dest) {
		dst = append(dst, Endpoint{w: w, service: dest.name, address: address, generation: dest.generation, epoch: epoch})
	}
	return dst, nil
}

// Service is the name of the service.
func (e Endpoint) Service() string { return e.service }

// Dial opens a connection to it, as [Workload.Dial] does.
func (e Endpoint) Dial(ctx context.Context, protos ...string) (*tls.Conn, error) {
	return e.w.calls.dialEndpoint(ctx, e.service, e.address, protos)
}
