package adopt

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
)

// Inventory says what there is here and how it is called there. Selectors and
// account names mean nothing without it, and a guess would be a hole.
type Inventory struct {
	// TrustDomain is ours.
	TrustDomain string
	// ID is what a Kubernetes service account is here, as in
	// /eks/{namespace}/{account}.
	ID string
	// Aliases are trust domains there that are ours here; cluster.local always.
	Aliases []string
	// RootNamespace is the mesh's; istio-system when empty.
	RootNamespace string
	// Namespaces are the labels of namespaces, as far as policies select by them.
	Namespaces map[string]map[string]string
	// Default is what Consul does where no intention matches: deny or allow.
	Default string
	// Workloads are all workloads behind our services.
	Workloads []Workload
}

// Workload is what stands behind one service of ours.
type Workload struct {
	Service   string // ours
	Namespace string
	Labels    map[string]string
	Ports     map[string]int  // the numbers of named ports
	Protocol  policy.Protocol // of our service
}

func (i Inventory) check(system string) error {
	if len(i.Workloads) == 0 {
		return fault.Hint(fault.Invalidf("the inventory lists no workloads"), "workloads: [{service: orders, namespace: shop, labels: {app: orders}}]")
	}
	for _, w := range i.Workloads {
		if policy.ValidateName(w.Service) != nil {
			return fault.Invalidf("workload of service %q: not a name", w.Service)
		}
		if w.Protocol == 0 {
			return fault.Hint(fault.NotFoundf("there is no service %q", w.Service), "kith services add %s, then import again", w.Service)
		}
	}
	if system == "consul" {
		if i.Default != "deny" && i.Default != "allow" {
			return fault.Hint(fault.Invalidf("the inventory does not say what Consul does where no intention matches"), "default: deny, or default: allow")
		}
		return nil
	}
	if system == "networkpolicy" {
		return nil
	}
	if strings.Count(i.ID, "{namespace}") != 1 || strings.Count(i.ID, "{account}") != 1 || !strings.HasPrefix(i.ID, "/") {
		return fault.Hint(fault.Invalidf("the inventory does not say what a service account is here"), "id: /eks/{namespace}/{account}")
	}
	for segment := range strings.SplitSeq(i.ID[1:], "/") {
		if strings.Contains(segment, "{") && segment != "{namespace}" && segment != "{account}" {
			return fault.Invalidf("id %q: {namespace} and {account} are whole segments", i.ID)
		}
	}
	return nil
}

// account is the path of a service account here. A * stands for any.
func (i Inventory) account(namespace, name string) string {
	return strings.NewReplacer("{namespace}", namespace, "{account}", name).Replace(i.ID)
}

// own is true for a trust domain that is ours.
func (i Inventory) own(domain string) bool {
	return domain == "cluster.local" || domain == i.TrustDomain || slices.Contains(i.Aliases, domain)
}

// selected is the services of a namespace whose workloads have the labels; of
// all namespaces if namespace is empty.
func (i Inventory) selected(namespace string, labels map[string]string) []Workload {
	var out []Workload
	for _, w := range i.Workloads {
		if namespace != "" && w.Namespace != namespace || !within(labels, w.Labels) {
			continue
		}
		out = append(out, w)
	}
	return out
}

// halved says why workloads cannot be spoken of as services: a service is allowed
// the same as a whole, and the same on behalf of all of it.
func (i Inventory) halved(some []Workload) string {
	of := func(list []Workload, service string) (n int) {
		for _, w := range list {
			if w.Service == service {
				n++
			}
		}
		return n
	}
	for _, service := range names(some) {
		if part, all := of(some, service), of(i.Workloads, service); part != all {
			return fmt.Sprintf("it selects %d of the %d workloads behind service %s: what these are allowed differs, so make them services of their own", part, all, service)
		}
	}
	return ""
}

// port is a port of a service: a number, or a name that is the same number behind
// all of it.
func (i Inventory) port(n *node, service string) (int, string) {
	if number, ok := n.number(); ok && number > 0 && number < 1<<16 {
		return number, ""
	}
	name, number := n.text(), 0
	for _, w := range i.Workloads {
		switch {
		case w.Service != service:
		case w.Ports[name] == 0:
			return 0, fmt.Sprintf("port %q of %s: say its number in the inventory, ports: {%s: 8080}", name, service, name)
		case number != 0 && w.Ports[name] != number:
			return 0, fmt.Sprintf("port %q is %d on some workloads behind service %s and %d on others: say the number, or make them services of their own", name, number, service, w.Ports[name])
		default:
			number = w.Ports[name]
		}
	}
	return number, ""
}

// each is one workload of every service among some.
func each(some []Workload) []Workload {
	var out []Workload
	for _, w := range some {
		if !slices.ContainsFunc(out, func(other Workload) bool { return other.Service == w.Service }) {
			out = append(out, w)
		}
	}
	return out
}

func within(part, whole map[string]string) bool {
	for key, value := range part {
		if there, ok := whole[key]; !ok || there != value {
			return false
		}
	}
	return true
}

// names are the services of workloads, each once.
func names(workloads []Workload) []string {
	set := make(map[string]bool)
	for _, w := range workloads {
		set[w.Service] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func (i Inventory) rootNamespace() string {
	if i.RootNamespace == "" {
		return "istio-system"
	}
	return i.RootNamespace
}
