//go:build interop

// Package opa holds an OPA, its Python client and curl beside the built kith: who
// asks the one can ask the other.
package opa

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// patience is for what a busy machine may take.
const patience = 4 * time.Minute

const kithYAML = `agent:
  documents:
    - path: httpapi/authz
      service: orders
      input: {from: user, prefix: "spiffe://dev.kith.local/dev/", method: method, path: path}
`

// rego is what the rule below says, in OPA's language.
const rego = `package httpapi.authz

default allow := false

allow if {
	input.user == "web"
	input.method == "GET"
	input.path[0] == "v1"
	input.path[1] == "orders"
}
`

// built is what a script of the repository has built: its path or command.
func built(t *testing.T, script string, args ...string) []string {
	t.Helper()
	cmd := exec.Command("../../../scripts/"+script, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scripts/%s: %v\n%s", script, err, stderr.String())
	}
	return strings.Fields(string(out))
}

// orders is a host where web may read orders, and a process that is orders asks at
// the port.
func orders(t *testing.T, port int, program ...string) (*lab.Host, *lab.Process) {
	t.Helper()
	h := lab.NewHost(t)
	h.Setenv("KITH_CONFIG=" + h.WriteFile("kith.yaml", kithYAML))
	h.Dev()
	h.Kith("allow", "web", "GET /v1/orders/{**}", "on", "orders")
	args := []string{"run", "--as", "orders", "--decisions", fmt.Sprintf("127.0.0.1:%d", port), "--"}
	return h, h.Start("kith", append(args, program...)...)
}

// TestPythonClientAsksAsItIs runs opa-python-client of PyPI, which nobody has told
// that it is not an OPA that answers.
func TestPythonClientAsksAsItIs(t *testing.T) {
	command := built(t, "library", "opa")
	port := lab.Port(t)
	_, app := orders(t, port, append(command, fmt.Sprint(port))...)
	select {
	case <-app.Done():
	case <-time.After(patience):
		t.Fatalf("the application has not ended:\n%s", app.Output())
	}
	for _, want := range []string{
		"connection true", "health true", "policies []", "may true", "may-not false", "traversal false", "package true",
		"parameters [true, true, true]", "undefined {}", "data false", "async true",
	} {
		if !slices.Contains(strings.Split(app.Output(), "\n"), want) {
			t.Errorf("it did not print %q:\n%s", want, app.Output())
		}
	}
	if app.ExitCode() != 0 {
		t.Errorf("exit %d:\n%s", app.ExitCode(), app.Output())
	}
}

// TestCurlAsksOnTheSocket asks on the unix socket, as the service and as somebody
// else.
func TestCurlAsksOnTheSocket(t *testing.T) {
	h := lab.NewHost(t)
	h.Dev()
	h.Kith("allow", "web", "GET /v1/orders/{**}", "on", "orders")
	socket := filepath.Join(filepath.Dir(h.AgentSocket()), "authz.sock")
	curl := []string{
		"curl", "-sS", "-m", "60", "--unix-socket", socket, "http://kith/v1/data/kith/allow",
		"-d", `{"input": {"from": "spiffe://dev.kith.local/dev/web", "method": "GET", "path": "/v1/orders/17"}}`,
	}
	for who, want := range map[string]string{"orders": `{"result":true`, "billing": `{"result":false`} {
		got := h.Kith(append([]string{"run", "--as", who, "--"}, curl...)...)
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s asks: got %s, want %s", who, got, want)
		}
	}
	if got := h.Do(curl[0], curl[1:]...); !strings.HasPrefix(got, `{"result":false`) {
		t.Errorf("a process without an identity asks: got %s", got)
	}
}

// question is one request that both answer.
type question struct{ what, method, target, body string }

// questions leaves out two where we differ: a slash at the end, which OPA redirects
// and loses the input, and a path below a boolean, an internal error of OPA's.
func questions() []question {
	const (
		may    = `{"user":"web","method":"GET","path":["v1","orders","17"]}`
		mayNot = `{"user":"web","method":"DELETE","path":["v1","orders","17"]}`
		nobody = `{"user":"mallory","method":"GET","path":["v1","orders","17"]}`
		allow  = "/v1/data/httpapi/authz/allow"
	)
	in := func(input string) string { return `{"input":` + input + `}` }
	return []question{
		{"allowed", "POST", allow, in(may)},
		{"denied", "POST", allow, in(mayNot)},
		{"somebody else", "POST", allow, in(nobody)},
		{"GET", "GET", allow + "?input=" + url.QueryEscape(may), ""},
		{"GET, denied", "GET", allow + "?input=" + url.QueryEscape(mayNot), ""},
		{"GET without input", "GET", allow, ""},
		{"GET with what is no JSON", "GET", allow + "?input={", ""},
		{"no input", "POST", allow, "{}"},
		{"input null", "POST", allow, in("null")},
		{"no body", "POST", allow, ""},
		{"an input that is a string", "POST", allow, in(`"x"`)},
		{"an input without a caller", "POST", allow, in(`{"method":"GET","path":["v1","orders"]}`)},
		{"malformed", "POST", allow, `{"input":`},
		{"a body that is a list", "POST", allow, "[]"},
		{"the package", "POST", "/v1/data/httpapi/authz", in(may)},
		{"undefined", "POST", "/v1/data/httpapi/authz/deny", in(may)},
		{"no such package", "POST", "/v1/data/no/such", in(may)},
		{"pretty", "POST", allow + "?pretty=true", in(may)},
		{"metrics", "POST", allow + "?metrics=true", in(may)},
		{"provenance", "POST", allow + "?provenance", in(may)},
		{"strict", "POST", allow + "?strict-builtin-errors=true", in(may)},
		{"v0", "POST", "/v0/data/httpapi/authz/allow", may},
		{"v0, denied", "POST", "/v0/data/httpapi/authz/allow", mayNot},
		{"v0, malformed", "POST", "/v0/data/httpapi/authz/allow", "{"},
		{"v0, undefined", "POST", "/v0/data/no/such", may},
		{"v0 by GET", "GET", "/v0/data/httpapi/authz/allow", ""},
		{"the default, which is not there", "POST", "/", may},
		{"health", "GET", "/health", ""},
		{"nothing of theirs", "GET", "/v2/data", ""},
	}
}

// shape is what of an answer a client can rely on.
type shape struct {
	Status  int
	Kind    string
	Members []string // of the answer
	Result  any
	Code    string // of the error
	Warning any
	Indent  bool
}

func ask(client *http.Client, base string, q question) (shape, error) {
	r, err := http.NewRequest(q.method, base+q.target, strings.NewReader(q.body))
	if err != nil {
		return shape{}, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return shape{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	got := shape{Status: resp.StatusCode}
	if err != nil || resp.StatusCode == http.StatusMethodNotAllowed || strings.HasPrefix(q.target, "/v2") {
		return got, err // what else is said is for people
	}
	got.Kind, got.Indent = resp.Header.Get("Content-Type"), bytes.Contains(text, []byte("\n  "))
	var whole any
	if err := json.Unmarshal(text, &whole); err != nil {
		return got, fmt.Errorf("%s: %w", text, err)
	}
	members, ok := whole.(map[string]any)
	if !ok {
		got.Result = whole
		return got, nil
	}
	for name := range members {
		if name != "decision_id" && name != "message" { // OPA has it where decisions are logged
			got.Members = append(got.Members, name)
		}
	}
	slices.Sort(got.Members)
	got.Result, got.Warning = members["result"], members["warning"]
	got.Code, _ = members["code"].(string)
	if object, ok := got.Result.(map[string]any); ok {
		got.Result = object["allow"] // of the package; we have decision besides
	}
	return got, nil
}

// TestOPAAndKithAnswerAlike asks a real OPA and kith the same, with a policy that
// says what the rule says.
func TestOPAAndKithAnswerAlike(t *testing.T) {
	opa := built(t, "opa")[0]
	port := lab.Port(t)
	h, _ := orders(t, port, "sleep", "1000")
	h.WaitPort(port)
	theirs := lab.Port(t)
	h.Start(opa, "run", "--server", "--skip-version-check", "--log-level", "error", "--addr", fmt.Sprintf("127.0.0.1:%d", theirs), h.WriteFile("policy.rego", rego))
	client := &http.Client{Timeout: patience}
	t.Cleanup(client.CloseIdleConnections)
	base := fmt.Sprintf("http://127.0.0.1:%d", theirs)
	lab.Eventually(t, patience, "OPA has its policy", func() error {
		got, err := ask(client, base, questions()[0])
		if err == nil && got.Result != true {
			err = errors.New("not yet")
		}
		return err
	})
	for _, q := range questions() {
		want, err := ask(client, base, q)
		if err != nil {
			t.Fatalf("%s: OPA: %v", q.what, err)
		}
		got, err := ask(client, fmt.Sprintf("http://127.0.0.1:%d", port), q)
		if err != nil {
			t.Fatalf("%s: kith: %v", q.what, err)
		}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: kith answers\n%+v, OPA\n%+v", q.what, got, want)
		}
	}
}
