// Package federation exchanges trust with other trust domains: it serves the
// bundle of this one, and fetches those of the others as SPIFFE Federation
// demands. Whom to federate with is applied state; keeping and spreading what
// was fetched is the server's.
package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/kith-id/kith/internal/egress"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

const (
	fetchLimit   = 20 * time.Second // for all of it, redirects included
	headerLimit  = 10 * time.Second
	maxHeader    = 16 << 10
	maxRedirects = 3
)

// Reason is what went wrong with a fetch, a closed set for metrics.
type Reason string

// The reasons.
const (
	ReasonAddress     Reason = "address"     // of a network that is not dialled
	ReasonConnect     Reason = "connect"     // no connection
	ReasonCertificate Reason = "certificate" // the endpoint is not the right one
	ReasonRedirect    Reason = "redirect"    // to what is no endpoint
	ReasonAnswer      Reason = "answer"      // not the answer of a bundle endpoint
	ReasonBundle      Reason = "bundle"      // not a bundle
	ReasonSequence    Reason = "sequence"    // an older bundle than the one held
	ReasonStore       Reason = "store"       // fetched, and could not be kept
)

// Error is a fetch that failed, with why in a word and in a sentence.
type Error struct {
	Reason Reason
	Err    error
}

// Error is the sentence.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

func failed(reason Reason, format string, args ...any) error {
	return &Error{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// reasonOf is the word of an error.
func reasonOf(err error) Reason {
	var known *Error
	if errors.As(err, &known) {
		return known.Reason
	}
	return ReasonConnect
}

// FetcherConfig is what a Fetcher needs.
type FetcherConfig struct {
	// Roots verify endpoints of profile https_web; nil takes this host's.
	Roots *x509.CertPool
	// Allow is networks that may be dialled although they are refused by default:
	// this host, its links, the metadata of clouds. Private networks may be.
	Allow []netip.Prefix
	// Bundle verifies endpoints of profile https_spiffe: the bundle of now.
	Bundle func(spiffe.TrustDomain) (*spiffe.Bundle, bool)
	Now    func() time.Time
}

// Fetcher asks bundle endpoints. It may be used from several goroutines.
type Fetcher struct{ cfg FetcherConfig }

// NewFetcher returns a Fetcher.
func NewFetcher(cfg FetcherConfig) *Fetcher { return &Fetcher{cfg: cfg} }

// Fetched is what an endpoint gave.
type Fetched struct {
	Document []byte
	Bundle   *spiffe.Bundle // the document, as that of the relationship's trust domain
}

// Fetch gets the bundle of a relationship's trust domain. Each fetch makes a
// connection of its own, without a proxy of the environment.
func (f *Fetcher) Fetch(ctx context.Context, rel registry.Federation) (Fetched, error) {
	at, err := registry.ParseEndpointURL(rel.URL)
	if err != nil {
		return Fetched{}, failed(ReasonAnswer, "url: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return Fetched{}, failed(ReasonAnswer, "url: %w", err)
	}
	request.Header.Set("Accept", "application/json")
	client := f.client(rel)
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		return Fetched{}, explain(err)
	}
	defer answer.Body.Close()
	document, err := egress.ReadAnswer(answer, registry.MaxFederatedBundle)
	if err != nil {
		return Fetched{}, failed(ReasonAnswer, "endpoint %w", err)
	}
	bundle, err := registry.ParseFederatedBundle(rel.TrustDomain, document)
	if err != nil {
		return Fetched{}, failed(ReasonBundle, "endpoint answered with no bundle: %w", err)
	}
	return Fetched{Document: document, Bundle: bundle}, nil
}

func (f *Fetcher) client(rel registry.Federation) *http.Client {
	return &http.Client{
		CheckRedirect: checkRedirect,
		Transport: &http.Transport{
			DialContext:            egress.Reach{Private: true, Allow: f.cfg.Allow}.Dial,
			TLSClientConfig:        f.tls(rel),
			TLSHandshakeTimeout:    headerLimit,
			ResponseHeaderTimeout:  headerLimit,
			MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives:      true,
			DisableCompression:     true, // a compressed answer could be larger than it seems
		},
	}
}

// checkRedirect holds the target to what holds for the URL that was configured.
// SPIFFE Federation 5.2.1.4, 5.2.2.4: the same rules of TLS and, for an X509-SVID,
// the same ID count there too, as they are of the transport and not of the host.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return failed(ReasonRedirect, "endpoint redirects more than %d times", maxRedirects)
	}
	if _, err := registry.ParseEndpointURL(next.URL.String()); err != nil {
		return failed(ReasonRedirect, "endpoint redirects to a URL that is none of a bundle endpoint: %w", err)
	}
	next.Header.Del("Referer")
	return nil
}

// tls is how the endpoint is known. A failure to verify it is marked as such.
func (f *Fetcher) tls(rel registry.Federation) *tls.Config {
	if rel.Profile == registry.HTTPSSPIFFE {
		config := spiffe.EndpointTLS(f.cfg.Bundle, f.cfg.Now, rel.EndpointID)
		verify := config.VerifyConnection
		config.VerifyConnection = func(state tls.ConnectionState) error {
			if err := verify(state); err != nil {
				return &Error{Reason: ReasonCertificate, Err: err}
			}
			return nil
		}
		return config
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: f.cfg.Roots, Time: f.cfg.Now}
}

// explain finds the reason in what the client says.
func explain(err error) error {
	var known *Error
	var certificate *tls.CertificateVerificationError
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // its text repeats the URL, which every report has
	}
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &certificate):
		return failed(ReasonCertificate, "certificate of the endpoint: %w", certificate.Err)
	case errors.Is(err, egress.ErrAddress):
		return fault.Hint(failed(ReasonAddress, "%w", err), "server.federation.allow in kith.yaml, if that network is where the endpoint is")
	default:
		return failed(ReasonConnect, "connect to the endpoint: %w", err)
	}
}
