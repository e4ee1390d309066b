package spiffe_test

import (
	"math"
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// Rule 107: a process id is positive.
func TestRule107ProcessIDsArePositive(t *testing.T) {
	for _, pid := range []int64{0, -1, math.MinInt64, math.MaxInt32 + 1, math.MaxInt64} {
		if ref, err := spiffe.ProcessReference(pid); err == nil || !ref.IsZero() {
			t.Errorf("%d: got %v, %v", pid, ref, err)
		}
	}
	if ref, err := spiffe.ProcessReference(math.MaxInt32); err != nil || ref.PID() != math.MaxInt32 || ref.String() != "process 2147483647" {
		t.Errorf("got %v, %v", ref, err)
	}
}

const uid = "a1b2c3d4-e5f6-7890-abcd-ef1234567890"

// Rule 108, its forms: those that the standard has examples of, and those that it
// rules out, before anything is sent.
func TestRule108FormsOfKubernetesObjects(t *testing.T) {
	type object = spiffe.KubernetesObject
	for want, o := range map[string]object{
		"pods.core shop/checkout-7c9f " + uid:               {Plural: "pods", Group: "core", Namespace: "shop", Name: "checkout-7c9f", UID: uid},
		"pods.core " + uid:                                  {Plural: "pods", Group: "core", UID: uid},
		"deployments.apps shop/checkout":                    {Plural: "deployments", Group: "apps", Namespace: "shop", Name: "checkout"},
		"kustomizations.kustomize.toolkit.fluxcd.io " + uid: {Plural: "kustomizations", Group: "kustomize.toolkit.fluxcd.io", UID: uid},
		"nodes.core ip-10-0-1-42.ec2.internal":              {Plural: "nodes", Group: "core", Name: "ip-10-0-1-42.ec2.internal"},
		"clusterroles.rbac.authorization.k8s.io system:a":   {Plural: "clusterroles", Group: "rbac.authorization.k8s.io", Name: "system:a"},
		"things.acme.example n":                             {Plural: "things", Group: "acme.example", Name: "n"}, // of which only its cluster knows
		"things.acme.example a/n":                           {Plural: "things", Group: "acme.example", Namespace: "a", Name: "n"},
	} {
		ref, err := spiffe.ObjectReference(o)
		if got, ok := ref.Object(); err != nil || !ok || got != o || ref.String() != want || ref.PID() != 0 {
			t.Errorf("%+v: got %v, %v", o, ref, err)
		}
	}
	long := strings.Repeat("a", 64)
	for _, tc := range []struct {
		why string
		o   object
	}{
		{"has a plural and a group", object{UID: uid}},
		{"has a plural and a group", object{Plural: "pods", UID: uid}},
		{"has a plural and a group", object{Group: "core", UID: uid}},
		{"no plural", object{Plural: "Pod", Group: "core", UID: uid}},
		{"no plural", object{Plural: "pods/log", Group: "core", UID: uid}},
		{"no plural", object{Plural: "pods.core", Group: "core", UID: uid}},
		{"no plural", object{Plural: long, Group: "core", UID: uid}},
		{"no group", object{Plural: "pods", Group: "apps/v1", UID: uid}},
		{"no group", object{Plural: "pods", Group: ".apps", UID: uid}},
		{"no group", object{Plural: "pods", Group: strings.Repeat("a.", 127) + "a", UID: uid}},
		{"neither", object{Plural: "pods", Group: "core"}},
		{"key has a name", object{Plural: "pods", Group: "core", Namespace: "shop", UID: uid}},
		{"no name", object{Plural: "nodes", Group: "core", Name: ".."}},
		{"no name", object{Plural: "nodes", Group: "core", Name: "a/b"}},
		{"no name", object{Plural: "nodes", Group: "core", Name: "a b"}},
		{"no name", object{Plural: "nodes", Group: "core", Name: strings.Repeat("a", 254)}},
		{"no namespace", object{Plural: "pods", Group: "core", Namespace: "Shop", Name: "a"}},
		{"are in namespaces", object{Plural: "pods", Group: "core", Name: "a"}},
		{"are in namespaces", object{Plural: "serviceaccounts", Group: "core", Name: "a", UID: uid}},
		{"are in namespaces", object{Plural: "deployments", Group: "apps", Name: "a"}},
		{"are in no namespace", object{Plural: "nodes", Group: "core", Namespace: "shop", Name: "a"}},
		{"are in no namespace", object{Plural: "clusterroles", Group: "rbac.authorization.k8s.io", Namespace: "shop", Name: "a"}},
		{"no UID", object{Plural: "pods", Group: "core", UID: "a"}},
		{"no UID", object{Plural: "pods", Group: "core", UID: uid + "0"}},
		{"no UID", object{Plural: "pods", Group: "core", UID: strings.ReplaceAll(uid, "-", "x")}},
	} {
		if ref, err := spiffe.ObjectReference(tc.o); err == nil || !strings.Contains(err.Error(), tc.why) || !ref.IsZero() {
			t.Errorf("%+v: got %v, want %q", tc.o, err, tc.why)
		}
	}
}
