package registry

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// FuzzTemplate holds what no template and no value may break: an ID that
// parses, below the trust domain, without an empty or dot segment, and never
// reserved.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"/{node.class}/{workload.kith.as}", "/{node.class}/{workload.systemd.unit|trim(.service)}",
		"/{workload.unix.path|slug|lower}", "/kith/{node.name}", "/k{node.name}", "//", "/..", "/{a|b(c)}", "/{", "}/{",
		"/{workload.unix.user|hash}-{workload.unix.uid}",
	} {
		f.Add(seed, "orders", "/usr/bin/x")
	}
	f.Add("/{workload.unix.user}", "kith", ".")
	f.Add("/{workload.unix.user|lower|trim(-)}", "KITH-", "..")
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text, user, path string) {
		tmpl, err := parseTemplate(text, schema)
		if err != nil {
			return
		}
		attrs := Attributes{
			"node.class": user, "node.name": path, "node.attestor": user,
			"workload.unix.user": user, "workload.unix.path": path, "workload.kith.as": user, "workload.systemd.unit": path,
		}
		rendered, err := tmpl.render(attrs)
		if err != nil {
			return
		}
		if rendered == "/kith" || strings.HasPrefix(rendered, "/kith/") {
			t.Fatalf("%q reached %q", text, rendered)
		}
		if strings.Count(rendered, "/") != strings.Count(text, "/")-slashesInFilters(text) {
			t.Fatalf("%q rendered %q: a value changed the number of segments", text, rendered)
		}
		if id, err := spiffe.NewID(td, rendered); err == nil {
			if parsed, err := spiffe.ParseID(id.String()); err != nil || parsed != id || parsed.Path() != rendered {
				t.Fatalf("%q does not round trip: %v", id, err)
			}
		} else if len(rendered) < 1900 {
			t.Fatalf("%q rendered %q, which is no path: %v", text, rendered, err)
		}
		tmpl.pattern("vms")
		unify(tmpl, "vms", tmpl, "eks")
	})
}

// slashesInFilters counts the slashes inside braces.
func slashesInFilters(text string) int {
	n, depth := 0, 0
	for _, c := range text {
		switch c {
		case '{':
			depth++
		case '}':
			depth--
		case '/':
			if depth > 0 {
				n++
			}
		}
	}
	return n
}

// noting is an activation that notes what is asked for and not there.
type noting struct {
	activation
	missing []string
}

func (n *noting) ResolveName(name string) (any, bool) {
	value, ok := n.activation.ResolveName(name)
	if !ok {
		n.missing = append(n.missing, name)
	}
	return value, ok
}

// FuzzRequirement compiles and, if that works, evaluates: no text may panic,
// and no attribute a requirement names may be left out of its list.
func FuzzRequirement(f *testing.F) {
	for _, seed := range []string{
		`workload.unix.uid == 0`, `present(workload.systemd.unit) || node.name.startsWith("vm")`,
		`workload.unix.groups.exists(g, g == "docker")`, `workload.unix.user in ["a", "b"]`,
		`!(node.class != "vms") && true`, `workload.unix.uid > 9223372036854775807`, `"a".matches("(a+)+$")`,
		`node.name.size() < 3 ? true : false`, `.node.name == "x"`, `workload.unix.groups.all(x, x.contains(node.name))`,
	} {
		f.Add(seed)
	}
	d, err := standardDialect()
	if err != nil {
		f.Fatal(err)
	}
	full := workload("workload.kith.as", "orders", "workload.unix.sha256", "ab", "workload.systemd.slice", "s")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := d.compile(text)
		if err != nil || r == nil {
			return
		}
		only := Attributes{}
		for _, name := range r.attributes {
			only[name] = full[name]
		}
		asked := &noting{activation: activation{only}}
		if _, _, err := r.program.Eval(asked); len(asked.missing) > 0 {
			t.Fatalf("%q names more than %v: %q, %v", text, r.attributes, asked.missing, err)
		}
		_, _ = r.holds(full)
		_, _ = r.holds(nil)
	})
}
