package kith_test

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The limits: what does not fit a screen is two ideas.
const (
	maxFileLines     = 400
	maxFunctionLines = 80
)

func TestFilesAndFunctionsFitTheEye(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		if s.lines > maxFileLines {
			t.Errorf("%s: %d lines, at most %d: split it by ideas", s.name, s.lines, maxFileLines)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, at most %d: name its steps", s.line(f), f.Name.Name, n, maxFunctionLines)
			}
		}
	}
}

func TestNothingHappensByImport(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" && !s.generated {
				t.Errorf("%s: init(): registration by import hides who uses what; cmd/kith/drivers.go is the list", s.line(f))
			}
		}
	}
}

// Whoever starts a goroutine waits for it: the tests of a room that starts any, or
// asks others over HTTP, end by looking for goroutines that are left.
func TestRoomsWithGoroutinesLookForLeaks(t *testing.T) {
	t.Parallel()
	starts, looks := map[string]string{}, map[string]bool{}
	for _, s := range sources(t) {
		_, others := s.imports()
		if s.test && slices.Contains(others, "go.uber.org/goleak") {
			looks[s.pkg] = true
		}
		if outside(s.pkg) || s.generated || s.test || kit(s.pkg) && s.pkg != "internal/testenv" {
			continue
		}
		if slices.Contains(others, "net/http") {
			starts[s.pkg] = s.name
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok && starts[s.pkg] == "" {
				starts[s.pkg] = s.line(g)
			}
			return true
		})
	}
	for pkg, where := range starts {
		if !looks[pkg] {
			t.Errorf("%s: the tests of %s do not look for goroutines that are left: func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }", where, pkg)
		}
	}
}

// ban is a name that may be used in few places or none.
type ban struct {
	name   string              // pkg.Name
	where  func(s source) bool // where it is allowed
	reason string
}

// declares reports whether the file has a function of that name.
func declares(s source, name string) bool {
	return slices.ContainsFunc(s.file.Decls, func(d ast.Decl) bool {
		f, ok := d.(*ast.FuncDecl)
		return ok && f.Recv == nil && f.Name.Name == name
	})
}

// inTests reports whether a file never gets into the binary.
func inTests(s source) bool { return s.test || kit(s.pkg) || outside(s.pkg) }

func bans() []ban {
	nowhere := func(source) bool { return false }
	inMain := func(s source) bool {
		return path.Base(s.name) == "main.go" || outside(s.pkg) || s.test && declares(s, "TestMain")
	}
	inExamples := func(s source) bool { return path.Base(s.name) == "example_test.go" || outside(s.pkg) }
	return []ban{
		{"os.Exit", inMain, "a library returns an error; only main.go ends the process, after the deferred work"},
		{"log.Fatal", inExamples, "a library returns an error; only main.go ends the process"},
		{"log.Fatalf", inExamples, "a library returns an error; only main.go ends the process"},
		{"t.Skip", nowhere, "a skipped test is a rule nobody checks: install what it needs or fail"},
		{"t.Skipf", nowhere, "a skipped test is a rule nobody checks: install what it needs or fail"},
		{"t.SkipNow", nowhere, "a skipped test is a rule nobody checks: install what it needs or fail"},
		{"b.Skip", nowhere, "a skipped benchmark measures nothing"},
		{"testing.Short", nowhere, "there is one test run, the whole one"},
		{"slog.SetDefault", nowhere, "there is no global logger: it is passed on"},
		{"slog.Default", nowhere, "there is no global logger: it is passed on"},
		{"http.DefaultClient", nowhere, "it has no timeout and everybody can change it"},
		{"http.DefaultServeMux", nowhere, "everybody can add to it"},
		{"prometheus.MustRegister", nowhere, "there is no global registry: the program passes one"},
		{"x509.CreateCertificate", func(s source) bool { return inTests(s) || s.pkg == "internal/ca" }, "only ca signs: build, journal, sign, lint, compare, release are one path"},
		{"x509.SystemCertPool", func(s source) bool { return inTests(s) || s.pkg == "internal/federation" }, "only bundle endpoints of profile https_web are known by the public web's authorities; who must ask another host of it (internal/jwks) leaves RootCAs to its caller"},
	}
}

func TestBannedNames(t *testing.T) {
	t.Parallel()
	all := bans()
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				for _, b := range all {
					if selector(n) == b.name && !b.where(s) {
						t.Errorf("%s: %s: %s", s.line(n), b.name, b.reason)
					}
				}
			case *ast.Ident:
				if n.Name == "InsecureSkipVerify" && s.pkg != "spiffe" && !inTests(s) {
					t.Errorf("%s: InsecureSkipVerify: only spiffe turns off the library's checks, as it makes stricter ones", s.line(n))
				}
			}
			return true
		})
	}
}

// leftover matches the words of unfinished work. A TODO names its issue.
var leftover = regexp.MustCompile(`\b(FIXME|XXX|HACK)\b|\bTODO\b(\(#\d+\): )?|(?i)\bnot (yet )?implemented\b`)

// leftoverParts are cheaper to look for: what leftover matches has one of them.
var leftoverParts = []string{"fixme", "xxx", "hack", "todo", "implemented"}

func TestNoUnfinishedWork(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.generated || strings.HasPrefix(s.name, "house_") {
			continue
		}
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				text := strings.ToLower(c.Text)
				if !slices.ContainsFunc(leftoverParts, func(part string) bool { return strings.Contains(text, part) }) {
					continue
				}
				if m := leftover.FindStringSubmatch(c.Text); m != nil && m[2] == "" {
					t.Errorf("%s: %q: finish it, or write TODO(#issue): what", s.line(c), m[0])
				}
			}
		}
	}
}

func TestExportedNamesHaveASentence(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.test || s.generated || outside(s.pkg) || s.file.Name.Name == "main" {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil {
					t.Errorf("%s: %s has no comment", s.line(d), d.Name.Name)
				}
			case *ast.GenDecl:
				undocumented(t, s, d)
			}
		}
	}
}

// undocumented reports exported names without a comment of their own, on their
// group or at the end of their line.
func undocumented(t *testing.T, s source, d *ast.GenDecl) {
	t.Helper()
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && spec.Doc == nil && d.Doc == nil {
				t.Errorf("%s: %s has no comment", s.line(spec), spec.Name.Name)
			}
		case *ast.ValueSpec:
			if spec.Names[0].IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
				t.Errorf("%s: %s has no comment", s.line(spec), spec.Names[0].Name)
			}
		}
	}
}

// exportedReceiver reports whether a method can be seen from outside.
func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	e := f.Recv.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}
