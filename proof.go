package kith

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/wimse"
	"github.com/kith-id/kith/spiffe"
)

// ProofKind is how a caller proves to hold the key of its WIT-SVID.
type ProofKind string

const (
	// ProofSignature is an HTTP message signature (WIMSE, RFC 9421): it binds method,
	// path, query, body and the tokens of a request. The body is held in memory on
	// both sides.
	ProofSignature ProofKind = ProofKind(wimse.Signature)
	// ProofToken is a Workload Proof Token (WIMSE): it binds the receiver, the path
	// and the tokens of a request, and no body, so that bodies may stream. Whoever
	// ends TLS in between could change method, query and body.
	ProofToken ProofKind = ProofKind(wimse.Token)
)

// DefaultSignedBody is the longest body that is signed or checked.
const DefaultSignedBody = 1 << 20

// ProofConfig says how a program knows callers whose mutual TLS ended before it, at
// a load balancer.
type ProofConfig struct {
	// Audience is the receiver's name, as https://orders.acme.example. Both ends are
	// configured with it; it is never read from a request.
	// Empty: the one that the own service says (proof: of services), which no other
	// may contradict.
	Audience string
	// Accept is which proofs count; none: both kinds. Of these, those count that the own
	// service accepts as well.
	Accept []ProofKind
	// MaxBody bounds a signed body; 0 is DefaultSignedBody.
	MaxBody int64
}

func (c ProofConfig) withDefaults() (ProofConfig, error) {
	if len(c.Accept) == 0 {
		c.Accept = []ProofKind{ProofSignature, ProofToken}
	}
	for _, kind := range c.Accept {
		if _, err := wimse.ParseKind(string(kind)); err != nil {
			return c, fault.Invalidf("%w", err)
		}
	}
	if c.MaxBody <= 0 {
		c.MaxBody = DefaultSignedBody
	}
	return c, nil
}

// under is what counts where the service demands something itself: what is configured
// here may be less, and never more or something else.
func (c ProofConfig) under(demand policy.Proof) (ProofConfig, error) {
	switch {
	case demand.Audience == "" && c.Audience == "":
		return c, fault.Hint(fault.Invalidf("no audience: whom proofs are for must be configured"), "as https://orders.acme.example: proof: {audience: …} of the service, or audience=… here")
	case demand.Audience == "":
		return c, nil
	case c.Audience != "" && c.Audience != demand.Audience:
		return c, fault.Hint(fault.Conflictf("audience %q is configured here, and the service says %q", clip(c.Audience, maxReportShort), demand.Audience), "leave audience=… out")
	}
	c.Audience = demand.Audience
	switch kind := ProofKind(demand.Accept); {
	case kind == "":
	case !slices.Contains(c.Accept, kind):
		return c, fault.Hint(fault.Conflictf("accept=%s is configured here, and the service says %s", c.Accept[0], kind), "leave accept=… out")
	default:
		c.Accept = []ProofKind{kind}
	}
	return c, nil
}

// prover is a check of the callers of one listener.
type prover struct {
	w   *Workload
	cfg ProofConfig
}

// ProofHandler is [Workload.Handler] for requests that come through a load balancer
// which ends mutual TLS: the caller is who the request's WIT-SVID names, if the
// request proves its key, and nobody else, whatever certificate the connection has.
// What follows is the same: [Identity] and [CallerOf] say who calls, and policy
// decides. Requests without TLS, without a proof, with a proof that was shown
// before or is for somebody else get 400, and nothing is asked of policy. All
// handlers of a Workload have one memory of proofs; other processes have their own.
// What the own service says of proofs holds from when it says so: a configuration
// that contradicts it is an error here, and later refuses everybody.
func (w *Workload) ProofHandler(next http.Handler, port uint16, cfg ProofConfig, options ...Option) (http.Handler, error) {
	cfg, err := cfg.withDefaults()
	if err == nil {
		_, err = cfg.under(w.policy.Load().proof)
	}
	if err != nil {
		return nil, err
	}
	w.wits.bundles.ask()
	p := &prover{w: w, cfg: cfg}
	decided := w.Handler(next, port, options...)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		peer, err := p.prove(rw, r)
		if err != nil {
			p.refuse(rw, r, err)
			return
		}
		r.Header.Del(wimse.TokenField)
		r.Header.Del(wimse.ProofField)
		decided.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), peerKey{}, peer)))
	}), nil
}

// prove is whose the request is.
func (p *prover) prove(rw http.ResponseWriter, r *http.Request) (*Peer, error) {
	serverName, secure := serverNameOf(r)
	if !secure { // WIT-SVID 7.3
		return nil, errors.New("the connection is not TLS")
	}
	cfg, err := p.cfg.under(p.w.policy.Load().proof)
	if err != nil {
		return nil, err
	}
	token, err := wimse.TokenOf(r.Header)
	if err != nil {
		return nil, err
	}
	now, bundles := p.w.cfg.Now(), p.w.wits.bundles.value.Load()
	svid, err := spiffe.ValidateWIT(token, spiffe.WITCheck{Bundle: p.w.WITBundle, Now: now})
	if err != nil {
		return nil, err
	}
	check := wimse.Check{Audience: cfg.Audience, Seen: &p.w.proofs, Now: now}
	for _, kind := range cfg.Accept {
		check.Accept = append(check.Accept, wimse.Kind(kind))
	}
	message := wimse.Message{
		Method: r.Method, Target: r.RequestURI, Host: r.Host, Fields: r.Header,
		Body: func() ([]byte, error) { return p.body(rw, r) },
	}
	if err := wimse.Verify(message, token, svid.ID.String(), svid, check); err != nil {
		return nil, err
	}
	peer := &Peer{id: svid.ID, leaf: expiring{svid.Expiry}, serverName: serverName, proven: provenBy(token, now, bundles)}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		peer.address = from.Addr()
	}
	return peer, nil
}

// proven is by what a caller is known that has no connection of its own to be
// verified again.
type proven struct {
	token string
	met   time.Time
	by    atomic.Pointer[spiffe.BundleMap] // that have vouched for it
}

func provenBy(token string, met time.Time, bundles *spiffe.BundleMap) *proven {
	p := &proven{token: token, met: met}
	p.by.Store(bundles)
	return p
}

// stands says whether the present bundles vouch for the token. The time is that of
// the request, as for connections it is that of the handshake.
func (p *proven) stands(w *Workload) bool {
	bundles := w.wits.bundles.value.Load()
	if bundles == nil || bundles == p.by.Load() {
		return bundles != nil
	}
	if _, err := spiffe.ValidateWIT(p.token, spiffe.WITCheck{Bundle: bundles.Bundle, Now: p.met}); err != nil {
		return false
	}
	p.by.Store(bundles)
	return true
}

// serverNameOf is the name that the connection of a request asked TLS for, if it is
// TLS.
func serverNameOf(r *http.Request) (name string, secure bool) {
	if r.TLS != nil {
		return r.TLS.ServerName, true
	}
	name, secure = r.Context().Value(secureKey{}).(string)
	return name, secure
}

// body reads all of a body and puts it back.
func (p *prover) body(rw http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	whole, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, p.cfg.MaxBody))
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(whole))
	return whole, nil
}

// refuse answers a request that is nobody's. Why, is for the log alone.
func (p *prover) refuse(rw http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusBadRequest, "a WIT-SVID with a good proof of its key is needed"
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		status, text = http.StatusRequestEntityTooLarge, "request is too large to be signed"
	case errors.Is(err, wimse.ErrCrowded):
		status, text = http.StatusServiceUnavailable, "too many requests"
	case errors.Is(err, wimse.ErrSignResponse):
		status, text = http.StatusNotImplemented, "responses are not signed"
	}
	p.w.cfg.Log.LogAttrs(r.Context(), slog.LevelWarn, "request without a good proof", slog.String("remote", r.RemoteAddr), slog.String("error", clip(err.Error(), maxReportText)))
	head := rw.Header()
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Type", "text/plain; charset=utf-8")
	rw.WriteHeader(status)
	io.WriteString(rw, text+"\n") //nolint:errcheck // the caller has gone
}

// SigningTransport shows this program's WIT-SVID with each request, and proves its
// key for it, to a receiver with this audience that stands behind a load balancer
// ([Workload.ProofHandler], kith run --prove). base sends the request; nil is
// [http.DefaultTransport]. It refuses what is not https, and shows nothing to the
// target of a redirect elsewhere.
func (w *Workload) SigningTransport(base http.RoundTripper, audience string, kind ProofKind) (http.RoundTripper, error) {
	cfg, err := (ProofConfig{Audience: audience, Accept: []ProofKind{kind}}).withDefaults()
	if err == nil {
		_, err = cfg.under(policy.Proof{})
	}
	if err != nil {
		return nil, err
	}
	if base == nil {
		base = http.DefaultTransport
	}
	w.wits.svid.ask()
	return &signer{w: w, base: base, audience: audience, kind: wimse.Kind(kind)}, nil
}

type signer struct {
	w        *Workload
	base     http.RoundTripper
	audience string
	kind     wimse.Kind
}

// RoundTrip implements http.RoundTripper.
func (s *signer) RoundTrip(r *http.Request) (*http.Response, error) {
	if elsewhere(r) {
		return s.base.RoundTrip(r)
	}
	out, err := s.sign(r)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	return s.base.RoundTrip(out)
}

// sign is the request with its proof.
func (s *signer) sign(r *http.Request) (*http.Request, error) {
	if r.URL == nil || r.URL.Scheme != "https" { // WIT-SVID 7.3
		return nil, fault.Hint(fault.Invalidf("a WIT-SVID is shown over https only"), "use https, or Workload.Client for a service that ends mutual TLS itself")
	}
	svid, err := s.w.WITSVID(r.Context())
	if err != nil {
		return nil, err
	}
	out := r.Clone(r.Context()) // a RoundTripper changes no request
	for _, name := range []string{wimse.TokenField, wimse.ProofField, wimse.InputField, wimse.SignatureField, "Content-Digest"} {
		out.Header.Del(name)
	}
	var body []byte
	if s.kind == wimse.Signature && r.Body != nil && r.Body != http.NoBody {
		body, err = io.ReadAll(io.LimitReader(r.Body, DefaultSignedBody+1))
		if err = errors.Join(err, r.Body.Close()); err != nil {
			return nil, err
		}
		if len(body) > DefaultSignedBody {
			return nil, fault.Hint(fault.Invalidf("a body of more than %d bytes is not signed", DefaultSignedBody), "prove by %s, which binds no body", ProofToken)
		}
		out.Body, out.ContentLength, out.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		out.GetBody = nil // a request is sent once: its proof counts once
	}
	host := out.Host
	if host == "" {
		host = out.URL.Host
	}
	message := wimse.Message{Method: methodOf(out), Target: out.URL.RequestURI(), Host: host, Fields: out.Header}
	fields, err := wimse.Prove(message, s.kind, s.audience, svid, s.w.cfg.Now(), body)
	if err != nil {
		return nil, err
	}
	for name, value := range fields {
		out.Header.Set(name, value)
	}
	return out, nil
}

func methodOf(r *http.Request) string {
	if r.Method == "" {
		return http.MethodGet
	}
	return r.Method
}
