package extauthz

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/policy"
)

const web = "spiffe://acme.example/vms/web"

// desk has one point, for whoever asks, or an error.
type desk struct {
	point *Point
	err   error
	kept  []*pb.Decision
	flows []policy.Flow
	stale bool
}

func (d *desk) Point(context.Context, attest.Peer) (*Point, error) { return d.point, d.err }

func service(name string, protocol policy.Protocol) *pb.Service {
	return policy.Service{Name: name, Identities: []string{"/vms/" + name}, Protocol: protocol}.PB()
}

func rule(name, from, to string, allow ...string) *pb.Rule {
	return policy.Rule{Name: name, From: []string{from}, To: to, Allow: allow}.PB()
}

func slice(services ...*pb.Service) *pb.Slice {
	s := &pb.Slice{
		Revision: 7, Schema: policy.Schema, TrustDomain: "acme.example", Services: services,
		Named: map[string]*pb.Service{"web": service("web", policy.HTTP)},
	}
	for _, svc := range services {
		action := "GET /v1/{**}"
		if svc.GetProtocol() == "tcp" {
			action = "tcp 5432"
		}
		s.Rules = append(s.Rules, rule("web-"+svc.GetName(), "web", svc.GetName(), action))
	}
	return s
}

func newDesk(t testing.TB, s *pb.Slice) (*desk, *Service) {
	t.Helper()
	d := &desk{}
	d.point = NewPoint(PointConfig{
		Stale: func() bool { return d.stale }, Now: time.Now,
		Report: func(m *pb.Decision) { d.kept = append(d.kept, m) },
		Count:  func(f policy.Flow) { d.flows = append(d.flows, f) },
	})
	if s != nil {
		if ack := d.point.Rule(policyOf(s)); ack.GetError() != "" || ack.GetRevision() != 7 {
			t.Fatalf("ack %v", ack)
		}
	}
	return d, NewService(Config{Desk: d, Documents: documents(), Version: "1.2.3", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
}

type localInfo struct{ credentials.CommonAuthInfo }

func (localInfo) AuthType() string  { return "test" }
func (localInfo) Peer() attest.Peer { return attest.Peer{PID: 7} }

func ask(t testing.TB, s *Service, in *envoypb.AttributeContext) *envoypb.CheckResponse {
	t.Helper()
	out, err := s.Check(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: localInfo{}}), &envoypb.CheckRequest{Attributes: in})
	if err != nil {
		t.Fatalf("Check: got an error, which lets requests pass where failure_mode_allow is set: %v", err)
	}
	allowed := out.GetStatus().GetCode() == 0
	if (out.GetDeniedResponse() == nil) != allowed || (out.GetOkResponse() != nil) != allowed {
		t.Errorf("status %d with the response %v", out.GetStatus().GetCode(), out.GetHttpResponse())
	}
	return out
}

func said(out *envoypb.CheckResponse, key string) string {
	return out.GetDynamicMetadata().GetFields()[key].GetStringValue()
}

func get(principal, path string) *envoypb.AttributeContext {
	return &envoypb.AttributeContext{
		Source:  &envoypb.AttributeContext_Peer{Principal: principal},
		Request: &envoypb.AttributeContext_Request{Http: &envoypb.AttributeContext_HttpRequest{Method: "GET", Path: path, Host: "orders"}},
	}
}

func TestEnvoyIsAnsweredByTheRules(t *testing.T) {
	d, s := newDesk(t, slice(service("orders", policy.HTTP)))
	out := ask(t, s, get(web, "/v1/orders?a=/../b"))
	if said(out, "reason") != "allow_rule" || said(out, "rule") != "web-orders" || said(out, "service") != "orders" || said(out, "from") != web ||
		said(out, "decision") == "" || out.GetDynamicMetadata().GetFields()["revision"].GetNumberValue() != 7 {
		t.Errorf("an allow: got %v", out.GetDynamicMetadata())
	}
	post := get(web, "/v1/orders")
	post.Request.Http.Method = "POST"
	out = ask(t, s, post)
	denied := out.GetDeniedResponse()
	id := said(out, "decision")
	if said(out, "reason") != "no_rule" || denied.GetStatus().GetCode() != envoypb.StatusCode_Forbidden || !strings.Contains(denied.GetBody(), "kith why "+id) {
		t.Errorf("a denial: got %v", out)
	}
	if strings.Contains(denied.GetBody(), "no_rule") {
		t.Error("the caller is told why")
	}
	if h := denied.GetHeaders()[0].GetHeader(); h.GetKey() != "kith-decision" || h.GetValue() != id {
		t.Errorf("header %v, want the decision %s", h, id)
	}
	if last := d.kept[len(d.kept)-1]; last.GetId() != id || last.GetNearRule() != "web-orders" || last.GetNearField() != "method" || last.GetMethod() != "POST" {
		t.Errorf("reported: %v", last)
	}
	if f := d.flows[0]; len(d.flows) != 2 || f.Effect != policy.Allow || f.Rule != "web-orders" || f.From.String() != web || f.To != "orders" || f.Samples[0] != "/v1/orders" {
		t.Errorf("counted: %+v", d.flows)
	}
	for name, principal := range map[string]string{
		"another service": "spiffe://acme.example/vms/reporting", "another trust domain": "spiffe://other.example/vms/web",
		"nobody": "", "no ID": "CN=web,O=acme", "an ID without a path": "spiffe://acme.example",
		"an ID with something behind": web + "#x", "two IDs": web + "," + web,
	} {
		if out := ask(t, s, get(principal, "/v1/orders")); out.GetStatus().GetCode() != 7 {
			t.Errorf("%s: got %v, want a denial", name, out)
		}
	}
}

// Where a foreign proxy forwards, a path that is not already normal is denied.
func TestPathsThatAreNotNormalAreDenied(t *testing.T) {
	_, s := newDesk(t, slice(service("orders", policy.HTTP)))
	for _, path := range []string{
		"/v1/../admin", "/v1/./x", "/v1/%2e%2e/admin", "/v1//x", "/v1/%2fx", "/v1/x%00", "/v1/a;b", "/v1\\x", "/v1/%252e", "/v1/%7Ex",
		"/v1/%c3%28", "/v1/x#y", "*", "", "http://orders/v1/x", "orders:80", "/v1/\xff", "/v1/" + strings.Repeat("a", 9000),
	} {
		out := ask(t, s, get(web, path))
		if said(out, "reason") != "path_not_canonical" || out.GetDeniedResponse().GetStatus().GetCode() != envoypb.StatusCode_BadRequest {
			t.Errorf("%.40q: got %s, want path_not_canonical and 400", path, said(out, "reason"))
		}
	}
}

func TestWhatCannotBeDecidedIsDenied(t *testing.T) {
	_, s := newDesk(t, nil)
	if out := ask(t, s, get(web, "/v1/x")); said(out, "reason") != "no_policy" {
		t.Errorf("before the first slice: got %v", out)
	}
	d, s := newDesk(t, slice(service("orders", policy.HTTP), service("billing", policy.HTTP)))
	if out := ask(t, s, get(web, "/v1/x")); said(out, "reason") != "no_policy" {
		t.Errorf("one of two services, which it did not say: got %v", out)
	}
	for name, want := range map[string]string{"orders": "allow_rule", "billing": "allow_rule", "web": "no_policy"} {
		in := get(web, "/v1/x")
		in.ContextExtensions = map[string]string{"kith.service": name}
		if out := ask(t, s, in); said(out, "reason") != want {
			t.Errorf("service %s: got %s, want %s", name, said(out, "reason"), want)
		}
	}
	d.stale = true
	in := get(web, "/v1/x")
	in.ContextExtensions = map[string]string{"kith.service": "orders"}
	if out := ask(t, s, in); out.GetStatus().GetCode() != 7 {
		t.Errorf("with a policy older than an identity lives: got %v", out)
	}
	d.err = errors.New("no identity")
	if out := ask(t, s, in); out.GetStatus().GetCode() != 7 || out.GetDeniedResponse() == nil {
		t.Errorf("a caller without an identity: got %v", out)
	}
	bad := slice(service("orders", policy.HTTP))
	bad.Schema++
	d, s = newDesk(t, slice(service("orders", policy.HTTP)))
	if ack := d.point.Rule(policyOf(bad)); ack.GetError() == "" {
		t.Error("a slice of a newer schema was acked")
	}
	if out := ask(t, s, get(web, "/v1/x")); said(out, "reason") != "no_policy" {
		t.Errorf("after a slice that is not understood: got %v", out)
	}
	if out, err := s.Check(t.Context(), &envoypb.CheckRequest{}); err != nil || out.GetStatus().GetCode() != 7 {
		t.Errorf("a caller nobody knows: got %v, %v", out, err)
	}
}

func TestThreatT15ConnectionsAreDecidedByPort(t *testing.T) {
	_, s := newDesk(t, slice(service("ledger", policy.TCP)))
	for port, want := range map[uint32]string{5432: "allow_rule", 5433: "no_rule"} {
		in := get(web, "")
		in.Request = nil
		in.Destination = &envoypb.AttributeContext_Peer{Address: &envoypb.Address{Address: &envoypb.Address_SocketAddress{
			SocketAddress: &envoypb.SocketAddress{Address: "10.0.0.1", PortSpecifier: &envoypb.SocketAddress_PortValue{PortValue: port}},
		}}}
		if out := ask(t, s, in); said(out, "reason") != want {
			t.Errorf("port %d: got %s, want %s", port, said(out, "reason"), want)
		}
	}
	// T15: what is no port is not the port of its last 16 bits.
	for _, port := range []uint32{1<<16 + 5432, 1<<31 + 5432, 1<<32 - 1} {
		in := get(web, "")
		in.Request = nil
		in.Destination = &envoypb.AttributeContext_Peer{Address: &envoypb.Address{Address: &envoypb.Address_SocketAddress{
			SocketAddress: &envoypb.SocketAddress{Address: "10.0.0.1", PortSpecifier: &envoypb.SocketAddress_PortValue{PortValue: port}},
		}}}
		if out := ask(t, s, in); out.GetStatus().GetCode() != 7 || said(out, "reason") == "allow_rule" {
			t.Errorf("port %d: got %v, want a denial", port, out)
		}
	}
	_, s = newDesk(t, slice(service("orders", policy.HTTP)))
	in := get(web, "")
	in.Request = nil
	if out := ask(t, s, in); out.GetStatus().GetCode() != 7 {
		t.Errorf("a connection to an http service: got %v, want a denial", out)
	}
}

// leaf is a certificate of its own making: who signed it is for the proxy to say.
func leaf(t testing.TB, until time.Time, ca bool, uris ...string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func escaped(c *x509.Certificate) string {
	return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
}

// Rules 18, 22 and 30: what Envoy's validator does not look at is looked at here,
// where the certificate is sent along.
func TestRule30TheLeafIsCheckedAgain(t *testing.T) {
	_, s := newDesk(t, slice(service("orders", policy.HTTP)))
	soon := time.Now().Add(time.Hour)
	good := leaf(t, soon, false, web)
	for _, c := range []struct {
		name, certificate, principal, want string
	}{
		{"PEM", escaped(good), web, "allow_rule"},
		{"base64", base64.StdEncoding.EncodeToString(good.Raw), web, "allow_rule"},
		{"without a principal", escaped(good), "", "allow_rule"},
		{"of somebody else", escaped(good), "spiffe://acme.example/vms/admin", "no_source"},
		{"two URI names", escaped(leaf(t, soon, false, web, "https://x.example")), web, "no_source"},
		{"an authority", escaped(leaf(t, soon, true, web)), web, "no_source"},
		{"without a path", escaped(leaf(t, soon, false, "spiffe://acme.example")), "", "no_source"},
		{"expired", escaped(leaf(t, time.Now().Add(-time.Minute), false, web)), web, "no_source"},
		{"two certificates", escaped(good) + escaped(good), web, "no_source"},
		{"no certificate", "-----BEGIN%20X", web, "no_source"},
		{"nonsense", "%zz", web, "no_source"},
		{"too much", strings.Repeat("A", maxCertificate+1), web, "no_source"},
	} {
		in := get(c.principal, "/v1/x")
		in.Source.Certificate = c.certificate
		if out := ask(t, s, in); said(out, "reason") != c.want {
			t.Errorf("%s: got %s, want %s", c.name, said(out, "reason"), c.want)
		}
	}
}

// Whatever Envoy sends, it is answered, and only what the rule names is allowed.
func FuzzCheck(f *testing.F) {
	for _, in := range []*envoypb.AttributeContext{get(web, "/v1/x"), get("", "/v1/../x"), get(web, "/./%76%31/x"), {Source: &envoypb.AttributeContext_Peer{Certificate: "%2d"}}} {
		raw, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	_, s := newDesk(f, slice(service("orders", policy.HTTP)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		in := &envoypb.AttributeContext{}
		if proto.Unmarshal(raw, in) != nil {
			return
		}
		out := ask(t, s, in)
		http := in.GetRequest().GetHttp()
		target, _, _ := strings.Cut(http.GetPath(), "?")
		path, err := policy.NormalizePath(target, policy.PathOptions{})
		if out.GetStatus().GetCode() == 0 && (err != nil || path != target || http.GetMethod() != "GET" || path != "/v1" && !strings.HasPrefix(path, "/v1/") || said(out, "from") != web) {
			t.Errorf("allowed %v", in)
		}
		if _, err := proto.Marshal(out); err != nil {
			t.Errorf("the answer cannot be sent: %v", err)
		}
	})
}
