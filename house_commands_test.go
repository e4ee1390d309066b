package kith_test

import (
	"go/ast"
	"go/build/constraint"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// command is a `go test` that some file of the repository has or tells to type.
type command struct {
	file     string
	text     string
	patterns map[string]string // "run", "bench" and "fuzz", as regular expressions
	tags     []string
	packages []string // from the root; "x/..." with all below it
}

var (
	testCommand = regexp.MustCompile("(?:\\bgo|\\$\\(GO\\)) test\\b[^\n`;&]*|\\$\\(SUITE\\)[^\n`;&]*")
	// brokenSpan is a command of a page that goes on in the next line.
	brokenSpan = regexp.MustCompile("`([^`\n]*)\n *([^`\n]*)`")
	shellWord  = regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s'"]+`)
)

// A pattern that no longer matches a test makes `go test` succeed with "no
// tests to run", and what it was for is not checked by anybody.
func TestCommandsNameTestsThatAreThere(t *testing.T) {
	t.Parallel()
	found := 0
	for _, c := range commands(t) {
		for flag, pattern := range c.patterns {
			found++
			for one := range strings.SplitSeq(strings.Split(pattern, "/")[0], "|") {
				if one != "^$" && !c.matches(t, flag, one) {
					t.Errorf("%s: %s: -%s %s: no such function of %v (tags %v): correct the command", c.file, c.text, flag, one, c.packages, c.tags)
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("%d commands with -run, -bench or -fuzz found, want at least 10: this test no longer reads them", found)
	}
}

// commands reads each file in which somebody may have written one.
func commands(t *testing.T) []command {
	t.Helper()
	var all []command
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "dist", "testdata"}, d.Name()):
			return fs.SkipDir
		case !d.Type().IsRegular() || strings.HasPrefix(name, "house_") || strings.HasSuffix(name, ".pb.go"):
			return nil
		case !slices.Contains([]string{".go", ".md", ".sh", ".yaml", ".yml", ""}, path.Ext(name)):
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		whole := brokenSpan.ReplaceAllString(string(text), "`$1 $2`")
		for _, line := range testCommand.FindAllString(whole, -1) {
			if c := parseCommand(name, line); len(c.patterns) > 0 {
				all = append(all, c)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func parseCommand(file, line string) command {
	c := command{file: file, text: line, patterns: map[string]string{}, tags: []string{"linux", "unix", "amd64"}}
	words := shellWord.FindAllString(line, -1)
	for i := 0; i < len(words); i++ {
		flag, value, joined := strings.Cut(strings.TrimPrefix(words[i], "-"), "=")
		if !joined && i+1 < len(words) {
			value = words[i+1]
		}
		// $$ is make's way to write $; what the shell puts in is known when it runs.
		value = strings.ReplaceAll(strings.Trim(value, `'"`), "$$", "$")
		known := strings.HasPrefix(words[i], "-") && !strings.Contains(strings.TrimSuffix(value, "$"), "$")
		switch {
		case known && slices.Contains([]string{"run", "bench", "fuzz"}, flag):
			c.patterns[flag] = strings.TrimRight(value, ".,)")
		case known && flag == "tags":
			c.tags = append(c.tags, strings.Split(value, ",")...)
		case words[i] == "." && strings.HasSuffix(file, ".go"): // go generate runs it beside the file
			c.packages = append(c.packages, path.Dir(filepath.ToSlash(file)))
		case words[i] == "." || strings.HasPrefix(words[i], "./"):
			c.packages = append(c.packages, path.Clean(strings.TrimRight(words[i], `,"):`)))
		}
	}
	return c
}

// matches reports whether the pattern names a function that the command runs.
func (c command) matches(t *testing.T, flag, pattern string) bool {
	t.Helper()
	kinds := map[string]string{"run": "^(Test|Fuzz|Example)", "bench": "^Benchmark", "fuzz": "^Fuzz"}
	kind := regexp.MustCompile(kinds[flag])
	name, err := regexp.Compile(pattern)
	if err != nil {
		t.Errorf("%s: -%s %s: %v", c.file, flag, pattern, err)
		return false
	}
	for _, s := range sources(t) {
		if !s.test || !c.covers(s.pkg) || !builtWith(s, c.tags) {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && kind.MatchString(f.Name.Name) && name.MatchString(f.Name.Name) {
				return true
			}
		}
	}
	return false
}

func (c command) covers(pkg string) bool {
	return slices.ContainsFunc(c.packages, func(p string) bool {
		below, tree := strings.CutSuffix(p, "...")
		return p == pkg || tree && strings.HasPrefix(pkg+"/", strings.TrimPrefix(below, "./"))
	})
}

// builtWith reports whether the file's build constraint holds with the tags.
func builtWith(s source, tags []string) bool {
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			x, err := constraint.Parse(c.Text)
			return err == nil && x.Eval(func(tag string) bool { return slices.Contains(tags, tag) })
		}
	}
	return true
}
