package vectors

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Netflix/bettertls/test-suites/certutil"
	"github.com/Netflix/bettertls/test-suites/nameconstraints"
	"github.com/Netflix/bettertls/test-suites/pathbuilding"
	testcase "github.com/Netflix/bettertls/test-suites/test-case"
	"github.com/kith-id/kith/spiffe"
)

// BetterTLS asks how a web client takes a server's chain: its leaves have host
// names and serve only, so none of them is an SVID. The suite runs twice. As it
// is, each chain must be refused. Then each chain is signed again, link by link
// with keys of ours, and the leaf gets what makes an SVID (a SPIFFE ID beside
// its names, both purposes): now path validation alone decides.

// betterTLS is how many cases the suite has: 9491 and 81.
const betterTLS = 9572

// suite is the cases and the root that signs their chains.
type suite struct {
	root  *x509.Certificate
	key   crypto.Signer
	cases []testcase.TestCase
}

func loadSuite(t *testing.T) *suite {
	t.Helper()
	root, key, err := certutil.GenerateSelfSignedCert("bettertls_trust_root")
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{root: root, key: key}
	for _, provider := range []testcase.TestCaseProvider{nameconstraints.NewTestCaseProvider(), pathbuilding.NewTestCaseProvider()} {
		n, err := provider.GetTestCaseCount()
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			c, err := provider.GetTestCase(i)
			if err != nil {
				t.Fatal(err)
			}
			s.cases = append(s.cases, c)
		}
	}
	if len(s.cases) != betterTLS {
		t.Fatalf("%d cases, want %d", len(s.cases), betterTLS)
	}
	return s
}

// errUnreadable is a chain that crypto/x509 does not parse, so that no handshake
// gets as far as our verifier.
var errUnreadable = errors.New("a certificate cannot be parsed")

// chain is what the suite's server would send.
func (s *suite) chain(c testcase.TestCase) ([]*x509.Certificate, error) {
	sent, err := c.GetCertificates(s.root, s.key)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, der := range sent.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUnreadable, err)
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// bundle trusts the root for the trust domain the leaves will be of.
func bundle(t *testing.T, root *x509.Certificate) func(spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	t.Helper()
	td, err := spiffe.ParseTrustDomain(nameconstraints.VALID_DNS_NAME)
	if err != nil {
		t.Fatal(err)
	}
	return spiffe.BundleMap{td: spiffe.NewBundle(td, 1, 0, root)}.Bundle
}

// verdict is what our verifier owes a case.
type verdict int

const (
	refuse verdict = iota
	accept
	either // the leaf has one more name, of a kind nobody takes an identity from
)

// owed is the verdict once the leaf is an SVID. All names of a leaf are held
// against all constraints (RFC 5280 6.1.4), whichever name a client asked for;
// the common name is no name; two URIs are none.
func owed(c testcase.TestCase) verdict {
	n, ok := c.(nameconstraints.NameConstraintsTestCase)
	if !ok {
		if c.ExpectedResult() == testcase.EXPECTED_RESULT_PASS {
			return accept
		}
		return refuse
	}
	const valid, invalid = nameconstraints.EXTVAL_VALID, nameconstraints.EXTVAL_INVALID
	breaks := func(name, permitted, excluded nameconstraints.TrinaryValue) bool {
		return name == valid && (permitted == invalid || excluded == valid) ||
			name == invalid && (permitted == valid || excluded == invalid)
	}
	const host, uri, address = 2, 6, 7
	extra := tagOf(n.ExtraSan)
	switch {
	case extra == uri,
		extra == host && n.ClientHostnameType == nameconstraints.CLIENT_HOSTNAME_TYPE_DNS,
		extra == address,
		breaks(n.DnsSan, n.NameConstraintsDnsWhitelist, n.NameConstraintsDnsBlacklist),
		breaks(n.IpSan, n.NameConstraintsIpWhitelist, n.NameConstraintsIpBlacklist):
		return refuse
	case extra >= 0:
		return either
	}
	return accept
}

// tagOf is the kind of a leaf's additional name, or -1.
func tagOf(extra *nameconstraints.ExtraSan) int {
	if extra == nil {
		return -1
	}
	var san struct{ Tag int }
	if text, err := extra.MarshalJSON(); err != nil || json.Unmarshal(text, &san) != nil {
		return -1
	}
	return san.Tag
}

// reissuer signs a chain again. Each key of the chain has one of ours.
type reissuer struct {
	t    *testing.T
	root *x509.Certificate // of the suite
	ours *x509.Certificate // in its place
	keys map[string]crypto.Signer
}

func newReissuer(t *testing.T, root *x509.Certificate) *reissuer {
	t.Helper()
	r := &reissuer{t: t, root: root, keys: make(map[string]crypto.Signer)}
	ours, err := r.sign(root, root, false)
	if err != nil {
		t.Fatal(err)
	}
	r.ours = ours
	return r
}

func (r *reissuer) keyOf(cert *x509.Certificate) crypto.Signer {
	key, known := r.keys[string(cert.RawSubjectPublicKeyInfo)]
	if !known {
		key = ecKey(r.t, elliptic.P256())
		r.keys[string(cert.RawSubjectPublicKeyInfo)] = key
	}
	return key
}

// forCase is a reissuer that shares only the root's key with others.
func (r *reissuer) forCase() *reissuer {
	return &reissuer{t: r.t, root: r.root, ours: r.ours, keys: map[string]crypto.Signer{string(r.root.RawSubjectPublicKeyInfo): r.keyOf(r.root)}}
}

// chain is the chain with its leaf an SVID.
func (r *reissuer) chain(old []*x509.Certificate) ([]*x509.Certificate, error) {
	var again []*x509.Certificate
	for i, cert := range old {
		if cert.Equal(r.root) {
			again = append(again, r.ours)
			continue
		}
		issuer := r.issuerOf(cert, old)
		renewed, err := r.sign(cert, issuer, i == 0)
		if err != nil {
			return nil, err
		}
		again = append(again, renewed)
	}
	return again, nil
}

// issuerOf finds whose key signed a certificate. A root that nobody trusts is
// not sent; one of its name stands in for it.
func (r *reissuer) issuerOf(cert *x509.Certificate, chain []*x509.Certificate) *x509.Certificate {
	for _, candidate := range append(slices.Clone(chain), r.root) {
		if !bytes.Equal(candidate.RawSubject, cert.RawIssuer) {
			continue
		}
		// CheckSignatureFrom would refuse SHA-1, which is a case of the suite.
		if cert.SignatureAlgorithm == x509.ECDSAWithSHA1 || candidate.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
			return candidate
		}
	}
	return &x509.Certificate{RawSubject: cert.RawIssuer, Subject: cert.Issuer, RawSubjectPublicKeyInfo: cert.RawIssuer}
}

func (r *reissuer) sign(cert, issuer *x509.Certificate, leaf bool) (*x509.Certificate, error) {
	template := *cert
	template.PublicKey, template.AuthorityKeyId, template.SubjectKeyId = nil, nil, nil
	template.ExtraExtensions = nil
	if cert.SignatureAlgorithm != x509.ECDSAWithSHA1 {
		template.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	}
	if cert.IsCA {
		key, err := x509.MarshalPKIXPublicKey(r.keyOf(cert).Public())
		if err != nil {
			return nil, err
		}
		template.SubjectKeyId = key[len(key)-20:]
	}
	parent := *issuer
	parent.PublicKey, parent.SubjectKeyId = r.keyOf(issuer).Public(), nil
	if leaf {
		template.DNSNames, template.IPAddresses, template.URIs = nil, nil, nil
		template.ExtraExtensions = []pkix.Extension{withID(cert)}
		// A leaf's own purpose is a case of the suite only when it is a bad one.
		if slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &parent, r.keyOf(cert).Public(), r.keyOf(issuer))
	if err != nil {
		return nil, err
	}
	again, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return again, nil
}

// withID is the leaf's names, byte for byte, and a SPIFFE ID.
func withID(cert *x509.Certificate) pkix.Extension {
	id := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}}
	var names []asn1.RawValue
	for _, e := range cert.Extensions {
		if e.Id.Equal(id.Id) {
			if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
				names = nil // the verifier is to refuse it, not we
			}
		}
	}
	names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte("spiffe://" + nameconstraints.VALID_DNS_NAME + "/a")})
	id.Value, _ = asn1.Marshal(names) // raw values always can be
	return id
}

// inParallel runs each case on all cores.
func inParallel(cases []testcase.TestCase, run func(int, testcase.TestCase)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(cases); i = int(next.Add(1)) - 1 {
				run(i, cases[i])
			}
		})
	}
	group.Wait()
}

// describe is a case in a few words.
func describe(i int, c testcase.TestCase) string {
	if p, ok := c.(*pathbuilding.TestCaseImpl); ok {
		return fmt.Sprintf("path building %d: %s from %s, invalid %v: %s", i, p.ExplicitTestCase.TrustGraph.Name(), p.ExplicitTestCase.SrcNode, p.ExplicitTestCase.InvalidEdges, p.InvalidReason)
	}
	return fmt.Sprintf("name constraints %d: %+v", i, c)
}

// slowest is the most that a single verification may take (bar 24).
const slowest = time.Second

func TestBetterTLS(t *testing.T) {
	s := loadSuite(t)
	all := newReissuer(t, s.root)
	asIs, again := bundle(t, s.root), bundle(t, all.ours)
	var accepted atomic.Int64
	inParallel(s.cases, func(i int, c testcase.TestCase) {
		chain, err := s.chain(c)
		if err == nil {
			if id, err := spiffe.Verify(chain, asIs, time.Now()); err == nil {
				t.Errorf("%s: as it is, taken for %s", describe(i, c), id)
			}
			chain, err = all.forCase().chain(chain)
		}
		if err != nil && !errors.Is(err, errUnreadable) {
			t.Errorf("%s: %v", describe(i, c), err)
			return
		}
		begin := time.Now()
		if err == nil {
			_, err = spiffe.Verify(chain, again, begin)
		}
		if took := time.Since(begin); took > slowest {
			t.Errorf("%s: took %v", describe(i, c), took)
		}
		if err == nil {
			accepted.Add(1)
		}
		if want := owed(c); want != either && (err == nil) != (want == accept) && !stricter(c, err) {
			t.Errorf("%s: verified %t: %v", describe(i, c), err == nil, err)
		}
	})
	if n := accepted.Load(); n < 1000 || n > betterTLS-1000 {
		t.Errorf("%d of %d are accepted: the cases were not signed again as meant", n, betterTLS)
	}
	t.Logf("%d of %d accepted", accepted.Load(), betterTLS)
}

// stricter are the cases where we are stricter than the suite, on purpose.
func stricter(c testcase.TestCase, err error) bool {
	_, path := c.(*pathbuilding.TestCaseImpl)
	return path && err != nil && strings.Contains(err.Error(), "at most 10 are allowed")
}
