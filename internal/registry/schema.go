package registry

import (
	"slices"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// Provenance says how a fact came to be known.
type Provenance string

// The four provenances, strongest first.
const (
	Verified Provenance = "verified" // established by the server itself
	Attested Provenance = "attested" // measured by an agent on an admitted node
	Claimed  Provenance = "claimed"  // said by the workload's own side
	Declared Provenance = "declared" // written by an operator
)

// Type is the type an attribute has in requirements.
type Type string

// The types of attributes.
const (
	TypeString Type = "string"
	TypeInt    Type = "int"
	TypeBool   Type = "bool"
	TypeList   Type = "list" // of strings
	TypeMap    Type = "map"  // of strings by strings
)

// Definition describes one attribute.
type Definition struct {
	Name       string
	Type       Type
	Provenance Provenance
	Meaning    string
}

const (
	nodeScope     = "node."
	workloadScope = "workload."
	classAttr     = "node.class"
	nameAttr      = "node.name"
	attestorAttr  = "node.attestor"
	claimAttr     = "workload.kith.as"
	pathAttr      = "workload.unix.path"
	sha256Attr    = "workload.unix.sha256"
	pidAttr       = "workload.unix.pid"
	labelsAttr    = "workload.k8s.labels"
)

// definitions is a sorted table of attributes.
type definitions []Definition

// schema is every attribute that something in this program establishes. A
// name outside it could never be present, so a rule that uses one is refused.
var schema = definitions{
	{attestorAttr, TypeString, Verified, "how the node proved itself: join_token or node_key"},
	{classAttr, TypeString, Verified, "name of the node rule that admitted the node"},
	{nameAttr, TypeString, Verified, "unique name of the node"},
	{"workload.k8s.images", TypeList, Attested, "images of all containers of the pod, as it names them"},
	{labelsAttr, TypeMap, Attested, `labels of the pod, as in workload.k8s.labels["app"] == "web"`},
	{"workload.k8s.node", TypeString, Attested, "name of the node that the pod is bound to"},
	{"workload.k8s.ns", TypeString, Attested, "namespace of the pod"},
	{"workload.k8s.pod", TypeString, Attested, "name of the pod"},
	{"workload.k8s.sa", TypeString, Attested, "service account of the pod"},
	{"workload.k8s.uid", TypeString, Attested, "UID of the pod"},
	{claimAttr, TypeString, Claimed, "name claimed through kith run or kith curl; counts only under the service's run_as"},
	{"workload.systemd.slice", TypeString, Attested, "systemd slice of the process"},
	{"workload.systemd.unit", TypeString, Attested, "systemd unit of the process, such as orders.service"},
	{"workload.unix.gid", TypeInt, Attested, "primary group id of the process"},
	{"workload.unix.group", TypeString, Attested, "primary group name of the process"},
	{"workload.unix.groups", TypeList, Attested, "names of the supplementary groups of the process"},
	{pathAttr, TypeString, Attested, "executable of the process on the socket; never enough alone"},
	{pidAttr, TypeInt, Attested, "process id; never enough alone"},
	{sha256Attr, TypeString, Attested, "SHA-256 of that executable, in hex; never enough alone"},
	{"workload.unix.uid", TypeInt, Attested, "user id of the process"},
	{"workload.unix.user", TypeString, Attested, "user name of the process"},
}

// Schema is every known attribute, sorted by name.
func Schema() []Definition { return slices.Clone(schema) }

// ProvenanceOf is the provenance of an attribute, by its name: node.* is
// verified, workload.kith.* claimed, other workload.* attested, and anything
// else declared.
func ProvenanceOf(name string) Provenance {
	switch {
	case strings.HasPrefix(name, nodeScope):
		return Verified
	case strings.HasPrefix(name, "workload.kith."):
		return Claimed
	case strings.HasPrefix(name, workloadScope):
		return Attested
	default:
		return Declared
	}
}

func (d definitions) find(name string) (Definition, bool) {
	i, ok := slices.BinarySearchFunc(d, name, func(def Definition, name string) int {
		return strings.Compare(def.Name, name)
	})
	if !ok {
		return Definition{}, false
	}
	return d[i], true
}

func (d definitions) names() []string {
	names := make([]string, len(d))
	for i, def := range d {
		names[i] = def.Name
	}
	return names
}

// unknown is the error for a name that is not in the schema.
func (d definitions) unknown(name string) error {
	err := fault.Invalidf("unknown attribute %s%s", name, didYouMean(name, d.names()))
	if n := fault.Nearest(name, d.names()); n != "" {
		return fault.Hint(err, "use %s", n)
	}
	return err
}

// parse turns canonical text into the value a requirement sees: string, int64,
// bool or []string. It refuses text that is not canonical.
func (t Type) parse(text string) (any, error) {
	switch t {
	case TypeString:
		return text, nil
	case TypeInt:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != text {
			return nil, fault.Invalidf("%q is not an integer", text)
		}
		return n, nil
	case TypeBool:
		if text != "true" && text != "false" {
			return nil, fault.Invalidf("%q is not true or false", text)
		}
		return text == "true", nil
	case TypeList:
		list := strings.Split(text, ",")
		if len(list) > maxListElements {
			return nil, fault.Invalidf("a list of %d elements; at most %d", len(list), maxListElements)
		}
		if slices.Contains(list, "") {
			return nil, fault.Invalidf("%q has an empty element", text)
		}
		return list, nil
	case TypeMap:
		return parseMap(text)
	default:
		return nil, fault.Invalidf("unknown type %q", t)
	}
}

// parseMap reads the canonical text of a map: key=value joined by commas, sorted by
// key, each key once. A value may be empty.
func parseMap(text string) (map[string]string, error) {
	pairs := strings.Split(text, ",")
	if len(pairs) > maxListElements {
		return nil, fault.Invalidf("a map of %d entries; at most %d", len(pairs), maxListElements)
	}
	out, last := make(map[string]string, len(pairs)), ""
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key <= last || strings.Contains(value, "=") {
			return nil, fault.Invalidf("%q is no map: want key=value joined by commas, sorted by key", text)
		}
		out[key], last = value, key
	}
	return out, nil
}
