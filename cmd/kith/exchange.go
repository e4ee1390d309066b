package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/federation"
	"github.com/kith-id/kith/internal/server"
)

// exchange is what kith.yaml says of federation, in the server's own terms.
func exchange(f config.Federation, paths config.Paths, now func() time.Time, log *slog.Logger) (server.Federation, error) {
	out := server.Federation{SPIFFEListen: f.SPIFFEListen}
	for _, text := range f.Allow {
		network, err := config.ParseNetwork(text)
		if err != nil {
			return out, fault.Invalidf("server.federation.allow: %w", err)
		}
		out.Allow = append(out.Allow, network)
	}
	var err error
	if f.CAFile != "" {
		if out.Roots, err = federation.ReadRoots(f.CAFile); err != nil {
			return out, fmt.Errorf("server.federation.ca_file: %w", err)
		}
	}
	out.Web, err = webListener("server.federation.web", f.Web, paths, now, log)
	return out, err
}

// oidcOf is what kith.yaml says of OpenID Connect, in the server's own terms.
func oidcOf(f config.OIDC, paths config.Paths, now func() time.Time, log *slog.Logger) (server.OIDC, error) {
	web, err := webListener("server.oidc.web", f.Web, paths, now, log)
	return server.OIDC{Issuer: f.Issuer, Web: web, Behind: f.Behind}, err
}

// webListener opens the certificate of a listener, so that what is wrong with it
// shows at the start.
func webListener(path string, w config.Web, paths config.Paths, now func() time.Time, log *slog.Logger) (server.WebListener, error) {
	out := server.WebListener{Listen: w.Listen}
	switch {
	case w.Listen == "":
	case w.ACME.Domain != "":
		cfg := federation.ACMEConfig{
			Domain: w.ACME.Domain, Email: w.ACME.Email, Directory: w.ACME.Directory,
			Cache: filepath.Join(paths.State, "acme"), Now: now, Log: log,
		}
		if w.ACME.CAFile != "" {
			var err error
			if cfg.Roots, err = federation.ReadRoots(w.ACME.CAFile); err != nil {
				return out, fmt.Errorf("%s.acme.ca_file: %w", path, err)
			}
		}
		out.Certificate, out.Protocols = federation.ACME(cfg), []string{federation.ACMEProtocol}
	default:
		files, err := federation.OpenFiles(w.CertFile, w.KeyFile, now, log)
		if err != nil {
			return out, fmt.Errorf("%s: %w", path, err)
		}
		out.Certificate = files.Certificate
	}
	return out, nil
}
