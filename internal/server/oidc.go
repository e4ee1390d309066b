package server

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/kith-id/kith/internal/federation"
	"github.com/kith-id/kith/internal/oidc"
	"github.com/kith-id/kith/internal/run"
)

// OIDC is how the keys of JWT-SVIDs are published for receivers outside.
type OIDC struct {
	Issuer string // iss of tokens; empty: none, and nothing is published
	Web    WebListener
	Behind string // unix:PATH or host:port in plain HTTP, for a reverse proxy; empty: none
}

// oidcFace is the running part of OIDC.
type oidcFace struct {
	endpoint    *oidc.Endpoint
	web, behind net.Listener
}

// openOIDC binds the endpoints.
func (s *Server) openOIDC() error {
	cfg := s.cfg.OIDC
	if cfg.Issuer == "" {
		return nil
	}
	var err error
	if s.oidc.endpoint, err = oidc.NewEndpoint(cfg.Issuer, s.ca.Bundle); err != nil {
		return err
	}
	s.registry.MustRegister(s.oidc.endpoint.Collectors()...)
	if cfg.Web.Listen != "" {
		if s.oidc.web, err = listenTCP(cfg.Web.Listen, s.cfg.Dev); err != nil {
			return err
		}
	}
	path, isPath := strings.CutPrefix(cfg.Behind, "unix:")
	switch {
	case cfg.Behind == "":
	case isPath:
		s.oidc.behind, err = listenUnix("server.oidc.behind", path, 0o666) // what it gives is public
	default:
		s.oidc.behind, err = listenTCP(cfg.Behind, true) // loopback only: it is not encrypted
	}
	return err
}

// oidcParts serve the documents.
func (s *Server) oidcParts() []run.Part {
	var parts []run.Part
	if s.oidc.web != nil {
		web := s.cfg.OIDC.Web
		config := federation.ServerTLS(web.Certificate, s.cfg.Now, web.Protocols...)
		parts = append(parts, run.Part{Name: "oidc", Run: func(ctx context.Context) error {
			return federation.Serve(ctx, s.oidc.web, config, s.oidc.endpoint, s.log)
		}})
	}
	if s.oidc.behind != nil {
		parts = append(parts, run.Part{Name: "oidc behind a proxy", Run: func(ctx context.Context) error {
			return federation.Serve(ctx, s.oidc.behind, nil, s.oidc.endpoint, s.log)
		}})
	}
	return parts
}

// close frees the addresses of a server that was never run.
func (o *oidcFace) close() error {
	var errs []error
	for _, l := range []net.Listener{o.web, o.behind} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// OIDCAddrs is where the documents are served, with the ports they really got;
// empty where they are not.
func (s *Server) OIDCAddrs() (web, behind string) { return addrOf(s.oidc.web), addrOf(s.oidc.behind) }
