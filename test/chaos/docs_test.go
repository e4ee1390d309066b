//go:build chaos

package chaos

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentNamesTests: each test that docs/reliability.md names is there.
func TestDocumentNamesTests(t *testing.T) {
	text, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z/]+)\\.(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 20 {
		t.Fatalf("%d tests are named", len(named))
	}
	for _, n := range named {
		dir := "../../" + strings.TrimPrefix(n[1], "kith")
		if out, err := exec.Command("grep", "-rlE", "--include=*_test.go", "^func "+n[2]+`\(`, dir).CombinedOutput(); err != nil {
			t.Errorf("%s.%s is not there: %v %s", n[1], n[2], err, out)
		}
	}
}
