package policy

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxIdentities = 256
	maxRunAs      = 256
	maxEndpoints  = 1024
	maxOwner      = 128
	maxHops       = 16
)

// Service is a name for whoever holds one of some identities, and says what it
// speaks.
type Service struct {
	Name       string
	Identities []string // paths in the own trust domain, or whole IDs; never patterns
	Protocol   Protocol
	RunAs      []string // who may claim the name: a user, a numeric uid, or a %group
	Paths      PathOptions
	Endpoints  []string // static host:port
	Mode       Mode     // Enforce or Observe
	Forwarded  Forwarded
	Proof      Proof      // of requests that come through a load balancer
	Externals  []External // asked in this order about what rules allow
	Team       string     // whose operators may change it and the rules to it; empty: nobody's who is bound to a team
	Owner      string
}

// Forwarded says whose word on a caller's address is taken: that of gateways
// known by their identity. The zero Forwarded takes nobody's.
type Forwarded struct {
	By []string // sources, as in Rule.From
	// Hops is which entry of X-Forwarded-For, from the right, is the caller; 0 is
	// 1, the one that the gateway has added itself.
	Hops int
}

// ParseProtocol reads http, grpc or tcp.
func ParseProtocol(s string) (Protocol, error) {
	for _, p := range []Protocol{HTTP, GRPC, TCP} {
		if s == p.String() {
			return p, nil
		}
	}
	return 0, fault.Hint(fault.Invalidf("unknown protocol %q", clip(s)), "protocols are http, grpc and tcp")
}

// Validate checks everything about the service that needs no other object. All
// faults are reported at once.
func (s Service) Validate() error {
	var f faults
	s.check(&f)
	return f.err()
}

func (s Service) check(f *faults) {
	at := "services." + s.Name
	if err := ValidateName(s.Name); err != nil {
		f.add("services", err)
	} else if reservedName(s.Name) {
		f.add(at, fault.Invalidf("name %q is reserved", s.Name))
	}
	if s.Protocol < HTTP || s.Protocol > TCP {
		f.add(at+".protocol", fault.Hint(fault.Invalidf("unknown protocol"), "protocols are http, grpc and tcp"))
	}
	if s.Protocol == TCP && s.Paths != (PathOptions{}) {
		f.add(at+".paths", fault.Invalidf("a tcp service has no paths"))
	}
	if len(s.Identities) == 0 {
		f.add(at+".identities", fault.Hint(fault.Invalidf("empty: nobody is this service"), "as in [/vms/%s]", s.Name))
	}
	f.bound(at+".identities", len(s.Identities), maxIdentities)
	f.bound(at+".run_as", len(s.RunAs), maxRunAs)
	f.bound(at+".endpoints", len(s.Endpoints), maxEndpoints)
	f.owner(at, s.Owner)
	s.checkMode(at, f)
	s.checkProof(at, f)
	s.checkExternals(at, f)
	for i, identity := range s.Identities {
		if err := checkIdentity(identity); err != nil {
			f.add(index(at+".identities", i), err)
		} else if slices.Contains(s.Identities[:min(i, maxIdentities)], identity) {
			f.add(index(at+".identities", i), fault.Invalidf("%q is listed twice", identity))
		}
	}
	for i, who := range s.RunAs {
		if err := checkRunAs(who); err != nil {
			f.add(index(at+".run_as", i), err)
		}
	}
	for i, endpoint := range s.Endpoints {
		if err := checkEndpoint(endpoint); err != nil {
			f.add(index(at+".endpoints", i), err)
		}
	}
}

// same says whether two services are the very same: lists that are equal but not
// the same ones are different here, which costs a look at them and no more.
func (s Service) same(other Service) bool {
	return s.Name == other.Name && s.Protocol == other.Protocol && s.Mode == other.Mode && s.Owner == other.Owner && s.Team == other.Team && s.Paths == other.Paths && s.Proof == other.Proof &&
		s.Forwarded.Hops == other.Forwarded.Hops && sameList(s.Forwarded.By, other.Forwarded.By) &&
		sameList(s.Identities, other.Identities) && sameList(s.RunAs, other.RunAs) &&
		sameList(s.Endpoints, other.Endpoints) && sameList(s.Externals, other.Externals)
}

func sameList[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

func (s Service) checkMode(at string, f *faults) {
	if s.Mode != Enforce && s.Mode != Observe {
		f.add(at+".mode", fault.Hint(fault.Invalidf("unknown mode"), "modes are enforce and observe"))
	}
	by := at + ".forwarded.by"
	f.bound(by, len(s.Forwarded.By), maxFrom)
	switch hops := s.Forwarded.Hops; {
	case hops < 0 || hops > maxHops:
		f.add(at+".forwarded.hops", fault.Invalidf("%d is not from 1 to %d", hops, maxHops))
	case hops > 0 && len(s.Forwarded.By) == 0:
		f.add(by, fault.Hint(fault.Invalidf("empty: nobody's word is taken"), "name the gateway, as in by: [edge]"))
	case len(s.Forwarded.By) > 0 && s.Protocol == TCP:
		f.add(at+".forwarded", fault.Invalidf("a tcp service sees no X-Forwarded-For"))
	}
	for i, source := range s.Forwarded.By {
		if source == "anonymous" {
			f.add(index(by, i), fault.Invalidf("whoever has no identity cannot be trusted with anybody's address"))
		}
	}
}

// checkLength finds the paths that are sound but no ID of the trust domain,
// which would be too long.
func (s Service) checkLength(own spiffe.TrustDomain, f *faults) {
	for i, identity := range s.Identities {
		if len(identity) < 1024 || checkIdentity(identity) != nil { // an ID has 2048 bytes, a trust domain 255
			continue
		}
		if _, err := wholeID(identity, own); err != nil {
			f.add(index("services."+s.Name+".identities", i), err)
		}
	}
}

// checkIdentity accepts a path of the own trust domain or a whole ID, outside
// the reserved /kith/.
func checkIdentity(s string) error {
	path := s
	if !strings.HasPrefix(s, "/") {
		id, err := spiffe.ParseID(s)
		if err != nil {
			return fault.Hint(fault.Wrap(fault.Invalid, err), "a path of the own trust domain, as in /vms/orders, or a whole spiffe:// ID")
		}
		path = id.Path()
	}
	if err := spiffe.ValidatePath(path); err != nil {
		return fault.Invalidf("%q: %w", clip(s), err)
	}
	switch {
	case path == "":
		return fault.Invalidf("%q is a trust domain, nobody's ID", clip(s))
	case path == "/kith" || strings.HasPrefix(path, "/kith/"):
		return fault.Invalidf("%q: /kith/ is reserved for nodes and servers", clip(s))
	case strings.Count(path, "/") > maxSegments:
		return fault.Invalidf("%q has more than %d segments", clip(s), maxSegments)
	}
	return nil
}

func checkRunAs(who string) error {
	name := strings.TrimPrefix(who, "%")
	bad := name == "" || len(name) > 256 || name[0] == '-'
	for i := range len(name) {
		bad = bad || name[i] <= ' ' || name[i] == 0x7f || strings.IndexByte(`:/*%,"'`, name[i]) >= 0
	}
	if _, numeric := numericID(name); !bad && !numeric && strings.Trim(name, "0123456789") == "" {
		bad = true // neither a uid nor a name a system could have
	}
	if bad {
		return fault.Hint(fault.Invalidf("%q is no user, uid or %%group", clip(who)), "as in [orders, 1000, %%shop]")
	}
	return nil
}

func checkEndpoint(endpoint string) error {
	host, port, err := net.SplitHostPort(endpoint)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" || len(host) > 255 || strings.ContainsAny(host, " /@%\t\r\n") {
		return fault.Hint(fault.Invalidf("%q is no host:port", clip(endpoint)), "as in 10.0.0.7:8443")
	}
	return nil
}

// Lends reports whether who may claim the service's name may have an ID by it. A
// service of a team lends its own identities only: the name is the team's to
// choose, and what an identity rule makes of it may be somebody else's ID.
func (s Service) Lends(id spiffe.ID, own spiffe.TrustDomain) bool {
	if s.Team == "" {
		return true
	}
	ids, err := s.IDs(own)
	return err == nil && slices.Contains(ids, id)
}

// MayClaim reports whether a process of this user may run under the service's
// name. A number in RunAs is always a uid; nobody may claim where RunAs is empty.
func (s Service) MayClaim(user string, uid int, groups []string) bool {
	for _, who := range s.RunAs {
		if group, ok := strings.CutPrefix(who, "%"); ok {
			if group != "" && slices.Contains(groups, group) {
				return true
			}
		} else if n, ok := numericID(who); ok {
			if n == uid {
				return true
			}
		} else if who != "" && who == user {
			return true
		}
	}
	return false
}

// numericID reads a canonical decimal uid.
func numericID(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && strconv.FormatUint(n, 10) == s
}

// IDs are the service's identities as whole SPIFFE IDs, own being the trust
// domain of those given as a path. One that cannot be read is an error.
func (s Service) IDs(own spiffe.TrustDomain) ([]spiffe.ID, error) {
	ids := make([]spiffe.ID, 0, len(s.Identities))
	for _, identity := range s.Identities {
		id, err := wholeID(identity, own)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func wholeID(identity string, own spiffe.TrustDomain) (spiffe.ID, error) {
	if err := checkIdentity(identity); err != nil {
		return spiffe.ID{}, err
	}
	if identity[0] == '/' {
		id, err := spiffe.NewID(own, identity)
		return id, fault.Wrap(fault.Invalid, err)
	}
	id, err := spiffe.ParseID(identity)
	return id, fault.Wrap(fault.Invalid, err)
}

// locate is the trust domain and the path of an identity's whole ID, which is not
// made where it is sure to be one.
func locate(identity string, own spiffe.TrustDomain) (spiffe.TrustDomain, string, error) {
	const short = 1 << 10 // with any trust domain less than an ID may have
	if strings.HasPrefix(identity, "/") && len(identity) <= short && !own.IsZero() {
		return own, identity, checkIdentity(identity)
	}
	id, err := wholeID(identity, own)
	if err != nil {
		return spiffe.TrustDomain{}, "", err
	}
	return id.TrustDomain(), id.Path(), nil
}
