package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// position is a place in a file.
type position struct {
	file string
	line int
}

// String is file:line, as editors and compilers write it.
func (p position) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

// keys are a struct's YAML keys, in the order of its fields.
type keys struct {
	names []string
	index map[string]int
}

// keysOf reads the yaml tags of a struct; a field without a key is ours alone.
func keysOf(t reflect.Type) keys {
	k := keys{index: make(map[string]int, t.NumField())}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		k.names = append(k.names, name)
		k.index[name] = i
	}
	return k
}

// isNull reports whether the value was left empty or written as null.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// kindOf names a node's type in words.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch tag := n.ShortTag(); tag {
	case "!!null":
		return "nothing"
	case "!!str":
		return fmt.Sprintf("%q", n.Value)
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!timestamp":
		return "a date"
	default:
		return "a value tagged " + tag
	}
}
