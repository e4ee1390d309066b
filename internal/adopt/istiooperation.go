package adopt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/policy"
)

// operationPart is one operation in words of ours.
type operationPart struct {
	actions    []string
	conditions []string
	never      bool // it can match nothing this service is asked
}

// istioOperation reads one operation for a service; nil is everything.
func istioOperation(op *node, protocol policy.Protocol, deny bool) (operationPart, string) {
	out := operationPart{actions: []string{everything(protocol)}}
	if op == nil {
		return out, ""
	}
	if key := op.unknown("hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"); key != "" {
		return out, "operation." + key + " is not read"
	}
	if len(op.keys()) == 0 {
		return out, "an empty operation is not valid"
	}
	if why := op.hollow(); why != "" {
		return out, why
	}
	if protocol == policy.TCP {
		return tcpOperation(op, deny)
	}
	why := ""
	if out.actions, out.conditions, why = httpActions(op); why != "" {
		return out, why
	}
	for _, field := range []string{"ports", "notPorts"} {
		if list := op.get(field); list != nil {
			condition, why := portCondition(list)
			if why != "" {
				return out, why
			}
			out.conditions = append(out.conditions, negated(condition, field))
		}
	}
	for _, field := range []string{"hosts", "notHosts"} {
		if list := op.get(field); list != nil {
			condition, why := hostCondition(list.texts())
			if why != "" {
				return out, field + ": " + why
			}
			out.conditions = append(out.conditions, negated(condition, field))
		}
	}
	return out, ""
}

func negated(condition, field string) string {
	if strings.HasPrefix(field, "not") {
		return not(condition)
	}
	return condition
}

// tcpOperation is about ports only. HTTP fields on TCP make an ALLOW match
// nothing, and widen a DENY to all connections (policy-semantics 2.1.5).
func tcpOperation(op *node, deny bool) (operationPart, string) {
	for _, field := range []string{"hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"} {
		if op.get(field) == nil {
			continue
		}
		if !deny {
			return operationPart{never: true}, ""
		}
		return operationPart{}, field + " of a DENY on a TCP service: Istio's sidecar denies every connection, its ztunnel none; say which is meant"
	}
	if op.get("notPorts") != nil {
		return operationPart{}, "notPorts on a TCP service: list the ports"
	}
	var out operationPart
	for _, port := range op.get("ports").texts() {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return out, fmt.Sprintf("port %q", port)
		}
		out.actions = append(out.actions, "tcp "+strconv.FormatUint(n, 10))
	}
	return out, ""
}

func portCondition(list *node) (string, string) {
	var ports []string
	for _, port := range list.texts() {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", fmt.Sprintf("port %q", port)
		}
		ports = append(ports, strconv.FormatUint(n, 10))
	}
	return "request.port in [" + strings.Join(ports, ", ") + "]", ""
}

// hostCondition reads hosts. Istio compares the whole authority, its port
// included, without regard to case; request.host has no port. So name and name:*
// together are what can be said.
func hostCondition(values []string) (string, string) {
	var hosts []string
	for _, v := range values {
		name, port, with := strings.Cut(v, ":")
		switch {
		case v == "*":
			return "size(request.host) > 0", ""
		case strings.HasPrefix(v, "*"):
			return "", fmt.Sprintf("host %q matches only requests that name no port: list the hosts, each as NAME and NAME:*", v)
		case with && port == "*" && slices.Contains(values, name):
			continue
		case with:
			return "", fmt.Sprintf("host %q has a port: a port of a name is not compared here", v)
		case !strings.HasSuffix(v, "*") && !slices.Contains(values, v+":*"):
			return "", fmt.Sprintf("host %q without %q matches only requests that name no port; list both", v, v+":*")
		}
		hosts = append(hosts, strings.ToLower(v))
	}
	return matches("request.host", hosts, false), ""
}

// httpActions reads methods and paths. Paths that templates can say become
// templates; all others a condition on request.path.
func httpActions(op *node) (actions, conditions []string, why string) {
	methods := "*"
	if list := op.get("methods"); list != nil && !slices.Contains(list.texts(), "*") {
		if i := slices.IndexFunc(list.texts(), func(m string) bool { return strings.Contains(m, "*") }); i >= 0 {
			return nil, nil, fmt.Sprintf("method %q: list the methods", list.texts()[i])
		}
		methods = strings.Join(list.texts(), ",")
	}
	templates := []string{"/{**}"}
	if list := op.get("paths"); list != nil {
		var said bool
		if templates, said = pathTemplates(list.texts()); !said {
			if slices.ContainsFunc(list.texts(), isTemplate) {
				return nil, nil, "templates and text patterns in one list of paths: put them in operations of their own"
			}
			templates = []string{"/{**}"}
			conditions = append(conditions, matches("request.path", list.texts(), false))
		}
	}
	for _, template := range templates {
		action, err := policy.ParseAction(methods + " " + template)
		if err != nil {
			return nil, nil, fmt.Sprintf("%s %s: %v", methods, template, err)
		}
		actions = append(actions, action.String())
	}
	if list := op.get("notMethods"); list != nil {
		conditions = append(conditions, not(matches("request.method", list.texts(), false)))
	}
	if list := op.get("notPaths"); list != nil {
		if slices.ContainsFunc(list.texts(), isTemplate) {
			return nil, nil, "notPaths with a template: say it as text, with a * at an end"
		}
		conditions = append(conditions, not(matches("request.path", list.texts(), false)))
	}
	return actions, conditions, ""
}

func isTemplate(path string) bool {
	return strings.Contains(path, "{*}") || strings.Contains(path, "{**}")
}

// pathTemplates says paths as templates of ours; false if one of them has none.
func pathTemplates(paths []string) ([]string, bool) {
	var out []string
	for _, p := range paths {
		templates, ok := pathTemplate(p)
		if !ok {
			return nil, false
		}
		out = append(out, templates...)
	}
	return out, true
}

// pathTemplate is one path. Below /a/ stands for what follows the slash, which
// may be nothing; our {**} would match /a too.
func pathTemplate(p string) ([]string, bool) {
	switch {
	case p == "*" || p == "/*":
		return []string{"/{**}"}, true
	case !strings.HasPrefix(p, "/"):
		return nil, false
	case isTemplate(p):
		open, below := strings.CutSuffix(p, "/{**}")
		if strings.Contains(open, "{**}") || !below && strings.Contains(p, "{**}") {
			return nil, false
		}
		open = strings.ReplaceAll(open, "{*}", "*")
		if below {
			return []string{open + "/", open + "/*/{**}"}, true
		}
		return []string{open}, true
	case strings.HasSuffix(p, "/*") && !strings.Contains(strings.TrimSuffix(p, "/*"), "*"):
		open := escaped(strings.TrimSuffix(p, "/*"))
		return []string{open + "/", open + "/*/{**}"}, true
	case strings.Contains(p, "*"):
		return nil, false
	}
	return []string{escaped(p)}, true
}

// escaped spells a literal path so that no part of it is a pattern.
func escaped(p string) string {
	return strings.NewReplacer("{", "%7B", "}", "%7D").Replace(p)
}
