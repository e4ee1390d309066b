package kith_test

import (
	"os"
	"strings"
	"testing"
)

// A binary has the holes of the standard library it was built with, so each
// module of this tree asks for the same patch release of Go.
func TestEveryModuleAsksForTheSameGo(t *testing.T) {
	t.Parallel()
	asked := map[string]string{}
	for _, name := range []string{"go.mod", "bench/go.mod", "test/vectors/go.mod", "test/vectors/vault/go.mod"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if toolchain, ok := strings.CutPrefix(line, "toolchain "); ok {
				asked[name] = strings.TrimSpace(toolchain)
			}
		}
		if asked[name] == "" || asked[name] != asked["go.mod"] {
			t.Errorf("%s asks for toolchain %q, go.mod for %q: go mod edit -toolchain=%s", name, asked[name], asked["go.mod"], asked["go.mod"])
		}
	}
}
