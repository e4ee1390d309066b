package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/run/runtest"
)

// editor judges files by a published schema, as an editor does.
func editor(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	data, err := Schema(name)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(name) // checks the schema against that of schemas, too
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fits says whether every document of a file is as the schema has it.
func fits(t *testing.T, s *jsonschema.Schema, docs []*yaml.Node) error {
	t.Helper()
	for _, doc := range docs {
		text, err := json.Marshal(plainValue(doc))
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); err != nil {
			return err
		}
	}
	return nil
}

// plainValue is what YAML 1.2 has for a node: dates are text, keys are.
func plainValue(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		out := object{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			out[n.Content[i].Value] = plainValue(n.Content[i+1])
		}
		return out
	case yaml.SequenceNode:
		out := []any{}
		for _, item := range n.Content {
			out = append(out, plainValue(item))
		}
		return out
	}
	var v any
	switch n.ShortTag() {
	case "!!null", "!!bool", "!!int", "!!float":
		if n.Decode(&v) == nil && !slices.Contains([]string{".inf", "-.inf", ".nan"}, strings.ToLower(n.Value)) {
			return v
		}
	}
	return n.Value
}

// readers are how files of each schema are read.
func readers() map[string]func([]byte) error {
	form := func(to func() any) func([]byte) error {
		return func(data []byte) error {
			d := &decoder{file: "f"}
			docs, err := d.documents(data)
			if err != nil {
				return err
			}
			for _, doc := range docs {
				d.object(doc, reflect.ValueOf(to()).Elem(), nil)
			}
			return d.err()
		}
	}
	return map[string]func([]byte) error{
		"kith":      form(func() any { f := Default(); return &f }),
		"state":     func(data []byte) error { s := State{}; return s.add("f", data) },
		"tests":     func(data []byte) error { _, err := ParseVectors("f", data); return err },
		"inventory": func(data []byte) error { _, err := ParseInventory("f", data); return err },
	}
}

// corpus is every YAML mapping of the repository: in files, in scripts, in pages
// of the documentation, and in the tables of this room's tests, which hold what
// must be refused.
func corpus(t *testing.T) []string {
	t.Helper()
	var texts []string
	for _, pattern := range []string{"../../cmd/kith/testdata/script/*.txtar", "../../docs/*.md", "../../README.md", "../../packaging/*.yaml", "../../test/*/testdata/*.yaml", "*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			switch filepath.Ext(file) {
			case ".txtar":
				texts = append(texts, regexp.MustCompile(`(?m)^-- .* --$`).Split(string(data), -1)[1:]...)
			case ".md":
				for _, part := range strings.Split(string(data), "\n```yaml\n")[1:] {
					body, _, _ := strings.Cut(part, "\n```")
					texts = append(texts, body)
				}
			case ".go":
				texts = append(texts, literals(t, file)...)
			default:
				texts = append(texts, string(data))
			}
		}
	}
	return slices.DeleteFunc(texts, func(text string) bool { return len(mappings(text)) == 0 })
}

// literals are the strings of a Go file.
func literals(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				out = append(out, text)
			}
		}
		return true
	})
	return out
}

// mappings are the documents of a text, if there are some and all are mappings
// without what no schema can speak of: aliases, merge keys, tags, a key twice.
func mappings(text string) []*yaml.Node {
	docs, err := (&decoder{}).documents([]byte(text))
	if err != nil {
		return nil
	}
	for _, doc := range docs {
		var v object
		if doc.Kind != yaml.MappingNode || doc.Decode(&v) != nil || strings.Contains(text, "<<:") || strings.Contains(text, ": *") || strings.Contains(text, "!!") {
			return nil
		}
	}
	return docs
}

// formError matches errors that a schema can know: unknown keys, wrong types,
// words that are not in a set, numbers out of bounds, what is missing.
var formError = regexp.MustCompile(`unknown key|does not belong here|: want (text|a list|keys and values|true or false|a whole number)|, not text|is not one of|is not possible|is not a (duration|size|number)|without a (name|service)|a test needs`)

func badForm(err error) bool { return err != nil && formError.MatchString(err.Error()) }

// What is read fits the schema, and what is refused for its form does not fit:
// every document of the repository, by each reader and the schema of that reader.
// Then one fault is put into each good document after the other: each value is
// replaced by one of each other type, and a key is put into each mapping.
func TestSchemasSayWhatIsRead(t *testing.T) {
	texts, read := corpus(t), readers()
	for _, name := range Schemas() {
		s, good, bad, broken := editor(t, name), 0, 0, 0
		check := func(what, text string, docs []*yaml.Node) {
			wrong, err := fits(t, s, docs), read[name]([]byte(text))
			switch {
			case err == nil && wrong != nil:
				t.Errorf("%s: %s: the schema refuses what is read: %v\n%s", name, what, wrong, text)
			case wrong == nil && badForm(err):
				t.Errorf("%s: %s: the schema takes what is refused: %v\n%s", name, what, err, text)
			case badForm(err):
				bad++
			}
		}
		for _, text := range texts {
			docs := mappings(text)
			check("as it is", text, docs)
			if read[name]([]byte(text)) != nil || len(docs) > 1 {
				continue
			}
			good++
			doc := plainValue(docs[0])
			mutate(doc, func(what string) {
				out, err := yaml.Marshal(doc)
				if err != nil {
					t.Fatal(err)
				}
				if broken++; runtest.Raced && broken%5 != 0 {
					return
				}
				check(what, string(out), mappings(string(out)))
			})
		}
		t.Logf("%s: %d good documents, %d with a fault put in, %d refused for their form", name, good, broken, bad)
		if good < 2 || bad < 20 {
			t.Errorf("%s: %d good documents in the repository, %d refused for their form: too few to say anything", name, good, bad)
		}
	}
}

// mutate puts one fault after the other into a document, and takes it out again.
func mutate(v any, try func(what string)) {
	with := func(at string, set func(any), was any) {
		for _, wrong := range []any{nil, true, 7, -1, 0.5, "word", "", []any{"a"}, object{"k": "v"}} {
			if !reflect.DeepEqual(wrong, was) {
				set(wrong)
				try(fmt.Sprintf("%s = %v", at, wrong))
			}
		}
		set(was)
	}
	switch v := v.(type) {
	case object:
		v["surprise"] = 1
		try("unknown key")
		delete(v, "surprise")
		for _, key := range slices.Sorted(maps.Keys(v)) {
			was := v[key]
			delete(v, key)
			try("no " + key)
			with(key, func(x any) { v[key] = x }, was)
			mutate(v[key], try)
		}
	case []any:
		for i := range v {
			with(fmt.Sprint(i), func(x any) { v[i] = x }, v[i])
			mutate(v[i], try)
		}
	}
}
