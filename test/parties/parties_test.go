//go:build parties

// Package parties shows Kith with unmodified programs of other makers: nginx,
// curl, Python, grpc-go, WebSocket, PostgreSQL, go-spiffe and openssl.
package parties

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// TestMain lets the test binary play the gRPC and WebSocket programs: they are
// started through kith run as any other program would be.
func TestMain(m *testing.M) {
	if role := os.Getenv("PARTY_ROLE"); role != "" {
		if err := play(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func play(role string, args []string) error {
	switch role {
	case "grpc-server":
		return grpcServer(args[0])
	case "grpc-client":
		return grpcClient(args[0])
	case "ws-server":
		return wsServer(args[0])
	case "ws-client":
		return wsClient(args[0])
	default:
		return fmt.Errorf("unknown role %q", role)
	}
}

// self is the command line that makes this binary play a role.
func self(role string, args ...string) []string {
	return append([]string{"env", "PARTY_ROLE=" + role, os.Args[0]}, args...)
}

// dev is a host with a running `kith dev`.
func dev(t *testing.T) *lab.Host {
	t.Helper()
	h := lab.NewHost(t)
	h.Dev()
	return h
}

// serve starts command behind `kith run` and waits until the app answers and
// callers can see the service.
func serve(t *testing.T, h *lab.Host, service string, port int, command ...string) *lab.Process {
	t.Helper()
	exposed := lab.Port(t)
	args := append([]string{"run", "--as", service, "--expose", fmt.Sprintf("%d=%d", exposed, port), "--"}, command...)
	p := h.Start("kith", args...)
	h.WaitPort(port)
	h.WaitPort(exposed)
	lab.Eventually(t, 20*time.Second, service+" is registered", func() error {
		if out := h.Kith("services", "-o", "json"); !strings.Contains(out, fmt.Sprintf(":%d", exposed)) {
			return fmt.Errorf("services: %s\nrun: %s", out, p.Output())
		}
		return nil
	})
	return p
}

// as runs a command behind `kith run --as name` to its end.
func as(h *lab.Host, name string, command ...string) lab.Result {
	return h.Try("kith", append([]string{"run", "--as", name, "--"}, command...)...)
}

// want fails unless the result has the code and stdout has the text.
func want(t *testing.T, what string, r lab.Result, code int, stdout string) {
	t.Helper()
	if r.Code != code || !strings.Contains(r.Stdout, stdout) {
		t.Fatalf("%s: got exit %d, stdout %q, want exit %d with %q\nstderr: %s", what, r.Code, r.Stdout, code, stdout, r.Stderr)
	}
}
