package federation

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/spiffe"
)

const (
	endpointDrain  = 2 * time.Second
	maxConnections = 256
	maxOfOne       = 64 // connections of one address, where addresses are the callers'
)

// Serve serves handler over TLS on l, which it closes, until ctx ends; without a
// config in plain HTTP, for a reverse proxy that ends TLS. Strangers call it:
// everything that they could hold on to is bounded.
func Serve(ctx context.Context, l net.Listener, config *tls.Config, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
	}
	ofOne := maxOfOne
	if config == nil {
		ofOne = 0 // all come from the reverse proxy
	}
	listener := bound(l, maxConnections, ofOne)
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), endpointDrain)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		server.Close() // who will not leave is cut
	}
	<-served
	return nil
}

// ServerTLS is what both profiles and OIDC discovery serve with: Mozilla's
// intermediate configuration (SPIFFE Federation 5), and no client certificate
// asked for (5.2.1.3, 5.2.2.3).
func ServerTLS(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), now func() time.Time, protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		NextProtos:       append([]string{"http/1.1"}, protos...),
		GetCertificate:   certificate,
		Time:             now,
	}
}

// BySVID is the certificate of an endpoint of profile https_spiffe.
func BySVID(source func() (*spiffe.X509SVID, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		svid, err := source()
		if err != nil {
			return nil, fmt.Errorf("own SVID: %w", err)
		}
		return svid.TLSCertificate(), nil
	}
}

// Endpoint answers GET / with the bundle of now, whoever asks.
func Endpoint(bundle func() *spiffe.Bundle) http.Handler {
	var last atomic.Pointer[rendered]
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		now := bundle()
		current := last.Load()
		if current == nil || current.of != now {
			document, err := now.Marshal()
			if err != nil {
				http.Error(rw, "no bundle", http.StatusInternalServerError)
				return
			}
			current = &rendered{of: now, document: document}
			last.Store(current)
		}
		writeJSON(rw, current.document)
	})
	return mux
}

// rendered is a bundle and its document.
type rendered struct {
	of       *spiffe.Bundle
	document []byte
}

// writeJSON sends a document that nobody on the way is to keep: a revoked key
// must be gone when it is gone.
func writeJSON(rw http.ResponseWriter, document []byte) {
	head := rw.Header()
	head.Set("Content-Type", "application/json")
	head.Set("Cache-Control", "no-cache")
	head.Set("X-Content-Type-Options", "nosniff")
	_, _ = rw.Write(document) // the caller may have gone
}
