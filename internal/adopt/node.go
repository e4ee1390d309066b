package adopt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/fault"
)

const (
	maxFile      = 16 << 20
	maxDocuments = 10_000
	maxDepth     = 32
)

// node is a YAML value and the file it stands in. The nil node is absent.
type node struct {
	file string
	y    *yaml.Node
}

func (n *node) at() string {
	if n == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", n.file, n.y.Line)
}

// documents reads files of one or more YAML documents; a List stands for its
// items.
func documents(files []File) ([]*node, error) {
	var out []*node
	for _, f := range files {
		if len(f.Data) > maxFile {
			return nil, fault.Invalidf("%s: larger than %d MiB", f.Name, maxFile>>20)
		}
		dec := yaml.NewDecoder(bytes.NewReader(f.Data))
		for {
			var doc yaml.Node
			err := dec.Decode(&doc)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fault.Invalidf("%s: %s", f.Name, strings.TrimPrefix(err.Error(), "yaml: "))
			}
			if len(doc.Content) != 1 || doc.Content[0].Tag == "!!null" {
				continue
			}
			root := &node{f.Name, doc.Content[0]}
			if err := sound(root.file, root.y, 0); err != nil {
				return nil, err
			}
			items := []*node{root}
			if strings.HasSuffix(root.get("kind").text(), "List") && root.get("items") != nil {
				items = root.get("items").list()
			}
			if out = append(out, items...); len(out) > maxDocuments {
				return nil, fault.Invalidf("more than %d objects", maxDocuments)
			}
		}
	}
	return out, nil
}

// sound refuses what could be read in two ways: aliases, keys that are there
// twice, keys that are no text.
func sound(file string, n *yaml.Node, depth int) error {
	if n.Kind == yaml.AliasNode {
		return fault.Invalidf("%s:%d: aliases are not read: write the value out", file, n.Line)
	}
	if depth > maxDepth {
		return fault.Invalidf("%s:%d: nested too deep", file, n.Line)
	}
	seen := make(map[string]bool)
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if c.Kind != yaml.ScalarNode || seen[c.Value] {
				return fault.Invalidf("%s:%d: key %q is there twice, or is no text", file, c.Line, c.Value)
			}
			seen[c.Value] = true
			continue
		}
		if err := sound(file, c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// get is the value under a path of keys; nil if it is absent or null.
func (n *node) get(path ...string) *node {
	for _, key := range path {
		if n == nil || n.y.Kind != yaml.MappingNode {
			return nil
		}
		var found *node
		for i := 0; i+1 < len(n.y.Content); i += 2 {
			if n.y.Content[i].Value == key && n.y.Content[i+1].Tag != "!!null" {
				found = &node{n.file, n.y.Content[i+1]}
			}
		}
		n = found
	}
	return n
}

// keys are the keys of a mapping, in order.
func (n *node) keys() []string {
	if n == nil || n.y.Kind != yaml.MappingNode {
		return nil
	}
	var out []string
	for i := 0; i+1 < len(n.y.Content); i += 2 {
		out = append(out, n.y.Content[i].Value)
	}
	return out
}

// unknown is the first key that is none of known; empty if there is none.
func (n *node) unknown(known ...string) string {
	for _, key := range n.keys() {
		if !slices.Contains(known, key) {
			return key
		}
	}
	return ""
}

func (n *node) text() string {
	if n == nil || n.y.Kind != yaml.ScalarNode {
		return ""
	}
	return n.y.Value
}

// number is a whole number as everybody writes and reads it: no text, and no 010,
// which is eight to others.
func (n *node) number() (int, bool) {
	v, err := strconv.Atoi(n.text())
	return v, err == nil && n.y.Tag == "!!int" && n.text() == strconv.Itoa(v)
}

// list is the items of a sequence.
func (n *node) list() []*node {
	if n == nil || n.y.Kind != yaml.SequenceNode {
		return nil
	}
	out := make([]*node, 0, len(n.y.Content))
	for _, c := range n.y.Content {
		out = append(out, &node{n.file, c})
	}
	return out
}

// texts is a sequence of scalars.
func (n *node) texts() []string {
	var out []string
	for _, item := range n.list() {
		out = append(out, item.text())
	}
	return out
}

// entries is the items of the list under a key, each of them a mapping of known
// keys with must among these; none where the key is absent. The text says what
// else it is. A slip must not read as the empty list, which is everybody.
func (n *node) entries(key, must string, known ...string) (out []*node, why string) {
	list := n.get(key)
	if list == nil {
		return nil, ""
	}
	if len(list.list()) == 0 {
		return nil, key + " is no list, or an empty one"
	}
	for i, item := range list.list() {
		if other := item.unknown(append(known, must)...); other != "" {
			return nil, fmt.Sprintf("%s[%d].%s is not read", key, i, other)
		}
		if item.get(must) == nil {
			return nil, fmt.Sprintf("%s[%d] has no %s", key, i, must)
		}
		out = append(out, item)
	}
	return out, ""
}

// hollow is the first of the lists in a mapping that has nothing in it, or an
// entry that is empty or no text; empty if there is none.
func (n *node) hollow() string {
	for _, key := range n.keys() {
		list := n.get(key)
		if list == nil {
			continue
		}
		if texts := list.texts(); len(texts) == 0 || slices.Contains(texts, "") {
			return key + " is no list of texts, or an empty one"
		}
	}
	return ""
}

// wordless is the first of the keys whose value is there and no text, or an empty
// one; empty if there is none.
func (n *node) wordless(keys ...string) string {
	for _, key := range keys {
		if v := n.get(key); v != nil && v.text() == "" {
			return key
		}
	}
	return ""
}

// dict is a mapping of text to text.
func (n *node) dict() map[string]string {
	out := make(map[string]string)
	for _, key := range n.keys() {
		out[key] = n.get(key).text()
	}
	return out
}
