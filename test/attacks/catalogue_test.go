package attacks

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/security.md")

// attack is one row of the catalogue: what an attacker tries, what is shown,
// and by which tests, as folder.TestName.
type attack struct {
	number string // T1 to T40 of the threat model, or the number in the list of attacks
	tries  string
	shown  string // or why it does not apply
	tests  string // separated by spaces; "" only where it does not apply
}

const (
	root     = "../.."
	document = "docs/security.md"
)

const preamble = `# What must fail

<!-- Made from test/attacks by go test ./test/attacks -update; the test fails when a row names a test that is not there. -->

What somebody may try against Kith, what happens instead, and the tests that show it. The tests below
` + "`test/attacks`" + ` do it to running processes: ` + "`make test-attacks`" + `.

Attackers: a workload on the same host, a node that was taken over, somebody on the network, another user of the host, a
thief of a disk or a backup. Not defended against: root on a host, for the identities of that host; a process against another one
of the same user, except that the server's and agent's memory is closed to it; and, within an hour, use of a stolen SVID from
elsewhere.
`

func render() string {
	var b strings.Builder
	b.WriteString(preamble)
	for _, part := range []struct {
		title string
		rows  []attack
	}{{"Threats", threats()}, {"Attacks on proxy and policy", attacks()}} {
		fmt.Fprintf(&b, "\n## %s\n\n| # | attempt | what is shown | tests |\n|---|---|---|---|\n", part.title)
		for _, a := range part.rows {
			tests := "–"
			if a.tests != "" {
				tests = "`" + strings.Join(strings.Fields(a.tests), "` `") + "`"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", a.number, a.tries, a.shown, tests)
		}
	}
	return b.String()
}

func TestCatalogueIsCurrent(t *testing.T) {
	path := filepath.Join(root, filepath.FromSlash(document))
	if *update {
		if err := os.WriteFile(path, []byte(render()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != render() {
		t.Errorf("%s is not what the catalogue says: go test ./test/attacks -run Catalogue -update", document)
	}
}

func TestCatalogueNamesTestsThatExist(t *testing.T) {
	known := make(map[string]map[string]bool) // folder → names
	numbers := make(map[string]bool)
	for _, a := range append(threats(), attacks()...) {
		if numbers[a.number] {
			t.Errorf("%s is there twice", a.number)
		}
		numbers[a.number] = true
		if a.tests == "" && !strings.HasPrefix(a.shown, "Does not apply") {
			t.Errorf("%s has neither a test nor a reason", a.number)
		}
		for _, name := range strings.Fields(a.tests) {
			folder, test, ok := strings.Cut(name, ".")
			if !ok {
				t.Errorf("%s: %q is not folder.TestName", a.number, name)
				continue
			}
			if known[folder] == nil {
				known[folder] = testsOf(t, folder)
			}
			if !known[folder][test] {
				t.Errorf("%s: there is no %s in %s", a.number, test, folder)
			}
		}
	}
	for _, number := range strings.Fields(`T1 T2 T3 T5 T6 T7 T8 T10 T13 T14 T15 T16 T20 T21 T22 T23 T24 T29 T30 T36 T38 T39 T40
		1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70`) {
		if !numbers[number] {
			t.Errorf("%s is not in the catalogue", number)
		}
	}
}

// Each row has a test, or a fuzz target, that is named by its number.
func TestCatalogueNumbersAreNames(t *testing.T) {
	spans := regexp.MustCompile(`Attack(\d+)To(\d+)`)
	for _, a := range append(threats(), attacks()...) {
		if a.tests == "" {
			continue
		}
		number, _ := strconv.Atoi(strings.TrimPrefix(a.number, "T"))
		named := regexp.MustCompile(fmt.Sprintf(`(Test|And)Attack0?%d(\D|$)|Attack\d+And0?%[1]d(\D|$)`, number))
		if strings.HasPrefix(a.number, "T") {
			named = regexp.MustCompile(fmt.Sprintf(`(Threat|\.Test)T0?%d(\D|$)|ThreatT\d+And0?%[1]d(\D|$)`, number))
		}
		if named.MatchString(a.tests) {
			continue
		}
		if m := spans.FindStringSubmatch(a.tests); m != nil && a.number[0] != 'T' {
			from, _ := strconv.Atoi(m[1])
			if to, _ := strconv.Atoi(m[2]); from <= number && number <= to {
				continue
			}
		}
		t.Errorf("%s: none of %s has its number in its name", a.number, a.tests)
	}
}

// Every attack test is in the catalogue, so that the document tells of it.
func TestCatalogueIsWhole(t *testing.T) {
	rows := " " + render() + " "
	for name := range testsOf(t, "test/attacks") {
		if !strings.HasPrefix(name, "TestCatalogue") && name != "TestMain" && !strings.Contains(rows, "`test/attacks."+name+"`") {
			t.Errorf("%s is in no row", name)
		}
	}
}

var testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)

// testsOf are the tests and fuzz targets of a folder, whatever their build tags;
// "kith" is the root.
func testsOf(t *testing.T, folder string) map[string]bool {
	t.Helper()
	if folder == "kith" {
		folder = ""
	}
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(folder), "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %q: %v", folder, err)
	}
	names := make(map[string]bool)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range testFunc.FindAllStringSubmatch(string(text), -1) {
			names[match[1]] = true
		}
	}
	return names
}
