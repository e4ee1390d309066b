package workload

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

func running(t *testing.T, w *world) *Identities {
	t.Helper()
	ids := NewIdentities(Config{Signer: w, Trust: w.Trust, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = ids.Run(ctx) })
	t.Cleanup(func() { cancel(); run.Wait() })
	return ids
}

func workloadNumber(i int) *Evaluation {
	return NewEvaluation(registry.Attributes{"workload.unix.uid": fmt.Sprint(i)},
		[]registry.Match{{Rule: "web", ID: mustID(fmt.Sprintf("spiffe://%s/vms/w%d", domain, i))}}, nil)
}

// wait blocks until every identity of a lease has an SVID or was refused.
func wait(t *testing.T, l *Lease) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Wait(ctx); err != nil {
		t.Fatalf("the lease has no SVID: %v", err)
	}
}

func TestRequestsGoInBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := NewIdentities(Config{Signer: w, Trust: w.Trust, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	var leases []*Lease
	for i := range 300 {
		leases = append(leases, ids.Acquire(workloadNumber(i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = ids.Run(ctx) })
	for _, l := range leases {
		wait(t, l)
	}
	cancel()
	run.Wait()
	if len(w.batches) != 3 || w.batches[0] != 128 || w.batches[2] != 44 {
		t.Errorf("got batches %v, want 128, 128, 44", w.batches)
	}
}

func TestTwentyWorkloadsRenewedOftenNeverLackAnSVID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := running(t, w)
	var leases []*Lease
	for i := range 20 {
		l := ids.Acquire(workloadNumber(i))
		wait(t, l)
		leases = append(leases, l)
	}
	for round := range 20 {
		before := make([]*Issued, len(leases))
		for i, l := range leases {
			before[i] = l.State()[0].Issued
		}
		ids.Renew()
		for i, l := range leases {
			for {
				changed := l.Changed()
				if l.State()[0].Issued != before[i] {
					break
				}
				select {
				case <-changed:
				case <-time.After(time.Minute):
					t.Fatalf("round %d: workload %d was not renewed", round, i)
				}
			}
			now := l.State()[0].Issued
			if now == nil {
				t.Fatalf("round %d: workload %d lost its SVID", round, i)
			}
			if string(now.Key) == string(before[i].Key) {
				t.Fatalf("round %d: workload %d kept its key", round, i)
			}
		}
	}
	if n, first := ids.Count(); n != 20 || first.IsZero() || len(ids.Active()) != 20 {
		t.Errorf("count %d, first end %v", n, first)
	}
}

func TestReleasedSVIDIsThereForARestartedWorkload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := running(t, w)
	l := ids.Acquire(workloadNumber(1))
	wait(t, l)
	first := l.State()[0].Issued
	l.Release()
	if n, _ := ids.Count(); n != 0 {
		t.Errorf("%d SVIDs in use after the release", n)
	}
	again := ids.Acquire(workloadNumber(1))
	defer again.Release()
	if got := again.State()[0].Issued; got != first {
		t.Error("the SVID of before is gone")
	}
}

func TestRestoredSVIDsMustStillVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := running(t, w)
	l := ids.Acquire(workloadNumber(1))
	wait(t, l)
	saved := ids.Snapshot()
	if len(saved) != 1 {
		t.Fatalf("saved %d SVIDs, want 1", len(saved))
	}
	restored := func(s Saved, ev *Evaluation) bool {
		fresh := NewIdentities(Config{Signer: w, Trust: w.Trust, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		fresh.Restore([]Saved{s})
		return fresh.Acquire(ev).State()[0].Issued != nil
	}
	if !restored(saved[0], workloadNumber(1)) {
		t.Error("a good SVID was not restored")
	}
	if restored(saved[0], workloadNumber(2)) {
		t.Error("another workload got the SVID")
	}
	bad := saved[0]
	bad.ID = "spiffe://" + domain + "/vms/admin"
	if restored(bad, workloadNumber(1)) {
		t.Error("an SVID under another name was restored")
	}
	bad = saved[0]
	bad.Key = append([]byte{}, bad.Key[:10]...)
	if restored(bad, workloadNumber(1)) {
		t.Error("an SVID without its key was restored")
	}
	own := w.Trust().Domain
	w.set(func() { w.bundles = spiffe.BundleMap{own: spiffe.NewBundle(own, 2, 0, newAuthority(t).cert)} })
	if restored(saved[0], workloadNumber(1)) {
		t.Error("an SVID of a root that is gone was restored")
	}
}

// What the server answers is taken only if it is what was asked for.
func TestAnswerMustBeWhatWasAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key, _, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	id := mustID("spiffe://" + domain + "/vms/web")
	signed := func(as string, by *authority, from time.Time) [][]byte {
		der, err := by.issue(as, key.Public(), from, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{der}
	}
	now := time.Now().Truncate(time.Second)
	for name, c := range map[string]struct {
		chain [][]byte
		err   string
	}{
		"another id":     {signed("spiffe://"+domain+"/vms/admin", w.ca, now), "instead of"},
		"another root":   {signed(id.String(), newAuthority(t), now), "does not verify"},
		"from tomorrow":  {signed(id.String(), w.ca, now.Add(10*time.Minute)), "10m0s behind"},
		"from yesterday": {signed(id.String(), w.ca, now.Add(-2*time.Hour)), "1h0m0s ahead"},
		"nothing":        {nil, "chain of 0"},
		"garbage":        {[][]byte{{1, 2, 3}}, "unusable"},
	} {
		_, err := accept(id, key, result(c.chain), w.Trust(), now)
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.err)
		}
	}
	if _, err := accept(id, other, result(signed(id.String(), w.ca, now)), w.Trust(), now); err == nil {
		t.Error("a certificate for another key was taken")
	}
	if _, err := accept(id, key, result(signed(id.String(), w.ca, now)), w.Trust(), now); err != nil {
		t.Errorf("a good answer: %v", err)
	}
}

func result(chain [][]byte) *pb.SignedWorkload { return &pb.SignedWorkload{Chain: chain} }

func TestClosestRule(t *testing.T) {
	t.Parallel()
	got, ok := Closest([]registry.Outcome{
		{Rule: "pods", Result: registry.Unmatched, Detail: "not for nodes of class vms"},
		{Rule: "as", Result: registry.Missing, Detail: "no workload.kith.as"},
		{Rule: "unit", Result: registry.Unmatched, Detail: "workload.unix.uid != 0 is false"},
	})
	if !ok || got.Rule != "unit" {
		t.Errorf("got %v, %v, want unit", got, ok)
	}
	if _, ok := Closest(nil); ok {
		t.Error("found a rule where there is none")
	}
}

// A renewal asked for while one is under way is another one: the first may
// have been signed before whatever made the second necessary.
func TestRenewDuringSigningSignsOnceMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := NewIdentities(Config{Signer: w, Trust: w.Trust, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	l := ids.Acquire(workloadNumber(1))
	batch, _ := ids.due()
	ids.Renew()
	ids.sign(t.Context(), batch)
	first := l.State()[0].Issued
	again, _ := ids.due()
	if first == nil || len(again) != 1 {
		t.Fatalf("after Renew while signing: issued %v, %d due, want one issued and one due", first, len(again))
	}
	ids.sign(t.Context(), again)
	if more, _ := ids.due(); len(more) != 0 {
		t.Errorf("after signing again: %d due, want none", len(more))
	}
}
