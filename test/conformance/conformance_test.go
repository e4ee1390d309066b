// Package conformance makes docs/conformance.md from the tests: which of them
// names which rule of the SPIFFE standards.
package conformance

import (
	_ "embed"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/conformance.md")

const (
	root     = "../.."
	document = "docs/conformance.md"
	last     = 128
)

// table is the rules: number, standard, role and text, separated by tabs.
//
//go:embed rules.tsv
var table string

// open are the rules that no test shows, with what is the case instead.
func open() map[int]string {
	return map[int]string{}
}

// partly are the rules of which tests show a part, with what they do not show.
func partly() map[int]string {
	return map[int]string{}
}

const preamble = `# SPIFFE conformance

<!-- Made from the tests by go test ./test/conformance -update; the test fails when a rule has neither a test nor a word why not. -->

Every MUST of the SPIFFE standards as one numbered rule, and the tests that name it: ` + "`go test`" + ` of the folder shows it. (S) is a SHOULD, (M) a MAY.
The last ones under a number may be in suites of real processes: ` + "`make test-parties`, `make test-attacks`" + `.

`

// rule is one row of the table.
type rule struct {
	number         int
	standard, role string
	text           string
}

func rules(t *testing.T) []rule {
	t.Helper()
	var out []rule
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		n, err := strconv.Atoi(cells[0])
		if len(cells) != 4 || err != nil || n != len(out)+1 {
			t.Fatalf("row %d of the table: %q", len(out)+1, line)
		}
		out = append(out, rule{n, cells[1], cells[2], cells[3]})
	}
	if len(out) != last {
		t.Fatalf("%d rules, want %d", len(out), last)
	}
	return out
}

var (
	inText = regexp.MustCompile(`\b[Rr]ules? (\d+(?:(?:, and |, | and | to )\d+)*)`)
	inName = regexp.MustCompile(`^TestRule(\d+(?:(?:And|To)\d+)*)`)
	number = regexp.MustCompile(`\d+|[Tt]o`)
)

// numbers are the rules that a list such as "35 to 41, 90" or "35To41And90" names.
func numbers(list string) []int {
	var out []int
	through := false
	for _, word := range number.FindAllString(list, -1) {
		n, err := strconv.Atoi(word)
		if err != nil {
			through = true
			continue
		}
		for first := n; through && len(out) > 0 && out[len(out)-1] < first-1; {
			out = append(out, out[len(out)-1]+1)
		}
		through = false
		out = append(out, n)
	}
	return out
}

// shown is the tests that name a rule, in their names or comments.
func shown(t *testing.T) map[int][]string {
	t.Helper()
	found := make(map[int]map[string]bool)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "conformance"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		place, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		if place = filepath.ToSlash(place); place == "." {
			place = "kith" // the SDK
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			for _, n := range named(f) {
				if found[n] == nil {
					found[n] = make(map[string]bool)
				}
				found[n][place+"."+f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[int][]string)
	for n, tests := range found {
		out[n] = slices.Sorted(maps.Keys(tests))
	}
	return out
}

// named are the rules a test says it shows.
func named(f *ast.FuncDecl) []int {
	var out []int
	if m := inName.FindStringSubmatch(f.Name.Name); m != nil {
		out = append(out, numbers(m[1])...)
	}
	for _, m := range inText.FindAllStringSubmatch(strings.Join(strings.Fields(f.Doc.Text()), " "), -1) {
		out = append(out, numbers(m[1])...)
	}
	return slices.DeleteFunc(out, func(n int) bool { return n < 1 || n > last })
}

func render(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(preamble)
	tests, why, part, done := shown(t), open(), partly(), 0
	for _, r := range rules(t) {
		if len(tests[r.number]) > 0 && part[r.number] == "" {
			done++
		}
	}
	fmt.Fprintf(&b, "%d of %d rules are shown by tests; any other says what is not.\n", done, last)
	standard := ""
	for _, r := range rules(t) {
		if r.standard != standard {
			standard = r.standard
			fmt.Fprintf(&b, "\n## %s\n\n| # | rule | role | status | tests |\n|---|---|---|---|---|\n", standard)
		}
		status, list := "shown", "`"+strings.Join(tests[r.number], "` `")+"`"
		switch {
		case len(tests[r.number]) == 0:
			status, list = "open", why[r.number]
		case part[r.number] != "":
			status, list = "in part", list+" "+part[r.number]
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s |\n", r.number, r.text, r.role, status, list)
	}
	return b.String()
}

func TestPageIsCurrent(t *testing.T) {
	path := filepath.Join(root, filepath.FromSlash(document))
	if *update {
		if err := os.WriteFile(path, []byte(render(t)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != render(t) {
		t.Errorf("%s is not what the tests say: go test ./test/conformance -update", document)
	}
}

func TestEveryRuleHasATestOrAReason(t *testing.T) {
	tests, why, part := shown(t), open(), partly()
	for _, r := range rules(t) {
		if len(tests[r.number]) == 0 && part[r.number] != "" {
			t.Errorf("rule %d is said to be shown in part, and no test names it", r.number)
		}
		switch _, excused := why[r.number]; {
		case len(tests[r.number]) == 0 && !excused:
			t.Errorf("rule %d (%s): no test names it", r.number, r.text)
		case len(tests[r.number]) > 0 && excused:
			t.Errorf("rule %d is said to be open, and %s names it", r.number, tests[r.number][0])
		}
	}
}

func TestNumbers(t *testing.T) {
	for list, want := range map[string][]int{
		"7": {7}, "91, 92": {91, 92}, "33 and 68": {33, 68}, "35 to 38": {35, 36, 37, 38}, "35To37And90": {35, 36, 37, 90},
	} {
		if got := numbers(list); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", list, got, want)
		}
	}
}
