package kith

import (
	"context"
	"fmt"
	"net/http"

	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/internal/fault"
)

// JWTTransport is an HTTP client's transport that shows a JWT-SVID of this
// program, for an audience, with each request: as Authorization: Bearer (JWT-SVID
// 5.2). It is for callees that take no certificate. Whoever reads a token can use
// it, so it goes over https only, and a request that was redirected to another
// host goes there without it. Nil is http.DefaultTransport.
func (w *Workload) JWTTransport(base http.RoundTripper, audience ...string) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &jwtTransport{w: w, base: base, audience: audience}
}

type jwtTransport struct {
	w        *Workload
	base     http.RoundTripper
	audience []string
}

// RoundTrip implements http.RoundTripper.
func (t *jwtTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if elsewhere(r) {
		return t.base.RoundTrip(r)
	}
	err := error(nil)
	switch {
	case r.URL.Scheme != "https":
		err = fault.Hint(fault.Invalidf("a JWT-SVID is not sent over %s: whoever reads it can use it", r.URL.Scheme), "use https, or Workload.Client for a service of this trust domain")
	case r.Header.Get("Authorization") != "":
		err = fault.Invalidf("the request has an Authorization header already")
	}
	if err == nil {
		var shown string
		if shown, err = t.w.bearer(r.Context(), t.audience); err == nil {
			out := r.Clone(r.Context()) // a RoundTripper changes no request
			out.Header.Set("Authorization", shown)
			return t.base.RoundTrip(out)
		}
	}
	if r.Body != nil {
		r.Body.Close()
	}
	return nil, err
}

// elsewhere reports whether a redirect has led to another host than was asked.
func elsewhere(r *http.Request) bool {
	for from := r.Response; from != nil && from.Request != nil; from = from.Request.Response {
		if from.Request.URL.Host != r.URL.Host || from.Request.URL.Scheme != r.URL.Scheme {
			return true
		}
	}
	return false
}

// JWTCredentials show a JWT-SVID of this program, for an audience, with each gRPC
// call: in the metadata as authorization: Bearer (JWT-SVID 5.3). They refuse a
// connection without TLS.
func (w *Workload) JWTCredentials(audience ...string) credentials.PerRPCCredentials {
	return jwtCredentials{w, audience}
}

type jwtCredentials struct {
	w        *Workload
	audience []string
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c jwtCredentials) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	shown, err := c.w.bearer(ctx, c.audience)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": shown}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (jwtCredentials) RequireTransportSecurity() bool { return true }

func (w *Workload) bearer(ctx context.Context, audience []string) (string, error) {
	svid, err := w.JWTSVID(ctx, audience...)
	if err != nil {
		return "", fmt.Errorf("token to show: %w", err)
	}
	return "Bearer " + svid.Token(), nil
}
