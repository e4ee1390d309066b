package spiffe_test

import (
	"crypto/x509"
	"net/url"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/kith-id/kith/spiffe"
)

// The peer library, go-spiffe, reads what we write, and we what it writes.

func TestOracleIDs(t *testing.T) {
	for _, uri := range []string{
		"spiffe://acme.example", "spiffe://acme.example/a/b", "spiffe://1.2.3.4/x", "spiffe://a_b..c/x", "spiffe://td/.../..a",
		"", "spiffe://", "spiffe://td/", "spiffe://td//", "spiffe://TD/a", "spiffe://td/a?", "spiffe://td/a#", "spiffe://td:1/a", "spiffe://u@td/a",
		"spiffe://td/%61", "spiffe://td/..", "spiffe://td/.", "spiffe://td/a/", "http://td/a", "spiffe://td/a b", "spiffe://td/ä",
	} {
		sameID(t, uri)
	}
}

func sameID(t *testing.T, uri string) {
	t.Helper()
	ours, err := spiffe.ParseID(uri)
	theirs, theirErr := spiffeid.FromString(uri)
	if (err == nil) != (theirErr == nil) {
		t.Errorf("%q: ours %v, go-spiffe %v", uri, err, theirErr)
		return
	}
	if err == nil && (ours.String() != theirs.String() || ours.Path() != theirs.Path() || ours.TrustDomain().String() != theirs.TrustDomain().Name()) {
		t.Errorf("%q: ours %s, go-spiffe %s", uri, ours, theirs)
	}
}

func TestOracleBundles(t *testing.T) {
	root, other := newRoot(t, "acme.example"), newRoot(t, "acme.example")
	td := spiffeid.RequireTrustDomainFromString("acme.example")
	ours := spiffe.NewBundle(root.td, 42, spiffe.DefaultRefreshHint, root.cert, other.cert)
	out, err := ours.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := spiffebundle.Parse(td, out)
	if err != nil {
		t.Fatalf("go-spiffe does not read %s: %v", out, err)
	}
	sequence, _ := theirs.SequenceNumber()
	hint, _ := theirs.RefreshHint()
	if len(theirs.X509Authorities()) != 2 || sequence != 42 || hint != spiffe.DefaultRefreshHint {
		t.Errorf("go-spiffe reads %d roots, sequence %d, hint %s", len(theirs.X509Authorities()), sequence, hint)
	}
	jwtKey := spiffe.JWTKey{ID: "key", Public: newKey(t).Public()}
	if err := theirs.AddJWTAuthority(jwtKey.ID, jwtKey.Public); err != nil {
		t.Fatal(err)
	}
	back, err := theirs.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	with, err := ours.WithJWTKeys(jwtKey)
	if err != nil {
		t.Fatal(err)
	}
	again, err := spiffe.ParseBundle(root.td, back)
	if err != nil || !again.Equal(with) {
		t.Errorf("what go-spiffe writes, %s, is not the same bundle: %v", back, err)
	}
}

func TestOracleSVIDs(t *testing.T) {
	root := newRoot(t, "acme.example")
	issuing := root.child()
	svid := issuing.svid("/web", issuing.cert)
	key, err := svid.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := x509svid.ParseRaw(svid.MarshalChain(), key)
	if err != nil || theirs.ID.String() != svid.ID.String() {
		t.Fatalf("go-spiffe reads %v, %v", theirs, err)
	}
	chain, keyDER, err := theirs.MarshalRaw()
	if err != nil {
		t.Fatal(err)
	}
	again, err := spiffe.ParseX509SVID(chain, keyDER)
	if err != nil || again.ID != svid.ID {
		t.Errorf("ours reads %v, %v", again, err)
	}
}

// What go-spiffe refuses we refuse; what it lets through and we do not is
// named here.
func TestOracleVerify(t *testing.T) {
	root := newRoot(t, "acme.example", validNow)
	issuing := root.child(validNow)
	td := spiffeid.RequireTrustDomainFromString("acme.example")
	theirBundle := x509bundle.FromX509Authorities(td, []*x509.Certificate{root.cert})
	for name, c := range map[string]struct {
		change           change
		ours, theirs     bool
		path             string
		withIntermediate bool
	}{
		"lawful":              {ours: true, theirs: true, path: "/a", withIntermediate: true},
		"no intermediate":     {path: "/a"},
		"authority":           {path: "/a", withIntermediate: true, change: func(c *x509.Certificate) { c.IsCA = true }},
		"keyCertSign":         {path: "/a", withIntermediate: true, change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		"cRLSign":             {path: "/a", withIntermediate: true, change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }},
		"two URI names":       {path: "/a", withIntermediate: true, change: func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "https", Host: "a"}) }},
		"no key usage":        {theirs: true, path: "/a", withIntermediate: true, change: func(c *x509.Certificate) { c.KeyUsage = 0 }},
		"client purpose only": {theirs: true, path: "/a", withIntermediate: true, change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }},
		"empty fragment":      {theirs: true, path: "/", withIntermediate: true, change: rawURIs(true, "spiffe://acme.example/a#")},
	} {
		changes := []change{validNow}
		if c.change != nil {
			changes = append(changes, c.change)
		}
		chain := []*x509.Certificate{issuing.leaf(c.path, changes...)}
		if c.withIntermediate {
			chain = append(chain, issuing.cert)
		}
		_, err := spiffe.Verify(chain, root.bundles().Bundle, epoch)
		_, _, theirErr := x509svid.Verify(chain, theirBundle, x509svid.WithTime(epoch))
		if (err == nil) != c.ours || (theirErr == nil) != c.theirs {
			t.Errorf("%s: ours %v (want accepted %t), go-spiffe %v (want accepted %t)", name, err, c.ours, theirErr, c.theirs)
		}
	}
}

// validNow makes a certificate of the tests' epoch valid for a library that
// has no clock argument.
func validNow(c *x509.Certificate) { c.NotAfter = epoch.AddDate(100, 0, 0) }

func TestOracleHandshakes(t *testing.T) {
	root := newRoot(t, "acme.example", validNow, func(c *x509.Certificate) { c.NotBefore = epoch.AddDate(-20, 0, 0) })
	td := spiffeid.RequireTrustDomainFromString("acme.example")
	long := func(c *x509.Certificate) { validNow(c); c.NotBefore = epoch.AddDate(-20, 0, 0) }
	svid := func(path string) *spiffe.X509SVID {
		key := newKey(t)
		leaf := root.leafFor(key, path, long)
		return &spiffe.X509SVID{ID: mustID(t, "spiffe://acme.example"+path), Certificates: []*x509.Certificate{leaf}, PrivateKey: key}
	}
	their := func(path string) *x509svid.SVID {
		s := svid(path)
		return &x509svid.SVID{ID: spiffeid.RequireFromString(s.ID.String()), Certificates: s.Certificates, PrivateKey: s.PrivateKey}
	}
	bundle := x509bundle.FromX509Authorities(td, []*x509.Certificate{root.cert})
	ours := &source{svid: svid("/ours"), bundles: root.bundles()}
	theirs := spiffeid.RequireFromString("spiffe://acme.example/ours")

	o := connect(t, spiffe.ServerTLS(ours, now, nil), tlsconfig.MTLSClientConfig(their("/theirs"), bundle, tlsconfig.AuthorizeID(theirs)))
	o.ok(t)
	if id, err := spiffe.PeerID(o.server); err != nil || id.Path() != "/theirs" {
		t.Errorf("our server sees %s, %v", id, err)
	}
	o = connect(t, tlsconfig.MTLSServerConfig(their("/theirs"), bundle, tlsconfig.AuthorizeID(theirs)), spiffe.ClientTLS(ours, now, anyID))
	o.ok(t)
	if id, err := spiffe.PeerID(o.client); err != nil || id.Path() != "/theirs" {
		t.Errorf("our client sees %s, %v", id, err)
	}
}
