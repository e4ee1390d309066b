package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxBatch = 1024
	maxDNS   = 16
)

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

// job is one request on its way.
type job struct {
	template *x509.Certificate
	want     expectation
	request  Request
	result   linted
	err      error
}

// SignBatch signs up to 1024 leaves with one write to the journal, on all
// cores. The results have the order of the requests and fail one by one,
// except that a batch the journal cannot take fails as a whole.
//
// The numbers are those of DESIGN.md.
func (c *CA) SignBatch(ctx context.Context, requests []Request) []Result {
	begin := time.Now()
	defer func() { c.metrics.seconds.Observe(time.Since(begin).Seconds()) }()
	jobs := make([]job, len(requests))
	now := c.config.Now().UTC().Truncate(time.Second)
	issuer, err := c.ready(ctx, now, len(requests)) // 1
	for i := range jobs {
		jobs[i].request, jobs[i].err = requests[i], err
		if err == nil {
			jobs[i].err = c.plan(&jobs[i], issuer, now) // 2
		}
	}
	c.journalIntents(ctx, now, jobs) // 3
	inParallel(len(jobs), func(i int) {
		if jobs[i].err == nil {
			c.make(&jobs[i], issuer) // 4, 5, 6
		}
	})
	c.journalVoids(ctx, now, jobs) // 7
	return c.release(jobs, issuer) // 8
}

// ready checks what concerns the batch as a whole.
func (c *CA) ready(ctx context.Context, now time.Time, n int) (*issuer, error) {
	if n > maxBatch {
		return nil, c.refuse(refusedInvalid, fault.Invalidf("batch of %d requests, at most %d are allowed", n, maxBatch))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.checkClock(now); err != nil {
		return nil, c.refuse(refusedClock, err)
	}
	issuer, err := c.issuer(ctx, now)
	if err != nil {
		return nil, c.refuse(refusedIssuer, err)
	}
	return issuer, nil
}

// plan makes the template and, apart from it, what the result must be.
func (c *CA) plan(j *job, issuer *issuer, now time.Time) error {
	if err := c.validate(j.request); err != nil {
		return c.refuse(refusedInvalid, fmt.Errorf("sign %s: %w", j.request.ID, err))
	}
	ttl := j.request.TTL
	if ttl == 0 {
		ttl = c.config.Lifetimes.Leaf
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	spki, err := encodeKey(j.request.PublicKey)
	if err != nil {
		return fault.Invalidf("sign %s: %w", j.request.ID, err)
	}
	id := j.request.ID
	j.want = expectation{
		id: id, serial: serial, spki: spki, dns: j.request.DNS, issuer: issuer.cert, pathLen: -1,
		notBefore: later(now.Add(-backdate(ttl)), issuer.cert.NotBefore),
		notAfter:  earlier(now.Add(ttl.Truncate(time.Second)), issuer.cert.NotAfter),
	}
	j.template = &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             j.want.notBefore,
		NotAfter:              j.want.notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           leafUsages(),
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID(spki),
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain().String(), Path: id.Path()}},
		DNSNames:              j.request.DNS,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
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

// journalIntents writes down what is about to be signed. If that fails,
// nothing is.
func (c *CA) journalIntents(ctx context.Context, now time.Time, jobs []job) {
	var entries []Entry
	for _, j := range jobs {
		if j.err != nil {
			continue
		}
		entry := j.want.entry(LeafEntry, now)
		entry.Requester, entry.Rule, entry.Revision = j.request.Requester, j.request.Rule, j.request.Revision
		entries = append(entries, entry)
	}
	if len(entries) == 0 {
		return
	}
	err := c.journal.add(ctx, now, entries...)
	c.checkAlarm()
	if err == nil {
		return
	}
	for i := range jobs {
		if jobs[i].err == nil {
			jobs[i].err = c.refuse(refusedJournal, err)
		}
	}
}

// make signs, parses what was signed, and lints it.
func (c *CA) make(j *job, issuer *issuer) {
	der, err := c.create(j.template, issuer.cert, j.request.PublicKey, issuer.key)
	if err != nil {
		j.err = c.refuse(refusedInternal, fmt.Errorf("sign %s: %w", j.request.ID, err))
		return
	}
	if j.result, err = lintLeaf(der, j.want); err != nil {
		j.err = c.refuse(refusedLint, fmt.Errorf("sign %s: %w", j.request.ID, err))
		c.log.Error("certificate failed the lint", "id", j.request.ID.String(), "serial", j.want.serial.Text(16), "error", err)
	}
}

// journalVoids notes which intents came to nothing. It does not matter if that
// fails: an intent counts as issued then, which is the safe side.
func (c *CA) journalVoids(ctx context.Context, now time.Time, jobs []job) {
	var entries []Entry
	for _, j := range jobs {
		if j.err == nil || j.want.serial == nil || refusedBy(j.err) == refusedJournal {
			continue
		}
		entries = append(entries, Entry{
			Kind: VoidEntry, Time: now, Serial: j.want.serial.Text(16), ID: j.request.ID.String(),
			Requester: j.request.Requester, Reason: string(refusedBy(j.err)),
		})
	}
	if len(entries) == 0 {
		return
	}
	if err := c.journal.add(ctx, now, entries...); err != nil {
		c.log.Warn("void issuance not journalled", "error", err)
	}
}

// release hands out what the linter made, and nothing else.
func (c *CA) release(jobs []job, issuer *issuer) []Result {
	results := make([]Result, len(jobs))
	issued := 0
	for i, j := range jobs {
		switch {
		case j.err != nil:
			results[i].Err = j.err
		case j.result.cert == nil:
			results[i].Err = fmt.Errorf("sign %s: nothing was made", j.request.ID)
		default:
			results[i].Chain = []*x509.Certificate{j.result.cert, issuer.cert}
			issued++
		}
	}
	c.metrics.issued.Add(float64(issued))
	return results
}

// inParallel calls f for 0 to n-1, on all cores.
func inParallel(n int, f func(int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	group.Wait()
}
