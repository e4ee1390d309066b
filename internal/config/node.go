package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"unicode"

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

// nodeOf is the reverse of decoder.value. The library's own encoder is not used
// as it writes some texts in a form it cannot read ("\nA" in a list).
func nodeOf(v reflect.Value, tag reflect.StructTag) *yaml.Node {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			panic("config: " + err.Error()) // our own types, which return none
		}
		return textNode(string(text))
	}
	switch v.Kind() {
	case reflect.String:
		return textNode(v.String())
	case reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v.Bool())}
	case reflect.Uint16:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(v.Uint())}
	case reflect.Pointer:
		return nodeOf(v.Elem(), tag)
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for i := range v.NumField() {
			field := v.Type().Field(i)
			key, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if key == "-" || strings.Contains(options, "omitempty") && empty(v.Field(i)) {
				continue
			}
			n.Content = append(n.Content, textNode(key), nodeOf(v.Field(i), field.Tag))
		}
		return n
	case reflect.Slice:
		if v.Len() == 1 && tag.Get("form") == "one-or-list" {
			return nodeOf(v.Index(0), "")
		}
		n := &yaml.Node{Kind: yaml.SequenceNode}
		const row = 4 // longer lists are easier to compare line by line
		if strings.Contains(tag.Get("yaml"), ",flow") && v.Len() <= row {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			n.Content = append(n.Content, nodeOf(v.Index(i), ""))
		}
		return n
	case reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode}
		m := v.Interface().(map[string]serviceBody) // the only map there is
		for _, key := range sortedKeys(m) {
			n.Content = append(n.Content, textNode(key), nodeOf(reflect.ValueOf(m[key]), ""))
		}
		return n
	default:
		panic("config: no encoding of " + v.Type().String()) // a field we declared ourselves
	}
}

// empty reports whether a key can be left out.
func empty(v reflect.Value) bool {
	if v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
		return v.Len() == 0
	}
	return v.IsZero()
}

// textNode quotes what YAML would read as something else than this text.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if !plain(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// plain reports whether any style keeps the text: graphic characters, lines
// without blanks at their ends, nothing YAML takes for a line break.
func plain(s string) bool {
	for line := range strings.SplitSeq(s, "\n") {
		if strings.TrimSpace(line) != line || (line == "" && s != "") {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r != '\n' && (!unicode.IsPrint(r) || r == unicode.ReplacementChar)
	})
}
