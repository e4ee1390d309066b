package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/oidc"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/spiffe"
)

const issuer = "https://oidc.acme.example"

// asIssuer publishes on a listener with a certificate of its own and behind a proxy.
func asIssuer(t *testing.T, cert tls.Certificate, socket string) func(*server.Config) {
	t.Helper()
	return func(cfg *server.Config) {
		cfg.OIDC = server.OIDC{Issuer: issuer, Behind: "unix:" + socket, Web: server.WebListener{
			Listen:      "127.0.0.1:0",
			Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		}}
		cfg.RS256Audiences = []string{oidc.AzureAudience}
	}
}

// published is the documents at an address, and their head.
type published struct {
	t      *testing.T
	client *http.Client
	at     string
}

func (p published) get(path string, into any) http.Header {
	p.t.Helper()
	answer, err := p.client.Get(p.at + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		p.t.Fatalf("%s: %s %s (%v)", path, answer.Status, body, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		p.t.Fatalf("%s: %v", body, err)
	}
	return answer.Header
}

func (p published) keys() map[string]oidc.Key {
	p.t.Helper()
	var set oidc.KeySet
	p.get(oidc.KeysPath, &set)
	out := map[string]oidc.Key{}
	for _, key := range set.Keys {
		out[key.ID] = key
	}
	return out
}

// overTLS asks the listener of the web; overSocket the one behind a proxy.
func overTLS(t *testing.T, r *rig, roots *x509.CertPool) published {
	web, _ := r.s.OIDCAddrs()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return published{t, &http.Client{Transport: transport}, "https://" + web}
}

func overSocket(t *testing.T, path string) published {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return published{t, &http.Client{Transport: transport}, "http://kith"}
}

// Tokens name the issuer, and its keys verify them, wherever one asks: over TLS, or
// behind a proxy. RS256 is there for the cloud that reads nothing else.
func TestOIDCPublishesWhatVerifiesTokens(t *testing.T) {
	t.Parallel()
	o := newOther(t) // for its certificate
	socket := filepath.Join(t.TempDir(), "oidc.sock")
	r := start(t, asIssuer(t, o.cert, socket))
	r.apply(&pb.ApplyRequest{Put: shop()})
	a := r.joined("n1")
	a.connect()
	a.at(r.status().GetRevision())
	for name, p := range map[string]published{"TLS": overTLS(t, r, o.roots), "proxied": overSocket(t, socket)} {
		var discovery oidc.Discovery
		head := p.get(oidc.DiscoveryPath, &discovery)
		if discovery.Issuer != issuer || discovery.KeysURI != issuer+oidc.KeysPath || strings.Join(discovery.Algorithms, " ") != "RS256 ES256" {
			t.Errorf("%s: %+v", name, discovery)
		}
		if head.Get("Cache-Control") != "public, max-age=300" {
			t.Errorf("%s: cache %q", name, head.Get("Cache-Control"))
		}
		keys := p.keys()
		for audience, algorithm := range map[string]string{"billing": "ES256", oidc.AzureAudience: "RS256"} {
			result := a.signJWT(func(q *pb.JWTRequest) { q.Audience = []string{audience} })[0]
			svid, err := spiffe.ParseJWT(result.GetToken())
			if err != nil {
				t.Fatalf("%s: %v (%s)", audience, err, result.GetError())
			}
			if key := keys[svid.KeyID()]; key.Algorithm != algorithm || string(svid.Claim("iss")) != `"`+issuer+`"` {
				t.Errorf("%s, %s: key %+v, iss %s", name, audience, key, svid.Claim("iss"))
			}
		}
	}
}

// A new key is published before it signs, and the old one stays meanwhile: who has
// fetched within the time the head allows knows every token's key.
func TestOIDCKeysOverlapInRotation(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	socket := filepath.Join(t.TempDir(), "oidc.sock")
	r := start(t, asIssuer(t, o.cert, socket))
	p := overSocket(t, socket)
	before := p.keys()
	changed, revision := r.advance(r.clock.Now().Add(24 * time.Hour))
	if !changed {
		t.Fatal("nothing is due after a day")
	}
	within(t, "the new keys", func() bool { return r.status().GetRevision() == revision && len(p.keys()) > len(before) })
	after := p.keys()
	for id := range before {
		if _, ok := after[id]; !ok {
			t.Errorf("key %s, which signs, has gone", id)
		}
	}
}

// Every server of a trust domain gives the same documents: the keys are not its own.
func TestOIDCIsTheSameOnEveryServer(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	dir := t.TempDir()
	one := start(t, asIssuer(t, o.cert, filepath.Join(dir, "1.sock")))
	two := newRig(t, asIssuer(t, o.cert, filepath.Join(dir, "2.sock")))
	two.cfg.Name, two.cfg.Store, two.store, two.cfg.KEK = "two", one.store, one.store, one.cfg.KEK
	two.start()
	first, second := overSocket(t, filepath.Join(dir, "1.sock")), overSocket(t, filepath.Join(dir, "2.sock"))
	var a, b oidc.KeySet
	if first.get(oidc.KeysPath, &a).Get("Etag") != second.get(oidc.KeysPath, &b).Get("Etag") || len(a.Keys) == 0 {
		t.Errorf("keys differ:\n%+v\n%+v", a, b)
	}
	var c, d oidc.Discovery
	if first.get(oidc.DiscoveryPath, &c).Get("Etag") != second.get(oidc.DiscoveryPath, &d).Get("Etag") {
		t.Errorf("discovery differs:\n%+v\n%+v", c, d)
	}
}

// What is not encrypted is on this host only, and without an issuer nothing is served.
func TestOIDCBehindIsOnThisHost(t *testing.T) {
	t.Parallel()
	for address, good := range map[string]bool{"127.0.0.1:0": true, "localhost:0": true, "0.0.0.0:0": false, ":0": false} {
		r := newRig(t, func(cfg *server.Config) { cfg.OIDC = server.OIDC{Issuer: issuer, Behind: address} })
		s, err := server.New(t.Context(), r.cfg)
		if (err == nil) != good {
			t.Errorf("%s: got %v", address, err)
		}
		if err == nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
