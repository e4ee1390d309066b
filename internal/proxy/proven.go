package proxy

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
)

// Proven is an application that callers reach through a load balancer which ends
// their mutual TLS, so that each request must prove whose it is.
type Proven struct {
	Exposure
	Proof kith.ProofConfig
}

// ParseProven reads what ParseExposure does, then options with commas between:
// audience=URL, which may be left out where the service says it, and accept=signature
// or accept=wpt.
func ParseProven(text string) (Proven, error) {
	const form = "as in 8444=8080,audience=https://orders.acme.example"
	exposure, options, _ := strings.Cut(text, ",")
	out := Proven{}
	var err error
	if out.Exposure, err = ParseExposure(exposure); err != nil {
		return Proven{}, err
	}
	err = eachOption(options, func(name, value string) bool {
		switch name {
		case "audience":
			out.Proof.Audience = value
		case "accept":
			out.Proof.Accept = []kith.ProofKind{kith.ProofKind(value)}
		default:
			return false
		}
		return true
	})
	if err == nil && len(out.Proof.Accept) > 0 {
		err = checkProof(out.Proof.Accept[0])
	}
	if err != nil {
		return Proven{}, fault.Hint(fault.Invalidf("prove %q: %w", text, err), form)
	}
	return out, nil
}

// Via is a service that is called through a load balancer.
type Via struct {
	Service  string
	URL      *url.URL // https, without a path
	Audience string
	Proof    kith.ProofKind
	CAFile   string // PEM; empty: CA
	CA       string // PEM; empty: whom this host trusts for the web
}

// ParseVia reads service=https://host[:port], then options with commas between:
// audience=URL, which must be there, proof=signature or proof=wpt, and ca=FILE.
func ParseVia(text string) (Via, error) {
	const form = "as in orders=https://lb.acme.example,audience=https://orders.acme.example"
	first, options, _ := strings.Cut(text, ",")
	service, address, ok := strings.Cut(first, "=")
	out := Via{Service: strings.ToLower(service), Proof: kith.ProofSignature}
	u, err := url.Parse(address)
	if !ok || service == "" || err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		return Via{}, fault.Hint(fault.Invalidf("via %q: want a service and an https address without a path", text), form)
	}
	out.URL = &url.URL{Scheme: "https", Host: u.Host}
	err = eachOption(options, func(name, value string) bool {
		switch name {
		case "audience":
			out.Audience = value
		case "proof":
			out.Proof = kith.ProofKind(value)
		case "ca":
			out.CAFile = value
		default:
			return false
		}
		return true
	})
	if err == nil && out.Audience == "" {
		err = fault.Invalidf("no audience")
	}
	if err == nil {
		err = checkProof(out.Proof)
	}
	if err != nil {
		return Via{}, fault.Hint(fault.Invalidf("via %q: %w", text, err), form)
	}
	return out, nil
}

func checkProof(kind kith.ProofKind) error {
	if kind != kith.ProofSignature && kind != kith.ProofToken {
		return fault.Invalidf("proof %q is neither %s nor %s", kind, kith.ProofSignature, kith.ProofToken)
	}
	return nil
}

// eachOption takes name=value, with commas between, each name once.
func eachOption(text string, take func(name, value string) bool) error {
	seen := make(map[string]bool)
	for text != "" {
		var option string
		option, text, _ = strings.Cut(text, ",")
		name, value, ok := strings.Cut(option, "=")
		if !ok || value == "" || seen[name] || !take(name, value) {
			return fault.Invalidf("option %q is unknown, empty or there twice", option)
		}
		seen[name] = true
	}
	return nil
}

// secure is the listener's TLS: mutual, or ours alone before load balancers.
func (in *inbound) secure() net.Listener {
	w := in.p.cfg.Workload
	if in.proven != nil {
		return w.ProofListener(in.listener, "h2", "http/1.1")
	}
	return w.Listener(in.listener, "h2", "http/1.1")
}

// serveProven gives a connection of a load balancer to net/http: on each request
// another caller may come. A service of raw TCP has no requests to prove.
func (in *inbound) serveProven(conn *tls.Conn) {
	switch {
	case in.p.cfg.Workload.Protocol() == kith.TCP:
		conn.Close()
	case conn.ConnectionState().NegotiatedProtocol == "h2":
		in.queue.put(conn)
	default:
		in.queue.put(strictly(conn, nil))
	}
}

// via is the way to a service through its load balancer.
func (o *outbound) via(v Via) (*balancedWay, error) {
	base := &http.Transport{
		DisableCompression: true, ForceAttemptHTTP2: false,
		MaxIdleConns: 256, MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: time.Second, MaxResponseHeaderBytes: 256 << 10,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	roots := []byte(v.CA)
	if v.CAFile != "" {
		text, err := os.ReadFile(v.CAFile)
		if err != nil {
			return nil, fault.Invalidf("via %s: ca: %w", v.Service, err)
		}
		roots = text
	}
	if len(roots) > 0 {
		base.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !base.TLSClientConfig.RootCAs.AppendCertsFromPEM(roots) {
			return nil, fault.Invalidf("via %s: ca: %s holds no certificate in PEM", v.Service, cmp.Or(v.CAFile, "what the service says"))
		}
	}
	signing, err := o.p.cfg.Workload.SigningTransport(base, v.Audience, v.Proof)
	if err != nil {
		return nil, err
	}
	out := o.forwarder(signing)
	out.Rewrite = func(pr *httputil.ProxyRequest) {
		pr.Out.URL.Scheme, pr.Out.URL.Host = v.URL.Scheme, v.URL.Host
		pr.Out.URL.RawQuery = pr.In.URL.RawQuery
		pr.Out.Host = v.URL.Host // the load balancer routes by its own name
		strip(pr.Out.Header)
		trail(pr)
	}
	return &balancedWay{handler: out, base: base}, nil
}
