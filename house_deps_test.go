package kith_test

import (
	"bufio"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// dependency is a module we import directly: who may, and why it is here.
type dependency struct {
	module string
	// rooms may import it in code; every test file of the repository may.
	rooms []string
	why   string
}

// maxDirect bounds what one person can keep an eye on.
const maxDirect = 40

func dependencies() []dependency {
	wire := []string{
		".", "internal/store", "internal/pb", "internal/pb/workloadpb", "internal/pb/envoypb", "internal/pb/brokerpb", "internal/config", "internal/registry", "internal/policy",
		"internal/platform/host", "internal/platform/proof", "internal/api", "internal/workload", "internal/extauthz",
		"internal/server", "internal/agent", "internal/proxy", "internal/testenv", "cmd/kith",
	}
	programs := []string{
		"internal/store", "internal/platform/host", "internal/ca", "internal/api", "internal/workload", "internal/extauthz", "internal/jwks", "internal/federation", "internal/oidc",
		"internal/server", "internal/agent", "internal/proxy", "internal/testenv", "cmd/kith",
	}
	return []dependency{
		{"google.golang.org/grpc", append(wire, "internal/decisionlog"), "our wire and the SPIFFE Workload API's"},
		{"google.golang.org/protobuf", append(wire, "internal/decisionlog"), "messages of both"},
		{"go.opentelemetry.io/proto/otlp", []string{"internal/decisionlog"}, "messages of OTLP, for decisions to a collector; without the SDK of OpenTelemetry, whose batching would lose denials with allows"},
		{"google.golang.org/genproto/googleapis/rpc", []string{".", "internal/workload"}, "google.rpc.ErrorInfo, which the SPIFFE Broker API has in its errors; grpc brings it"},
		{"github.com/spf13/cobra", []string{"cmd/kith"}, "verbs, help, completion, suggestions"},
		{"go.etcd.io/etcd/api/v3", []string{"internal/store"}, "the store's messages"},
		{"go.etcd.io/etcd/client/v3", []string{"internal/store"}, "the store's client"},
		{"go.etcd.io/etcd/server/v3", []string{"internal/store"}, "the store's engine, in the child process"},
		{"go.etcd.io/raft/v3", []string{"internal/store"}, "the engine's consensus, which is told that a lone member leads"},
		{"go.uber.org/zap", []string{"internal/store"}, "etcd's logger, bridged to ours"},
		{"cel.dev/cel-go", []string{"internal/registry", "internal/policy"}, "requirements of node and identity rules, conditions of rules"},
		{"go.yaml.in/yaml/v3", []string{"internal/config", "internal/adopt", "cmd/kith"}, "files, and -o yaml"},
		{"github.com/prometheus/client_golang", append(programs, "internal/obs", "internal/audit", "internal/policy", "internal/decisionlog"), "metrics, made beside what they measure"},
		{"golang.org/x/sys", append(programs, ".", "internal/obs", "internal/loopback"), "pidfd, peer credentials, sock_diag, file locks, the boot clock"},
		{"golang.org/x/net", []string{".", "internal/proxy"}, "HTTP/2 over connections we made ourselves"},
		{"golang.org/x/crypto", []string{"spiffe", "internal/keys", "internal/ca", "internal/federation"}, "cryptobyte for DER, argon2 for passphrases, ACME"},
		{"golang.org/x/sync", append(programs, "."), "errgroup, singleflight, semaphores"},
		{"golang.org/x/time", append(programs, "."), "rate limits"},
		{"software.sslmate.com/src/go-pkcs12", []string{"cmd/kith"}, "PKCS #12 for Java: key store and trust store"},
		{"github.com/google/go-cmp", nil, "tests: readable differences"},
		{"pgregory.net/rapid", nil, "tests: properties"},
		{"github.com/rogpeppe/go-internal", nil, "tests: testscript, one .txtar a verb"},
		{"go.uber.org/goleak", nil, "tests: no goroutine is left behind"},
		{"github.com/spiffe/go-spiffe/v2", nil, "tests: the peer library we must work with"},
		{"github.com/coder/websocket", nil, "tests: a WebSocket client and server not ours"},
		{"github.com/santhosh-tekuri/jsonschema/v6", nil, "tests: the schemas for editors, judged by a validator that is not ours"},
	}
}

// bannedImports are packages nobody may import, with the reason.
func bannedImports() map[string]string {
	return map[string]string{
		"C":                                "no cgo: one static binary",
		"unsafe":                           "nothing here is worth it",
		"plugin":                           "no code is loaded at run time",
		"log":                              "slog, passed in",
		"io/ioutil":                        "gone since Go 1.16",
		"math/rand":                        "math/rand/v2 for jitter, crypto/rand for secrets",
		"net/http/pprof":                   "registers itself on a global mux",
		"expvar":                           "registers itself on a global mux",
		"gopkg.in/yaml.v3":                 "unmaintained; go.yaml.in/yaml/v3 is its heir",
		"sigs.k8s.io/yaml":                 "lenient; internal/config reads YAML",
		"github.com/sirupsen/logrus":       "slog, passed in",
		"github.com/open-policy-agent/opa": "policy is decided here; OPA is asked over the wire",
		"github.com/pkg/errors":            "fmt.Errorf with %w, and fault",
		"github.com/stretchr/testify":      "std testing and go-cmp: failure text says got and want",
	}
}

// excused reports that a file may import what is banned: examples log as their
// readers would, and the store's member reads a variable etcd publishes, which
// is the only way to the state of its raft, in a process that serves no mux.
func excused(s source, p string) bool {
	switch p {
	case "log":
		return outside(s.pkg) || path.Base(s.name) == "example_test.go"
	case "expvar":
		return s.name == "internal/store/member.go"
	}
	return false
}

func TestDependenciesAreInTheirRooms(t *testing.T) {
	t.Parallel()
	known := dependencies()
	banned := bannedImports()
	for _, s := range sources(t) {
		if s.other {
			continue
		}
		_, others := s.imports()
		for _, p := range others {
			if why, no := banned[p]; no && !s.generated && !excused(s, p) {
				t.Errorf("%s imports %s: %s", s.name, p, why)
				continue
			}
			if p == "testing" && !inTests(s) {
				t.Errorf("%s imports testing: it would be in the binary", s.name)
			}
			if first, _, _ := strings.Cut(p, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			d := owner(known, p)
			switch {
			case d == nil:
				t.Errorf("%s imports %s, which is in no row of dependencies(): a new one is its own commit, saying what, why not std, and its room", s.name, p)
			case inTests(s):
			case !slices.Contains(d.rooms, s.pkg):
				t.Errorf("%s imports %s: %s (%s) belongs in %s", s.name, p, d.module, d.why, roomsOf(d))
			}
		}
	}
}

// What a customer links must not register names another library registers too,
// as a second registration ends the program before main: go-spiffe registers the
// SPIFFE Workload API's messages, which have no proto package, and
// go-control-plane those of Envoy.
func TestSDKStartsBesideOtherLibraries(t *testing.T) {
	t.Parallel()
	shared := map[string]string{
		"internal/pb/workloadpb": "go-spiffe as well would not start; proto/kith/v1/svid.proto has what the SDK reads",
		"internal/pb/brokerpb":   "go-spiffe as well would not start; it is for the agent",
		"internal/pb/envoypb":    "go-control-plane as well would not start; it is for the agent",
	}
	imports := map[string][]string{}
	for _, s := range sources(t) {
		if !s.test {
			ours, _ := s.imports()
			imports[s.pkg] = append(imports[s.pkg], ours...)
		}
	}
	by := map[string]string{".": "", "spiffe": ""} // what is public -> who imports it
	for todo := []string{".", "spiffe"}; len(todo) > 0; todo = todo[1:] {
		for _, to := range imports[todo[0]] {
			if _, seen := by[to]; !seen {
				by[to] = todo[0]
				todo = append(todo, to)
			}
		}
	}
	for pkg, why := range shared {
		if from, linked := by[pkg]; linked {
			t.Errorf("the SDK links %s through %s: a program that links %s", pkg, from, why)
		}
	}
}

// owner is the dependency with the longest module path that holds the package.
func owner(known []dependency, pkg string) *dependency {
	var best *dependency
	for i, d := range known {
		if (pkg == d.module || strings.HasPrefix(pkg, d.module+"/")) && (best == nil || len(d.module) > len(best.module)) {
			best = &known[i]
		}
	}
	return best
}

func roomsOf(d *dependency) string {
	if len(d.rooms) == 0 {
		return "tests only"
	}
	return strings.Join(d.rooms, ", ")
}

func TestDirectDependenciesAreListedAndFew(t *testing.T) {
	t.Parallel()
	direct := directModules(t)
	if len(direct) > maxDirect {
		t.Errorf("%d direct dependencies, at most %d", len(direct), maxDirect)
	}
	var listed []string
	for _, d := range dependencies() {
		listed = append(listed, d.module)
		if d.why == "" {
			t.Errorf("%s is here without a reason", d.module)
		}
		if !slices.Contains(direct, d.module) {
			t.Errorf("dependencies() lists %s, which go.mod does not require directly: take it out", d.module)
		}
	}
	for _, m := range direct {
		if !slices.Contains(listed, m) {
			t.Errorf("go.mod requires %s, which dependencies() does not know: say why and where", m)
		}
	}
}

// directModules reads go.mod's requirements without "// indirect".
func directModules(t *testing.T) []string {
	t.Helper()
	f, err := os.Open("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var modules []string
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		rest, single := strings.CutPrefix(line, "require ")
		switch {
		case line == "require (":
			inside = true
		case line == ")":
			inside = false
		case strings.HasPrefix(line, "replace") || strings.HasPrefix(line, "exclude"):
			t.Errorf("go.mod: %q: who installs us with go install does not see it", line)
		case (inside || single) && line != "" && !strings.Contains(line, "// indirect"):
			if !single {
				rest = line
			}
			modules = append(modules, strings.Fields(rest)[0])
		}
	}
	return modules
}
