// Package testenv is a whole trust domain in one process - memory store,
// server, agent, their sockets - for tests; no program imports it.
package testenv

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/agent"
	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/platform/host"
	"github.com/kith-id/kith/internal/platform/proof"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/internal/store"
	"github.com/kith-id/kith/spiffe"
)

// Name is the trust domain's, and Node its one node's, which is of class Node.
const (
	Name = "test.kith.local"
	Node = "dev"
)

// startLimit bounds Start; it takes a fraction of a second on an idle machine.
const startLimit = 30 * time.Second

// Domain is a running trust domain. Its server is a dev server: a service is
// declared by the first use of its name.
type Domain struct {
	RunDir      string
	AdminSocket string
	AgentSocket string
	Server      *server.Server
	Agent       *agent.Agent
	TrustDomain spiffe.TrustDomain
}

// Start brings a trust domain up and takes it down when the test ends; it
// returns when the agent serves. Directories are short, because a socket's path
// is limited to 107 bytes.
func Start(t testing.TB) *Domain {
	t.Helper()
	return StartWith(t, func(*agent.Config) {})
}

// StartWith is Start with another configuration of the agent.
func StartWith(t testing.TB, change func(*agent.Config)) *Domain {
	t.Helper()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &Domain{RunDir: dir, AdminSocket: filepath.Join(dir, "admin.sock"), AgentSocket: filepath.Join(dir, "agent.sock")}
	if d.TrustDomain, err = spiffe.ParseTrustDomain(Name); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	if err := d.assemble(ctx, change); err != nil {
		stop()
		t.Fatal(err)
	}
	go func() {
		ended <- run.Group(ctx, run.Config{OnReady: func() { close(ready) }},
			run.Part{Name: "server", Run: d.Server.Run},
			run.Part{Name: "agent", Run: d.Agent.Run, Ready: d.Agent.Ready()},
		)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("trust domain: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("start the trust domain: %v", err)
	case <-time.After(startLimit):
		t.Fatalf("the trust domain was not ready within %v", startLimit)
	}
	return d
}

// assemble makes server and agent; neither serves yet.
func (d *Domain) assemble(ctx context.Context, change func(*agent.Config)) error {
	kek, err := keys.FileKEK(filepath.Join(d.RunDir, "kek"))
	if err != nil {
		return err
	}
	d.Server, err = server.New(ctx, server.Config{
		Name: Node, TrustDomain: d.TrustDomain, Version: "test", Dev: true,
		Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", AdminSocket: d.AdminSocket,
		Store: store.NewMemory(), KEK: kek,
		Verifiers: map[string]func(server.Desk) attest.Verifier{
			attest.JoinToken: func(desk server.Desk) attest.Verifier { return proof.TokenVerifier{Tokens: desk, Now: time.Now} },
			attest.NodeKey:   func(desk server.Desk) attest.Verifier { return proof.KeyVerifier{Nodes: desk, Now: time.Now} },
		},
		WIT: true, JournalPath: filepath.Join(d.RunDir, "journal"), JournalBytes: 1 << 20, Lifetimes: ca.DefaultLifetimes(),
		Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	d.Agent, err = d.newAgent(ctx, change)
	return err
}

// newAgent makes the agent, which joins as any other does, by a token.
func (d *Domain) newAgent(ctx context.Context, change func(*agent.Config)) (*agent.Agent, error) {
	added, err := d.Server.AddNode(ctx, "testenv", &pb.AddNodeRequest{Name: Node, Class: Node})
	if err != nil {
		return nil, err
	}
	line := strings.Split(added.GetJoin(), "/")
	if len(line) != 3 {
		return nil, fmt.Errorf("join line of %d parts", len(line))
	}
	pin, err := spiffe.ParsePin(line[1])
	if err != nil {
		return nil, err
	}
	token, err := proof.ParseToken(line[2])
	if err != nil {
		return nil, err
	}
	local := host.New(time.Now)
	cfg := agent.Config{
		StateDir: filepath.Join(d.RunDir, "agent"), Socket: d.AgentSocket, Server: line[0], Pin: pin, WIT: true,
		Join: proof.TokenProver{Token: token}, JoinMethod: attest.JoinToken,
		Rejoin:    func(key crypto.Signer) attest.Prover { return proof.KeyProver{Key: key} },
		Inspector: local, Processes: local, Credentials: local.Credentials(),
		Declare: func(ctx context.Context, name string) error {
			_, err := d.Server.Apply(ctx, api.Actor{Name: "testenv", Role: registry.RoleAdmin}, &pb.ApplyRequest{Declare: []string{name}})
			return err
		},
		Version: "test", Now: time.Now, Log: slog.New(slog.DiscardHandler),
	}
	change(&cfg)
	return agent.New(cfg)
}

// Admin is a client of the server's admin socket, closed when the test ends.
func (d *Domain) Admin(t testing.TB) pb.AdminClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.AdminSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pb.NewAdminClient(conn)
}

// Workload attaches the test process as a service, until the test ends. A
// process is one workload at a time: its claims are its own, not a goroutine's.
func (d *Domain) Workload(t testing.TB, as string) *kith.Workload {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	w, err := kith.Open(ctx, kith.Config{Socket: d.AgentSocket, As: as})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}
