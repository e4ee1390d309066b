// The rules of the house that a machine can check. A failing line names the
// rule and its reason; the reasons are told in docs/ARCHITECTURE.md.
package kith_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/kith-id/kith"

// floors says on which floor each package lives; "." is the SDK in the root. A
// package imports lower floors only, never its own, so any room can be read,
// tested and replaced knowing only what is below it.
func floors() map[string]int {
	return map[string]int{
		// 0: words
		"spiffe": 0, "internal/fault": 0, "internal/fork": 0, "internal/pb": 0, "internal/pb/workloadpb": 0, "internal/pb/envoypb": 0, "internal/pb/brokerpb": 0,
		// 1: domain, pure
		"internal/registry": 1, "internal/policy": 1, "internal/usertoken": 1, "internal/wimse": 1,
		// 2: contracts, tools, the SDK
		"internal/attest": 2, "internal/keys": 2, "internal/audit": 2,
		"internal/adopt": 2, "internal/egress": 2, "internal/config": 2, "internal/obs": 2, "internal/run": 2, "internal/loopback": 2, ".": 2,
		// 3: drivers, handed down by the door
		"internal/store": driverFloor, "internal/platform/host": driverFloor, "internal/platform/proof": driverFloor, "internal/platform/k8s": driverFloor,
		// 4: services
		"internal/ca": 4, "internal/api": 4, "internal/workload": 4, "internal/extauthz": 4, "internal/jwks": 4, "internal/federation": 4, "internal/oidc": 4, "internal/decisionlog": 4,
		// 5: programs
		"internal/server": 5, "internal/agent": 5, "internal/proxy": 5,
		// 6: the door
		"cmd/kith": doorFloor,
	}
}

const (
	driverFloor = 3
	doorFloor   = 6
)

// kit reports whether a package is for tests only: testenv, and footest beside
// foo. Only test files and other kits import one.
func kit(pkg string) bool {
	return pkg == "internal/testenv" || path.Base(pkg) == path.Base(path.Dir(pkg))+"test"
}

// outside are trees that stand beside the house: end-to-end tests, examples and
// benchmarks. Nothing imports them.
func outside(pkg string) bool {
	return strings.HasPrefix(pkg, "test/") || strings.HasPrefix(pkg, "examples/") || pkg == "bench"
}

// source is one parsed Go file of the repository.
type source struct {
	name      string // path from the root
	pkg       string // directory from the root, "." for the root
	test      bool
	other     bool // of another module in this tree: its go.mod answers for what it imports
	generated bool
	lines     int
	file      *ast.File
	fset      *token.FileSet
}

// imports lists the file's imports; ours as a package path from the root.
func (s source) imports() (ours, others []string) {
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		switch rest, ok := strings.CutPrefix(p, module+"/"); {
		case p == module:
			ours = append(ours, ".")
		case ok:
			ours = append(ours, rest)
		default:
			others = append(others, p)
		}
	}
	return ours, others
}

// line is file:line of a node.
func (s source) line(n ast.Node) string {
	return s.name + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// sources has every Go file of the repository, whatever its build tags; nobody
// changes them.
func sources(t *testing.T) []source {
	t.Helper()
	all, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// parsed parses what sources tells, once for all tests.
var parsed = sync.OnceValues(func() ([]source, error) {
	var all []source
	modules := []string{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir():
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil && name != "." {
				modules = append(modules, filepath.ToSlash(name)+"/")
			}
			return nil
		case path.Ext(name) != ".go":
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{
			name: name, pkg: filepath.ToSlash(filepath.Dir(name)), test: strings.HasSuffix(name, "_test.go"),
			other:     slices.ContainsFunc(modules, func(dir string) bool { return strings.HasPrefix(filepath.ToSlash(name), dir) }),
			generated: ast.IsGenerated(file), lines: strings.Count(string(text), "\n"), file: file, fset: fset,
		})
		return nil
	})
	return all, err
})

func TestEveryPackageHasAFloor(t *testing.T) {
	t.Parallel()
	known, seen := floors(), map[string]bool{}
	for _, s := range sources(t) {
		seen[s.pkg] = true
		_, floor := known[s.pkg]
		if !floor && !kit(s.pkg) && !outside(s.pkg) {
			t.Errorf("%s: package %s has no floor: give it one in floors() and a row in docs/ARCHITECTURE.md", s.name, s.pkg)
		}
	}
	for pkg := range known {
		if !seen[pkg] {
			t.Errorf("floors() names %s, which is not there: take it out", pkg)
		}
	}
}

func TestImportsGoDown(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		ours, _ := s.imports()
		for _, to := range ours {
			if why := wrongWay(s, to); why != "" {
				t.Errorf("%s imports %s: %s", s.name, to, why)
			}
		}
	}
}

// wrongWay says why a file may not import one of our packages, or "".
func wrongWay(s source, to string) string {
	known := floors()
	switch {
	case outside(to) && !outside(s.pkg):
		return "what stands outside the house is not for use in it"
	case strings.HasPrefix(s.pkg, "examples/") && strings.HasPrefix(to, "internal/"):
		return "an example shows what a customer can import"
	case outside(s.pkg), kit(s.pkg):
		return ""
	case kit(to):
		if !s.test {
			return "that is a kit for tests"
		}
	case s.test && (to == s.pkg || known[to] <= max(known[s.pkg], driverFloor)):
		// A test may use its own room, its floor and the real drivers.
	case known[to] >= known[s.pkg]:
		return fmt.Sprintf("floor %d looks up or sideways at floor %d: imports go to lower floors only; "+
			"declare an interface where it is used and let the door hand the value down", known[s.pkg], known[to])
	}
	return ""
}

func TestOnlyTheDoorKnowsDrivers(t *testing.T) {
	t.Parallel()
	known := floors()
	for _, s := range sources(t) {
		if s.test || s.pkg == "cmd/kith" || kit(s.pkg) || outside(s.pkg) {
			continue
		}
		ours, _ := s.imports()
		for _, to := range ours {
			if known[to] == driverFloor && to != s.pkg {
				t.Errorf("%s imports the driver %s: only cmd/kith does (drivers.go) and passes it as a value, so a vendor can be left out or swapped in one place", s.name, to)
			}
		}
	}
}

func TestEveryPackageHasASentence(t *testing.T) {
	t.Parallel()
	docs, names := map[string][]string{}, map[string]string{}
	for _, s := range sources(t) {
		if s.generated || s.test {
			continue
		}
		names[s.pkg] = s.file.Name.Name
		if s.file.Doc != nil {
			docs[s.pkg] = append(docs[s.pkg], s.name)
			text := s.file.Doc.Text()
			want := "Package " + s.file.Name.Name + " "
			if s.file.Name.Name == "main" {
				want = "Command " + path.Base(s.pkg) + " "
			}
			if !strings.HasPrefix(text, want) || !strings.Contains(text, ".") {
				t.Errorf("%s: the package comment is %q, want a sentence that begins %q", s.name, firstLine(text), want)
			}
		}
	}
	for pkg, name := range names {
		switch n := len(docs[pkg]); {
		case n == 0:
			t.Errorf("%s: package %s has no comment that says what it is for and what it leaves out", pkg, name)
		case n > 1:
			t.Errorf("%s: package comments in %s: one is enough", pkg, strings.Join(docs[pkg], " and "))
		}
	}
}

// pureBans are what the domain may not touch: it decides from its arguments, so
// that a decision can be replayed, tested and explained.
func pureBans() []string {
	return []string{
		"os", "net/http", "log", "log/slog", "io/fs", "os/exec", "context",
		"net.Dial", "net.Listen", "net.LookupHost", "net.LookupIP", "time.Now", "time.Since", "time.After", "time.Sleep",
	}
}

func TestDomainIsPure(t *testing.T) {
	t.Parallel()
	known := floors()
	for _, s := range sources(t) {
		if s.test || s.generated || known[s.pkg] != 1 {
			continue
		}
		_, others := s.imports()
		for _, p := range others {
			// context is in the signatures of registry's store interface only.
			if slices.Contains(pureBans(), p) && !(p == "context" && s.pkg == "internal/registry") {
				t.Errorf("%s imports %s: floor 1 does no I/O, logs nothing and reads no clock", s.name, p)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: floor 1 starts no goroutine", s.line(n))
			case *ast.SelectorExpr:
				if name := selector(n); slices.Contains(pureBans(), name) {
					t.Errorf("%s: %s: floor 1 does no I/O and reads no clock; both come as arguments", s.line(n), name)
				}
			}
			return true
		})
	}
}

// selector is pkg.Name for a selector on a plain identifier, else "".
func selector(e *ast.SelectorExpr) string {
	if x, ok := e.X.(*ast.Ident); ok {
		return x.Name + "." + e.Sel.Name
	}
	return ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
