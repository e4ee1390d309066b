package config

import (
	"reflect"
	"strconv"
)

// Inventory says what another system's names and selectors are here; kith
// import reads it.
type Inventory struct {
	// ID is how a Kubernetes service account is called here, as in
	// /eks/{namespace}/{account}.
	ID string `yaml:"id,omitempty"`
	// Aliases are trust domains of the other mesh that are this one.
	Aliases []string `yaml:"aliases,omitempty"`
	// RootNamespace is the one whose policies are for the whole mesh.
	RootNamespace string `yaml:"root_namespace,omitempty"`
	// Default is what Consul does where no intention matches: deny or allow.
	Default effect `yaml:"default,omitempty"`
	// Namespaces are the labels of namespaces, by name.
	Namespaces map[string]map[string]string `yaml:"namespaces,omitempty"`
	// Workloads are what selectors can mean.
	Workloads []InventoryWorkload `yaml:"workloads,omitempty"`
}

// InventoryWorkload is what stands behind one service.
type InventoryWorkload struct {
	At position `yaml:"-"`
	// Service is its name here.
	Service string `yaml:"service"`
	// Namespace is where its pods are.
	Namespace string `yaml:"namespace,omitempty"`
	// Labels are those of its pods.
	Labels map[string]string `yaml:"labels,omitempty"`
	// Ports are the numbers of its named ports.
	Ports map[string]string `yaml:"ports,omitempty" form:"number"`
}

// Numbers is the ports by name.
func (w InventoryWorkload) Numbers() map[string]int {
	out := make(map[string]int, len(w.Ports))
	for name, text := range w.Ports {
		out[name], _ = strconv.Atoi(text) // checked when it was read
	}
	return out
}

// ReadInventory reads an inventory. All faults are reported at once, each with
// its line.
func ReadInventory(name string) (Inventory, error) {
	data, err := readFile(name)
	if err != nil {
		return Inventory{}, err
	}
	return ParseInventory(name, data)
}

// ParseInventory reads an inventory from the bytes of a YAML file.
func ParseInventory(name string, data []byte) (Inventory, error) {
	d := &decoder{file: name}
	docs, err := d.documents(data)
	if err != nil {
		return Inventory{}, err
	}
	var out Inventory
	for i, doc := range docs {
		if i > 0 {
			d.addf(doc, "one document, please")
			break
		}
		d.object(doc, reflect.ValueOf(&out).Elem(), nil)
	}
	for _, w := range out.Workloads {
		if w.Service == "" {
			d.faultAt(w.At, "workload without a service")
		}
		for port, text := range w.Ports {
			if n, err := strconv.ParseUint(text, 10, 16); err != nil || n == 0 {
				d.faultAt(w.At, "ports.%s: %q is no port", port, text)
			}
		}
	}
	return out, d.err()
}

// ReadForeign reads a file of another system, bounded like ours.
func ReadForeign(name string) ([]byte, error) { return readFile(name) }
