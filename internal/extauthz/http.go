package extauthz

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// CallerHeader is the response header that tells a proxy, for its back end, whom
// the request was allowed to; empty for an anonymous caller.
const CallerHeader = "Kith-Caller"

const (
	authPath        = "/auth"
	forwardedMethod = "X-Forwarded-Method"
	forwardedTarget = "X-Forwarded-Uri"
	forwardedCert   = "X-Forwarded-Tls-Client-Cert"
)

type callerKey struct{}

// WithCaller is the context of a connection whose other end is known.
func WithCaller(ctx context.Context, caller attest.Peer) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

// ServeHTTP answers all who ask over HTTP: proxies below /auth, applications that
// speak OPA's data API, and those that speak AuthZEN.
func (s *Service) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	_, v1 := under(path, "/v1")
	_, v0 := under(path, "/v0")
	switch {
	case v1, v0, path == "/", path == "/health":
		s.serveOPA(rw, r)
	case strings.HasPrefix(path, accessPath), path == metadataPath:
		s.serveAuthZEN(rw, r)
	default:
		s.serveProxy(rw, r)
	}
}

// serveProxy answers auth_request and forward_auth: 200 for a request that may be
// forwarded and 403 for one that may not, because some proxies take any other code
// for an accident; 401, which they know too, where only a good user token is
// missing.
//
// The question is in the query, which is the proxy's configuration and out of its
// clients' reach, as header fields of the subrequest are not: those of the client
// are passed on with it.
//
//	/auth[/SERVICE]?verify=SUCCESS&cert=…&method=GET&uri=/v1/orders?a=b
func (s *Service) serveProxy(rw http.ResponseWriter, r *http.Request) {
	service, ok := serviceOf(r.URL.Path)
	if !ok {
		http.NotFound(rw, r)
		return
	}
	head := rw.Header()
	head.Set("Cache-Control", "no-store")
	answer := s.put(r, "proxy", func(p *Point) (Question, error) { return p.told(service, r, s.now()) })
	if answer.ID != "" {
		head.Set(DecisionHeader, answer.ID)
	}
	if !answer.Allowed() {
		refuse(rw, answer)
		return
	}
	head.Set(CallerHeader, answer.From.String())
	rw.WriteHeader(http.StatusOK)
}

func refuse(rw http.ResponseWriter, a Answer) {
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	status := http.StatusForbidden
	if a.WantsToken() { // nginx knows this one as well
		status = http.StatusUnauthorized
		rw.Header().Set("WWW-Authenticate", a.challenge())
	}
	rw.WriteHeader(status)
	_, _ = rw.Write([]byte(denial(a))) // the proxy has gone
}

func serviceOf(path string) (service string, ok bool) {
	rest, ok := strings.CutPrefix(path, authPath)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	service = strings.TrimPrefix(rest, "/")
	return service, !strings.Contains(service, "/")
}

// told is the question of a subrequest. With an error it is about nobody, and
// denied.
func (p *Point) told(service string, r *http.Request, now time.Time) (Question, error) {
	q := Question{Service: service}
	said, err := readQuery(r.URL.RawQuery)
	facts := &policy.Facts{Time: now}
	q.Request = policy.Request{Protocol: policy.HTTP, Method: said["method"], Host: r.Host, Facts: facts}
	q.Target = said["uri"]
	if via, told := said["via"]; err == nil && told {
		// A method is any token, and one with an ampersand must not have the question
		// answered by header fields that are the client's.
		if via != "forwarded" || q.Request.Method != "" || q.Target != "" {
			err = fault.Invalidf("the question says via=%s, which is forwarded, in place of method and uri", clip(via, maxShort))
		} else {
			q.Request.Method, q.Target, err = forwarded(r.Header)
		}
	}
	if err == nil && said["cert"] == "forwarded" {
		said["cert"], err = forwardedLeaf(r.Header, said["via"])
	}
	if said["headers"] == "all" { // else a condition on one cannot be evaluated
		facts.Headers = policy.Fields(r.Header)
		if kind := r.Header.Get("Content-Type"); strings.HasPrefix(kind, "application/grpc") {
			q.Request.Protocol, q.Request.GRPC = policy.GRPC, true
		}
	}
	switch {
	case err != nil:
	case q.Request.Method == "" || q.Target == "":
		err = fault.Invalidf("the question says no method or no uri")
	case said["verify"] == "NONE" && said["cert"] == "":
		q.Anonymous = true
	case said["verify"] != "SUCCESS":
		err = fault.Invalidf("the proxy says of the peer's certificate: %q", clip(said["verify"], maxShort))
	default:
		if q.From, q.Leaf, err = parseLeaf(said["cert"], now); err == nil {
			err = p.ownDomain(&q)
		}
	}
	return q, err
}

// ownDomain refuses a peer of another trust domain. A proxy of this kind checks
// chains against one file of roots; with two domains in it, each could sign names
// of the other.
func (p *Point) ownDomain(q *Question) error {
	td := q.From.TrustDomain()
	if td == p.ruling.Load().own {
		return nil
	}
	id := q.From
	q.From = spiffe.ID{}
	return fault.Hint(fault.Invalidf("%s is of another trust domain, and this proxy cannot tell trust domains apart", id),
		"peers of trust domain %s need an enforcement point that can: kith proxy, Envoy or the SDK", td)
}

// readQuery reads the words of a query, each once. uri is the last one and takes
// all that follows, as a request target brings its own question marks.
func readQuery(raw string) (map[string]string, error) {
	said := make(map[string]string)
	for raw != "" {
		var pair string
		if target, ok := strings.CutPrefix(raw, "uri="); ok {
			pair, raw = "uri="+target, ""
		} else {
			pair, raw, _ = strings.Cut(raw, "&")
		}
		name, value, _ := strings.Cut(pair, "=")
		if _, twice := said[name]; twice {
			return said, fault.Invalidf("the question says %q twice", clip(name, maxShort))
		}
		switch name {
		case "cert", "uri": // each has its own reading of an escape
		case "verify", "method", "via", "headers":
			plain, err := url.PathUnescape(value)
			if err != nil {
				return said, fault.Invalidf("the question's %s is not URL-encoded", name)
			}
			value = plain
		default:
			return said, fault.Hint(fault.Invalidf("the question has an unknown word %q", clip(name, maxShort)),
				"verify, cert, method, via, headers, and uri at the end")
		}
		said[name] = value
	}
	return said, nil
}

// forwarded is the method and target as forward_auth tells them. That they are
// its own word and not the client's is known because they are there once.
func forwarded(head http.Header) (method, target string, err error) {
	methods, targets := head.Values(forwardedMethod), head.Values(forwardedTarget)
	if len(methods) != 1 || len(targets) != 1 {
		return "", "", fault.Invalidf("the question has %d of %s and %d of %s, one of each is wanted",
			len(methods), forwardedMethod, len(targets), forwardedTarget)
	}
	return methods[0], targets[0], nil
}

// forwardedLeaf is the peer's certificate as Traefik's passTLSClientCert tells it: DER
// in base64, the leaf first. That it is Traefik's word and not the client's is known as
// it is there once: where Traefik has it from TLS, it replaces what the client sent.
func forwardedLeaf(head http.Header, via string) (string, error) {
	chains := head.Values(forwardedCert)
	if via != "forwarded" || len(chains) != 1 || chains[0] == "" {
		return "", fault.Hint(fault.Invalidf("the question has %d of %s, one is wanted, with via=forwarded", len(chains), forwardedCert),
			"passTLSClientCert: {pem: true} before forwardAuth, and a clientAuthType that requires a certificate")
	}
	leaf, _, _ := strings.Cut(chains[0], ",")
	return leaf, nil
}
