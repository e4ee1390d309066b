package adopt_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/adopt"
)

// The reference: what the Kubernetes API documents of NetworkPolicy (ingress, by
// TCP), as plainly as it can be written, against what we compile of the adopted rules.

// netPeer is one entry of from. A nil selector is absent, an empty one is everything.
type netPeer struct {
	pods, namespaces map[string]string
	block            *linkerdNetwork
}

type netPort struct{ protocol, port, endPort string } // absent when empty

type netIngress struct {
	peers []netPeer
	ports []netPort
	bare  string // other keys, such as an empty from
}

type netPolicy struct {
	namespace, name string
	labels          map[string]string
	types           []string
	egress          bool
	ingress         []netIngress
}

// namespaceLabels are what the namespaces have, besides their names.
func namespaceLabels(namespace string) map[string]string {
	return map[string]string{"kubernetes.io/metadata.name": namespace, "team": map[string]string{"shop": "sales", "data": "stats"}[namespace]}
}

// isolates is true where a policy speaks of what comes into a pod. Without types it
// does, whatever it says of what goes out.
func (p netPolicy) isolates(pod adopt.Workload) bool {
	return p.namespace == pod.Namespace && has(pod.Labels, p.labels) && (len(p.types) == 0 || slices.Contains(p.types, "Ingress"))
}

func (p netPeer) matches(namespace string, c meshCaller, source netip.Addr) bool {
	switch {
	case p.block != nil:
		return p.block.contains(source)
	case c.pod == nil:
		return false
	case p.namespaces == nil:
		return c.pod.Namespace == namespace && has(c.pod.Labels, p.pods)
	}
	return has(namespaceLabels(c.pod.Namespace), p.namespaces) && has(c.pod.Labels, p.pods)
}

func (p netPort) matches(pod adopt.Workload, port int) bool {
	if p.protocol != "" && p.protocol != "TCP" {
		return false
	}
	low, err := strconv.Atoi(p.port)
	if err != nil {
		low = pod.Ports[p.port]
	}
	if high, err := strconv.Atoi(p.endPort); err == nil {
		return low <= port && port <= high
	}
	return p.port == "" || low == port
}

// valid is false for what the API refuses, so that no cluster has it.
func (p netPort) valid() bool {
	low, err := strconv.Atoi(p.port)
	high, _ := strconv.Atoi(p.endPort)
	return p.endPort == "" || err == nil && low <= high
}

func (r netIngress) matches(namespace string, pod adopt.Workload, port int, c meshCaller, source netip.Addr) bool {
	return (len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(p netPeer) bool { return p.matches(namespace, c, source) })) &&
		(len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(p netPort) bool { return p.matches(pod, port) })) &&
		!slices.ContainsFunc(r.ports, func(p netPort) bool { return !p.valid() })
}

// networkAllows says whether Kubernetes lets a caller in, and whether any policy
// isolates the pod; one that none does lets everybody in.
func networkAllows(policies []netPolicy) func(adopt.Workload, int, meshCaller, netip.Addr) (allowed, governed bool) {
	return func(pod adopt.Workload, port int, c meshCaller, source netip.Addr) (allowed, governed bool) {
		for _, p := range policies {
			if !p.isolates(pod) {
				continue
			}
			governed = true
			allowed = allowed || slices.ContainsFunc(p.ingress, func(r netIngress) bool { return r.matches(p.namespace, pod, port, c, source) })
		}
		return allowed || !governed, governed
	}
}

func (p netPeer) yaml() string {
	if p.block != nil {
		return "{ipBlock: " + p.block.yaml() + "}"
	}
	var out []string
	if p.pods != nil {
		out = append(out, "podSelector: "+labelsYAML(p.pods))
	}
	if p.namespaces != nil {
		out = append(out, "namespaceSelector: "+labelsYAML(p.namespaces))
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func (p netPort) yaml() string {
	var out []string
	for _, f := range [][2]string{{"protocol", p.protocol}, {"port", p.port}, {"endPort", p.endPort}} {
		if f[1] != "" {
			out = append(out, f[0]+": "+f[1])
		}
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func (r netIngress) yaml() string {
	out := []string{r.bare}
	if len(r.peers) > 0 {
		out = append(out, joined("from", r.peers))
	}
	if len(r.ports) > 0 {
		out = append(out, joined("ports", r.ports))
	}
	return "{" + strings.Trim(strings.Join(out, ", "), ", ") + "}"
}

func (p netPolicy) yaml() string {
	text := fmt.Sprintf("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: %s}\nspec: {podSelector: %s, ", p.name, p.namespace, labelsYAML(p.labels)) +
		yamlList("policyTypes", p.types)
	if p.egress {
		text += "egress: [{to: [{podSelector: {}}]}], "
	}
	if p.ingress != nil {
		text += joined("ingress", p.ingress)
	}
	return text + "}\n"
}

// netDraw draws policies. What is odd has no counterpart here, or the API refuses it.
type netDraw struct {
	*rapid.T
	odd string
}

func (d netDraw) labels(of ...map[string]string) map[string]string {
	labels := rapid.SampledFrom(of).Draw(d.T, "labels")
	if tier := sometimes(d.T, d.odd == "tier", "", "blue", "green"); tier != "" {
		return map[string]string{"tier": tier}
	}
	return labels
}

func (d netDraw) peer() netPeer {
	var p netPeer
	kind := rapid.IntRange(0, 3).Draw(d.T, "peer")
	if kind == 0 {
		block := drawNetwork(d.T)
		return netPeer{block: &block}
	}
	if kind != 1 {
		p.pods = d.labels(map[string]string{}, map[string]string{"app": "web"}, map[string]string{"app": "orders"}, map[string]string{"app": "db"}, map[string]string{"app": "nobody"})
	}
	if kind != 2 {
		p.namespaces = rapid.SampledFrom([]map[string]string{
			{}, {"team": "sales"}, {"team": "stats"}, {"team": "nobody"}, {"kubernetes.io/metadata.name": "data"}, {"kubernetes.io/metadata.name": "shop", "team": "sales"},
		}).Draw(d.T, "namespaceSelector")
	}
	return p
}

func (d netDraw) port(namespace string) netPort {
	p := netPort{
		protocol: rapid.SampledFrom([]string{"", "", "TCP", "UDP", "SCTP"}).Draw(d.T, "protocol"),
		port:     rapid.SampledFrom([]string{"", "8080", "9090", "5432", "main"}).Draw(d.T, "port"),
	}
	if namespace == "shop" && p.port == "8080" {
		p.endPort = rapid.SampledFrom([]string{"", "8080", "9090", "65535"}).Draw(d.T, "endPort")
	}
	p.port = sometimes(d.T, d.odd == "port", p.port, "admin", "nobody")
	p.endPort = sometimes(d.T, d.odd == "endPort", p.endPort, "8081", "9091")
	return p
}

func (d netDraw) policy(n int) netPolicy {
	p := netPolicy{
		namespace: rapid.SampledFrom([]string{"shop", "data"}).Draw(d.T, "namespace"), name: "p" + strconv.Itoa(n),
		types:  rapid.SampledFrom([][]string{nil, nil, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}).Draw(d.T, "policyTypes"),
		egress: rapid.IntRange(0, 3).Draw(d.T, "egress") == 0,
	}
	p.labels = d.labels(nil, map[string]string{"app": "orders"}, map[string]string{"app": "web"}, map[string]string{"app": "db"})
	p.name = sometimes(d.T, d.odd == "name", p.name, "p0")
	for range rapid.IntRange(0, 2).Draw(d.T, "ingress") {
		r := netIngress{bare: rapid.SampledFrom([]string{"", "", "", "from: []", "ports: []"}).Draw(d.T, "bare")}
		if r.bare != "from: []" {
			for range rapid.IntRange(0, 2).Draw(d.T, "from") {
				r.peers = append(r.peers, d.peer())
			}
		}
		if r.bare != "ports: []" {
			for range rapid.IntRange(0, 2).Draw(d.T, "ports") {
				r.ports = append(r.ports, d.port(p.namespace))
			}
		}
		p.ingress = append(p.ingress, r)
	}
	return p
}

func TestAdoptedNetworkPoliciesDecideAsKubernetesDoes(t *testing.T) {
	tally := tally{}
	check(t, func(t *rapid.T) {
		d := netDraw{t, oddity(t, "tier", "port", "endPort", "name", "unlisted")}
		var policies []netPolicy
		var text strings.Builder
		for n := range rapid.IntRange(1, 3).Draw(t, "policies") {
			policies = append(policies, d.policy(n))
			text.WriteString(policies[n].yaml())
		}
		// One name is one object, and of two the later is what the cluster has.
		policies = latest(policies, func(p netPolicy) string { return p.namespace + "/" + p.name })
		kept := 0
		for _, p := range policies {
			selects := slices.ContainsFunc(pods(), func(pod adopt.Workload) bool { return pod.Namespace == p.namespace && has(pod.Labels, p.labels) })
			if selects && (p.egress || slices.Contains(p.types, "Egress")) {
				kept++
			}
		}
		a := adopting{system: "networkpolicy", text: text.String(), odd: d.odd != "", kept: kept, allows: networkAllows(policies)}
		if d.odd == "unlisted" {
			a.unlisted = some("shop", "data").Draw(t, "unlisted")
		}
		tally.compare(t, a)
	})
	tally.check(t)
}
