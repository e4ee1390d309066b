package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// The numbers are those of the SPIFFE conformance list; here are the rules an
// issuer must keep. What validators must refuse is tested in package spiffe.

func TestRule14AuthorityCarriesTheTrustDomainsID(t *testing.T) {
	f := newFixture(t)
	for _, cert := range []*x509.Certificate{f.Root(), f.current.Load().cert} {
		if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://acme.example" {
			t.Errorf("%s: URI names %v", cert.Subject, cert.URIs)
		}
	}
}

func TestRule15IDAndKeyAreSigned(t *testing.T) {
	f := newFixture(t)
	r := request(t, "/a")
	chain, err := f.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	leaf := chain[0]
	if !bytes.Contains(leaf.RawTBSCertificate, []byte(r.ID.String())) || !r.PublicKey.(*ecdsa.PublicKey).Equal(leaf.PublicKey) {
		t.Error("ID or key is not in the signed part")
	}
	if err := leaf.CheckSignatureFrom(chain[1]); err != nil {
		t.Error(err)
	}
	id, err := spiffe.Verify(chain, f.bundles, epoch)
	if err != nil || id != r.ID {
		t.Errorf("Verify = %s, %v", id, err)
	}
}

func TestRule17OneURIName(t *testing.T) {
	f := newFixture(t)
	r := request(t, "/a")
	r.DNS = []string{"orders.acme.example", "orders"}
	chain, err := f.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	leaf := chain[0]
	if len(leaf.URIs) != 1 || len(leaf.DNSNames) != 2 || len(leaf.EmailAddresses)+len(leaf.IPAddresses) != 0 {
		t.Errorf("names: %v %v %v %v", leaf.URIs, leaf.DNSNames, leaf.EmailAddresses, leaf.IPAddresses)
	}
}

func TestRule19LeafIDHasAPath(t *testing.T) {
	f := newFixture(t)
	_, err := f.Sign(t.Context(), request(t, ""))
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "no path") {
		t.Errorf("a leaf with the trust domain's own ID: %v", err)
	}
}

func TestRule20NamesAreCriticalAsTheSubjectIsEmpty(t *testing.T) {
	leaf := mustSign(t, newFixture(t), "/a")[0]
	if len(leaf.Subject.Names) != 0 {
		t.Errorf("subject is %s", leaf.Subject)
	}
	if !extensionOf(t, leaf, 17).Critical {
		t.Error("names are not critical")
	}
}

func TestRule25To28Usages(t *testing.T) {
	f := newFixture(t)
	chain := mustSign(t, f, "/a")
	for _, cert := range []*x509.Certificate{chain[0], chain[1], f.Root()} {
		if !extensionOf(t, cert, 15).Critical { // 25
			t.Errorf("%s: key usage is not critical", cert.Subject)
		}
	}
	for _, cert := range []*x509.Certificate{chain[1], f.Root()} { // 23, 26
		if cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || !cert.IsCA {
			t.Errorf("%s: usage %#x, CA %t", cert.Subject, cert.KeyUsage, cert.IsCA)
		}
	}
	if !chain[1].MaxPathLenZero || chain[1].MaxPathLen != 0 {
		t.Error("the issuing CA may have issuers below it")
	}
	leaf := chain[0]
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA { // 23, 27
		t.Errorf("leaf: usage %#x, CA %t", leaf.KeyUsage, leaf.IsCA)
	}
	if fmt.Sprint(leaf.ExtKeyUsage) != fmt.Sprint(leafUsages()) { // 28
		t.Errorf("leaf: extended usage %v", leaf.ExtKeyUsage)
	}
}

func TestRule31BundleHoldsTheRootAlone(t *testing.T) {
	f := newFixture(t)
	out, err := f.Bundle().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Keys []struct {
			Use, Kid string
			X5C      []string
		}
	}
	if err := json.Unmarshal(out, &document); err != nil {
		t.Fatal(err)
	}
	if len(document.Keys) != 1 || document.Keys[0].Use != "x509-svid" || document.Keys[0].Kid != "" || len(document.Keys[0].X5C) != 1 {
		t.Errorf("bundle is %s", out)
	}
	if err := f.Root().CheckSignatureFrom(f.Root()); err != nil {
		t.Errorf("the root is not self-signed: %v", err)
	}
}

func extensionOf(t *testing.T, cert *x509.Certificate, number int) (e struct{ Critical bool }) {
	t.Helper()
	for _, extension := range cert.Extensions {
		if extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, number}) {
			return struct{ Critical bool }{extension.Critical}
		}
	}
	t.Fatalf("%s: no extension %d", cert.Subject, number)
	return e
}

// Each request of a batch has its own outcome, at its own place: the mistake
// of one must not be the fate of another.
func TestBatchOutcomesAreDistinct(t *testing.T) {
	f := newFixture(t)
	requests := make([]Request, 60)
	for i := range requests {
		requests[i] = request(t, fmt.Sprintf("/n%d", i))
		switch i % 5 {
		case 1:
			requests[i].DNS = []string{"ok.example", "NOT.ok"}
		case 2:
			requests[i].TTL = time.Duration(i+10) * time.Second
		}
	}
	requests[7].TTL += time.Second / 3 // certificates know whole seconds
	serials := map[string]bool{}
	for i, result := range f.SignBatch(t.Context(), requests) {
		if i%5 == 1 {
			if !fault.Is(result.Err, fault.Invalid) || result.Chain != nil || !strings.Contains(result.Err.Error(), fmt.Sprintf("/n%d:", i)) {
				t.Errorf("%d: %v", i, result.Err)
			}
			continue
		}
		if result.Err != nil {
			t.Errorf("%d: %v", i, result.Err)
			continue
		}
		leaf := result.Chain[0]
		id, err := spiffe.CertificateID(leaf)
		if err != nil || id != requests[i].ID || !requests[i].PublicKey.(*ecdsa.PublicKey).Equal(leaf.PublicKey) {
			t.Errorf("%d: leaf of %s, %v", i, id, err)
		}
		ttl := time.Hour
		if i%5 == 2 {
			ttl = requests[i].TTL.Truncate(time.Second)
		}
		if got := leaf.NotAfter.Sub(epoch); got != ttl {
			t.Errorf("%d: lives %s, want %s", i, got, ttl)
		}
		serials[leaf.SerialNumber.Text(16)] = true
	}
	if len(serials) != 48 {
		t.Errorf("%d serials for 48 certificates", len(serials))
	}
	for _, e := range f.entries(t)[1:] {
		if e.Kind != LeafEntry || !serials[e.Serial] || e.Requester == "" || e.Rule != "pods" || e.Revision != 7 || e.KeyHash == "" || e.Issuer == "" {
			t.Errorf("journal has %+v", e)
		}
		delete(serials, e.Serial)
	}
	if len(serials) != 0 {
		t.Errorf("%d certificates are not in the journal", len(serials))
	}
}

func TestSignRefuses(t *testing.T) {
	f := newFixture(t)
	other, err := spiffe.ParseID("spiffe://other.example/a")
	if err != nil {
		t.Fatal(err)
	}
	for why, change := range map[string]func(*Request){
		"not in trust domain": func(r *Request) { r.ID = other },
		"sign :":              func(r *Request) { r.ID = spiffe.ID{} },
		"another curve":       func(r *Request) { r.PublicKey = weakKey(t) },
		"type <nil>":          func(r *Request) { r.PublicKey = nil },
		"outage budget":       func(r *Request) { r.TTL = 2 * time.Hour },
		"under 10s":           func(r *Request) { r.TTL = time.Second },
		"at most 16":          func(r *Request) { r.DNS = make([]string, 17) },
		"too long":            func(r *Request) { r.Rule = strings.Repeat("a", 257) },
	} {
		r := request(t, "/a")
		change(&r)
		if chain, err := f.Sign(t.Context(), r); chain != nil || !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("error is %v, want it to say %q", err, why)
		}
	}
	if entries := f.entries(t); len(entries) != 1 {
		t.Errorf("refused requests were journalled: %+v", entries[1:])
	}
	if results := f.SignBatch(t.Context(), make([]Request, 1025)); len(results) != 1025 || !fault.Is(results[1024].Err, fault.Invalid) {
		t.Error("a batch of 1025 was taken")
	}
	if results := f.SignBatch(t.Context(), nil); len(results) != 0 {
		t.Error("an empty batch has results")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Sign(ctx, request(t, "/a")); err == nil {
		t.Error("signed for a caller who had gone")
	}
}

func weakKey(t *testing.T) any {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func TestDNSNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "orders.acme.example": true, "a-b.c0": true, "1.2.3.4": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "*.a": false, "A": false, "a_b": false, "-a": false, "a-": false,
		"a b": false, "ä": false, "a\x00": false, strings.Repeat("a", 64): false, strings.Repeat("a.", 127) + "a": false,
	} {
		if validDNS(name) != ok {
			t.Errorf("validDNS(%q) = %t", name, !ok)
		}
	}
}

func TestEd25519Leaf(t *testing.T) {
	f := newFixture(t)
	r := request(t, "/a")
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r.PublicKey = public
	chain, err := f.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := spiffe.Verify(chain, f.bundles, epoch); err != nil {
		t.Error(err)
	}
}

func TestSignFromManyGoroutines(t *testing.T) {
	f := newFixture(t)
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			for i := range 10 {
				if _, err := f.Sign(t.Context(), request(t, fmt.Sprintf("/w%d/%d", worker, i))); err != nil {
					t.Error(err)
				}
				if worker == 0 {
					f.clock.move(20 * time.Minute) // renewals in between
				}
			}
		})
	}
	wait.Wait()
	leaves := 0
	for _, e := range f.entries(t) {
		if e.Kind == LeafEntry {
			leaves++
		}
	}
	if leaves != 80 {
		t.Errorf("%d leaves in the journal, want 80", leaves)
	}
}

// The journal ends in the audit log, whose chain holds.
func TestShipToAudit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	log, err := audit.Open(audit.Config{Path: path, Now: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	f := newFixture(t)
	mustSign(t, f, "/a")
	if err := f.Drain(t.Context(), ShipTo(log)); err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(path, audit.Head{})
	if err != nil || report.Head.Seq != 2 {
		t.Errorf("audit log has %d lines, %v", report.Head.Seq, err)
	}
	void := Entry{Kind: VoidEntry, Serial: "1", ID: "x", Reason: "lint"}.event()
	if void.Kind != audit.Voided || void.Outcome != "lint" {
		t.Errorf("a void entry becomes %+v", void)
	}
}
