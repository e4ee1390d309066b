package testenv_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/kith-id/kith/internal/agent"
	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/testenv"
)

// identityOf is a rule that gives the processes of a program of ours an identity.
func identityOf(id, program string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{
		Name: filepath.Base(id), Nodes: []string{testenv.Node}, Id: id,
		Require: fmt.Sprintf("workload.unix.path == %q && workload.unix.uid == %d", program, os.Getuid()),
	}}}
}

// running starts a program until the test ends.
func running(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// A broker made with the peer library gets the SVIDs of the processes it may act
// for, as the kernel tells them apart, and of nobody else. Rule 99, 103, 106, 109,
// 110: with real processes, their ends included.
func TestPeerLibraryBrokersForProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "b", "broker.sock")
	mesh := filepath.Join(dir, "mesh")
	build := exec.Command("go", "build", "-trimpath", "-o", mesh, "../workload/testdata/gospiffebroker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as kith is built: its packages may be cached
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	sleep, err := exec.LookPath("sleep")
	if err == nil {
		sleep, err = filepath.EvalSymlinks(sleep)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{}
	for _, name := range []string{"orders", "vault"} { // both are sleep
		programs[name] = filepath.Join(dir, name)
		if err := os.WriteFile(programs[name], text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := testenv.StartWith(t, func(cfg *agent.Config) {
		cfg.Broker = agent.Broker{Socket: socket, Group: -1, Allow: []agent.BrokerGrant{{ID: "/dev/mesh", For: []string{"/dev/orders"}}}}
	})
	if _, err := d.Server.Apply(t.Context(), api.Actor{Name: "test", Role: registry.RoleAdmin}, &pb.ApplyRequest{Put: []*pb.Object{
		identityOf("/dev/mesh", mesh), identityOf("/dev/orders", programs["orders"]), identityOf("/dev/vault", programs["vault"]),
	}}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 0600", info, err)
	}
	orders, vault := running(t, programs["orders"], "600"), running(t, programs["vault"], "600")
	client := exec.Command(mesh, "spiffe://"+testenv.Name+"/kith/node/"+testenv.Node)
	client.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET=unix://"+d.AgentSocket, "SPIFFE_BROKER_SOCKET=unix://"+socket)
	client.Stderr = os.Stderr
	stdin, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		if err := client.Wait(); err != nil {
			t.Errorf("client: %v", err)
		}
	}()
	lines := bufio.NewScanner(stdout)
	answer := func() string {
		if !lines.Scan() {
			t.Fatalf("the client ended: %v", lines.Err())
		}
		return lines.Text()
	}
	ask := func(question string) string {
		if _, err := fmt.Fprintln(stdin, question); err != nil {
			t.Fatal(err)
		}
		return answer()
	}
	const own = "spiffe://" + testenv.Name + "/dev/orders"
	for pid, want := range map[int]string{
		orders.Process.Pid: own,
		vault.Process.Pid:  "PermissionDenied spiffe.io WORKLOAD_NOT_ENTITLED",
		os.Getpid():        "PermissionDenied spiffe.io WORKLOAD_NOT_ENTITLED",
		1<<31 - 1:          "NotFound spiffe.io WORKLOAD_NOT_FOUND",
		0:                  "InvalidArgument spiffe.io WORKLOAD_REFERENCE_INVALID",
		-1:                 "InvalidArgument spiffe.io WORKLOAD_REFERENCE_INVALID",
	} {
		if got := ask(strconv.Itoa(pid)); got != want {
			t.Errorf("process %d: got %q, want %q", pid, got, want)
		}
	}
	if got := ask(fmt.Sprint("watch ", orders.Process.Pid)); got != own {
		t.Errorf("watched: got %q", got)
	}
	if err := orders.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := answer(); got != "NotFound spiffe.io WORKLOAD_NOT_FOUND" {
		t.Errorf("after it has ended: got %q", got)
	}
}
