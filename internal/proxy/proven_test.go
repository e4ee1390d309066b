package proxy

import (
	"strings"
	"testing"

	"github.com/kith-id/kith"
)

func TestParseProven(t *testing.T) {
	t.Parallel()
	p, err := ParseProven("8444=8080,audience=https://orders.acme.example,accept=signature")
	if err != nil || p.Listen != ":8444" || p.Target != "127.0.0.1:8080" || p.Proof.Audience != "https://orders.acme.example" || p.Proof.Accept[0] != kith.ProofSignature {
		t.Errorf("got %+v, %v", p, err)
	}
	for _, bad := range []string{
		"", "8444=8080,audience=", "8444=8080,audience=x,audience=y", "8444=8080,audience=x,accept=bearer", "8444=8080,audience=x,other=y", "8444,audience=x", "8444=8080,audience=x,accept",
	} {
		if p, err := ParseProven(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, p)
		}
	}
}

func TestParseVia(t *testing.T) {
	t.Parallel()
	v, err := ParseVia("Orders=https://lb.example:8443,audience=https://orders.acme.example,proof=wpt,ca=/etc/lb.pem")
	if err != nil || v.Service != "orders" || v.URL.String() != "https://lb.example:8443" || v.Proof != kith.ProofToken || v.CAFile != "/etc/lb.pem" {
		t.Errorf("got %+v, %v", v, err)
	}
	if v, err := ParseVia("orders=https://lb.example/,audience=x"); err != nil || v.Proof != kith.ProofSignature {
		t.Errorf("got %+v, %v", v, err)
	}
	for _, bad := range []string{
		"", "orders", "orders=", "orders=http://lb.example,audience=x", "orders=https://lb.example", "=https://lb.example,audience=x",
		"orders=https://lb.example/path,audience=x", "orders=https://u@lb.example,audience=x", "orders=https://lb.example?x,audience=x",
		"orders=https://lb.example,audience=x,proof=none", "orders=https://:443,audience=x", "orders=https://lb.example,audience=x,more=y",
	} {
		if v, err := ParseVia(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, v)
		}
	}
}

// FuzzParseVia holds that what is read leads to an https address and names whom its
// proofs are for.
func FuzzParseVia(f *testing.F) {
	for _, text := range []string{"orders=https://lb.example,audience=x", "a=https://b,audience=c,proof=wpt,ca=d", "a=b,c=d", "a=https://:443,audience=c", "8444=8080,audience=x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := ParseVia(text); err == nil && (v.URL.Scheme != "https" || v.URL.Hostname() == "" || v.Audience == "" || v.Service == "" || checkProof(v.Proof) != nil) {
			t.Fatalf("%q is read as %+v", text, v)
		}
		if p, err := ParseProven(text); err == nil && (!strings.Contains(text, p.Proof.Audience)) {
			t.Fatalf("%q is read as %+v", text, p)
		}
	})
}
