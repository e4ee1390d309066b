package spiffe

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
)

// Reference names one workload to a SPIFFE Broker Endpoint: a process of this node,
// or an object of a Kubernetes cluster. It is made by [ProcessReference] or
// [ObjectReference] and then well formed; the zero Reference names nobody. Whether
// there is such a workload only the endpoint can say.
type Reference struct {
	pid    int32
	object KubernetesObject
}

// KubernetesObject is how an object of a cluster is referred to: by key (Namespace
// and Name), by UID, or by both. Broker API 3.1.3.
type KubernetesObject struct {
	Plural    string // of the resource, as in pods
	Group     string // of the API, as in apps; "core" for the core group
	Namespace string // empty for objects of the whole cluster
	Name      string
	UID       string
}

// ProcessReference refers to a process by its number on this node.
func ProcessReference(pid int64) (Reference, error) {
	if pid <= 0 || pid > math.MaxInt32 {
		return Reference{}, fmt.Errorf("process id %d is not from 1 to %d", pid, math.MaxInt32) // Broker API 3.1.3
	}
	return Reference{pid: int32(pid)}, nil
}

// ObjectReference refers to an object of a Kubernetes cluster.
func ObjectReference(o KubernetesObject) (Reference, error) {
	if err := o.check(); err != nil {
		return Reference{}, err
	}
	return Reference{object: o}, nil
}

// PID is the process that is meant, 0 where an object is.
func (r Reference) PID() int32 { return r.pid }

// Object is the object that is meant, if one is.
func (r Reference) Object() (o KubernetesObject, ok bool) {
	return r.object, r.object != KubernetesObject{}
}

// IsZero says that nobody is meant.
func (r Reference) IsZero() bool { return r == Reference{} }

// String names it as people do: "process 4711", "pods.core shop/web".
func (r Reference) String() string {
	o, ok := r.Object()
	switch {
	case r.pid != 0:
		return fmt.Sprintf("process %d", r.pid)
	case !ok:
		return "nobody"
	}
	out := o.Plural + "." + o.Group
	if o.Name != "" {
		out += " " + strings.TrimPrefix(o.Namespace+"/"+o.Name, "/")
	}
	if o.UID != "" {
		out += " " + o.UID
	}
	return out
}

// Names of Kubernetes: of a resource or namespace (RFC 1123 label), of a group (a
// subdomain of such), and what it assigns as UID.
var (
	kubernetesLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	kubernetesGroup = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	kubernetesUID   = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// maxKubernetesName is of groups and names.
const maxKubernetesName = 253

// check is the form of Broker API 3.1.3. Of the resources that every cluster has it
// is known whether they are in namespaces; of others only their cluster knows.
func (o KubernetesObject) check() error {
	keyed := o.Namespace != "" || o.Name != ""
	switch {
	case o.Plural == "" || o.Group == "":
		return errors.New("an object's type has a plural and a group, which is \"core\" for the core group")
	case !kubernetesLabel.MatchString(o.Plural):
		return fmt.Errorf("%q is no plural of a resource, as \"pods\" is", clip(o.Plural))
	case len(o.Group) > maxKubernetesName || !kubernetesGroup.MatchString(o.Group):
		return fmt.Errorf("%q is no group, as \"apps\" is", clip(o.Group))
	case !keyed && o.UID == "":
		return errors.New("an object is named by key, by uid or by both, and there is neither")
	case keyed && o.Name == "":
		return errors.New("an object's key has a name")
	case keyed && !nameOfObject(o.Name):
		return fmt.Errorf("%q is no name of an object", clip(o.Name))
	case o.Namespace != "" && !kubernetesLabel.MatchString(o.Namespace):
		return fmt.Errorf("%q is no namespace", clip(o.Namespace))
	case o.UID != "" && !kubernetesUID.MatchString(o.UID):
		return fmt.Errorf("%q is no UID of Kubernetes", clip(o.UID))
	}
	switch namespaced, known := scopeOf(o.Plural, o.Group); {
	case !known || !keyed:
	case namespaced && o.Namespace == "":
		return fmt.Errorf("%s.%s are in namespaces, and the key has none", o.Plural, o.Group)
	case !namespaced && o.Namespace != "":
		return fmt.Errorf("%s.%s are in no namespace, and the key has %q", o.Plural, o.Group, o.Namespace)
	}
	return nil
}

// nameOfObject says whether a name could be a segment of a path, which is what all
// names of objects have in common.
func nameOfObject(name string) bool {
	return len(name) <= maxKubernetesName && name != "." && name != ".." &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == '%' })
}

// scopeOf says whether objects of a resource that every cluster has are in namespaces.
func scopeOf(plural, group string) (namespaced, known bool) {
	const in, out = true, false
	scopes := map[string]map[string]bool{
		"core": {
			"componentstatuses": out, "namespaces": out, "nodes": out, "persistentvolumes": out,
			"configmaps": in, "endpoints": in, "events": in, "limitranges": in, "persistentvolumeclaims": in, "pods": in, "podtemplates": in,
			"replicationcontrollers": in, "resourcequotas": in, "secrets": in, "serviceaccounts": in, "services": in,
		},
		"apps":                         {"controllerrevisions": in, "daemonsets": in, "deployments": in, "replicasets": in, "statefulsets": in},
		"batch":                        {"cronjobs": in, "jobs": in},
		"autoscaling":                  {"horizontalpodautoscalers": in},
		"policy":                       {"poddisruptionbudgets": in},
		"coordination.k8s.io":          {"leases": in},
		"discovery.k8s.io":             {"endpointslices": in},
		"events.k8s.io":                {"events": in},
		"networking.k8s.io":            {"ingresses": in, "networkpolicies": in, "ingressclasses": out, "ipaddresses": out, "servicecidrs": out},
		"rbac.authorization.k8s.io":    {"roles": in, "rolebindings": in, "clusterroles": out, "clusterrolebindings": out},
		"storage.k8s.io":               {"csistoragecapacities": in, "csidrivers": out, "csinodes": out, "storageclasses": out, "volumeattachments": out},
		"apiextensions.k8s.io":         {"customresourcedefinitions": out},
		"apiregistration.k8s.io":       {"apiservices": out},
		"admissionregistration.k8s.io": {"mutatingwebhookconfigurations": out, "validatingwebhookconfigurations": out, "validatingadmissionpolicies": out, "validatingadmissionpolicybindings": out},
		"certificates.k8s.io":          {"certificatesigningrequests": out},
		"flowcontrol.apiserver.k8s.io": {"flowschemas": out, "prioritylevelconfigurations": out},
		"node.k8s.io":                  {"runtimeclasses": out},
		"scheduling.k8s.io":            {"priorityclasses": out},
	}
	namespaced, known = scopes[group][plural]
	return namespaced, known
}
