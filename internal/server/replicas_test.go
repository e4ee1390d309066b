package server_test

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/run/runtest"
	"github.com/kith-id/kith/internal/server"
)

// T10: three servers of one trust domain have one store, and one of them is cut
// off from it while a token is used at all three at once. The store alone decides
// which use counts, so it is exactly one; what the cut-off server was asked comes
// again, and is refused.
func TestThreatT10TokenAdmitsOnceAtThreeServers(t *testing.T) {
	t.Parallel()
	first := start(t, nil)
	all := []*rig{first}
	for range 2 {
		all = append(all, start(t, func(c *server.Config) {
			dir := t.TempDir()
			c.Store, c.KEK, c.Audit = &flaky{Store: first.store.Store}, first.cfg.KEK, first.audit
			c.AdminSocket, c.JournalPath = filepath.Join(dir, "admin.sock"), filepath.Join(dir, "journal")
		}))
	}
	cut := all[2].cfg.Store.(*flaky)
	line := first.line("n1")
	token := line[len(first.s.Addr())+1:] // pin and token, good at each
	uses := 201
	if runtest.Raced {
		uses = 51
	}
	cut.set(true)
	var told, away atomic.Int32
	var trying sync.WaitGroup
	for i := range uses {
		at, key := all[i%len(all)], newKey(t)
		trying.Go(func() {
			for t.Context().Err() == nil {
				_, err := at.attestBy(at.s.Addr()+"/"+token, attest.JoinToken, key, byToken(t))
				switch {
				case err == nil:
					told.Add(1)
					return
				case fault.Is(err, fault.Denied):
					return
				case at == all[2]:
					away.Add(1)
					cut.set(false) // it is back for those that come again
				}
			}
		})
	}
	trying.Wait()
	if away.Load() == 0 {
		t.Error("the server that was cut off from the store answered everybody")
	}
	if got := told.Load(); got > 1 {
		t.Errorf("%d uses of one token at three servers: %d were told that they are admitted, want at most 1", uses, got)
	}
	if got := first.audit.succeeded(audit.Admitted, "node n1"); got != 1 {
		t.Errorf("%d uses of one token at three servers: %d admissions on record, want 1", uses, got)
	}
}
