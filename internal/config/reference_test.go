package config_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/config"
)

// referencePage is the page made from the comments in config.go.
const referencePage = "../../docs/config.md"

// TestReferenceIsCurrent fails when the page differs from the comments; with
// KITH_UPDATE=1 it writes the page instead (go generate does that).
func TestReferenceIsCurrent(t *testing.T) {
	want, err := reference()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("KITH_UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(referencePage), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(referencePage, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/config.md is old; run: go generate ./internal/config\n(-want +got):\n%s", diff)
	}
}

// TestPackagedFilesAreValid keeps the examples in packaging/ true.
func TestPackagedFilesAreValid(t *testing.T) {
	files, err := filepath.Glob("../../packaging/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no packaged kith.yaml: %v", err)
	}
	for _, f := range files {
		if _, err := config.Load(f); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func reference() ([]byte, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	structs := map[string]*ast.StructType{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok {
			if s, ok := spec.Type.(*ast.StructType); ok {
				structs[spec.Name.Name] = s
			}
		}
		return true
	})
	var out bytes.Buffer
	out.WriteString(`# kith.yaml

<!-- Made from the comments in internal/config/config.go by go generate ./internal/config. -->

The configuration of one host's processes. root reads ` + "`/etc/kith/kith.yaml`" + `, an ordinary user
` + "`~/.config/kith/kith.yaml`; `KITH_CONFIG` or `--config`" + ` names another file. Every key may be left out, and
so may the file. An unknown key is an error that names the line and the nearest key. Flags beat ` + "`KITH_*`" + `
variables, which beat the file. Durations are written ` + "`30s`, `10m`, `24h`, sizes `64KiB`, `16MiB`, `1GiB`" + `.

` + "`kith config check`" + ` runs exactly what a start runs. Nodes, identities, services and rules are not
configuration: they are applied with ` + "`kith apply -f`" + `.
`)
	err = section(&out, structs, "File", "", reflect.ValueOf(config.Default()))
	return out.Bytes(), err
}

// section writes the keys of one struct, those of its sections after them.
func section(out *bytes.Buffer, structs map[string]*ast.StructType, name, prefix string, values reflect.Value) error {
	for i, f := range structs[name].Fields.List {
		field := values.Type().Field(i)
		key := prefix + field.Tag.Get("yaml")
		text := strings.Join(strings.Fields(f.Doc.Text()), " ")
		first, rest, ok := strings.Cut(text, " ")
		if !ok || first != field.Name {
			return fmt.Errorf("the comment of %s.%s does not begin with its name", name, field.Name)
		}
		rest = strings.TrimPrefix(rest, "is ")
		rest = strings.ToUpper(rest[:1]) + rest[1:]
		if sub := field.Type.Name(); structs[sub] != nil {
			fmt.Fprintf(out, "\n## %s\n\n%s\n", key, rest)
			if err := section(out, structs, sub, key+".", values.Field(i)); err != nil {
				return err
			}
			continue
		}
		value := "empty"
		if !values.Field(i).IsZero() {
			value = fmt.Sprintf("`%v`", values.Field(i).Interface())
		}
		fmt.Fprintf(out, "\n### `%s`\n\nDefault: %s. %s\n", key, value, rest)
	}
	return nil
}
