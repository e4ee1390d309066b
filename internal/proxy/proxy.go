// Package proxy is the data plane beside one workload: it ends mutual TLS for
// an unmodified program, decides what comes in, and gives what goes out an
// identity. Identity, policy and directory come from the public SDK, like a
// customer's; it verifies, decides and signs nothing itself.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
)

const (
	defaultDrain = 10 * time.Second
	withdrawTime = 200 * time.Millisecond // what a change may take to reach every caller
)

// Config says what a proxy does. Workload is required; without exposures,
// upstreams and outbound listener there is nothing to do, which is an error.
type Config struct {
	// Workload is the attached SDK; the caller closes it after Run.
	Workload *kith.Workload
	// Expose lists what callers may reach, from ParseExposure.
	Expose []Exposure
	// Proven lists what callers may reach through load balancers that end mutual TLS,
	// from ParseProven: who calls is in each request.
	Proven []Proven
	// Via lists services that are called through such load balancers, from ParseVia.
	Via []Via
	// Upstreams lists local ports that lead to services, from ParseUpstream.
	Upstreams []Upstream
	// Asks is a local port that leads to the agent's decisions, from ParseAsks.
	Asks Asks
	// Outbound is the address of the local HTTP proxy: "127.0.0.1:0" for a free
	// port, "" for none. It must be a loopback address.
	Outbound string
	// Advertise is where callers dial the exposures, host:port each. Empty: the
	// listening addresses, if others can dial them.
	Advertise []string
	// UnsafeUpstream allows an exposure whose application is on another host:
	// that hop is plain text, and anyone there may answer.
	UnsafeUpstream bool
	// Environ is the environment from before our proxy variables were set;
	// hosts that are no services go through the proxies it names.
	Environ []string
	// AllowUIDs are users besides root and our own who may use the local
	// listeners.
	AllowUIDs []uint32
	// Drain is how long requests may take to finish at the end; 10 s when zero.
	Drain time.Duration
	// Metrics takes the collectors; nil for none.
	Metrics prometheus.Registerer
	// Log takes events; nil for none.
	Log *slog.Logger

	// after says when callers know that the endpoints are gone; time.After when nil.
	after func(time.Duration) <-chan time.Time
}

// Proxy is a data plane whose listeners are bound but not yet served.
type Proxy struct {
	cfg      Config
	log      *slog.Logger
	meter    *meter
	inbound  []*inbound
	proven   []*inbound
	upstream []*upstream
	asks     *asks // nil for none
	outbound *outbound
}

// New binds every listener, so that a port that is taken shows here, before a
// child is started with our address in its environment. Run serves them; a
// proxy that is not run must be closed.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg, log: cfg.Log, meter: newMeter(cfg.Workload)}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.cfg.Drain <= 0 {
		p.cfg.Drain = defaultDrain
	}
	if p.cfg.after == nil {
		p.cfg.after = time.After
	}
	if err := p.validate(); err != nil {
		return nil, err
	}
	if err := p.bind(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(p.meter); err != nil {
			return nil, errors.Join(fmt.Errorf("register metrics: %w", err), p.Close())
		}
	}
	return p, nil
}

func (p *Proxy) validate() error {
	switch {
	case p.cfg.Workload == nil:
		return fault.Invalidf("proxy without a workload")
	case len(p.cfg.Expose) == 0 && len(p.cfg.Proven) == 0 && len(p.cfg.Upstreams) == 0 && p.cfg.Outbound == "" && p.cfg.Asks.Listen == "":
		return fault.Hint(fault.Invalidf("nothing to do: no exposure, no upstream, no outbound listener"),
			"kith proxy --expose 8443=8080")
	}
	exposures := slices.Clone(p.cfg.Expose)
	for _, e := range p.cfg.Proven {
		exposures = append(exposures, e.Exposure)
	}
	for _, e := range exposures {
		if !p.cfg.UnsafeUpstream && !e.Local() {
			return fault.Hint(fault.Invalidf("expose %s: the application at %s is not on this host, so the last hop would be plain text on the network", e, e.Target),
				"put the proxy beside the application, or say --unsafe-upstream")
		}
	}
	for _, u := range p.cfg.Upstreams {
		if err := loopbackOnly("upstream "+u.Service, u.Listen); err != nil {
			return err
		}
	}
	if p.cfg.Asks.Listen != "" {
		if err := loopbackOnly("decisions", p.cfg.Asks.Listen); err != nil {
			return err
		}
	}
	if p.cfg.Outbound == "" {
		return nil
	}
	return loopbackOnly("outbound listener", p.cfg.Outbound)
}

func loopbackOnly(what, address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().IsLoopback() {
		return fault.Hint(fault.Invalidf("%s: %q is not a loopback address with a port", what, address), "as in 127.0.0.1:5432")
	}
	return nil
}

func (p *Proxy) bind() error {
	for _, e := range p.cfg.Expose {
		in, err := newInbound(p, e)
		if err != nil {
			return err
		}
		p.inbound = append(p.inbound, in)
	}
	for _, e := range p.cfg.Proven {
		in, err := newInbound(p, e.Exposure)
		if err != nil {
			return err
		}
		p.proven = append(p.proven, in)
		if in.proven, err = p.cfg.Workload.ProofHandler(in.app, e.Port, e.Proof); err != nil {
			return err
		}
	}
	for _, u := range p.cfg.Upstreams {
		up, err := newUpstream(p, u)
		if err != nil {
			return err
		}
		p.upstream = append(p.upstream, up)
	}
	if p.cfg.Asks.Listen != "" {
		s, err := newAsks(p)
		if err != nil {
			return err
		}
		p.asks = s
	}
	if p.cfg.Outbound == "" {
		return nil
	}
	out, err := newOutbound(p)
	p.outbound = out
	return err
}

// listen binds a TCP listener, with a clear error when the port is taken.
func listen(what, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fault.Hint(fault.Wrap(fault.Conflict, fmt.Errorf("%s: %w", what, err)), "ss -ltnp shows who has the port; choose another")
	}
	return l, nil
}

// OutboundAddr is the address of the local HTTP proxy, "" if there is none.
func (p *Proxy) OutboundAddr() string {
	if p.outbound == nil {
		return ""
	}
	return p.outbound.listener.Addr().String()
}

// InboundAddrs are the addresses of the exposures, in their order.
func (p *Proxy) InboundAddrs() []string {
	var addrs []string
	for _, in := range p.inbound {
		addrs = append(addrs, in.listener.Addr().String())
	}
	return addrs
}

// ProvenAddrs are the addresses for load balancers, in their order.
func (p *Proxy) ProvenAddrs() []string {
	var addrs []string
	for _, in := range p.proven {
		addrs = append(addrs, in.listener.Addr().String())
	}
	return addrs
}

// UpstreamAddrs are the local addresses of the upstreams, in their order.
func (p *Proxy) UpstreamAddrs() []string {
	var addrs []string
	for _, up := range p.upstream {
		addrs = append(addrs, up.listener.Addr().String())
	}
	return addrs
}

// Run serves until ctx ends, then drains and returns nil. In this order: the
// endpoints are withdrawn, so that no new caller is sent here; the listeners
// stop accepting; what is under way has Config.Drain to finish; the rest is
// cut.
func (p *Proxy) Run(ctx context.Context) error {
	// Work under way outlives ctx by the drain time.
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var running sync.WaitGroup
	failed := make(chan error, 1)
	start := func(serve func(ctx, work context.Context) error) {
		running.Go(func() {
			if err := serve(ctx, work); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	ended := ctx.Done()
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // of the listeners, which outlive the endpoints
	defer stop()
	for _, in := range slices.Concat(p.inbound, p.proven) {
		start(in.serve)
	}
	for _, up := range p.upstream {
		start(up.serve)
	}
	if p.asks != nil {
		start(p.asks.serve)
	}
	if p.outbound != nil {
		start(p.outbound.serve)
	}
	p.advertise()
	var err error
	select {
	case <-ended:
	case err = <-failed:
	}
	p.withdraw(err != nil)
	stop()
	drained := make(chan struct{})
	go func() { running.Wait(); close(drained) }()
	limit := time.NewTimer(p.cfg.Drain)
	defer limit.Stop()
	select {
	case <-drained:
	case <-limit.C:
		p.log.Warn("drain time is over, cutting what is left")
	}
	cut()
	<-drained
	p.closeIdle()
	return err
}

// advertise registers where the exposures are reached.
func (p *Proxy) advertise() {
	if len(p.inbound) == 0 {
		return
	}
	if len(p.cfg.Advertise) > 0 {
		p.cfg.Workload.Advertise(p.cfg.Advertise...)
		return
	}
	var addresses []string
	for _, in := range p.inbound {
		at, ok := p.cfg.Workload.Reachable(in.listener.Addr())
		if !ok {
			p.log.Warn("exposure is not registered: no address that others could dial", "listen", in.listener.Addr().String(), "hint", "--advertise host:port")
			continue
		}
		addresses = append(addresses, at)
	}
	p.log.Info("endpoints registered", "addresses", addresses)
	p.cfg.Workload.Advertise(addresses...)
}

// withdraw takes the endpoints out of the directory and goes on serving for a
// moment, until callers know: a request that meets a closing connection could
// not always be sent again.
func (p *Proxy) withdraw(atOnce bool) {
	p.cfg.Workload.Advertise()
	if atOnce || len(p.inbound) == 0 {
		return
	}
	<-p.cfg.after(min(withdrawTime, p.cfg.Drain/2))
}

func (p *Proxy) closeIdle() {
	for _, in := range slices.Concat(p.inbound, p.proven) {
		in.app.closeIdle()
		in.lane.pool.close()
	}
	if p.outbound != nil {
		p.outbound.closeIdle()
	}
}

// Close gives the listeners of a proxy back that is not run.
func (p *Proxy) Close() error {
	var errs []error
	for _, in := range slices.Concat(p.inbound, p.proven) {
		errs = append(errs, in.listener.Close())
	}
	for _, up := range p.upstream {
		errs = append(errs, up.listener.Close())
	}
	if p.asks != nil {
		errs = append(errs, p.asks.listener.Close())
	}
	if p.outbound != nil {
		errs = append(errs, p.outbound.listener.Close())
	}
	return errors.Join(errs...)
}
