package server

import (
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

func TestAttack63MintableIsNeverMoreThanTheRulesGive(t *testing.T) {
	t.Parallel()
	node := registry.Node{Name: "n1", Class: "vms", Attestor: "join_token"}
	reach := []registry.Reach{
		{Pattern: "/vms/{workload.kith.as}", Classes: []string{"vms"}},
		{Pattern: "/host/{node.name}/{workload.systemd.unit|trim(.service)}", Classes: []string{"vms"}},
		{Pattern: "/eks/{workload.kith.as}", Classes: []string{"eks"}},
		{Pattern: "/mixed/a-{workload.unix.user}-{node.name}-z", Classes: []string{"vms"}},
		{Pattern: "/none/{node.aws.account}", Classes: []string{"vms"}},
	}
	for path, want := range map[string]bool{
		"/vms/orders":         true,
		"/vms/":               false,
		"/vms":                false,
		"/vms/orders/x":       false,
		"/eks/orders":         false,
		"/host/n1/orders":     true,
		"/host/n2/orders":     false,
		"/host/n11/orders":    false,
		"/mixed/a-bob-n1-z":   true,
		"/mixed/a-b-n1-n1-z":  true,
		"/mixed/a--n1-z":      false,
		"/mixed/a-bob-n2-z":   false,
		"/none/anything":      false,
		"/kith/node/n1":       false,
		"/vms/{workload.x.y}": true, // a value could be that, if rules allowed the characters
	} {
		if got := mintable(reach, node, path); got != want {
			t.Errorf("%s: got %t, want %t", path, got, want)
		}
	}
}

func TestNearestName(t *testing.T) {
	t.Parallel()
	names := []string{"orders", "web", "billing"}
	for name, want := range map[string]string{"order": "orders", "ordres": "orders", "wep": "web", "payments": "", "": ""} {
		if got := fault.Nearest(name, names); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
