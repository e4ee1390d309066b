package adopt

import (
	"fmt"
	"slices"
	"strings"
)

// istioWhen reads conditions; those about tokens of end users are for a service
// to say. In an ALLOW what is missing matches no value; in a DENY as well, which
// has to be said here, where a deny holds if it cannot know.
func (b *book) istioWhen(rule *node) (out []string, tokens []tokenPart, why string) {
	list, why := rule.entries("when", "key", "values", "notValues")
	if why != "" {
		return nil, nil, why
	}
	for _, c := range list {
		key := c.get("key").text()
		values, except := c.get("values").texts(), c.get("notValues").texts()
		if len(values)+len(except) == 0 || slices.Contains(values, "") || slices.Contains(except, "") {
			return nil, nil, fmt.Sprintf("when %s has neither values nor notValues, or an empty one", key)
		}
		for _, some := range []tokenPart{{key, values, false}, {key, except, true}} {
			switch {
			case len(some.values) == 0:
				continue
			case isToken(key):
				tokens = append(tokens, some)
				continue
			}
			condition, why := b.istioKey(key, some.values)
			if why != "" {
				return nil, nil, why
			}
			if some.negated {
				condition = not(condition)
			}
			out = append(out, condition)
		}
	}
	return out, tokens, ""
}

func (b *book) istioKey(key string, values []string) (condition, why string) {
	if name, ok := strings.CutPrefix(key, "request.headers["); ok && strings.HasSuffix(name, "]") {
		if strings.HasPrefix(name, ":") || strings.EqualFold(name, "host]") {
			return "", fmt.Sprintf("when %s: say hosts, methods or paths of an operation", key)
		}
		return matches("request.headers["+literal(strings.ToLower(strings.TrimSuffix(name, "]")))+"]", values, true), ""
	}
	switch key {
	case "source.ip":
		blocks, why := addressBlocks(values)
		return "request.source_ip.within(" + literals(blocks) + ")", why
	case "destination.port":
		for _, v := range values {
			if strings.Trim(v, "0123456789") != "" || v == "" {
				return "", fmt.Sprintf("destination.port %q", v)
			}
		}
		return "request.port in [" + strings.Join(values, ", ") + "]", ""
	case "connection.sni":
		return matches("request.sni", values, true), ""
	case "source.namespace":
		for _, v := range values {
			if strings.Contains(v, "*") {
				return "", fmt.Sprintf("source.namespace %q: list the namespaces", v)
			}
		}
		return b.inNamespace(values), ""
	case "source.principal":
		ids := make([]string, 0, len(values))
		for _, v := range values {
			id, why := b.principal(v)
			if why != "" || strings.Contains(id, "*") || id == "any" {
				return "", fmt.Sprintf("source.principal %q: put it under from, or write it out", v)
			}
			if strings.HasPrefix(id, "/") {
				id = "spiffe://" + b.inventory.TrustDomain + id
			}
			ids = append(ids, id)
		}
		return "peer.id in " + literals(ids), ""
	}
	if key == "remote.ip" {
		return "", "remote.ip trusts forwarding headers: say which callers may forward, and request.source_ip in when:"
	}
	return "", fmt.Sprintf("when %s has no counterpart here", key)
}

// inNamespace is the condition that a caller is an account of one of the
// namespaces: of our trust domain as the inventory has it, and of the others that
// policies name as Istio has it. Both from the first segment on (attack 23).
func (b *book) inNamespace(namespaces []string) string {
	segments := strings.Split(b.inventory.ID[1:], "/")
	var own []string
	for i, segment := range segments {
		switch segment {
		case "{account}":
		case "{namespace}":
			own = append(own, fmt.Sprintf("peer.path[%d] in %s", i, literals(namespaces)))
		default:
			own = append(own, fmt.Sprintf("peer.path[%d] == %s", i, literal(segment)))
		}
	}
	ours := fmt.Sprintf("size(peer.path) == %d && %s", len(segments), strings.Join(own, " && "))
	if len(b.foreign) == 0 {
		return ours
	}
	return fmt.Sprintf(`peer.trust_domain == %s && %s || peer.trust_domain in %s && size(peer.path) > 2 && peer.path[0] == "ns" && peer.path[1] in %s`,
		literal(b.inventory.TrustDomain), ours, literals(b.foreign), literals(namespaces))
}
