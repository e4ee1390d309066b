package workload

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

const (
	webID    = "spiffe://" + domain + "/vms/web"
	ownTD    = "spiffe://" + domain
	otherTD  = "spiffe://other.example"
	newEnvoy = 40
	oldEnvoy = 17
)

func envoyNode(minor uint32) *envoypb.Node {
	return &envoypb.Node{UserAgentVersionType: &envoypb.Node_UserAgentBuildVersion{
		UserAgentBuildVersion: &envoypb.BuildVersion{Version: &envoypb.SemanticVersion{MajorNumber: 1, MinorNumber: minor}},
	}}
}

// envoy is a stream as Envoy keeps one.
type envoy struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[envoypb.DiscoveryRequest, envoypb.DiscoveryResponse]
	last   *envoypb.DiscoveryResponse
}

func (e *endpoint) envoy(t *testing.T, first *envoypb.DiscoveryRequest) *envoy {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	stream, err := envoypb.NewSecretDiscoveryServiceClient(e.conn).StreamSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &envoy{t: t, stream: stream}
	c.send(first)
	return c
}

func (c *envoy) send(req *envoypb.DiscoveryRequest) {
	c.t.Helper()
	if err := c.stream.Send(req); err != nil && !errors.Is(err, io.EOF) { // EOF: the stream has ended, and Recv knows why
		c.t.Fatal(err)
	}
}

// receive is the next response's secrets by name.
func (c *envoy) receive() map[string]*envoypb.Secret {
	c.t.Helper()
	m, err := c.stream.Recv()
	if err != nil {
		c.t.Fatalf("waiting for secrets: %v", err)
	}
	c.last = m
	return secretsIn(c.t, m)
}

func secretsIn(t *testing.T, m *envoypb.DiscoveryResponse) map[string]*envoypb.Secret {
	t.Helper()
	out := make(map[string]*envoypb.Secret)
	for _, r := range m.GetResources() {
		s := &envoypb.Secret{}
		if err := r.UnmarshalTo(s); err != nil {
			t.Fatal(err)
		}
		out[s.GetName()] = s
	}
	return out
}

// answer acks the last response, or refuses it.
func (c *envoy) answer(refusal string, names ...string) {
	c.t.Helper()
	req := &envoypb.DiscoveryRequest{ResourceNames: names, ResponseNonce: c.last.GetNonce(), VersionInfo: c.last.GetVersionInfo(), TypeUrl: secretType}
	if refusal != "" {
		req.VersionInfo, req.ErrorDetail = "", &envoypb.Refusal{Code: 13, Message: refusal}
	}
	c.send(req)
}

// end is the error that ends the stream.
func (c *envoy) end() error {
	for {
		if _, err := c.stream.Recv(); err != nil {
			return err
		}
	}
}

// trusts is the trust domains of a validation context: "plain" for one that
// cannot tell them apart.
func trusts(t *testing.T, s *envoypb.Secret) string {
	t.Helper()
	context := s.GetValidationContext()
	if context == nil {
		t.Fatalf("secret %q is no validation context", s.GetName())
	}
	if ca := context.GetTrustedCa().GetInlineBytes(); len(ca) > 0 {
		return "plain"
	}
	config := &envoypb.SPIFFECertValidatorConfig{}
	if err := context.GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(config); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, td := range config.GetTrustDomains() {
		if block, _ := pem.Decode(td.GetTrustBundle().GetInlineBytes()); block == nil {
			t.Errorf("trust domain %s without roots", td.GetName())
		}
		names = append(names, td.GetName())
	}
	return strings.Join(names, " ")
}

func TestSecretsHaveTheNamesOfSPIRE(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	for _, c := range []struct{ name, old, new string }{
		{"ROOTCA", "plain", domain},
		{ownTD, "plain", domain},
		{otherTD, "plain", "other.example"},
		{"ALL", "", domain + " other.example"},
	} {
		got := e.envoy(t, &envoypb.DiscoveryRequest{Node: envoyNode(newEnvoy), ResourceNames: []string{c.name}}).receive()
		if len(got) != 1 || trusts(t, got[c.name]) != c.new {
			t.Errorf("%s: got %v, want the trust domains %s", c.name, got, c.new)
		}
		old := e.envoy(t, &envoypb.DiscoveryRequest{Node: envoyNode(oldEnvoy), ResourceNames: []string{c.name}})
		if c.old == "" {
			wantCode(t, old.end(), codes.InvalidArgument)
		} else if got := old.receive(); trusts(t, got[c.name]) != c.old {
			t.Errorf("%s to an old Envoy: got %v, want plain roots", c.name, got)
		}
	}
	off := envoyNode(newEnvoy)
	off.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"disable_spiffe_cert_validation": structpb.NewBoolValue(true)}}
	if got := e.envoy(t, &envoypb.DiscoveryRequest{Node: off, ResourceNames: []string{"ROOTCA"}}).receive(); trusts(t, got["ROOTCA"]) != "plain" {
		t.Errorf("with the validator off: got %v, want plain roots", got)
	}
	for _, name := range []string{"default", webID} {
		got := e.envoy(t, &envoypb.DiscoveryRequest{ResourceNames: []string{name}}).receive()[name].GetTlsCertificate()
		chain, _ := pem.Decode(got.GetCertificateChain().GetInlineBytes())
		key, _ := pem.Decode(got.GetPrivateKey().GetInlineBytes())
		if chain == nil || key == nil {
			t.Fatalf("%s: no PEM in %v", name, got)
		}
		if svid, err := spiffe.ParseX509SVID(chain.Bytes, key.Bytes); err != nil || svid.ID.String() != webID {
			t.Errorf("%s: got %v, %v, want the SVID of %s", name, svid, err, webID)
		}
	}
	got := e.envoy(t, &envoypb.DiscoveryRequest{Node: envoyNode(newEnvoy)}).receive()
	if len(got) != 3 || got[webID] == nil || got[ownTD] == nil || got[otherTD] == nil {
		t.Errorf("no names: got %v, want everything by its own name", got)
	}
}

func TestRenewedSecretsArePushedOnceAndAcked(t *testing.T) {
	t.Parallel()
	e := start(t, newWorld(t), 0)
	c := e.envoy(t, &envoypb.DiscoveryRequest{ResourceNames: []string{"default"}})
	first := c.receive()["default"]
	version, nonce := c.last.GetVersionInfo(), c.last.GetNonce()
	c.answer("", "default")
	e.identities.Renew()
	second := c.receive()["default"]
	if slices.Equal(first.GetTlsCertificate().GetCertificateChain().GetInlineBytes(), second.GetTlsCertificate().GetCertificateChain().GetInlineBytes()) ||
		c.last.GetVersionInfo() == version || c.last.GetNonce() == nonce {
		t.Errorf("a renewal: got version %s nonce %s after %s %s", c.last.GetVersionInfo(), c.last.GetNonce(), version, nonce)
	}
	version = c.last.GetVersionInfo()
	// A refusal brings nothing but what changes next; a stale answer nothing at all.
	c.answer("no thanks", "default")
	c.send(&envoypb.DiscoveryRequest{ResourceNames: []string{"ROOTCA"}, ResponseNonce: nonce})
	c.answer("no thanks", "default", "ROOTCA")
	third := c.receive()
	if len(third) != 2 || third["ROOTCA"] == nil || third["default"] == nil {
		t.Fatalf("after more names: got %v, want both", third)
	}
	if c.last.GetVersionInfo() == version {
		t.Error("more names have the version of fewer")
	}
	again := e.envoy(t, &envoypb.DiscoveryRequest{ResourceNames: []string{"default"}, VersionInfo: version})
	if again.receive(); again.last.GetVersionInfo() != version {
		t.Errorf("the same content on another stream: got version %s, want %s", again.last.GetVersionInfo(), version)
	}
}

func TestSecretsThatNobodyMayHave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	for _, name := range []string{"spiffe://" + domain + "/vms/other", "spiffe://none.example", "Default", strings.Repeat("x", 4000)} {
		err := e.envoy(t, &envoypb.DiscoveryRequest{ResourceNames: []string{"default", name}}).end()
		wantCode(t, err, codes.InvalidArgument)
		if !strings.Contains(err.Error(), webID) || len(err.Error()) > 2000 {
			t.Errorf("%.40s: got %v, want what there is", name, err)
		}
	}
	wantCode(t, e.envoy(t, &envoypb.DiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"}).end(), codes.InvalidArgument)
	wantCode(t, e.envoy(t, &envoypb.DiscoveryRequest{ResourceNames: make([]string, maxNames+1)}).end(), codes.InvalidArgument)
	w.set(func() { w.ev.Matches = nil })
	wantCode(t, e.envoy(t, &envoypb.DiscoveryRequest{ResourceNames: []string{"ROOTCA"}}).end(), codes.PermissionDenied)
	w.set(func() { w.evErr = errors.New("inspection failed") })
	wantCode(t, e.envoy(t, &envoypb.DiscoveryRequest{ResourceNames: []string{"ROOTCA"}}).end(), codes.PermissionDenied)
}

// Rule 93 for Envoy: what is withdrawn is withdrawn on the open stream. Of trust
// domains Envoy would keep the roots it has, so it gets roots of nobody.
func TestRule93SecretsAreWithdrawn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ev.Matches = append(w.ev.Matches, registry.Match{Rule: "extra", ID: mustID("spiffe://" + domain + "/vms/extra")})
	e := start(t, w, 0)
	node := envoyNode(newEnvoy)
	extra := e.envoy(t, &envoypb.DiscoveryRequest{Node: node, ResourceNames: []string{"spiffe://" + domain + "/vms/extra"}})
	extra.receive()
	other := e.envoy(t, &envoypb.DiscoveryRequest{Node: node, ResourceNames: []string{otherTD}})
	other.receive()
	all := e.envoy(t, &envoypb.DiscoveryRequest{Node: node, ResourceNames: []string{"ALL"}})
	all.receive()
	own, foreign := mustID(ownTD+"/x").TrustDomain(), mustID(otherTD+"/x").TrustDomain()

	// Rule 67: a bundle without keys revokes everything of its domain.
	w.change(func() {
		w.bundles = spiffe.BundleMap{own: w.bundles[own], foreign: spiffe.NewBundle(foreign, 2, 0)}
	})
	if got := trusts(t, other.receive()[otherTD]); got != "nobody.invalid" {
		t.Errorf("a bundle without roots: got %q, want nobody", got)
	}
	if got := trusts(t, all.receive()["ALL"]); got != domain {
		t.Errorf("ALL with an empty bundle: got %q, want %s alone", got, domain)
	}
	w.change(func() {
		w.ev.Matches = w.ev.Matches[:1]
		w.bundles = spiffe.BundleMap{own: w.bundles[own]}
	})
	wantCode(t, extra.end(), codes.PermissionDenied)
	back := e.envoy(t, &envoypb.DiscoveryRequest{Node: node, ResourceNames: []string{otherTD}, VersionInfo: "had"})
	if got := trusts(t, back.receive()[otherTD]); got != "nobody.invalid" {
		t.Errorf("an Envoy that comes back for what is gone: got %q, want nobody", got)
	}
	w.change(func() { w.ev.Matches = nil })
	wantCode(t, all.end(), codes.PermissionDenied)
	wantCode(t, other.end(), codes.PermissionDenied)
}

func TestNoKeyForAnotherProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	w.set(func() { w.checked = errors.New("process 4242 runs another program by now") })
	wantCode(t, e.envoy(t, &envoypb.DiscoveryRequest{ResourceNames: []string{"default"}}).end(), codes.PermissionDenied)
	_, err := envoypb.NewSecretDiscoveryServiceClient(e.conn).FetchSecrets(t.Context(), &envoypb.DiscoveryRequest{})
	wantCode(t, err, codes.PermissionDenied)
}

func TestFetchSecretsAnswersOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	client := envoypb.NewSecretDiscoveryServiceClient(e.conn)
	out, err := client.FetchSecrets(t.Context(), &envoypb.DiscoveryRequest{ResourceNames: []string{"default", "ROOTCA"}})
	if err != nil || len(secretsIn(t, out)) != 2 || out.GetNonce() != "" {
		t.Errorf("got %v, %v, want two secrets without a nonce", out, err)
	}
	_, err = client.FetchSecrets(t.Context(), &envoypb.DiscoveryRequest{ResourceNames: []string{"nobody"}})
	wantCode(t, err, codes.InvalidArgument)
	w.set(func() { w.ev.Matches = nil })
	_, err = client.FetchSecrets(t.Context(), &envoypb.DiscoveryRequest{ResourceNames: []string{"default"}})
	wantCode(t, err, codes.PermissionDenied)
}
