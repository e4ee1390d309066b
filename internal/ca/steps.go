package ca

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/fault"
)

const maxBatch = 1024

// intent is one SVID on its way, whatever its kind.
type intent struct {
	entry  Entry                   // of the journal; without a serial it was not planned
	make   func() (refusal, error) // signs, parses what was signed and lints it; or says at what it failed
	onDisk bool                    // the entry is; set by awaitDisk alone
	err    error
}

func (i *intent) planned() bool { return i.entry.Serial != "" }

// Outcome is what became of one request of a batch: an SVID that was linted, or
// why there is none.
type Outcome[S any] struct {
	SVID *S
	Err  error
}

// kind is what differs between the kinds of SVID: R is a request, B what the
// batch has in common, S the SVID.
type kind[R, B, S any] struct {
	ready  func(context.Context, time.Time) (B, error)
	plan   func(*intent, *linted[S], R, B, time.Time) error
	issued prometheus.Counter
}

// signAll takes a batch through the steps. The numbers are those of DESIGN.md.
func signAll[R, B, S any](ctx context.Context, c *CA, k kind[R, B, S], requests []R) ([]Outcome[S], B) {
	begin := time.Now()
	defer func() { c.metrics.seconds.Observe(time.Since(begin).Seconds()) }()
	intents, made := make([]intent, len(requests)), make([]linted[S], len(requests))
	now := c.config.Now().UTC().Truncate(time.Second)
	var common B
	err := c.ready(ctx, now, len(requests)) // 1
	if err == nil {
		common, err = k.ready(ctx, now)
	}
	for i := range intents {
		if intents[i].err = err; err == nil {
			intents[i].err = k.plan(&intents[i], &made[i], requests[i], common, now) // 2
		}
	}
	writing := c.journalIntents(now, intents) // 3
	inParallel(len(intents), func(i int) {
		if intents[i].err == nil {
			c.make(&intents[i]) // 4, 5, 6
		}
	})
	c.awaitDisk(ctx, writing, intents)              // 7
	c.journalVoids(ctx, now, intents)               // 8
	return release(k.issued, intents, made), common // 9
}

// ready checks what concerns a batch as a whole, of whatever kind.
func (c *CA) ready(ctx context.Context, now time.Time, n int) error {
	if n > maxBatch {
		return c.refuse(refusedInvalid, fault.Invalidf("batch of %d requests, at most %d are allowed", n, maxBatch))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.checkClock(now); err != nil {
		return c.refuse(refusedClock, err)
	}
	return nil
}

// journalIntents writes what is about to be signed to the journal. A batch of more
// than one is on its way to the disk when it returns.
func (c *CA) journalIntents(now time.Time, intents []intent) *pending {
	entries := make([]Entry, 0, len(intents))
	for i := range intents {
		if intents[i].err == nil {
			entries = append(entries, intents[i].entry)
		}
	}
	if len(entries) == 0 {
		return nil
	}
	writing, err := c.journal.begin(now, entries...)
	if err != nil {
		c.notJournalled(intents, err)
	}
	return writing
}

// notJournalled takes everything back that was planned. What was made of it is
// forgotten with the batch.
func (c *CA) notJournalled(intents []intent, err error) {
	for i := range intents {
		if intents[i].planned() {
			intents[i].err = c.refuse(refusedJournal, err)
		}
	}
}

// make signs, parses what was signed, and lints it.
func (c *CA) make(i *intent) {
	at, err := i.make()
	if err == nil {
		return
	}
	i.err = c.refuse(at, fmt.Errorf("sign %s of %s: %w", i.entry.Kind, i.entry.ID, err))
	if at == refusedLint {
		c.log.Error("SVID failed the lint", "kind", string(i.entry.Kind), "id", i.entry.ID, "serial", i.entry.Serial, "error", err)
	}
}

// awaitDisk returns when the intents are on disk, or it is known that they are
// not, or the caller has gone. Nothing else says that they are,
// and without that nothing is released.
func (c *CA) awaitDisk(ctx context.Context, writing *pending, intents []intent) {
	if writing == nil {
		return
	}
	err := writing.wait(ctx)
	if err == nil {
		err = ctx.Err() // who has synced for others may have been left meanwhile
	}
	c.checkAlarm()
	if err != nil {
		c.notJournalled(intents, err)
		return
	}
	for i := range intents {
		intents[i].onDisk = intents[i].planned()
	}
}

// journalVoids notes which intents came to nothing. It does not matter if that
// fails: an intent counts as issued then, which is the safe side.
func (c *CA) journalVoids(ctx context.Context, now time.Time, intents []intent) {
	var entries []Entry
	for i := range intents {
		if j := &intents[i]; j.err != nil && j.onDisk {
			entries = append(entries, Entry{
				Kind: VoidEntry, Time: now, Serial: j.entry.Serial, ID: j.entry.ID,
				Requester: j.entry.Requester, Reason: string(refusedBy(j.err)),
			})
		}
	}
	if len(entries) == 0 {
		return
	}
	if err := c.journal.add(ctx, now, entries...); err != nil {
		c.log.Warn("void issuance not journalled", "error", err)
	}
}

// release hands out what the linter made of intents that are on disk, and
// nothing else.
func release[S any](issued prometheus.Counter, intents []intent, made []linted[S]) []Outcome[S] {
	out := make([]Outcome[S], len(intents))
	n := 0
	for i := range intents {
		switch j := &intents[i]; {
		case j.err != nil:
			out[i].Err = j.err
		case !j.onDisk || made[i].svid == nil:
			out[i].Err = fmt.Errorf("sign %s of %s: nothing was made, or nothing is on record", j.entry.Kind, j.entry.ID)
		default:
			out[i].SVID = made[i].svid
			n++
		}
	}
	issued.Add(float64(n))
	return out
}

// inParallel calls f for 0 to n-1, on all cores.
func inParallel(n int, f func(int)) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f(i)
		}
	}
	var group sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) - 1 {
		group.Go(work)
	}
	work() // here too, on a stack that has grown already
	group.Wait()
}
