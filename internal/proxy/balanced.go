package proxy

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
)

// balancing is the ways to services that are called through load balancers: those of
// --via, and those that services say themselves, as they are now.
type balancing struct {
	o     *outbound
	flags map[string]Via
	fixed map[string]*balancedWay // of flags

	mu   sync.Mutex
	said map[string]*balancedWay // guarded by mu
}

// balancedWay is the way to one service.
type balancedWay struct {
	handler *httputil.ReverseProxy
	base    *http.Transport
	of      kith.Balanced // what the service said when it was made
}

func newBalancing(o *outbound, flags []Via) (*balancing, error) {
	b := &balancing{o: o, flags: make(map[string]Via), fixed: make(map[string]*balancedWay), said: make(map[string]*balancedWay)}
	for _, v := range flags {
		way, err := o.via(v)
		if err == nil {
			if says, ok := o.p.cfg.Workload.Balanced(v.Service); ok {
				err = v.under(says)
			}
		}
		if err != nil {
			return nil, err
		}
		b.flags[v.Service], b.fixed[v.Service] = v, way
	}
	return b, nil
}

// has says whether a service is called through a load balancer.
func (b *balancing) has(service string) bool {
	if _, ok := b.flags[strings.ToLower(service)]; ok {
		return true
	}
	_, ok := b.o.p.cfg.Workload.Balanced(service)
	return ok
}

// way is how to call a service, nil where there is no load balancer. What the service
// says holds from the next request on.
func (b *balancing) way(service string) (*balancedWay, error) {
	service = strings.ToLower(service)
	says, ok := b.o.p.cfg.Workload.Balanced(service)
	if v, fixed := b.flags[service]; fixed {
		if !ok {
			return b.fixed[service], nil
		}
		return b.fixed[service], v.under(says)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	former := b.said[service]
	if former != nil && ok && former.of == says {
		return former, nil
	}
	if former != nil {
		delete(b.said, service)
		former.base.CloseIdleConnections()
	}
	if !ok {
		return nil, nil
	}
	u, err := url.Parse(says.Via)
	if err != nil || u.Scheme != "https" || u.Host == "" { // the server has checked it
		return nil, fault.Invalidf("%s is called through %q, which is no https address", service, says.Via)
	}
	way, err := b.o.via(Via{Service: service, URL: &url.URL{Scheme: u.Scheme, Host: u.Host}, Audience: says.Audience, Proof: says.Proof, CA: says.CA})
	if err != nil {
		return nil, err
	}
	way.of = says
	b.said[service] = way
	return way, nil
}

// under says whether a flag is within what the service says: of its load balancer and
// audience there is no other, and a flag may choose only among what is left open.
func (v Via) under(says kith.Balanced) error {
	const hint = "leave --via out, or change proof: of the service"
	switch {
	case v.URL.String() != strings.TrimSuffix(says.Via, "/"):
		return fault.Hint(fault.Conflictf("--via has %s called at %s, and the service says %s", v.Service, v.URL, says.Via), hint)
	case v.Audience != says.Audience:
		return fault.Hint(fault.Conflictf("--via has audience %q for %s, and the service says %q", v.Audience, v.Service, says.Audience), hint)
	case says.Only && v.Proof != says.Proof:
		return fault.Hint(fault.Conflictf("--via proves by %s to %s, and the service accepts %s alone", v.Proof, v.Service, says.Proof), hint)
	case says.CA != "" && v.CAFile != "":
		return fault.Hint(fault.Conflictf("--via has a ca for %s, and the service says another", v.Service), hint)
	}
	return nil
}

// closeIdle lets go of connections that nobody uses.
func (b *balancing) closeIdle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ways := range []map[string]*balancedWay{b.fixed, b.said} {
		for _, way := range ways {
			way.base.CloseIdleConnections()
		}
	}
}
