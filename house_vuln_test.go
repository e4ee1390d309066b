package kith_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// scan is one run of scripts/vulncheck with a go command and a govulncheck of
// this test, which say and exit what they are told.
type scan struct {
	goversion string
	vulndb    string
	output    string // of govulncheck
	code      int
}

// run gives what the script printed and its exit code.
func (s scan) run(t *testing.T) (string, int) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return file
	}
	said := write("said", s.output)
	scanner := write("scanner", "#!/usr/bin/env bash\n"+
		"case $* in *-version*) echo 'DB updated: 2026-11-20 10:00:00 +0000 UTC' ;; *) echo \"asked $*\"; cat "+said+"; exit $CODE ;; esac\n")
	write("go", "#!/usr/bin/env bash\n"+
		"case $1 in env) echo \"$HAVE\" ;; install) cp "+scanner+" \"$GOBIN/govulncheck\" ;; *) exit 9 ;; esac\n")
	cmd := exec.Command("scripts/vulncheck")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HAVE="+s.goversion, "VULNDB="+s.vulndb)
	cmd.Env = append(cmd.Env, "CODE="+strconv.Itoa(s.code))
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestVulncheckSaysWhatWasNotLookedUp(t *testing.T) {
	t.Parallel()
	const (
		unreachable = "govulncheck: fetching vulnerabilities: Get \"https://vuln.go.dev/index/modules.json.gz\": dial tcp: no such host\n"
		noDatabase  = "creating client: stat /nowhere: no such file or directory\n"
		std         = "Vulnerability #1: GO-2026-6617\n  Standard library\n    Found in: net/http@go1.26.8\n    Fixed in: net/http@go1.26.9\n\n"
		dependency  = "Vulnerability #2: GO-2026-6443\n  Module: google.golang.org/grpc\n    Fixed in: google.golang.org/grpc@v1.99.0\n\n"
	)
	for name, c := range map[string]struct {
		scan
		code int
		want []string
		not  []string
	}{
		"clean": {
			scan{goversion: "go1.99.1"},
			0,
			[]string{"govulncheck ok, by https://vuln.go.dev as of 2026-11-20"},
			[]string{"NOT", "builds here"},
		},
		"clean by a mirror": {
			scan{goversion: "go1.99.1", vulndb: "file:///mirror"},
			0,
			[]string{"govulncheck ok, by file:///mirror as of 2026-11-20"},
			[]string{"vuln.go.dev"},
		},
		"no way to the database": {
			scan{goversion: "go1.99.1", output: unreachable, code: 1},
			0,
			[]string{"govulncheck did NOT run", "VULNDB=file:///"},
			[]string{"govulncheck ok"},
		},
		"a mirror that is none": {
			scan{goversion: "go1.99.1", vulndb: "file:///nowhere", output: noDatabase, code: 1},
			1,
			[]string{"error: VULNDB=file:///nowhere", "stat /nowhere", "hint: "},
			[]string{"govulncheck ok"},
		},
		"a dependency": {
			scan{goversion: "go1.99.1", output: dependency + "Your code is affected by 1 vulnerability from 1 module.\n", code: 3},
			1,
			[]string{"GO-2026-6443"},
			[]string{"govulncheck ok"},
		},
		"a dependency and the standard library": {
			scan{
				goversion: "go1.99.1", code: 3,
				output: std + dependency + "Your code is affected by 2 vulnerabilities from 1 module and the Go standard library.\n",
			},
			1,
			[]string{"GO-2026-6443", "GO-2026-6617"},
			[]string{"govulncheck ok", "dependencies ok"},
		},
		"the standard library alone": {
			scan{goversion: "go1.26.8", output: std + "Your code is affected by 1 vulnerability from the Go standard library.\n", code: 3},
			1,
			[]string{"standard library of go1.26.8, which builds here, has weaknesses that we reach: GO-2026-6617", "hint: build with go1.26.9 or newer", "go1.26.8 builds here; go.mod asks for go1."},
			[]string{"govulncheck ok"},
		},
		"a scan that broke": {
			scan{goversion: "go1.99.1", output: "govulncheck: loading packages: no such package\n", code: 1},
			1,
			[]string{"loading packages"},
			[]string{"govulncheck ok", "NOT run"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, code := c.scan.run(t)
			if code != c.code {
				t.Errorf("exit code %d, want %d; it said\n%s", code, c.code, got)
			}
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("it does not say %q but\n%s", w, got)
				}
			}
			for _, n := range c.not {
				if strings.Contains(got, n) {
					t.Errorf("it says %q:\n%s", n, got)
				}
			}
		})
	}
}

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
