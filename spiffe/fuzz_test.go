package spiffe_test

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/kith-id/kith/spiffe"
)

func FuzzParseID(f *testing.F) {
	for _, seed := range []string{"spiffe://acme.example/eks/shop/orders", "spiffe://td", "spiffe://td/", "spiffe://td/a/../b", "spiffe://td/%2f", "spiffe://td/a?#", "spiffe://1.2.3.4/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		if len(uri) <= 2048 {
			sameIDButDotsAndLength(t, uri)
		}
		id, err := spiffe.ParseID(uri)
		if err != nil {
			if !id.IsZero() {
				t.Fatalf("ID %q beside the error %v", id, err)
			}
			return
		}
		again, err := spiffe.NewID(id.TrustDomain(), id.Path())
		if err != nil || again != id || id.String() != uri {
			t.Fatalf("%q: parts make %q, %v", uri, again, err)
		}
	})
}

// sameIDButDotsAndLength compares with go-spiffe, which has no limit on the
// trust domain.
func sameIDButDotsAndLength(t *testing.T, uri string) {
	theirs, err := spiffeid.FromString(uri)
	if err == nil && len(theirs.TrustDomain().Name()) > 255 {
		return
	}
	sameID(t, uri)
}

func FuzzParseTrustDomain(f *testing.F) {
	for _, seed := range []string{"acme.example", "", "A", "a/b", "a_b..c", "td:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		td, err := spiffe.ParseTrustDomain(name)
		if err != nil {
			return
		}
		id, err := spiffe.ParseID("spiffe://" + name)
		if err != nil || id != td.ID() || id.TrustDomain() != td || td.String() != name {
			t.Fatalf("%q: %q, %v", name, id, err)
		}
	})
}

// maxFuzzedDocument is so long that what is written of a document is within the
// bound of those that are read: one byte of a kid may take six.
const maxFuzzedDocument = 100 << 10

func FuzzParseBundle(f *testing.F) {
	root := newRoot(f, "acme.example")
	whole, err := spiffe.NewBundle(root.td, 3, spiffe.DefaultRefreshHint, root.cert).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{whole, []byte(`{"keys":[]}`), []byte(`{"keys":[{"use":"x509-svid","kty":"EC","x5c":["AA=="]}]}`), []byte(`{"trust_domains":{"a":{"keys":[]}}}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		if len(document) > maxFuzzedDocument {
			return
		}
		_, _ = spiffe.ParseBundleMap(document)
		b, err := spiffe.ParseBundle(root.td, document)
		if err != nil {
			return
		}
		out, err := b.Marshal()
		if err != nil {
			return // a root with a key we do not write
		}
		if again, err := spiffe.ParseBundle(root.td, out); err != nil || !again.Equal(b) {
			t.Fatalf("%s is written as %s, which is read differently: %v", document, out, err)
		}
	})
}

func FuzzParseX509SVID(f *testing.F) {
	root := newRoot(f, "acme.example")
	issuing := root.child()
	svid := issuing.svid("/web", issuing.cert)
	key := pkcs8(f, svid.PrivateKey)
	f.Add(svid.MarshalChain(), key)
	f.Add(root.cert.Raw, key)
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, chain, key []byte) {
		got, err := spiffe.ParseX509SVID(chain, key)
		if err != nil {
			return
		}
		if got.ID.IsZero() || got.ID.Path() == "" {
			t.Fatalf("SVID of %q", got.ID)
		}
		_, _ = root.verify(got.Certificates...)
	})
}
