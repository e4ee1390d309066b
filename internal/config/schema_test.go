package config

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// comments are what the fields of our structs say of themselves, by type and field.
func comments(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						out[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()+" "+f.Comment.Text()), " ")
					}
				}
			}
			return true
		})
	}
	return out
}

type object = map[string]any

// schemaOf is the schema of what the decoder fills a value of type t from.
func schemaOf(t reflect.Type, tag reflect.StructTag, says map[string]string) object {
	switch v := reflect.New(t).Interface().(type) {
	case word:
		return object{"enum": v.words()}
	case *Duration:
		return object{"type": "string", "pattern": `^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`}
	case *Size:
		return object{"type": "string", "pattern": `^[0-9]+(KiB|MiB|GiB)$`}
	case *domain:
		return object{"type": "string", "pattern": `^[a-z0-9._-]+$`}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int:
		return object{"type": "integer"}
	case reflect.Uint16:
		return object{"type": "integer", "minimum": 0, "maximum": math.MaxUint16}
	case reflect.Float64:
		return object{"type": "number", "minimum": 0, "maximum": 1}
	case reflect.Pointer:
		return schemaOf(t.Elem(), tag, says)
	case reflect.Slice:
		items := schemaOf(t.Elem(), tag, says)
		if tag.Get("form") == "one-or-list" {
			return object{"type": []any{"string", "array", "null"}, "items": items}
		}
		return object{"type": []any{"array", "null"}, "items": items}
	case reflect.Map:
		return object{"type": []any{"object", "null"}, "additionalProperties": schemaOf(t.Elem(), tag, says)}
	case reflect.Struct:
		return structSchema(t, says)
	case reflect.String:
		if tag.Get("form") == "number" {
			return object{"type": []any{"string", "integer"}}
		}
		return object{"type": "string"}
	}
	panic("no schema of " + t.String())
}

// structSchema has every key of a struct with its comment. A key that cannot be
// left out of an entry of a list is required.
func structSchema(t reflect.Type, says map[string]string) object {
	properties, required := object{}, []any{}
	_, entry := t.FieldByName("At")
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		s := schemaOf(f.Type, f.Tag, says)
		s["description"] = says[t.Name()+"."+f.Name]
		properties[name] = s
		if entry && !strings.Contains(options, "omitempty") {
			required = append(required, name)
			if s["type"] == "string" {
				s["minLength"] = 1
			}
		}
	}
	out := object{"type": []any{"object", "null"}, "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		out["type"], out["required"] = "object", required
	}
	return out
}

// made is every schema as the types have it now.
func made(t *testing.T) map[string]object {
	says := comments(t)
	out := map[string]object{}
	for name, of := range map[string]struct {
		title string
		value any
	}{
		"kith":      {"kith.yaml: the configuration of one host's processes", File{}},
		"state":     {"applied state: nodes, identities, services and rules, for kith apply -f", stateFile{}},
		"tests":     {"expectations of rules, for kith rules test", vectorFile{}},
		"inventory": {"what another system's names are here, for kith import", Inventory{}},
	} {
		s := schemaOf(reflect.TypeOf(of.value), "", says)
		s["$schema"], s["title"] = "https://json-schema.org/draft/2020-12/schema", of.title
		out[name] = s
	}
	return out
}

// TestSchemasAreCurrent fails when the published schemas differ from the types;
// with KITH_UPDATE=1 it writes them instead.
func TestSchemasAreCurrent(t *testing.T) {
	for name, s := range made(t) {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
		if os.Getenv("KITH_UPDATE") != "" {
			if err := os.WriteFile(filepath.Join("schema", name+".schema.json"), want.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			continue // what is built in is older than what was written
		}
		if built, err := Schema(name); err != nil || !bytes.Equal(built, want.Bytes()) {
			t.Errorf("schema/%s.schema.json is old (%v); run: make generate", name, err)
		}
	}
}

// An editor shows what each key is: the comment of its field.
func TestEveryKeyOfASchemaSaysWhatItIs(t *testing.T) {
	var look func(at string, s object)
	look = func(at string, s object) {
		properties, _ := s["properties"].(object)
		for key, one := range properties {
			s := one.(object)
			if text, _ := s["description"].(string); text == "" {
				t.Errorf("%s.%s has no description: its field has no comment", at, key)
			}
			look(at+"."+key, s)
		}
		for _, inner := range []string{"items", "additionalProperties"} {
			if one, ok := s[inner].(object); ok {
				look(at, one)
			}
		}
	}
	for name, s := range made(t) {
		look(name, s)
	}
}
