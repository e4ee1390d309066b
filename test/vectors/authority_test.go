package vectors

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

// longestDomain is a trust domain of the 255 bytes that SPIFFE-ID 2.1 allows.
func longestDomain() string {
	label := strings.Repeat("a", 63)
	return strings.Join([]string{label, label, label, strings.Repeat("b", 63)}, ".")
}

// newCA is a real certificate authority of a trust domain, at the present time.
func newCA(t *testing.T, domain, server string) *ca.CA {
	t.Helper()
	td, err := spiffe.ParseTrustDomain(domain)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kek, err := keys.FileKEK(filepath.Join(dir, "kek"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := ca.NewRoot(ca.RootConfig{TrustDomain: td, KEK: kek, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.New(t.Context(), ca.Config{
		TrustDomain: td, Server: server, Root: root, KEK: kek, Now: time.Now,
		JournalPath: filepath.Join(dir, "journal"), JournalBytes: 4 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = authority.Close() })
	return authority
}

// paths are the ends of what an ID may look like.
func paths() []string {
	longest := strings.Repeat("/"+strings.Repeat("x", 120), 14)
	return []string{
		"/a", "/A", "/0", "/-", "/_", "/a.b", "/a/b/c", "/vms/orders", "/ns/default/sa/orders", "/...", "/a..b", "/.hidden",
		"/kith/node/vm-1", "/UPPER/lower/MiXed", "/" + strings.Repeat("x", 500), longest, strings.Repeat("/a", 60),
	}
}

// publicKeys has each kind of key a workload may bring, many of the usual one.
func publicKeys(t *testing.T, n int) []crypto.PublicKey {
	t.Helper()
	all := []crypto.PublicKey{rsaKey(t, 2048), rsaKey(t, 4096)}
	for i := range n - len(all) {
		switch i % 4 {
		case 0:
			all = append(all, ecKey(t, elliptic.P384()).Public())
		case 1:
			public, _, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, public)
		default:
			all = append(all, ecKey(t, elliptic.P256()).Public())
		}
	}
	return all
}

func ecKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsaKey is a public key whose private half nobody has: an odd number of the
// size wanted. It is quick to make and looks like any other to who signs it.
func rsaKey(t *testing.T, bits int) *rsa.PublicKey {
	t.Helper()
	b := make([]byte, bits/8)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	b[0] |= 0x80
	b[len(b)-1] |= 1
	return &rsa.PublicKey{N: new(big.Int).SetBytes(b), E: 65537}
}

// issued is a certificate and what to call it.
type issued struct {
	what string
	cert *x509.Certificate
}

// issueMany lets an authority issue n leaves and returns them with the chain
// above, each leaf's chain verified.
func issueMany(t *testing.T, domain, server string, n int) []issued {
	t.Helper()
	authority := newCA(t, domain, server)
	all := []issued{{domain + " root", authority.Root()}}
	lifetimes := []time.Duration{0, 10 * time.Second, time.Minute, 59 * time.Minute}
	names := [][]string{nil, nil, {"orders"}, {"orders.example", "a-b.c-d.example"}}
	var requests []ca.Request
	for i, key := range publicKeys(t, n) {
		path := paths()[i%len(paths())]
		id, err := spiffe.ParseID("spiffe://" + domain + path)
		if err != nil {
			t.Fatal(err)
		}
		requests = append(requests, ca.Request{
			ID: id, PublicKey: key, TTL: lifetimes[i%len(lifetimes)], DNS: names[i%len(names)], Requester: "vectors", Rule: "all",
		})
	}
	for i, result := range authority.SignBatch(t.Context(), requests) {
		if result.Err != nil {
			t.Fatalf("sign %s: %v", requests[i].ID, result.Err)
		}
		chain := result.Chain
		id, err := spiffe.Verify(chain, spiffe.BundleMap{authority.Bundle().TrustDomain(): authority.Bundle()}.Bundle, time.Now())
		if err != nil || id != requests[i].ID {
			t.Errorf("verify %s: got %s, %v", requests[i].ID, id, err)
		}
		if i == 0 {
			all = append(all, issued{domain + " issuing", chain[1]})
		}
		all = append(all, issued{fmt.Sprintf("%.80s with %T", requests[i].ID, requests[i].PublicKey), chain[0]})
	}
	return all
}
