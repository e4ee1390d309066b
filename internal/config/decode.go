package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/fault"
)

// MaxFileSize bounds every file that is read, 16 MiB.
const MaxFileSize = 16 << 20

// maxFaults bounds what one broken file can print.
const maxFaults = 20

// decoder fills Go values from YAML and collects every fault with its line. It
// is stricter than the library's own: no aliases, no merge keys, no guessing of
// types, no key twice, and an unknown key names the nearest one.
type decoder struct {
	file   string
	faults []string
	more   int // faults beyond maxFaults
}

// addf notes a fault at the node's line.
func (d *decoder) addf(n *yaml.Node, format string, args ...any) {
	d.faultAt(position{d.file, n.Line}, format, args...)
}

// faultAt notes a fault at a position.
func (d *decoder) faultAt(at position, format string, args ...any) {
	if len(d.faults) == maxFaults {
		d.more++
		return
	}
	d.faults = append(d.faults, at.String()+": "+fmt.Sprintf(format, args...))
}

// err is all faults as one Invalid error, one a line.
func (d *decoder) err() error {
	if len(d.faults) == 0 {
		return nil
	}
	text := strings.Join(d.faults, "\n")
	if d.more > 0 {
		text += fmt.Sprintf("\n%s: %d more", d.file, d.more)
	}
	return fault.Invalidf("%s", text)
}

// documents parses the bytes into the root nodes of their YAML documents; empty
// documents are left out.
func (d *decoder) documents(data []byte) ([]*yaml.Node, error) {
	if len(data) > MaxFileSize {
		return nil, fault.Invalidf("%s: larger than %d MiB", d.file, MaxFileSize>>20)
	}
	var roots []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return nil, d.syntax(err)
		}
		if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
			roots = append(roots, doc.Content[0])
		}
	}
}

// syntax turns "yaml: line 3: did not find …" into "kith.yaml:3: did not find …".
func (d *decoder) syntax(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if line, msg, ok := strings.Cut(rest, ": "); ok {
			return fault.Invalidf("%s:%s: %s", d.file, line, msg)
		}
	}
	return fault.Invalidf("%s: %s", d.file, text)
}

// value fills v from n. v is addressable.
func (d *decoder) value(n *yaml.Node, v reflect.Value, tag reflect.StructTag) {
	if n.Kind == yaml.AliasNode {
		d.addf(n, "aliases are not read: write the value out")
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if text, ok := d.text(n, true); ok {
			if err := u.UnmarshalText([]byte(text)); err != nil {
				d.addf(n, "%v", err) // says more of 30 than that it is a number
			} else {
				d.text(n, false)
			}
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		if text, ok := d.text(n, tag.Get("form") == "number"); ok {
			v.SetString(text)
		}
	case reflect.Bool:
		d.boolean(n, v)
	case reflect.Int:
		d.number(n, v)
	case reflect.Uint16:
		d.count(n, v)
	case reflect.Float64:
		d.share(n, v)
	case reflect.Struct:
		d.object(n, v, nil)
	case reflect.Slice:
		d.list(n, v, tag)
	case reflect.Map:
		d.named(n, v, tag)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), tag)
	default:
		panic("config: no decoding of " + v.Type().String()) // a field we declared ourselves
	}
}

// text reads a scalar as the text it was written as. A number is none, or what
// editors know of a file by its schema would not be what we read; where one is
// usual, as a user's number, it stands for its digits.
func (d *decoder) text(n *yaml.Node, numbers bool) (string, bool) {
	if n.Kind == yaml.ScalarNode {
		switch n.ShortTag() {
		case "!!str":
			return n.Value, true
		case "!!int":
			if v, err := strconv.ParseInt(n.Value, 10, 64); numbers && err == nil && strconv.FormatInt(v, 10) == n.Value {
				return n.Value, true
			}
			fallthrough
		case "!!float", "!!bool", "!!timestamp":
			d.addf(n, "%s is %s, not text: put it in quotes", n.Value, kindOf(n))
			return "", false
		}
	}
	d.addf(n, "want text, got %s", kindOf(n))
	return "", false
}

// boolean reads true or false.
func (d *decoder) boolean(n *yaml.Node, v reflect.Value) {
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && n.Value == "true":
		v.SetBool(true)
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && n.Value == "false":
		v.SetBool(false)
	default:
		d.addf(n, "want true or false, got %s", kindOf(n))
	}
}

// number reads a whole number written in decimal.
func (d *decoder) number(n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		if i, err := strconv.Atoi(n.Value); err == nil {
			v.SetInt(int64(i))
			return
		}
	}
	d.addf(n, "want a whole number, got %s", kindOf(n))
}

// count reads a small number.
func (d *decoder) count(n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		if i, err := strconv.ParseUint(n.Value, 10, 16); err == nil {
			v.SetUint(i)
			return
		}
	}
	d.addf(n, "%s is not a number from 0 to 65535", written(n))
}

// share reads a number from 0 to 1.
func (d *decoder) share(n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.ScalarNode && (n.ShortTag() == "!!int" || n.ShortTag() == "!!float") {
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && f >= 0 && f <= 1 {
			v.SetFloat(f)
			return
		}
	}
	d.addf(n, "%s is not a number from 0 to 1", written(n))
}

// written is a scalar in quotes, as it stands in the file.
func written(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return kindOf(n)
	}
	return strconv.Quote(n.Value)
}

// object fills a struct from a mapping; absent keys keep what v holds. misplaced
// are keys that live elsewhere, with the place.
func (d *decoder) object(n *yaml.Node, v reflect.Value, misplaced map[string]string) {
	if isNull(n) {
		return // a section whose keys are all commented out
	}
	fields := keysOf(v.Type())
	d.pairs(n, func(key, val *yaml.Node) {
		i, known := fields.index[key.Value]
		if known {
			d.value(val, v.Field(i), v.Type().Field(i).Tag)
			return
		}
		switch near := fault.Nearest(key.Value, fields.names); {
		case misplaced[key.Value] != "":
			d.addf(key, "key %q does not belong here: %s", key.Value, misplaced[key.Value])
		case near != "":
			d.addf(key, "unknown key %q (nearest: %s)", key.Value, near)
		default:
			d.addf(key, "unknown key %q (known: %s)", key.Value, strings.Join(fields.names, ", "))
		}
	})
}

// pairs calls each for the entries of a mapping, keys once and as text.
func (d *decoder) pairs(n *yaml.Node, each func(key, val *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.addf(n, "want keys and values, got %s", kindOf(n))
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			d.addf(key, "merge keys are not read: write the values out")
			continue
		}
		name, ok := d.text(key, true)
		if !ok {
			continue
		}
		if line, twice := seen[name]; twice {
			d.addf(key, "key %q twice (first in line %d)", name, line)
			continue
		}
		seen[name] = key.Line
		each(key, val)
	}
}

// list fills a slice; the form one-or-list allows a single value to stand for a
// list of one.
func (d *decoder) list(n *yaml.Node, v reflect.Value, tag reflect.StructTag) {
	items := n.Content
	switch {
	case isNull(n):
		return
	case n.Kind == yaml.ScalarNode && tag.Get("form") == "one-or-list":
		items = []*yaml.Node{n}
	case n.Kind != yaml.SequenceNode:
		d.addf(n, "want a list, got %s", kindOf(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		d.place(out.Index(i), item)
		d.value(item, out.Index(i), tag)
	}
	v.Set(out)
}

// named fills a map from names.
func (d *decoder) named(n *yaml.Node, v reflect.Value, tag reflect.StructTag) {
	if isNull(n) {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, func(key, val *yaml.Node) {
		elem := reflect.New(v.Type().Elem()).Elem()
		d.place(elem, key)
		d.value(val, elem, tag)
		v.SetMapIndex(reflect.ValueOf(key.Value), elem)
	})
}

// place stores where a value came from in its field At, if it has one.
func (d *decoder) place(v reflect.Value, n *yaml.Node) {
	if v.Kind() != reflect.Struct {
		return
	}
	if at := v.FieldByName("At"); at.IsValid() {
		at.Set(reflect.ValueOf(position{d.file, n.Line}))
	}
}
