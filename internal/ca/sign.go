package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const maxDNS = 16

// Request is what a certificate is made of. All of it comes from the rule that
// was evaluated; the certificate request gives the public key only, through
// ParseCSR.
type Request struct {
	ID        spiffe.ID
	PublicKey crypto.PublicKey
	TTL       time.Duration // 0: that of leaves
	DNS       []string      // at most 16 names, lower case

	// For the journal, not the certificate.
	Requester string // who asked: the node's ID
	Rule      string
	Revision  uint64
}

// Result is what became of one request of a batch.
type Result struct {
	Chain []*x509.Certificate // leaf and issuing CA
	Err   error
}

// Sign signs one leaf and returns it with the issuing CA, in the order in
// which they are sent.
func (c *CA) Sign(ctx context.Context, request Request) ([]*x509.Certificate, error) {
	result := c.SignBatch(ctx, []Request{request})[0]
	return result.Chain, result.Err
}

// SignBatch signs up to 1024 leaves with one write to the journal, on all
// cores. The results have the order of the requests and fail one by one,
// except that a batch the journal cannot take fails as a whole.
func (c *CA) SignBatch(ctx context.Context, requests []Request) []Result {
	outcomes, issuer := signAll(ctx, c, kind[Request, *issuer, x509.Certificate]{c.issuerReady, c.plan, c.metrics.issued}, requests)
	results := make([]Result, len(outcomes))
	for i, outcome := range outcomes {
		if results[i].Err = outcome.Err; outcome.Err == nil {
			results[i].Chain = []*x509.Certificate{outcome.SVID, issuer.cert}
		}
	}
	return results
}

func (c *CA) issuerReady(ctx context.Context, now time.Time) (*issuer, error) {
	issuer, err := c.issuer(ctx, now)
	if err != nil {
		return nil, c.refuse(refusedIssuer, err)
	}
	return issuer, nil
}

// plan makes the template and, apart from it, what the result must be.
func (c *CA) plan(i *intent, made *linted[x509.Certificate], r Request, issuer *issuer, now time.Time) error {
	if err := c.validate(r); err != nil {
		return c.refuse(refusedInvalid, fmt.Errorf("sign %s: %w", r.ID, err))
	}
	ttl := r.TTL
	if ttl == 0 {
		ttl = c.config.Lifetimes.Leaf
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	spki, err := encodeKey(r.PublicKey)
	if err != nil {
		return fault.Invalidf("sign %s: %w", r.ID, err)
	}
	want := expectation{
		id: r.ID, serial: serial, spki: spki, dns: r.DNS, issuer: issuer.cert, pathLen: -1,
		notBefore: later(now.Add(-backdate(ttl)), issuer.cert.NotBefore),
		notAfter:  earlier(now.Add(ttl.Truncate(time.Second)), issuer.cert.NotAfter),
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             want.notBefore,
		NotAfter:              want.notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           leafUsages(),
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID(spki),
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: r.ID.TrustDomain().String(), Path: r.ID.Path()}},
		DNSNames:              r.DNS,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	i.make = func() (refusal, error) {
		der, err := c.create(template, issuer.cert, r.PublicKey, issuer.key)
		if err != nil {
			return refusedInternal, err
		}
		*made, err = lintLeaf(der, want)
		return refusedLint, err
	}
	i.entry = want.entry(LeafEntry, now)
	i.entry.Requester, i.entry.Rule, i.entry.Revision = r.Requester, r.Rule, r.Revision
	return nil
}

func (c *CA) validate(r Request) error {
	switch {
	case r.ID.TrustDomain() != c.td:
		return fault.Invalidf("it is not in trust domain %s", c.td)
	case r.ID.Path() == "":
		return fault.Invalidf("it has no path") // X509-SVID 3.1
	case len(r.DNS) > maxDNS:
		return fault.Invalidf("%d DNS names, at most %d are allowed", len(r.DNS), maxDNS)
	case len(r.Requester) > 2048 || len(r.Rule) > 256:
		return fault.Invalidf("requester or rule is too long")
	}
	for _, name := range r.DNS {
		if !validDNS(name) {
			return fault.Invalidf("DNS name %q is malformed", name)
		}
	}
	if err := spiffe.CheckKey(r.PublicKey); err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	return c.config.Lifetimes.CheckTTL(r.TTL)
}

// validDNS allows lower-case host names (RFC 1123), no wildcards.
func validDNS(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}
