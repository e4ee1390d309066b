package proof

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// anyNode knows every key.
type anyNode struct{}

func (anyNode) NodeByKey(_ context.Context, hash [32]byte) (registry.Node, error) {
	return registry.Node{Name: "vm-7", Class: "vms", KeyHash: hash, Expires: now.Add(time.Hour)}, nil
}

// FuzzProofs sends any messages as a proof: none is one, and each refusal has a
// kind.
func FuzzProofs(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	at := attest.Bindings{Server: serverID, Key: key.Public()}
	f.Add([]byte{}, []byte{})
	f.Add(make([]byte, TokenSize), make([]byte, 71))
	f.Add([]byte{0x30, 0x06, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00}, []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if len(first) > attest.MaxMessage || len(second) > attest.MaxMessage {
			return // which no exchange carries, and a verifier would wait for
		}
		for name, verifier := range map[string]attest.Verifier{
			"token":    TokenVerifier{Tokens: &vault{}, Now: func() time.Time { return now }},
			"node key": KeyVerifier{Nodes: anyNode{}, Now: func() time.Time { return now }},
		} {
			agent, server := attest.Pipe()
			for _, message := range [][]byte{first, second} {
				if err := agent.Send(t.Context(), message); err != nil {
					t.Fatal(err)
				}
			}
			evidence, err := verifier.Verify(t.Context(), attest.Bind(server, at))
			if err == nil || !fault.Is(err, fault.Denied) {
				t.Errorf("%s: %x admits %+v, %v", name, first, evidence, err)
			}
			server.Close()
		}
	})
}
