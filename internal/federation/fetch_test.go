package federation

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// Rule 116: both profiles are supported. Rule 121: the certificate names the
// host and comes from a CA of the web that is trusted here.
func TestFetchByWebCertificate(t *testing.T) {
	ca, other := newAuthority(t, "web"), newAuthority(t, "other")
	at := listen(t, ca.leaf("", nil), answering(other.document("other.example", 7)))
	f := NewFetcher(FetcherConfig{Roots: ca.pool(), Allow: local(), Now: time.Now})
	got, err := f.Fetch(t.Context(), web(t, at))
	if err != nil {
		t.Fatal(err)
	}
	if !got.Bundle.Equal(other.bundle("other.example", 7)) {
		t.Errorf("got another bundle than was served: %s", got.Document)
	}
}

// Rule 116, 125, 126: an endpoint that is a workload of the trust domain itself
// is verified with the bundle held, another one with its own trust domain's.
func TestFetchBySVID(t *testing.T) {
	other, hub := newAuthority(t, "other"), newAuthority(t, "hub")
	bundles := spiffe.BundleMap{
		domain(t, "other.example"): other.bundle("other.example", 7),
		domain(t, "hub.example"):   hub.bundle("hub.example", 1),
	}
	f := NewFetcher(FetcherConfig{Allow: local(), Now: time.Now, Bundle: bundles.Bundle})
	for endpoint, signer := range map[string]*authority{"spiffe://other.example/bundles": other, "spiffe://hub.example/bundles": hub} {
		at := listen(t, signer.leaf(endpoint, nil), answering(other.document("other.example", 8)))
		got, err := f.Fetch(t.Context(), strict(t, at, endpoint))
		if err != nil || got.Bundle.Sequence() != 8 {
			t.Errorf("%s: got %v, want the bundle with sequence 8", endpoint, err)
		}
	}
	// The latest bundle counts: once the root has gone, so has the endpoint.
	at := listen(t, other.leaf("spiffe://other.example/bundles", nil), answering(other.document("other.example", 9)))
	bundles[domain(t, "other.example")] = hub.bundle("other.example", 8)
	if _, err := f.Fetch(t.Context(), strict(t, at, "spiffe://other.example/bundles")); reasonOf(err) != ReasonCertificate {
		t.Errorf("endpoint of a former root: got %v, want its certificate refused", err)
	}
}

// Rule 121, 126, T25: an endpoint that is not the one is refused, whoever vouches
// for it otherwise.
func TestFetchRefusesAnotherEndpoint(t *testing.T) {
	ca, other, acme := newAuthority(t, "web"), newAuthority(t, "other"), newAuthority(t, "acme")
	bundles := spiffe.BundleMap{
		domain(t, "other.example"): other.bundle("other.example", 7),
		domain(t, "acme.example"):  acme.bundle("acme.example", 1),
	}
	const right = "spiffe://other.example/bundles"
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	for name, tc := range map[string]struct {
		at      string
		profile registry.EndpointProfile
		want    string
	}{
		"web, expired":                     {listen(t, ca.leaf("", expired), answering(nil)), registry.HTTPSWeb, "expired"},
		"web, of another host":             {listen(t, ca.leaf("", func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 2}} }), answering(nil)), registry.HTTPSWeb, "not 127.0.0.1"},
		"web, unknown CA":                  {listen(t, acme.leaf("", nil), answering(nil)), registry.HTTPSWeb, "unknown authority"},
		"web, an SVID":                     {listen(t, ca.leaf(right, nil), answering(nil)), registry.HTTPSWeb, "any IP SANs"},
		"spiffe, expired":                  {listen(t, other.leaf(right, expired), answering(nil)), registry.HTTPSSPIFFE, "expired"},
		"spiffe, another ID":               {listen(t, other.leaf("spiffe://other.example/web", nil), answering(nil)), registry.HTTPSSPIFFE, "is expected"},
		"spiffe, another domain":           {listen(t, acme.leaf("spiffe://acme.example/bundles", nil), answering(nil)), registry.HTTPSSPIFFE, "is expected"},
		"spiffe, signed by another domain": {listen(t, acme.leaf(right, nil), answering(nil)), registry.HTTPSSPIFFE, "verify " + right},
		"spiffe, web certificate":          {listen(t, ca.leaf("", nil), answering(nil)), registry.HTTPSSPIFFE, "URI"},
		"spiffe, two names":                {listen(t, other.leaf(right, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), answering(nil)), registry.HTTPSSPIFFE, "URI"},
	} {
		t.Run(name, func(t *testing.T) {
			rel := web(t, tc.at)
			if tc.profile == registry.HTTPSSPIFFE {
				rel = strict(t, tc.at, right)
			}
			f := NewFetcher(FetcherConfig{Roots: ca.pool(), Allow: local(), Now: time.Now, Bundle: bundles.Bundle})
			_, err := f.Fetch(t.Context(), rel)
			if reasonOf(err) != ReasonCertificate || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v (%s), want the certificate refused with %q", err, reasonOf(err), tc.want)
			}
		})
	}
}

// Rule 64, 123, T25: what is no bundle is refused with a reason that says what it
// is, within bounds of bytes and keys.
func TestThreatT25FetchRefusesWhatIsNoBundle(t *testing.T) {
	ca := newAuthority(t, "web")
	page := func(kind, text string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", kind)
			_, _ = rw.Write([]byte(text))
		}
	}
	var sent atomic.Int64
	flood := func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for range 100 << 20 / len(chunk) {
			n, err := rw.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		reason Reason
		want   string
	}{
		"HTML":         {page("text/html; charset=utf-8", "<html>"), ReasonAnswer, "web page"},
		"HTML as JSON": {page("application/json", "<html>"), ReasonBundle, "not a JSON object"},
		"100 MB":       {flood, ReasonAnswer, "more than 262144 bytes"},
		"100 MB announced": {func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Length", "104857600")
			flood(rw, r)
		}, ReasonAnswer, "104857600 bytes"},
		"compressed":     {func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("Content-Encoding", "gzip") }, ReasonAnswer, "encoding"},
		"404":            {http.NotFound, ReasonAnswer, "status 404"},
		"503":            {func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(503) }, ReasonAnswer, "status 503"},
		"nothing":        {page("application/json", ""), ReasonBundle, "not a JSON object"},
		"no keys":        {page("application/json", `{"spiffe_sequence":1}`), ReasonBundle, "keys is missing"},
		"name twice":     {page("application/json", `{"keys":[],"keys":[]}`), ReasonBundle, "occurs twice"},
		"too many keys":  {page("application/json", `{"keys":[`+strings.Repeat("{},", 600)+`{}]}`), ReasonBundle, "at most 512"},
		"not UTF-8 JSON": {page("application/json", "\xff\xfe{\x00}\x00"), ReasonBundle, "not a JSON object"},
		"cut off": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "50")
			_, _ = rw.Write([]byte("{"))
		}, ReasonAnswer, "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFetcher(FetcherConfig{Roots: ca.pool(), Allow: local(), Now: time.Now})
			_, err := f.Fetch(t.Context(), web(t, listen(t, ca.leaf("", nil), tc.answer)))
			if err == nil || reasonOf(err) != tc.reason || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v (%s), want %s with %q", err, reasonOf(err), tc.reason, tc.want)
			}
		})
	}
	if n := sent.Load(); n > 32<<20 {
		t.Errorf("%d bytes of the flood were taken", n)
	}
}

// Rule 124, T26: a redirect is followed to what is an endpoint by the same rules,
// and to nothing else; where it led is not remembered.
func TestFetchFollowsRedirectsToEndpointsOnly(t *testing.T) {
	ca, other := newAuthority(t, "web"), newAuthority(t, "other")
	bundles := spiffe.BundleMap{domain(t, "other.example"): other.bundle("other.example", 7)}
	const right = "spiffe://other.example/bundles"
	var plain, asked atomic.Int32
	insecure := http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { plain.Add(1) })}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go insecure.Serve(l) //nolint:errcheck // ends with Close
	t.Cleanup(func() { insecure.Close() })
	target := listen(t, ca.leaf("", nil), func(rw http.ResponseWriter, r *http.Request) {
		if r.Referer() != "" {
			t.Errorf("the redirect tells where it comes from: %q", r.Referer())
		}
		writeJSON(rw, other.document("other.example", 7))
	})
	secured := listen(t, other.leaf(right, nil), answering(other.document("other.example", 7)))
	impostor := listen(t, other.leaf("spiffe://other.example/web", nil), answering(other.document("other.example", 7)))
	from := func(signer *authority, name, to string) string {
		return listen(t, signer.leaf(name, nil), func(rw http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			http.Redirect(rw, r, to, http.StatusFound)
		})
	}
	var loop string
	loop = listen(t, ca.leaf("", nil), func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, loop, http.StatusFound) })
	f := NewFetcher(FetcherConfig{Roots: ca.pool(), Allow: local(), Now: time.Now, Bundle: bundles.Bundle})
	for name, tc := range map[string]struct {
		rel  registry.Federation
		want Reason // "" for none
	}{
		"to an endpoint":             {web(t, from(ca, "", target)), ""},
		"to an endpoint with its ID": {strict(t, from(other, right, secured), right), ""},
		"to another ID":              {strict(t, from(other, right, impostor), right), ReasonCertificate},
		"to a web certificate":       {strict(t, from(other, right, target), right), ReasonCertificate},
		"to http":                    {web(t, from(ca, "", "http://"+l.Addr().String()+"/")), ReasonRedirect},
		"with a user":                {web(t, from(ca, "", "https://root@"+target[len("https://"):])), ReasonRedirect},
		"to a file":                  {web(t, from(ca, "", "file:///etc/passwd")), ReasonRedirect},
		"to metadata":                {web(t, from(ca, "", "https://169.254.169.254/latest/")), ReasonAddress},
		"for ever":                   {web(t, loop), ReasonRedirect},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.Fetch(t.Context(), tc.rel)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("got %v, want the bundle", err)
			case tc.want != "" && (err == nil || reasonOf(err) != tc.want):
				t.Errorf("got %v (%s), want %s", err, reasonOf(err), tc.want)
			}
		})
	}
	if plain.Load() != 0 {
		t.Error("something was asked over http")
	}
	again := web(t, from(ca, "", target))
	asked.Store(0)
	for range 2 {
		if _, err := f.Fetch(t.Context(), again); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 2 {
		t.Errorf("the configured URL was asked %d times in two fetches: the redirect was stored", asked.Load())
	}
}

// T26: addresses that only this host can reach are not dialled, whatever name leads
// there; package egress says which these are.
func TestThreatT26FetchDialsNoInnerAddress(t *testing.T) {
	ca := newAuthority(t, "web")
	reached := false
	at := listen(t, ca.leaf("", func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} }), func(http.ResponseWriter, *http.Request) { reached = true })
	f := NewFetcher(FetcherConfig{Roots: ca.pool(), Now: time.Now})
	for _, url := range []string{at, strings.Replace(at, "127.0.0.1", "localhost", 1), strings.Replace(at, "127.0.0.1", "[::ffff:127.0.0.1]", 1)} {
		if _, err := f.Fetch(t.Context(), web(t, url)); reasonOf(err) != ReasonAddress {
			t.Errorf("%s: got %v, want the address refused", url, err)
		}
	}
	if reached {
		t.Error("the inner server was reached")
	}
}

// T26: the environment's proxy is no way around the address that was looked at.
func TestFetchTakesNoProxyOfTheEnvironment(t *testing.T) {
	f := NewFetcher(FetcherConfig{Now: time.Now})
	if transport := f.client(web(t, "https://other.example/")).Transport.(*http.Transport); transport.Proxy != nil {
		t.Error("a proxy may be asked for: the address it dials is looked at by nobody")
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	ca := newAuthority(t, "web")
	held := make(chan struct{})
	at := listen(t, ca.leaf("", nil), func(_ http.ResponseWriter, r *http.Request) {
		close(held)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-held; cancel() }()
	f := NewFetcher(FetcherConfig{Roots: ca.pool(), Allow: local(), Now: time.Now})
	if _, err := f.Fetch(ctx, web(t, at)); reasonOf(err) != ReasonConnect {
		t.Errorf("got %v, want it ended", err)
	}
}
