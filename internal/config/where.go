package config

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is one that was read, to find lines in.
type document struct {
	file string
	root *yaml.Node
}

// Line is where a path such as rules.web-reads.allow[0] stands in the files that
// were read: the line of the innermost part that is there. The file is "" for
// what is in none of them.
func (s State) Line(path string) (file string, line int) {
	section, path, _ := strings.Cut(path, ".")
	name, path, _ := strings.Cut(path, ".")
	for _, d := range s.docs {
		at := named(valueOf(d.root, section), name)
		if at == nil {
			continue
		}
		for path != "" {
			var key string
			key, path, _ = strings.Cut(path, ".")
			key, number, indexed := strings.Cut(key, "[")
			next := valueOf(at, key)
			if next == nil {
				break
			}
			at = next
			if i, err := strconv.Atoi(strings.TrimSuffix(number, "]")); indexed && err == nil && at.Kind == yaml.SequenceNode && i < len(at.Content) && i >= 0 {
				at = at.Content[i]
			}
		}
		return d.file, at.Line
	}
	return "", 0
}

// valueOf is the value of a key of a mapping, nil if there is none.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// named is the object of a name in a section: the value of a key, or the entry of
// a list that says so.
func named(section *yaml.Node, name string) *yaml.Node {
	if section == nil || section.Kind != yaml.SequenceNode {
		return valueOf(section, name)
	}
	for _, item := range section.Content {
		if v := valueOf(item, "name"); v != nil && v.Value == name {
			return item
		}
	}
	return nil
}
