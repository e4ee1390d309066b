package spiffe_test

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

func accepts(t *testing.T, uris ...string) {
	t.Helper()
	for _, uri := range uris {
		id, err := spiffe.ParseID(uri)
		if err != nil {
			t.Errorf("ParseID(%q): %v, want it accepted", uri, err)
			continue
		}
		if id.String() != uri {
			t.Errorf("ParseID(%q).String() = %q", uri, id)
		}
		if again, err := spiffe.NewID(id.TrustDomain(), id.Path()); err != nil || again != id {
			t.Errorf("NewID(%q, %q) = %q, %v, want %q", id.TrustDomain(), id.Path(), again, err, id)
		}
	}
}

func refuses(t *testing.T, uris ...string) {
	t.Helper()
	for _, uri := range uris {
		if id, err := spiffe.ParseID(uri); err == nil {
			t.Errorf("ParseID(%q) = %q, want it refused", uri, id)
		}
	}
}

func TestRule01SchemeIsSpiffe(t *testing.T) {
	accepts(t, "spiffe://td", "spiffe://td/a")
	refuses(t, "", "td/a", "http://td/a", "spiff://td/a", "spiffes://td/a", "://td/a", "//td/a", "spiffe:td/a", "spiffe:/td/a", " spiffe://td/a")
}

func TestRule02TrustDomainNotEmpty(t *testing.T) {
	refuses(t, "spiffe://", "spiffe:///", "spiffe:///a")
	if _, err := spiffe.ParseTrustDomain(""); err == nil {
		t.Error("an empty trust domain was accepted")
	}
	if _, err := spiffe.NewID(spiffe.TrustDomain{}, "/a"); err == nil {
		t.Error("NewID accepted the zero trust domain")
	}
}

func TestRule03NoQueryNoFragment(t *testing.T) {
	refuses(t, "spiffe://td/a?b=c", "spiffe://td/a#b", "spiffe://td/a?", "spiffe://td/a#", "spiffe://td?", "spiffe://td#", "spiffe://td?a")
}

func TestRule04NoUserNoPort(t *testing.T) {
	refuses(t, "spiffe://user@td/a", "spiffe://user:pass@td/a", "spiffe://@td/a", "spiffe://td:80/a", "spiffe://td:/a", "spiffe://:80/a")
}

func TestRule05TrustDomainCharacters(t *testing.T) {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789.-_"
	for c := range 256 {
		name := "a" + string([]byte{byte(c)}) + "b"
		_, err := spiffe.ParseTrustDomain(name)
		if want := strings.IndexByte(allowed, byte(c)) >= 0; (err == nil) != want {
			t.Errorf("ParseTrustDomain(%q): %v, want accepted %t", name, err, want)
		}
		if byte(c) == '/' {
			continue
		}
		if _, idErr := spiffe.ParseID("spiffe://" + name + "/x"); (idErr == nil) != (err == nil) {
			t.Errorf("ParseID and ParseTrustDomain differ on %q: %v, %v", name, idErr, err)
		}
	}
}

func TestRule06NoPercentInTrustDomain(t *testing.T) {
	refuses(t, "spiffe://t%64/a", "spiffe://td%00/a", "spiffe://%74d/a")
}

func TestRule07AddressLikeTrustDomains(t *testing.T) {
	accepts(t, "spiffe://1.2.3.4/x", "spiffe://a_b..c/x", "spiffe://./x", "spiffe://-/x", "spiffe://127.0.0.1")
	refuses(t, "spiffe://[::1]/x", "spiffe://::1/x")
}

func TestRule08NoPercentInPath(t *testing.T) {
	refuses(t, "spiffe://td/a%2fb", "spiffe://td/%61", "spiffe://td/a%00", "spiffe://td/%2e%2e/a", "spiffe://td/%")
}

func TestRule09EmptyAndDotSegments(t *testing.T) {
	refuses(t, "spiffe://td//a", "spiffe://td/a//b", "spiffe://td/.", "spiffe://td/..", "spiffe://td/a/./b", "spiffe://td/a/../b", "spiffe://td/../a", "spiffe://td/a/..")
	accepts(t, "spiffe://td/...", "spiffe://td/.a", "spiffe://td/a.", "spiffe://td/..a", "spiffe://td/a..")
	for _, segment := range []string{"", ".", ".."} {
		if spiffe.ValidateSegment(segment) == nil {
			t.Errorf("ValidateSegment(%q) accepted it", segment)
		}
	}
}

func TestRule10NoTrailingSlash(t *testing.T) {
	refuses(t, "spiffe://td/", "spiffe://td/a/", "spiffe://td/a//")
	for _, path := range []string{"/", "/a/", "a", "a/b"} {
		if spiffe.ValidatePath(path) == nil {
			t.Errorf("ValidatePath(%q) accepted it", path)
		}
	}
}

func TestRule11SegmentCharacters(t *testing.T) {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
	for c := range 256 {
		segment := "a" + string([]byte{byte(c)}) + "b"
		err := spiffe.ValidateSegment(segment)
		if want := strings.IndexByte(allowed, byte(c)) >= 0; (err == nil) != want {
			t.Errorf("ValidateSegment(%q): %v, want accepted %t", segment, err, want)
		}
	}
	refuses(t, "spiffe://td/ä", "spiffe://td/a b", "spiffe://td/a\x00", "spiffe://td/a*", "spiffe://td/a\\b", "spiffe://td/a\n")
}

func TestRule12Lengths(t *testing.T) {
	base := "spiffe://td/"
	accepts(t, base+strings.Repeat("a", 2048-len(base)), "spiffe://"+strings.Repeat("a", 255)+"/x")
	refuses(t, base+strings.Repeat("a", 2049-len(base)), "spiffe://"+strings.Repeat("a", 256)+"/x")
	td := mustTD(t, "td")
	if _, err := spiffe.NewID(td, "/"+strings.Repeat("a", 2048-len(base))); err != nil {
		t.Errorf("NewID of 2048 bytes: %v", err)
	}
	if _, err := spiffe.NewID(td, "/"+strings.Repeat("a", 2049-len(base))); err == nil {
		t.Error("NewID made an ID of 2049 bytes")
	}
}

func TestRule13Case(t *testing.T) {
	refuses(t, "SPIFFE://td/a", "Spiffe://td/a", "spiffe://TD/a", "spiffe://tD/a")
	if mustID(t, "spiffe://td/a") == mustID(t, "spiffe://td/A") {
		t.Error("paths that differ in case are the same ID")
	}
}

func TestIDParts(t *testing.T) {
	id := mustID(t, "spiffe://acme.example/eks/shop/orders")
	if got := id.TrustDomain(); got != mustTD(t, "acme.example") || got.String() != "acme.example" {
		t.Errorf("TrustDomain() = %q", got)
	}
	if id.Path() != "/eks/shop/orders" {
		t.Errorf("Path() = %q", id.Path())
	}
	own := mustTD(t, "acme.example").ID()
	if own != mustID(t, "spiffe://acme.example") || own.Path() != "" {
		t.Errorf("ID() of the trust domain = %q", own)
	}
	var zero spiffe.ID
	if !zero.IsZero() || zero.String() != "" || zero.Path() != "" || !zero.TrustDomain().IsZero() || !(spiffe.TrustDomain{}).ID().IsZero() {
		t.Error("the zero ID identifies somebody")
	}
}

func TestErrorsStayShort(t *testing.T) {
	_, err := spiffe.ParseID("spiffe://td/" + strings.Repeat("%", 2000))
	if err == nil || len(err.Error()) > 400 {
		t.Errorf("error has %d bytes: %.100v", len(err.Error()), err)
	}
}

func TestParseIDAllocatesNothing(t *testing.T) {
	uri := "spiffe://acme.example/eks/shop/orders"
	if n := testing.AllocsPerRun(100, func() { _, _ = spiffe.ParseID(uri) }); n != 0 {
		t.Errorf("ParseID allocates %v times", n)
	}
}
