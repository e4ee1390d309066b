package registry

import (
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// What federation is bounded by: the bundles of all go to every agent.
const (
	MaxFederations     = 256
	MaxFederatedBundle = 256 << 10
	MaxFederatedTotal  = 2 << 20
	maxEndpointURL     = 2048
)

// EndpointProfile is how a bundle endpoint shows that it is the right one.
type EndpointProfile string

// The two profiles of SPIFFE Federation 5.2.
const (
	HTTPSWeb    EndpointProfile = "https_web"    // by a certificate of the web for its host name
	HTTPSSPIFFE EndpointProfile = "https_spiffe" // by an X509-SVID
)

// Federation is a relationship with another trust domain, whose SVIDs are
// accepted by the bundle that its endpoint gives. The name, the URL and the
// profile are each said by the operator; none follows from another.
type Federation struct {
	TrustDomain spiffe.TrustDomain
	URL         string
	Profile     EndpointProfile
	EndpointID  spiffe.ID // HTTPSSPIFFE: whom the endpoint's certificate must name
	Bundle      []byte    // to begin with, may be empty
	Owner       string
}

// FederationFromPB reads and judges a relationship. own is the trust domain of
// this installation. All faults are returned at once, each with its path.
func FederationFromPB(p *pb.Federation, own spiffe.TrustDomain) (Federation, error) {
	var f faults
	path := "federation." + p.GetTrustDomain()
	out := Federation{URL: p.GetUrl(), Profile: EndpointProfile(p.GetProfile()), Bundle: p.GetBundle(), Owner: p.GetOwner()}
	var err error
	if out.TrustDomain, err = spiffe.ParseTrustDomain(p.GetTrustDomain()); err != nil {
		f.add("federation", err)
	} else if out.TrustDomain == own {
		f.add(path, fault.Invalidf("%s is this trust domain: it has no endpoint to trust itself by", own))
	}
	f.add(path+".owner", validateText(out.Owner, maxOwner))
	_, err = ParseEndpointURL(out.URL)
	f.add(path+".url", err)
	f.add(path+".endpoint_id", out.readEndpoint(p.GetEndpointId()))
	if len(out.Bundle) > 0 {
		_, err := ParseFederatedBundle(out.TrustDomain, out.Bundle)
		f.add(path+".bundle", err)
	}
	if err := fault.Wrap(fault.Invalid, errors.Join(f.all...)); err != nil {
		return Federation{}, err
	}
	return out, nil
}

// readEndpoint reads what the profile needs and refuses what it has no use for.
// SPIFFE Federation 5.2.1.1, 5.2.2.1.
func (f *Federation) readEndpoint(id string) (err error) {
	switch f.Profile {
	case HTTPSWeb:
		if id != "" {
			return fault.Hint(fault.Invalidf("%s is for profile %s only", id, HTTPSSPIFFE), "profile: %s, or no endpoint_id", HTTPSSPIFFE)
		}
		return nil
	case HTTPSSPIFFE:
	default:
		return fault.Invalidf("profile %q: %s or %s", f.Profile, HTTPSWeb, HTTPSSPIFFE)
	}
	if id == "" {
		return fault.Hint(fault.Invalidf("empty; profile %s needs the SPIFFE ID of the endpoint", HTTPSSPIFFE), "ask the other side for it; of a Kith server: spiffe://%s/kith/federation", f.TrustDomain)
	}
	if f.EndpointID, err = spiffe.ParseID(id); err != nil {
		return err
	}
	if f.EndpointID.Path() == "" {
		return fault.Invalidf("%s has no path, so no certificate of a workload can name it", id)
	}
	if f.EndpointID.TrustDomain() == f.TrustDomain && len(f.Bundle) == 0 {
		return fault.Hint(fault.Invalidf("%s is of the trust domain itself, so a first bundle must be given to know it by", id),
			"on the other side: kith federate bundle; its output is the bundle: here")
	}
	return nil
}

// PB is the relationship on the wire.
func (f Federation) PB() *pb.Federation {
	return &pb.Federation{
		TrustDomain: f.TrustDomain.String(), Url: f.URL, Profile: string(f.Profile),
		EndpointId: f.EndpointID.String(), Bundle: slices.Clone(f.Bundle), Owner: f.Owner,
	}
}

// ParseEndpointURL reads the URL of a bundle endpoint: https, no user, a host.
// SPIFFE Federation 5.2.1.1, 5.2.2.1; redirects are held to it as well.
func ParseEndpointURL(text string) (*url.URL, error) {
	if len(text) > maxEndpointURL {
		return nil, fault.Invalidf("URL of %d bytes; at most %d", len(text), maxEndpointURL)
	}
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil, fault.Invalidf("empty")
	case err != nil:
		return nil, fault.Invalidf("not a URL")
	case u.Scheme != "https":
		return nil, fault.Invalidf("scheme is %q, must be https", u.Scheme)
	case u.User != nil:
		return nil, fault.Invalidf("has a user name or password, which an endpoint's URL must not")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, fault.Invalidf("has no host")
	case u.Fragment != "" || u.RawFragment != "":
		return nil, fault.Invalidf("has a fragment (#), which is never sent")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fault.Invalidf("port %q is not a number from 1 to 65535", port)
		}
	}
	return u, nil
}

// CheckFederations looks at the relationships together: how many there are, and
// whether each endpoint is of a trust domain whose bundle will be there.
func CheckFederations(all map[string]Federation, own spiffe.TrustDomain) error {
	var f faults
	if len(all) > MaxFederations {
		f.add("federation", fault.Invalidf("%d relationships, at most %d", len(all), MaxFederations))
	}
	given := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		given += len(all[name].Bundle)
		td := all[name].EndpointID.TrustDomain()
		if _, known := all[td.String()]; td.IsZero() || td == own || known {
			continue
		}
		f.add("federation."+name+".endpoint_id", fault.Invalidf("is of %s, whose bundle is not here to verify it with", td))
	}
	if given > MaxFederatedTotal {
		f.add("federation", fault.Invalidf("bundles of %d bytes together, at most %d", given, MaxFederatedTotal))
	}
	return fault.Wrap(fault.Invalid, errors.Join(f.all...))
}

// ParseFederatedBundle reads another trust domain's bundle document, bounded by
// what is kept.
func ParseFederatedBundle(td spiffe.TrustDomain, document []byte) (*spiffe.Bundle, error) {
	if len(document) > MaxFederatedBundle {
		return nil, fault.Invalidf("bundle of %d bytes; at most %d", len(document), MaxFederatedBundle)
	}
	bundle, err := spiffe.ParseBundle(td, document)
	return bundle, fault.Wrap(fault.Invalid, err)
}

// FederatedBundle is another trust domain's bundle as the store keeps it, under
// the name of the relationship and never under one that the document says.
type FederatedBundle struct {
	TrustDomain string          `json:"trust_domain"`
	Document    json.RawMessage `json:"document"`
	Changed     time.Time       `json:"changed"` // when this content came

	Bundle *spiffe.Bundle `json:"-"` // the document, read
}

// NewFederatedBundle is the record of a bundle that came at now.
func NewFederatedBundle(td spiffe.TrustDomain, document []byte, now time.Time) (FederatedBundle, error) {
	bundle, err := ParseFederatedBundle(td, document)
	if err != nil {
		return FederatedBundle{}, err
	}
	// What the document holds besides is not ours to keep and pass on.
	clean, err := bundle.Marshal()
	if err != nil {
		return FederatedBundle{}, err
	}
	return FederatedBundle{TrustDomain: td.String(), Document: clean, Changed: now.UTC(), Bundle: bundle}, nil
}

// Marshal is the record's value in the store.
func (b FederatedBundle) Marshal() ([]byte, error) { return json.Marshal(b) }

// StoredBundle reads a record of the store.
func StoredBundle(value []byte) (FederatedBundle, error) {
	var b FederatedBundle
	if err := parseRecord(value, &b); err != nil {
		return b, fault.Invalidf("federated bundle: %w", err)
	}
	td, err := spiffe.ParseTrustDomain(b.TrustDomain)
	if err != nil {
		return b, fault.Invalidf("federated bundle: %w", err)
	}
	if b.Bundle, err = ParseFederatedBundle(td, b.Document); err != nil {
		return b, fault.Invalidf("federated bundle: %w", err)
	}
	return b, nil
}
