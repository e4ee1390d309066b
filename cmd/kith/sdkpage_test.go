package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// refusedLine is a line of a page whose first program must be refused.
var refusedLine = regexp.MustCompile(`-- (line-\d+) --\nset -eu -o pipefail\n(bin/[^|\n]*[^|\n ]) \|\| kith why last --denied\n`)

// refusal is the check of such a line, once the service is up.
const refusal = `eventually sh -c '! %s 2>refused && grep denied refused'
! exec %s
stderr 'denied by policy, decision [a-z0-9]+'
! stdout .
`

// sdkEnd is what the page says in words: who is refused learns no reason, who is
// allowed is known by its ID, a stream ends with its rule, and a service's own
// check narrows what rules allow.
const sdkEnd = `
exec bin/web -item milk
stdout '^201 Created'
stdout '^200 OK .*"item":"milk","by":"spiffe://dev.kith.local/dev/web"'
exec bin/teller -text milk -cents 100
stdout '^balance [0-9]+$'
exec kith allow teller 'grpc ledger.v1.Ledger/Follow' on ledger --name follows
! exec sh -c 'exec bin/teller -follow >followed' &follow&
eventually grep '^spiffe://dev.kith.local/dev/teller milk 100$' followed
exec kith rules remove follows
wait follow
stderr 'PermissionDenied.*denied by policy, decision'
exec sh -c 'kill $(cat ledger.pid)'
eventually sh -c '! kill -0 $(cat ledger.pid)'
exec bin/ledger -listen 127.0.0.1:$PORT8444 -closed &
eventually sh -c '! bin/teller 2>closed && grep PermissionDenied closed'
eventually sh -c 'kith why last --denied | grep "the ledger is closed"'
`

// docs/sdk.md: the examples are built and run as it says, and each call that it
// says is refused is.
func TestSDKPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "sdk.md", "8443", "8444")
	commands, files, _ := strings.Cut(script, "-- ")
	files = "-- " + files
	built := strings.Replace(files, "go build -o bin/ ./", goBuild(t)+" -o $PWD/bin/ ./", 1)
	refused := refusedLine.FindAllStringSubmatch(files, -1)
	if built == files || len(refused) != 3 {
		t.Fatalf("the page builds no examples, or its calls that are refused are %d, not 3", len(refused))
	}
	for _, line := range refused {
		run := "eventually bash " + line[1] + "\n"
		commands = strings.Replace(commands, run, fmt.Sprintf(refusal, line[2], line[2])+run, 1)
	}
	built = strings.Replace(built, "exec bin/ledger", "echo $$ >ledger.pid; exec bin/ledger", 1)
	runPage(t, "exec kith dev &dev&\neventually kith status\n", commands+sdkEnd+built, env)
}

// goBuild is go build in this repository, from wherever and with whatever HOME.
func goBuild(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	caches, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Fields(string(caches))
	return fmt.Sprintf("CGO_ENABLED=0 GOFLAGS=-trimpath GOCACHE='%s' GOMODCACHE='%s' go build -C '%s' -ldflags '-s -w'", at[0], at[1], root)
}
