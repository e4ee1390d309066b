package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/spiffe"
)

// other is the bundle endpoint of another trust domain, of profile https_web.
type other struct {
	url      string
	roots    *x509.CertPool
	root     *x509.Certificate
	cert     tls.Certificate
	document atomic.Pointer[[]byte]
}

func newOther(t *testing.T) *other {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "other"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{{127, 0, 0, 1}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	o := &other{roots: x509.NewCertPool()}
	if o.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	o.roots.AddCert(o.root)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write(*o.document.Load())
	}))
	o.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	web.TLS = &tls.Config{Certificates: []tls.Certificate{o.cert}}
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	web.StartTLS()
	t.Cleanup(web.Close)
	o.url = web.URL
	o.give(t, spiffe.NewBundle(domain(t, "other.example"), 7, 0, o.root))
	return o
}

func (o *other) give(t *testing.T, bundle *spiffe.Bundle) {
	t.Helper()
	document, err := bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	o.document.Store(&document)
}

func federation(f *pb.Federation) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Federation{Federation: f}}
}

func (o *other) object() *pb.Object {
	return federation(&pb.Federation{TrustDomain: "other.example", Url: o.url, Profile: "https_web"})
}

// near is how servers of a test federate: both on this host.
func near(roots *x509.CertPool) func(*server.Config) {
	return func(cfg *server.Config) {
		cfg.Federation = server.Federation{SPIFFEListen: "127.0.0.1:0", Roots: roots, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	}
}

// domains is the trust domains whose bundles an agent holds, and one of them.
func (a *agent) domains() string {
	return get(a, func() string {
		var names []string
		for _, b := range a.bundles {
			names = append(names, b.GetTrustDomain())
		}
		return strings.Join(names, " ")
	})
}

func (a *agent) bundleOf(t *testing.T, name string) *spiffe.Bundle {
	t.Helper()
	var document []byte
	get(a, func() bool {
		for _, b := range a.bundles {
			if b.GetTrustDomain() == name {
				document = b.GetJwks()
			}
		}
		return true
	})
	bundle, err := spiffe.ParseBundle(domain(t, name), document)
	if err != nil {
		t.Fatalf("bundle of %s: %v", name, err)
	}
	return bundle
}

// Rule 115, 119: bundles stay apart, each under its own trust domain. Rule 116:
// a server serves https_spiffe, and two servers federate both ways by it.
func TestFederationBothWays(t *testing.T) {
	t.Parallel()
	acme := start(t, near(nil))
	beta := start(t, func(cfg *server.Config) { near(nil)(cfg); cfg.TrustDomain = domain(t, "beta.example") })
	a, b := acme.joined("n1"), beta.joined("n1")
	a.connect()
	b.connect()
	join := func(to, from *rig) {
		shown, err := from.s.ShowBundle(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		to.apply(&pb.ApplyRequest{Put: []*pb.Object{federation(&pb.Federation{
			TrustDomain: shown.GetBundle().GetTrustDomain(), Url: "https://" + shown.GetSpiffeAddress() + "/",
			Profile: "https_spiffe", EndpointId: shown.GetEndpointId(), Bundle: shown.GetBundle().GetJwks(),
		})}})
	}
	join(acme, beta)
	join(beta, acme)
	within(t, "the bundles to come", func() bool {
		return a.domains() == "acme.example beta.example" && b.domains() == "beta.example acme.example"
	})
	within(t, "a fetch", func() bool {
		list, err := acme.s.ListFederations(t.Context(), "beta.example")
		return err == nil && list[0].GetFetchedUnix() != 0
	})
	list, err := acme.s.ListFederations(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].GetError() != "" || !list[0].GetHeld() || list[0].GetRoots() != 1 {
		t.Errorf("federations: got %v %v, want one without an error", list, err)
	}
	if got := a.bundleOf(t, "beta.example").Roots(); len(got) != 1 || got[0].Equal(a.bundleOf(t, "acme.example").Roots()[0]) {
		t.Error("bundles were mixed")
	}
	if alarms := acme.status().GetAlarms(); len(alarms) != 0 {
		t.Errorf("alarms: %q", alarms)
	}
}

// Rule 114: what an endpoint gives is stored and outlives a restart. Rule 128:
// the end of the relationship ends the bundle everywhere.
func TestFederationIsKeptAndEnds(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	r := start(t, near(o.roots))
	a := r.joined("n1")
	a.connect()
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{o.object()}})
	within(t, "the bundle to come", func() bool { return a.domains() == "acme.example other.example" })
	// The agents have it before its success is on record: that comes after the deed.
	within(t, "the bundle's coming in the audit log", func() bool { return r.audit.succeeded(audit.Changed, "bundle of other.example") == 1 })
	revision := r.status().GetRevision()
	a.disconnect()
	r.stop()
	html := []byte("<html>")
	o.document.Store(&html)
	r.start()
	within(t, "a fetch that fails", func() bool { return len(r.status().GetAlarms()) == 1 })
	if got := r.status().GetAlarms()[0]; !strings.Contains(got, "bundle of other.example not fetched, the one held is in force: endpoint answered with no bundle") {
		t.Errorf("alarm: %s", got)
	}
	if got := r.status().GetRevision(); got != revision {
		t.Errorf("revision %d after a restart, want %d", got, revision)
	}
	a.close()
	a.addr = r.s.Addr()
	a.dial()
	a.connect()
	if got := a.bundleOf(t, "other.example").Sequence(); got != 7 {
		t.Errorf("after a restart: sequence %d, want 7", got)
	}
	r.apply(&pb.ApplyRequest{Delete: []*pb.Key{{Kind: "federation", Name: "other.example"}}})
	within(t, "the bundle to go", func() bool { return a.domains() == "acme.example" })
	if _, err := r.store.Get(t.Context(), "bundle/other.example"); !fault.Is(err, fault.NotFound) {
		t.Errorf("bundle in the store: got %v, want none", err)
	}
	if alarms := r.status().GetAlarms(); len(alarms) != 0 {
		t.Errorf("alarms after the end: %q", alarms)
	}
}

// Rule 67, 68: keys: [] takes all trust away at once, with an alarm; a sequence
// that goes back (T25, attack 70) does not, and says so.
func TestFederatedDomainRevokesItsKeys(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	r := start(t, near(o.roots))
	a := r.joined("n1")
	a.connect()
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{o.object()}})
	within(t, "the bundle to come", func() bool { return a.domains() == "acme.example other.example" })
	refresh := func() *pb.FederationInfo {
		info, err := r.s.RefreshFederation(t.Context(), "other.example")
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	o.give(t, spiffe.NewBundle(domain(t, "other.example"), 6, 0))
	if info := refresh(); !strings.Contains(info.GetError(), "older bundle, with sequence 6") || info.GetSequence() != 7 || info.GetRevoked() || info.GetHint() == "" {
		t.Errorf("sequence 6 after 7: got %v, want it refused with a hint", info)
	}
	o.give(t, spiffe.NewBundle(domain(t, "other.example"), 8, 0))
	if info := refresh(); info.GetError() != "" || !info.GetRevoked() || info.GetSequence() != 8 {
		t.Errorf("keys: []: got %v, want it accepted", info)
	}
	within(t, "the empty bundle at the agent", func() bool { return len(a.bundleOf(t, "other.example").Roots()) == 0 })
	if alarms := r.status().GetAlarms(); len(alarms) != 1 || !strings.Contains(alarms[0], "other.example has revoked all its keys (sequence 8)") {
		t.Errorf("alarms: %q", alarms)
	}
	if !slices.Equal(a.bundleOf(t, "acme.example").Roots()[0].Raw, acmeRoot(t, r).Raw) {
		t.Error("the own bundle changed")
	}
}

func acmeRoot(t *testing.T, r *rig) *x509.Certificate {
	t.Helper()
	shown, err := r.s.ShowBundle(t.Context(), "acme.example")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := spiffe.ParseBundle(domain(t, "acme.example"), shown.GetBundle().GetJwks())
	if err != nil {
		t.Fatal(err)
	}
	return bundle.Roots()[0]
}

// Attack 70: nobody else's bundle is taken for ours, and none twice.
func TestFederationRefusesOwnAndDuplicateDomains(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	r := start(t, near(o.roots))
	own := federation(&pb.Federation{TrustDomain: "acme.example", Url: o.url, Profile: "https_web"})
	r.refused(&pb.ApplyRequest{Put: []*pb.Object{own}}, fault.Invalid, "acme.example is this trust domain")
	r.refused(&pb.ApplyRequest{Put: []*pb.Object{o.object(), o.object()}}, fault.Invalid, "stands twice")
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{o.object()}})
	r.refused(&pb.ApplyRequest{Put: []*pb.Object{o.object()}, CreateOnly: true}, fault.Conflict, "federation other.example exists")
	r.refused(&pb.ApplyRequest{Put: []*pb.Object{o.object()}, Owner: "somebody"}, fault.Conflict, "belongs to owner cli")
	for _, bad := range []*pb.Federation{
		{TrustDomain: "x.example", Url: "http://x.example/", Profile: "https_web"},
		{TrustDomain: "x.example", Url: o.url},
		{TrustDomain: "", Url: o.url, Profile: "https_web"},
	} {
		r.refused(&pb.ApplyRequest{Put: []*pb.Object{federation(bad)}}, fault.Invalid, "")
	}
	if _, err := r.s.RefreshFederation(t.Context(), "othr.example"); !fault.Is(err, fault.NotFound) || fault.HintOf(err) != "did you mean other.example?" {
		t.Errorf("an unknown trust domain: got %v (%s)", err, fault.HintOf(err))
	}
	if _, err := r.s.ShowBundle(t.Context(), "none.example"); !fault.Is(err, fault.NotFound) {
		t.Errorf("bundle of an unknown trust domain: got %v, want not found", err)
	}
}

// A bundle an operator gives is in force at once, and again in place of another.
func TestFederationBeginsWithAGivenBundle(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	html := []byte("<html>")
	given := *o.document.Load()
	o.document.Store(&html)
	r := start(t, near(o.roots))
	a := r.joined("n1")
	a.connect()
	object := o.object()
	object.GetFederation().Bundle = given
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{object}})
	within(t, "the given bundle", func() bool { return a.domains() == "acme.example other.example" })
	empty := federation(&pb.Federation{TrustDomain: "other.example", Url: o.url, Profile: "https_web", Bundle: []byte(`{"keys":[]}`)})
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{empty}})
	within(t, "the bundle in its place", func() bool { return len(a.bundleOf(t, "other.example").Roots()) == 0 })
}

func TestFederationWarnsOfRulesThatWiden(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	r := start(t, near(o.roots))
	r.apply(&pb.ApplyRequest{Put: append(shop(), rule("open", "any", "orders", "GET /"), rule("theirs", "spiffe://other.example/**", "orders", "GET /"))})
	added := r.apply(&pb.ApplyRequest{Put: []*pb.Object{o.object()}})
	if got := strings.Join(added.GetWarnings(), "\n"); !strings.Contains(got, "rules.open.from: any is every workload of other.example as well") {
		t.Errorf("warnings: %q", got)
	}
	gone := r.apply(&pb.ApplyRequest{Delete: []*pb.Key{{Kind: "federation", Name: "other.example"}}})
	if got := strings.Join(gone.GetWarnings(), "\n"); !strings.Contains(got, "rules.theirs.from: names other.example") {
		t.Errorf("warnings: %q", got)
	}
}
