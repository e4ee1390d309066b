package adopt

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// sourcePart is one source in words of ours.
type sourcePart struct {
	from, except []string
	conditions   []string
	tokens       []tokenPart
	nobody       bool // it can match nobody who gets through to us
	why          string
}

// istioSource reads one source; a nil one is everybody. The text says why it
// cannot be said.
func (b *book) istioSource(s *node, deny bool) (sourcePart, string) {
	out := sourcePart{from: []string{"any"}}
	if deny {
		out.from = []string{"any", "anonymous"}
	}
	if s == nil {
		return out, ""
	}
	if key := s.unknown("principals", "notPrincipals", "namespaces", "notNamespaces", "serviceAccounts", "notServiceAccounts",
		"trustDomains", "notTrustDomains", "ipBlocks", "notIpBlocks", "requestPrincipals", "notRequestPrincipals"); key != "" {
		switch key {
		case "remoteIpBlocks", "notRemoteIpBlocks":
			return out, key + " trusts forwarding headers: say which callers may forward, and request.source_ip in when:"
		}
		return out, "source." + key + " is not read"
	}
	if len(s.keys()) == 0 {
		return out, "an empty source is not valid"
	}
	if why := s.hollow(); why != "" {
		return out, why
	}
	var patterns [][]string
	for _, field := range []string{"principals", "namespaces", "serviceAccounts", "trustDomains"} {
		if list := s.get(field); list != nil {
			ids, why := b.istioIDs(field, list.texts(), deny)
			if why != "" {
				return out, why
			}
			patterns = append(patterns, ids)
		}
	}
	switch len(patterns) {
	case 0:
	case 1:
		out.from = patterns[0]
	default:
		return out, "a source that must match two lists of identities at once: write the identities that are in both"
	}
	return b.istioNot(s, deny, out)
}

// istioNot reads the negated fields and the addresses of a source.
func (b *book) istioNot(s *node, deny bool, out sourcePart) (sourcePart, string) {
	for _, field := range []string{"notPrincipals", "notNamespaces", "notServiceAccounts", "notTrustDomains"} {
		list := s.get(field)
		if list == nil {
			continue
		}
		kind := strings.ToLower(field[3:4]) + field[4:]
		ids, why := b.istioIDs(kind, list.texts(), deny)
		if why != "" {
			return out, why
		}
		if !deny {
			return out, field + " allows everybody else, also callers without an identity: name who is allowed, or deny these in a DENY policy"
		}
		if len(ids) == 1 && ids[0] == "any" {
			return sourcePart{nobody: true, why: "callers without an identity never get in here: nothing to write"}, ""
		}
		out.except = append(out.except, ids...)
	}
	for _, field := range []string{"requestPrincipals", "notRequestPrincipals"} {
		if list := s.get(field); list != nil {
			out.tokens = append(out.tokens, tokenPart{"request.auth.principal", list.texts(), field == "notRequestPrincipals"})
		}
	}
	for _, field := range []string{"ipBlocks", "notIpBlocks"} {
		list := s.get(field)
		if list == nil {
			continue
		}
		blocks, why := addressBlocks(list.texts())
		if why != "" {
			return out, field + ": " + why
		}
		condition := "request.source_ip.within(" + literals(blocks) + ")"
		if field == "notIpBlocks" {
			condition = not(condition)
		}
		out.conditions = append(out.conditions, condition)
	}
	return out, ""
}

// addressBlocks are CIDR prefixes; a single address is its own block.
func addressBlocks(texts []string) ([]string, string) {
	var out []string
	for _, t := range texts {
		if addr, err := netip.ParseAddr(t); err == nil {
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()).String())
			continue
		}
		prefix, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, fmt.Sprintf("%q is no address and no CIDR block", t)
		}
		out = append(out, prefix.Masked().String())
	}
	return out, ""
}

// ownDomain is every identity of our trust domain. In an allow any is just that;
// in a deny, and in its except, it has to be said.
const ownDomain = "/**"

// istioIDs turns the values of one field into sources of ours. A namespace and an
// account are those of any trust domain in Istio: a deny of one binds the other
// trust domains that policies name as well, an allow ours alone.
func (b *book) istioIDs(field string, values []string, deny bool) ([]string, string) {
	var out []string
	elsewhere := func(format string, args ...any) {
		for _, domain := range b.foreign {
			if deny {
				out = append(out, "spiffe://"+domain+fmt.Sprintf(format, args...))
			}
		}
	}
	for _, v := range values {
		var id, why string
		switch field {
		case "principals":
			id, why = b.principal(v)
		case "namespaces":
			switch {
			case v == "*":
				id = "any"
			case strings.Contains(v, "*"):
				why = fmt.Sprintf("namespace %q: a wildcard inside a name; list the namespaces", v)
			default:
				id = b.inventory.account(v, "*")
				elsewhere("/ns/%s/**", v)
			}
		case "serviceAccounts":
			namespace, account, ok := strings.Cut(v, "/")
			if !ok || strings.ContainsAny(account, "/*") || strings.Contains(namespace, "*") {
				why = fmt.Sprintf("serviceAccount %q is not namespace/name: write it so", v)
			}
			id = b.inventory.account(namespace, account)
			elsewhere("/ns/%s/sa/%s/**", namespace, account)
		case "trustDomains":
			switch {
			case v == "*":
				id = "any"
			case b.inventory.own(v):
				id = ownDomain
			case strings.Contains(v, "*"):
				why = fmt.Sprintf("trust domain %q: a wildcard inside a name; list the trust domains", v)
			default:
				id = "spiffe://" + v + "/**"
			}
		}
		if why != "" {
			return nil, why
		}
		out = append(out, id)
	}
	if len(out) == 0 {
		return nil, field + " is an empty list"
	}
	return gathered(out, deny), ""
}

// gathered leaves out of a list what any says already.
func gathered(ids []string, deny bool) []string {
	all := slices.Contains(ids, "any")
	if all && deny {
		return []string{"any"}
	}
	if !deny && (all || slices.Contains(ids, ownDomain)) {
		others := slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, "spiffe://") })
		return append([]string{"any"}, others...)
	}
	return ids
}

// foreignDomains are the trust domains other than ours that policies name.
func foreignDomains(inventory Inventory, docs []*node) []string {
	set := make(map[string]bool)
	note := func(list *node) {
		for _, v := range list.texts() {
			if domain, _, _ := strings.Cut(v, "/"); domain != "" && !strings.Contains(domain, "*") && !inventory.own(domain) {
				set[domain] = true
			}
		}
	}
	for _, doc := range docs {
		for _, r := range doc.get("spec", "rules").list() {
			for _, s := range r.get("from").list() {
				for _, field := range []string{"principals", "notPrincipals", "trustDomains", "notTrustDomains"} {
					note(s.get("source", field))
				}
			}
			for _, c := range r.get("when").list() {
				if c.get("key").text() == "source.principal" {
					note(c.get("values"))
				}
			}
		}
	}
	return sorted(set)
}

// principal is TRUSTDOMAIN/ns/NAMESPACE/sa/ACCOUNT, or a whole prefix of it.
func (b *book) principal(v string) (id, why string) {
	if v == "*" {
		return "any", ""
	}
	form := fmt.Sprintf("principal %q: read are domain/ns/NAMESPACE/sa/ACCOUNT, and a * in place of what follows a /", v)
	parts := strings.Split(v, "/")
	star := parts[len(parts)-1] == "*"
	if strings.Count(v, "*") > 1 || strings.Contains(v, "*") && !star {
		return "", form
	}
	domain := parts[0]
	switch {
	case len(parts) == 2 && star: // domain/*
		if b.inventory.own(domain) {
			return ownDomain, ""
		}
		return "spiffe://" + domain + "/**", ""
	case len(parts) == 3 && parts[1] == "ns" && star:
		id = b.inventory.account("*", "*")
	case len(parts) == 4 && parts[1] == "ns" && star, len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa":
		id = b.inventory.account(parts[2], parts[len(parts)-1])
	default:
		return "", form
	}
	if b.inventory.own(domain) {
		return id, ""
	}
	if star {
		return "spiffe://" + strings.TrimSuffix(v, "*") + "**", ""
	}
	return "spiffe://" + v, ""
}
