package adopt_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/adopt"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/run/runtest"
	"github.com/kith-id/kith/spiffe"
)

// The reference: the most exact intention decides, destination before source;
// within it the first permission that matches (policy-semantics 2.5).

type consulPermission struct {
	allow          bool
	exact, prefix  string
	methods        []string
	header, invert bool
}

type consulSource struct {
	name        string
	allow       bool
	permissions []consulPermission
}

type consulIntentions struct {
	destination string
	sources     []consulSource
}

func (p consulPermission) matches(r istioRequest) bool {
	_, there := r.headers["tier"]
	gold := there && r.headers["tier"] == "gold"
	return (p.exact == "" || p.exact == r.path) && strings.HasPrefix(r.path, p.prefix) &&
		(len(p.methods) == 0 || slices.Contains(p.methods, r.method)) && (!p.header || gold != p.invert)
}

func consulAllows(all []consulIntentions, byDefault bool, source string, r istioRequest) bool {
	for _, destination := range []string{"orders", "*"} {
		for _, name := range []string{source, "*"} {
			for _, in := range all {
				for _, s := range in.sources {
					if in.destination != destination || s.name != name {
						continue
					}
					if len(s.permissions) == 0 {
						return s.allow
					}
					for _, p := range s.permissions {
						if p.matches(r) {
							return p.allow
						}
					}
					return byDefault
				}
			}
		}
	}
	return byDefault
}

func word(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}

func (in consulIntentions) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: consul.hashicorp.com/v1alpha1\nkind: ServiceIntentions\nmetadata: {name: x}\nspec:\n  destination: {name: %q}\n  sources:\n", in.destination)
	for _, s := range in.sources {
		fmt.Fprintf(&b, "  - name: %q\n", s.name)
		if len(s.permissions) == 0 {
			fmt.Fprintf(&b, "    action: %s\n", word(s.allow))
			continue
		}
		b.WriteString("    permissions:\n")
		for _, p := range s.permissions {
			fmt.Fprintf(&b, "    - {action: %s, http: {", word(p.allow))
			if p.exact != "" {
				fmt.Fprintf(&b, "pathExact: %q, ", p.exact)
			}
			if p.prefix != "" {
				fmt.Fprintf(&b, "pathPrefix: %q, ", p.prefix)
			}
			b.WriteString(yamlList("methods", p.methods))
			if p.header {
				fmt.Fprintf(&b, "header: [{name: Tier, exact: gold, invert: %v}]", p.invert)
			}
			b.WriteString("}}\n")
		}
	}
	return b.String()
}

func drawIntentions(t *rapid.T, destination string) consulIntentions {
	in := consulIntentions{destination: destination}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"web", "db", "*"}), 1, 3, rapid.ID).Draw(t, "sources") {
		s := consulSource{name: name, allow: rapid.Bool().Draw(t, "allow")}
		for range rapid.IntRange(0, 3).Draw(t, "permissions") {
			p := consulPermission{allow: rapid.Bool().Draw(t, "allow"), methods: some("GET", "POST").Draw(t, "methods"), header: rapid.Bool().Draw(t, "header")}
			p.invert = p.header && rapid.Bool().Draw(t, "invert")
			switch rapid.IntRange(0, 2).Draw(t, "path") {
			case 0:
				p.exact = rapid.SampledFrom([]string{"/v1", "/v1/orders"}).Draw(t, "exact")
			case 1:
				p.prefix = rapid.SampledFrom([]string{"/", "/v1", "/v1/"}).Draw(t, "prefix")
			}
			s.permissions = append(s.permissions, p)
		}
		in.sources = append(in.sources, s)
	}
	return in
}

// check checks a property on as many draws as rapid has by itself, on fewer with
// the race detector.
func check(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	if runtest.Raced {
		if err := flag.Set("rapid.checks", "30"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, property)
}

func TestAdoptedIntentionsDecideAsConsulDoes(t *testing.T) {
	ids := map[string]string{"web": "spiffe://acme.example/eks/shop/web", "db": "spiffe://acme.example/eks/data/db", "other": "spiffe://acme.example/eks/shop/other"}
	check(t, func(t *rapid.T) {
		all := []consulIntentions{drawIntentions(t, "orders")}
		if rapid.Bool().Draw(t, "wild") {
			all = append(all, drawIntentions(t, "*"))
		}
		listed := inventory()
		byDefault := rapid.Bool().Draw(t, "default")
		listed.Default = word(byDefault)
		var files []adopt.File
		for _, in := range all {
			files = append(files, adopt.File{Name: "c.yaml", Data: []byte(in.yaml())})
		}
		result, err := adopt.Read("consul", listed, files)
		if err != nil || len(result.Refused) > 0 {
			t.Fatalf("%v %+v\n%s", err, result.Refused, files[0].Data)
		}
		table := compiled(t, result, "orders")
		for range 20 {
			r := drawRequest(t)
			source := rapid.SampledFrom([]string{"web", "db", "other"}).Draw(t, "source")
			id, _ := spiffe.ParseID(ids[source])
			got := decide(table, id, r)
			if want := consulAllows(all, byDefault, source, r); (got.Effect == policy.Allow) != want {
				t.Fatalf("%s %+v: Consul allows: %v, the adopted rules: %+v\n%s\n%+v", source, r, want, got, files[0].Data, result.Rules)
			}
		}
	})
}
