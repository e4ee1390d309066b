package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/kith-id/kith/internal/federation"
	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/spiffe"
)

const (
	// federationPath is whom bundle endpoints of profile https_spiffe show: the
	// same on every server, so that a name may lead to any of them.
	federationPath = "/kith/federation"
	// refreshHint is how often others are to look at our bundle. A key for tokens
	// is published twelve times as long before it signs (SPIFFE Federation 4.1).
	refreshHint = 5 * time.Minute
)

// Federation is how this server exchanges bundles with other trust domains.
type Federation struct {
	SPIFFEListen string // host:port of the bundle endpoint, profile https_spiffe; empty: none
	Web          WebListener
	// Roots verify other endpoints of profile https_web; nil takes this host's.
	Roots *x509.CertPool
	// Allow is networks whose addresses may be dialled although they are refused
	// by default: loopback, links, clouds' metadata.
	Allow []netip.Prefix
}

// WebListener is an address that is served with a certificate of the web.
type WebListener struct {
	Listen      string // host:port; empty: none
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Protocols   []string // of ALPN besides http/1.1
}

// exchange is the running part of Federation.
type exchange struct {
	poller *federation.Poller
	shown  *ownSource // whom the https_spiffe endpoint shows; nil without one
	spiffe net.Listener
	web    net.Listener
}

// openExchange makes the poller and binds the endpoints.
func (s *Server) openExchange(ctx context.Context) error {
	cfg := s.cfg.Federation
	allow := cfg.Allow
	if s.cfg.Dev {
		allow = append([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, allow...)
	}
	fetcher := federation.NewFetcher(federation.FetcherConfig{Roots: cfg.Roots, Allow: allow, Bundle: s.anyBundle, Now: s.cfg.Now})
	s.exchange.poller = federation.NewPoller(federation.PollerConfig{
		Fetch: fetcher.Fetch, Held: func(td spiffe.TrustDomain) (*spiffe.Bundle, bool) { return s.snap().bundleOf(td) },
		Keep: s.keepBundle, Now: s.cfg.Now, Log: s.log, Metrics: s.registry,
	})
	s.exchange.poller.Set(s.snap().federations)
	var err error
	if cfg.SPIFFEListen != "" {
		id, err := spiffe.NewID(s.snap().trustDomain, federationPath)
		if err != nil {
			return fmt.Errorf("bundle endpoint: %w", err)
		}
		s.exchange.shown = newOwnSource(s.ca, id, s.cfg.Now)
		if err := s.exchange.shown.renew(ctx); err != nil {
			return fmt.Errorf("SVID of the bundle endpoint: %w", err)
		}
		if s.exchange.spiffe, err = listenTCP(cfg.SPIFFEListen, s.cfg.Dev); err != nil {
			return err
		}
	}
	if cfg.Web.Listen != "" {
		if s.exchange.web, err = listenTCP(cfg.Web.Listen, s.cfg.Dev); err != nil {
			return err
		}
	}
	return nil
}

// anyBundle is the bundle of now of this trust domain or of another.
func (s *Server) anyBundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	if own, ok := s.source.Bundle(td); ok {
		return own, true
	}
	return s.snap().bundleOf(td)
}

// exchangeParts serve and fetch bundles.
func (s *Server) exchangeParts() []run.Part {
	parts := []run.Part{{Name: "federation", Run: s.exchange.poller.Run}}
	endpoint := federation.Endpoint(s.ca.Bundle)
	if s.exchange.spiffe != nil {
		config := federation.ServerTLS(federation.BySVID(s.exchange.shown.X509SVID), s.cfg.Now)
		parts = append(parts,
			run.Part{Name: "bundle endpoint svid", Run: s.exchange.shown.run},
			run.Part{Name: "bundle endpoint", Run: func(ctx context.Context) error {
				return federation.Serve(ctx, s.exchange.spiffe, config, endpoint, s.log)
			}})
	}
	if s.exchange.web != nil {
		web := s.cfg.Federation.Web
		config := federation.ServerTLS(web.Certificate, s.cfg.Now, web.Protocols...)
		parts = append(parts, run.Part{Name: "bundle endpoint of the web", Run: func(ctx context.Context) error {
			return federation.Serve(ctx, s.exchange.web, config, endpoint, s.log)
		}})
	}
	return parts
}

// close frees the addresses of a server that was never run.
func (e *exchange) close() error {
	var errs []error
	for _, l := range []net.Listener{e.spiffe, e.web} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// BundleAddrs is where the bundle of this trust domain is served, by profile,
// with the ports it really got; empty where it is not.
func (s *Server) BundleAddrs() (spiffeAddr, webAddr string) {
	return addrOf(s.exchange.spiffe), addrOf(s.exchange.web)
}

func addrOf(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}
