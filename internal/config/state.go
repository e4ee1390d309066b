package config

import (
	"cmp"
	"reflect"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// State is applied state as files hold it: the objects an operator wants, each
// with its owner. Form is checked here, meaning by the server.
type State struct {
	// TrustDomain is the one the files say they are for; zero if none does.
	TrustDomain spiffe.TrustDomain
	// Objects come in the order of the files, nodes first within each.
	Objects []*pb.Object

	at       map[objectKey]position
	keyFiles []keyFile // yet to be read
	docs     []document
}

// objectKey names an object: kind is node, identity, provider, team, service, rule or
// federation, which is named by its trust domain.
type objectKey struct{ kind, name string }

// stateFile is the shape of one document (DESIGN 5).
type stateFile struct {
	// TrustDomain is the one the file is for; another server refuses it.
	TrustDomain domain `yaml:"trust_domain,omitempty"`
	// Owner is which file or pipeline the objects come from: kith apply --prune
	// deletes only its own.
	Owner string `yaml:"owner,omitempty"`
	// Nodes are node rules: they admit nodes and name their class.
	Nodes []nodeRule `yaml:"nodes,omitempty"`
	// Identities are identity rules: templates that say which IDs workloads get.
	Identities []identityRule `yaml:"identities,omitempty"`
	// Providers sign tokens for end users.
	Providers []provider `yaml:"providers,omitempty"`
	// Teams own services: their operators change these and the rules to them.
	Teams []team `yaml:"teams,omitempty"`
	// Services are names that callers use, with the identities that may answer.
	Services map[string]serviceBody `yaml:"services,omitempty"`
	// Rules say who may, or may never, do what on a service.
	Rules []rule `yaml:"rules,omitempty"`
	// Federation is other trust domains whose SVIDs are accepted.
	Federation []federation `yaml:"federation,omitempty"`
}

type nodeRule struct {
	At position `yaml:"-"`
	// Name is the class of the nodes it admits: node.class.
	Name string `yaml:"name"`
	// Require is CEL over node.* that must hold: 'node.x509.issuer == "CN=acme hosts"'.
	Require string `yaml:"require,omitempty"`
}

type identityRule struct {
	At position `yaml:"-"`
	// Name is what plans and explanations call the rule.
	Name string `yaml:"name"`
	// Nodes are the classes of nodes it is for.
	Nodes []string `yaml:"nodes,omitempty,flow"`
	// ID is the template of the path: /{node.class}/{workload.k8s.sa}.
	ID string `yaml:"id,omitempty"`
	// Require is CEL over node.* and workload.* that must hold besides.
	Require string `yaml:"require,omitempty"`
	// Default puts its ID first where a workload has several.
	Default bool `yaml:"default,omitempty"`
	// Hint is what the Workload API says beside the SVID, to choose by.
	Hint string `yaml:"hint,omitempty"`
	// TTL is how long its SVIDs live, where that is shorter than usual.
	TTL Duration `yaml:"ttl,omitempty"`
}

type serviceBody struct {
	At position `yaml:"-"`
	// Identities are the IDs that are this service: paths in the own trust domain,
	// or whole IDs.
	Identities []string `yaml:"identities,omitempty,flow"`
	// Protocol is http, grpc or tcp; http if left out.
	Protocol protocol `yaml:"protocol,omitempty"`
	// RunAs are users, uids and %groups that may claim the name with kith run --as.
	RunAs []string `yaml:"run_as,omitempty,flow" form:"number"`
	// Paths keeps path forms that are otherwise refused.
	Paths *pathOptions `yaml:"paths,omitempty,flow"`
	// Endpoints are fixed host:port addresses, beside those that register.
	Endpoints []string `yaml:"endpoints,omitempty,flow"`
	// Mode is enforce, or observe: decided and reported, only the platform denies.
	Mode serviceMode `yaml:"mode,omitempty"`
	// Forwarded says whose X-Forwarded-For is believed.
	Forwarded *forwarded `yaml:"forwarded,omitempty,flow"`
	// Proof is how requests prove whose they are, behind a load balancer that ends
	// mutual TLS.
	Proof *proof `yaml:"proof,omitempty"`
	// External are programs that are asked about what rules allow.
	External []external `yaml:"external,omitempty"`
	// Team is whose operators may change the service and the rules to it.
	Team string `yaml:"team,omitempty"`
}

type forwarded struct {
	// By are the gateways: services, IDs or ID patterns.
	By sources `yaml:"by,omitempty,flow" form:"one-or-list"`
	// Hops is which entry from the right is the caller's; 1 if left out.
	Hops count `yaml:"hops,omitempty"`
}

type proof struct {
	// Audience is whom proofs are for: https://orders.acme.example.
	Audience string `yaml:"audience"`
	// Accept is signature or wpt; either if left out.
	Accept proofKind `yaml:"accept,omitempty"`
	// Via is the load balancer that callers go through: https://lb.acme.example.
	Via string `yaml:"via,omitempty"`
	// CA holds the certificates, in PEM, that via is verified by; the web's if left out.
	CA string `yaml:"ca,omitempty"`
}

type pathOptions struct {
	// EncodedSlash keeps %2f inside segments; it is never decoded.
	EncodedSlash keep `yaml:"encoded_slash,omitempty"`
	// DoubleSlash keeps empty segments.
	DoubleSlash keep `yaml:"double_slash,omitempty"`
}

type rule struct {
	At position `yaml:"-"`
	// Name is what decisions and commands call the rule.
	Name string `yaml:"name"`
	// From is who: a service, /a/b, /a/*, /a/**, spiffe://other/…, any or anonymous.
	From sources `yaml:"from,omitempty" form:"one-or-list"`
	// To is a service; or an ID, an ID pattern or any, which is the platform's.
	To string `yaml:"to,omitempty"`
	// Allow are actions: "GET,POST /v1/orders/{id}", "grpc pkg.Service/Method",
	// tcp, "tcp 5432".
	Allow []string `yaml:"allow,omitempty"`
	// Deny are actions; a deny beats every allow.
	Deny []string `yaml:"deny,omitempty"`
	// Except are sources that the denies, or the boundary, do not bind.
	Except sources `yaml:"except,omitempty" form:"one-or-list"`
	// Guardrail makes a deny the platform's.
	Guardrail bool `yaml:"guardrail,omitempty"`
	// Boundary is what the services may be asked at most; no allow leaves it.
	Boundary []string `yaml:"boundary,omitempty"`
	// When is a condition in CEL: request.*, peer.*, jwt.*.
	When string `yaml:"when,omitempty"`
	// Mode is enforce, or shadow: computed and reported, never enforced.
	Mode ruleMode `yaml:"mode,omitempty"`
}

// sources is a list that may be written without brackets when it has one item.
type sources []string

// ParseState reads applied state from the bytes of a YAML file with one or more
// documents; name stands for the file in errors. All faults are reported at
// once, each with its line.
func ParseState(name string, data []byte) (State, error) {
	var s State
	if err := s.add(name, data); err != nil {
		return State{}, err
	}
	if len(s.keyFiles) > 0 {
		return State{}, fault.Invalidf("%s: jwks.file is read only where files are; give the keys inline", s.keyFiles[0].at)
	}
	return s, nil
}

// add reads one more file into s.
func (s *State) add(name string, data []byte) error {
	d := &decoder{file: name}
	docs, err := d.documents(data)
	if err != nil {
		return err
	}
	const process = "it configures a process; put it in kith.yaml"
	elsewhere := map[string]string{"survive": process, "server": process, "agent": process, "log": process}
	for _, doc := range docs {
		var f stateFile
		d.object(doc, reflect.ValueOf(&f).Elem(), elsewhere)
		s.docs = append(s.docs, document{name, doc})
		switch td := f.TrustDomain.TrustDomain; {
		case td.IsZero():
		case !s.TrustDomain.IsZero() && td != s.TrustDomain:
			d.addf(doc, "trust_domain %s, but %s before: apply them apart", td, s.TrustDomain)
		default:
			s.TrustDomain = td
		}
		s.collect(d, f)
	}
	return d.err()
}

// collect turns a document into objects and refuses names that are missing or
// there twice.
func (s *State) collect(d *decoder, f stateFile) {
	for _, n := range f.Nodes {
		s.put(d, n.At, "node", n.Name, n.object(f.Owner))
	}
	for _, i := range f.Identities {
		s.put(d, i.At, "identity", i.Name, i.object(f.Owner))
	}
	for _, p := range f.Providers {
		s.putProvider(d, p, f.Owner)
	}
	for _, t := range f.Teams {
		s.put(d, t.At, "team", t.Name, t.object(f.Owner))
	}
	for _, name := range sortedKeys(f.Services) {
		b := f.Services[name]
		for _, e := range b.External {
			if e.Name == "" {
				d.faultAt(e.At, "external decision of service %q without a name", name)
			}
		}
		s.put(d, b.At, "service", name, b.object(name, f.Owner))
	}
	for _, r := range f.Rules {
		s.put(d, r.At, "rule", r.Name, r.object(f.Owner))
	}
	for _, r := range f.Federation {
		s.put(d, r.At, "federation", r.TrustDomain, r.object(f.Owner))
	}
}

func (s *State) put(d *decoder, at position, kind, name string, o *pb.Object) {
	key := objectKey{kind, name}
	first, twice := s.at[key]
	switch {
	case name == "":
		d.faultAt(at, "%s without a name", kindWord(kind))
		return
	case twice:
		d.faultAt(at, "%s %q twice (first at %s)", kindWord(kind), name, first)
		return
	}
	if s.at == nil {
		s.at = make(map[objectKey]position)
	}
	s.at[key] = at
	s.Objects = append(s.Objects, o)
}

// kindWord is the word people use for a kind.
func kindWord(kind string) string {
	switch kind {
	case "node", "identity":
		return kind + " rule"
	default:
		return kind
	}
}

// At is file:line of an object that was read, by the kind and name of its key; ""
// for any other.
func (s State) At(kind, name string) string {
	if p, ok := s.at[objectKey{kind, name}]; ok {
		return p.String()
	}
	return ""
}

// Owner is the one owner the files name, "" if they name none. Two owners are
// an Invalid error: an apply is for one.
func (s State) Owner() (string, error) {
	var owners []string
	for _, o := range s.Objects {
		if owner := ownerOf(o); !slices.Contains(owners, owner) {
			owners = append(owners, owner)
		}
	}
	switch len(owners) {
	case 0:
		return "", nil
	case 1:
		return owners[0], nil
	default:
		slices.Sort(owners)
		return "", fault.Hint(fault.Invalidf("objects of %d owners: %q", len(owners), owners), "apply the files of each owner by themselves")
	}
}

func (n nodeRule) object(owner string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_NodeRule{NodeRule: &pb.NodeRule{Name: n.Name, Require: n.Require, Owner: owner}}}
}

func (i identityRule) object(owner string) *pb.Object {
	r := &pb.IdentityRule{
		Name: i.Name, Nodes: i.Nodes, Id: i.ID, Require: i.Require,
		Default: i.Default, Hint: i.Hint, Owner: owner,
	}
	if i.TTL != 0 {
		r.Ttl = durationpb.New(time.Duration(i.TTL))
	}
	return &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: r}}
}

// defaultProtocol is what a service speaks that does not say. A program that
// speaks something else then gets no request through, rather than too many.
const defaultProtocol = "http"

func (b serviceBody) object(name, owner string) *pb.Object {
	s := &pb.Service{
		Name: name, Identities: b.Identities, Protocol: cmp.Or(string(b.Protocol), defaultProtocol),
		RunAs: b.RunAs, Endpoints: b.Endpoints, Mode: string(b.Mode), Team: b.Team, Owner: owner,
	}
	for _, e := range b.External {
		s.External = append(s.External, e.message())
	}
	if p := b.Proof; p != nil {
		s.Proof = &pb.ServiceProof{Audience: p.Audience, Accept: string(p.Accept), Via: p.Via, Ca: p.CA}
	}
	if f := b.Forwarded; f != nil && (len(f.By) > 0 || f.Hops != 0) {
		s.Forwarded = &pb.Forwarded{By: f.By, Hops: uint32(f.Hops)}
	}
	if p := b.Paths; p != nil && *p != (pathOptions{}) {
		s.Paths = &pb.PathOptions{KeepEncodedSlash: bool(p.EncodedSlash), KeepDoubleSlash: bool(p.DoubleSlash)}
	}
	return &pb.Object{Kind: &pb.Object_Service{Service: s}}
}

func (r rule) object(owner string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Rule{Rule: &pb.Rule{
		Name: r.Name, From: r.From, To: r.To, Allow: r.Allow, Deny: r.Deny,
		Except: r.Except, Guardrail: r.Guardrail, Boundary: r.Boundary, When: r.When, Mode: string(r.Mode), Owner: owner,
	}}}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
