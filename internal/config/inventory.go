package config

import (
	"reflect"
	"strconv"
)

// Inventory says what another system's names and selectors are here; kith
// import reads it.
type Inventory struct {
	ID            string                       `yaml:"id,omitempty"`
	Aliases       []string                     `yaml:"aliases,omitempty"`
	RootNamespace string                       `yaml:"root_namespace,omitempty"`
	Default       string                       `yaml:"default,omitempty"`
	Namespaces    map[string]map[string]string `yaml:"namespaces,omitempty"`
	Workloads     []InventoryWorkload          `yaml:"workloads,omitempty"`
}

// InventoryWorkload is what stands behind one service.
type InventoryWorkload struct {
	At        position          `yaml:"-"`
	Service   string            `yaml:"service"`
	Namespace string            `yaml:"namespace,omitempty"`
	Labels    map[string]string `yaml:"labels,omitempty"`
	Ports     map[string]string `yaml:"ports,omitempty"`
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
