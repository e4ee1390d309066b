package registry

import (
	"slices"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

// pod is what is known of a pod that a broker refers to.
func pod(labels string) Attributes {
	return Attributes{
		"node.name": "vm-7", "node.class": "eks", "workload.k8s.ns": "shop", "workload.k8s.sa": "web", "workload.k8s.pod": "web-7c9f",
		"workload.k8s.images": "registry.example/web:1,registry.example/proxy:2", "workload.k8s.labels": labels,
	}
}

// Rules ask for labels by key; of a pod without that label nothing is so, and its
// contrary neither.
func TestLabelsAreAskedForByKey(t *testing.T) {
	for require, want := range map[string]string{
		`workload.k8s.labels["app"] == "web"`:                          "/eks/shop/web",
		`workload.k8s.labels["app.kubernetes.io/name"] == "x"`:         "/eks/shop/web",
		`workload.k8s.labels["app"] == "orders"`:                       "false: ",
		`workload.k8s.labels["tier"] == "front"`:                       "no such key: tier",
		`workload.k8s.labels["tier"] != "front"`:                       "no such key: tier",
		`!(workload.k8s.labels["tier"] == "front")`:                    "no such key: tier",
		`workload.k8s.labels["tier"] == "x" || workload.k8s.ns=="b"`:   "no such key: tier",
		`"tier" in workload.k8s.labels`:                                "false: ",
		`!("tier" in workload.k8s.labels)`:                             "/eks/shop/web",
		`workload.k8s.labels["empty"] == ""`:                           "/eks/shop/web",
		`workload.k8s.labels.exists(k, k.startsWith("app."))`:          "/eks/shop/web",
		`"registry.example/web:1" in workload.k8s.images`:              "/eks/shop/web",
		`workload.k8s.images.all(i, i.startsWith("registry.example"))`: "/eks/shop/web",
		`workload.unix.uid == 0`:                                       "no workload.unix.uid",
	} {
		ids, _, err := compileOne(t, IdentityRule{ID: "/{node.class}/{workload.k8s.ns}/{workload.k8s.sa}", Require: require})
		if err != nil {
			t.Errorf("%s: %v", require, err)
			continue
		}
		matches, outcomes := ids.Evaluate("eks", pod("app=web,app.kubernetes.io/name=x,empty="))
		if got := append(issued(matches), outcomes[0].Detail); !strings.Contains(got[0], want) {
			t.Errorf("%s: got %v, want %q", require, got, want)
		}
		if matches, _ := ids.Evaluate("eks", pod("")); strings.Contains(require, "labels") && len(matches) > 0 {
			t.Errorf("%s of a pod without labels: %v", require, issued(matches))
		}
	}
	for require, want := range map[string]string{
		`workload.k8s.labels.app == "web"`:       "unknown attribute workload.k8s.labels.app",
		`workload.k8s.labels["app"] == 1`:        "no matching overload",
		`workload.k8s.labels[1] == "web"`:        "no matching overload",
		`workload.k8s.labels == "app=web"`:       "no matching overload",
		`workload.k8s.images[0] == "a"`:          "no matching overload",
		`workload.unix.groups[0] == "a"`:         "no matching overload",
		`workload.k8s.namespace == "shop"`:       "unknown attribute",
		`workload.k8s.labels["app"]`:             "has type string",
		`present(workload.k8s.labels["app"])`:    "takes an attribute's name",
		`workload.k8s.labels[workload] == "web"`: "unknown attribute workload",
	} {
		_, _, err := compileOne(t, IdentityRule{ID: "/{node.class}/{workload.k8s.ns}", Require: require})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", require, err, want)
		}
	}
}

// What Kubernetes allows in a name is a segment or refused, as any other value.
func TestFactsOfPodsInTemplates(t *testing.T) {
	for value, want := range map[string]string{
		"web-7c9f": "/eks/web-7c9f", "a.b-c": "/eks/a.b-c", "..": "", ".": "", "a/b": "", "a:b": "", "system:node:x": "", "../../kith/node/n": "", "a b": "", "%2e": "",
	} {
		ids, _, err := compileOne(t, IdentityRule{ID: "/{node.class}/{workload.k8s.pod}"})
		if err != nil {
			t.Fatal(err)
		}
		attrs := pod("")
		attrs["workload.k8s.pod"] = value
		var wants []string
		if want != "" {
			wants = []string{want}
		}
		if matches, outcomes := ids.Evaluate("eks", attrs); !slices.Equal(issued(matches), wants) {
			t.Errorf("%q: got %v, %v", value, issued(matches), outcomes)
		}
	}
	for _, name := range []string{"workload.k8s.labels", "workload.k8s.images"} {
		if _, _, err := compileOne(t, IdentityRule{ID: "/{node.class}/{" + name + "}"}); err == nil || !strings.Contains(err.Error(), "cannot be a segment") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
