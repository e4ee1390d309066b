package config

import (
	"embed"
	"slices"

	"github.com/kith-id/kith/internal/fault"
)

//go:generate env KITH_UPDATE=1 go test -count=1 -run TestSchemasAreCurrent .

// schemas are the JSON Schemas of our files, made from the types that read them.
//
//go:embed schema/*.schema.json
var schemas embed.FS

// Schemas are the names of the files that have a JSON Schema: state (applied
// state), tests (of rules), kith (kith.yaml) and inventory (of kith import).
func Schemas() []string { return []string{"state", "tests", "kith", "inventory"} }

// Schema is the JSON Schema of one of our files, for editors.
func Schema(name string) ([]byte, error) {
	if !slices.Contains(Schemas(), name) {
		err := fault.NotFoundf("there is no schema %q", name)
		if near := fault.Nearest(name, Schemas()); near != "" {
			return nil, fault.Hint(err, "kith config schema %s", near)
		}
		return nil, fault.Hint(err, "kith config schema lists them")
	}
	return schemas.ReadFile("schema/" + name + ".schema.json")
}
