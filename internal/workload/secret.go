package workload

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/spiffe"
)

// The names of secrets besides SPIFFE IDs and trust domain IDs. They are those
// that SPIRE gives out of the box, so that an Envoy configured for it needs no
// other line.
const (
	secretSVID    = "default" // the default SVID
	secretRoots   = "ROOTCA"  // the own trust domain's roots
	secretBundles = "ALL"     // the roots of every trust domain, each for its own
)

const (
	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	validator  = "envoy.tls.cert_validator.spiffe"
)

// secrets is all that one workload may have at one moment, by name.
type secrets struct {
	held  []Held
	trust Trust
	plain bool // the asker cannot tell trust domains apart
}

// secret is one of them, ready to be sent.
type secret struct {
	name    string
	version string // changes with the content, and says nothing about the key
	body    *anypb.Any
}

// names is what can be asked for, as an unknown name is told.
func (s secrets) names() []string {
	names := []string{secretSVID, secretRoots}
	if !s.plain {
		names = append(names, secretBundles)
	}
	return append(names, s.all()...)
}

// all is every secret once, by the name that says what it is.
func (s secrets) all() []string {
	var names []string
	for _, h := range s.held {
		if id := h.Match.ID.String(); !slices.Contains(names, id) {
			names = append(names, id)
		}
	}
	var domains []string
	for td := range s.trust.Bundles {
		domains = append(domains, td.ID().String())
	}
	slices.Sort(domains)
	return append(names, domains...)
}

// find makes the secret of a name. Not known is a name this workload has no
// right to, or that nobody has; known and nil is an SVID that is being signed.
// A trust domain that the asker had and that is no longer there is known: Envoy
// keeps what it has until it gets something else, so it gets roots of nobody.
func (s secrets) find(name string, had bool) (made *secret, known bool, err error) {
	switch name {
	case secretSVID:
		if len(s.held) == 0 {
			return nil, false, nil
		}
		made, err = certificate(name, s.held[0])
		return made, true, err
	case secretRoots:
		made, err = s.validation(name, s.trust.Domain)
		return made, true, err
	case secretBundles:
		if s.plain {
			return nil, true, status.Errorf(codes.InvalidArgument,
				"secret %q needs Envoy 1.18 or newer: roots of several trust domains are told apart by its SPIFFE validator", name)
		}
		made, err = s.validation(name, slices.SortedFunc(maps.Keys(s.trust.Bundles), byName)...)
		return made, true, err
	}
	for _, h := range s.held {
		if h.Match.ID.String() == name {
			made, err = certificate(name, h)
			return made, true, err
		}
	}
	for td := range s.trust.Bundles {
		if td.ID().String() == name {
			made, err = s.validation(name, td)
			return made, true, err
		}
	}
	if td, err := spiffe.ParseTrustDomain(strings.TrimPrefix(name, "spiffe://")); had && !s.plain && err == nil && td.ID().String() == name {
		made, err := s.validation(name)
		return made, true, err
	}
	return nil, false, nil
}

func byName(a, b spiffe.TrustDomain) int { return strings.Compare(a.String(), b.String()) }

// certificate is an SVID with its key; nil while there is none.
func certificate(name string, h Held) (*secret, error) {
	switch {
	case h.Issued != nil:
	case Refused(h.Err):
		return nil, errRefused()
	default:
		return nil, nil
	}
	certs, err := x509.ParseCertificates(h.Issued.Chain)
	if err != nil {
		return nil, fmt.Errorf("chain of %s: %w", h.Issued.ID, err)
	}
	var chain []byte
	for _, c := range certs {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: h.Issued.Key})
	return newSecret(&envoypb.Secret{Name: name, Type: &envoypb.Secret_TlsCertificate{TlsCertificate: &envoypb.TlsCertificate{
		CertificateChain: inline(chain), PrivateKey: inline(key),
	}}}, chain)
}

// validation makes the roots of trust domains good for the SPIFFE IDs of their
// own domain and no other: a federated root must not vouch for our names.
func (s secrets) validation(name string, domains ...spiffe.TrustDomain) (*secret, error) {
	config := &envoypb.SPIFFECertValidatorConfig{}
	var content []byte
	trust := func(domain string, roots []byte) {
		content = append(append(content, domain...), roots...)
		config.TrustDomains = append(config.TrustDomains, &envoypb.SPIFFECertValidatorConfig_TrustDomain{Name: domain, TrustBundle: inline(roots)})
	}
	for _, td := range domains {
		roots, err := s.roots(td)
		if err != nil {
			return nil, err
		}
		if len(roots) > 0 { // else that domain trusts nobody, and Envoy takes no empty bundle
			trust(td.String(), roots)
		}
	}
	switch {
	case s.plain && len(config.TrustDomains) == 0:
		return nil, status.Errorf(codes.PermissionDenied, "secret %q has no roots: nobody is trusted", name)
	case s.plain:
		context := &envoypb.CertificateValidationContext{TrustedCa: config.TrustDomains[0].TrustBundle}
		return newSecret(&envoypb.Secret{Name: name, Type: &envoypb.Secret_ValidationContext{ValidationContext: context}}, content)
	case len(config.TrustDomains) == 0:
		// Envoy wants one trust domain at least. This one nobody is of: our own CA
		// signs for our own domain alone.
		own, err := s.roots(s.trust.Domain)
		if err != nil {
			return nil, err
		}
		trust("nobody.invalid", own)
	}
	typed, err := anypb.New(config)
	if err != nil {
		return nil, err
	}
	context := &envoypb.CertificateValidationContext{
		CustomValidatorConfig: &envoypb.TypedExtensionConfig{Name: validator, TypedConfig: typed},
	}
	return newSecret(&envoypb.Secret{Name: name, Type: &envoypb.Secret_ValidationContext{ValidationContext: context}}, content)
}

// roots is a trust domain's roots in PEM.
func (s secrets) roots(td spiffe.TrustDomain) ([]byte, error) {
	bundle, ok := s.trust.Bundles.Bundle(td)
	if !ok {
		return nil, status.Error(codes.Unavailable, "the agent has no bundle yet")
	}
	var out []byte
	for _, root := range bundle.Roots() {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})...)
	}
	return out, nil
}

func newSecret(m *envoypb.Secret, content []byte) (*secret, error) {
	body, err := anypb.New(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	return &secret{name: m.GetName(), version: hex.EncodeToString(sum[:8]), body: body}, nil
}

func inline(data []byte) *envoypb.DataSource {
	return &envoypb.DataSource{Specifier: &envoypb.DataSource_InlineBytes{InlineBytes: data}}
}

// digests reports whether an Envoy has the SPIFFE certificate validator, by what
// it says of itself. Others get plain roots, as they do when the node's metadata
// says so.
func digests(node *envoypb.Node) bool {
	if node.GetMetadata().GetFields()["disable_spiffe_cert_validation"].GetBoolValue() {
		return false
	}
	v := node.GetUserAgentBuildVersion().GetVersion()
	return v.GetMajorNumber() > 1 || v.GetMajorNumber() == 1 && v.GetMinorNumber() >= 18
}
