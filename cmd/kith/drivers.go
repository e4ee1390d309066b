package main

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/kith-id/kith/internal/agent"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/platform/host"
	"github.com/kith-id/kith/internal/platform/k8s"
	"github.com/kith-id/kith/internal/platform/proof"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/internal/store"
)

// This file is the one list of drivers: what is chosen here is handed down as
// values, and no other file of the programs names a driver.

// openStore starts the engine of a server: etcd as a child of this binary.
func openStore(ctx context.Context, stateDir string, log *slog.Logger, now func() time.Time) (*store.Etcd, error) {
	return store.OpenEtcd(ctx, store.Config{Dir: storeDir(stateDir), Log: log, Now: now})
}

func storeDir(stateDir string) string { return filepath.Join(stateDir, "store") }

// runStoreMember is the child that openStore starts.
func runStoreMember(ctx context.Context, args []string) error { return store.RunMember(ctx, args) }

// storeMemberVerb is the command line that leads to runStoreMember.
func storeMemberVerb() string { return store.MemberVerb()[1] }

// throwAwayStore is the store of kith dev.
func throwAwayStore() registry.Store { return store.NewMemory() }

// healthOf tells the server how its store is doing.
func healthOf(s *store.Etcd) func() (state, reason string) {
	return func() (string, string) {
		h := s.Health()
		return string(h.State), h.Reason
	}
}

// verifiers are the proofs by which a server admits nodes.
func verifiers(now func() time.Time) map[string]func(server.Desk) attest.Verifier {
	return map[string]func(server.Desk) attest.Verifier{
		attest.JoinToken: func(d server.Desk) attest.Verifier { return proof.TokenVerifier{Tokens: d, Now: now} },
		attest.NodeKey:   func(d server.Desk) attest.Verifier { return proof.KeyVerifier{Nodes: d, Now: now} },
	}
}

// withPlatform fills in how an agent tells processes apart and comes back by
// its node key.
func withPlatform(cfg agent.Config) agent.Config {
	local := host.New(cfg.Now)
	cfg.Inspector, cfg.Processes, cfg.Credentials = local, local, local.Credentials()
	cfg.Rejoin = func(key crypto.Signer) attest.Prover { return proof.KeyProver{Key: key} }
	return cfg
}

// withKubelet makes an agent know the pods of its node, if the file names a kubelet.
func withKubelet(cfg agent.Config, from config.Kubernetes) (agent.Config, error) {
	if from.Kubelet == "" {
		return cfg, nil
	}
	kubelet, err := newKubelet(from, cfg.Now)
	if err != nil {
		return cfg, err
	}
	cfg.Objects = kubelet
	return cfg, nil
}

func newKubelet(from config.Kubernetes, now func() time.Time) (*k8s.Kubelet, error) {
	kubelet, err := k8s.New(k8s.Config{
		URL: from.Kubelet, Name: from.Name, CAFile: from.CAFile, Token: from.TokenFile,
		CertFile: from.CertFile, KeyFile: from.KeyFile, Now: now,
	})
	if err != nil {
		return nil, fmt.Errorf("agent.kubernetes: %w", err)
	}
	return kubelet, nil
}

// withToken makes an agent join by a token the first time.
func withToken(cfg agent.Config, text string) (agent.Config, error) {
	token, err := proof.ParseToken(text)
	if err != nil {
		return cfg, err
	}
	cfg.Join, cfg.JoinMethod = proof.TokenProver{Token: token}, attest.JoinToken
	return cfg, nil
}
