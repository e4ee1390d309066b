//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/pb"
)

// ledger is what writers were told by the server: for each key the values it may
// hold. Each key has one writer, so after an acknowledged change it is exactly
// one; a change whose answer was lost leaves two.
type ledger struct {
	r *referee
	c *cell

	writing sync.RWMutex // held for reading by each change; for writing while the books are checked

	mu       sync.Mutex
	keys     map[string]map[int]bool // guarded by mu, as is all below; 0 is: not there
	revision uint64                  // the greatest acknowledged
	acked    int
	acks     []window // when each was asked for and acknowledged
	unsure   int
	refused  int
	reasons  map[string]int // of refusals and lost answers
}

func newLedger(c *cell, r *referee) *ledger {
	return &ledger{c: c, r: r, keys: make(map[string]map[int]bool), reasons: make(map[string]int)}
}

// write changes keys of its own until ctx ends, with a pause of up to twice gap
// between two changes.
func (l *ledger) write(ctx context.Context, writer, keys int, gap time.Duration) {
	for n := 1; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("w%d-%d", writer, n%keys)
		switch err := l.change(ctx, key, n); {
		case err != nil:
			pause(ctx, max(gap, 50*time.Millisecond))
		case n%4 == 0:
			l.readBack(ctx, key)
		}
		if gap > 0 {
			pause(ctx, rand.N(2*gap))
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// change writes a value; one in eight changes deletes the key.
func (l *ledger) change(ctx context.Context, key string, n int) error {
	l.writing.RLock()
	defer l.writing.RUnlock()
	value := n
	if n%8 == 7 {
		value = 0
	}
	before := l.expect(key, value)
	req := &pb.ApplyRequest{Owner: owner, NoWait: true}
	if value == 0 {
		req.Delete = []*pb.Key{{Kind: "rule", Name: key}}
	} else {
		req.Put = []*pb.Object{rule(key, "web", "front", "GET /w/"+strconv.Itoa(value))}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	begun := time.Now()
	result, err := l.c.admin.Apply(ctx, req)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.acked++
		l.acks = append(l.acks, window{begun, time.Now()})
		l.keys[key] = map[int]bool{value: true}
		l.revision = max(l.revision, result.GetRevision())
	case certain(err):
		if status.Code(err) == codes.NotFound && !before[0] {
			l.r.report("rule %s is not there to be deleted; by what was acknowledged it has one of %v", key, slices.Sorted(maps.Keys(before)))
		}
		l.refused++
		l.reasons[reason(err)]++
		l.keys[key] = before
	default:
		l.unsure++
		l.reasons[reason(err)]++
	}
	return err
}

// ackedWithin is how many changes were both asked for and acknowledged in a time.
func (l *ledger) ackedWithin(w window) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, a := range l.acks {
		if !a.from.Before(w.from) && !a.to.After(w.to) {
			n++
		}
	}
	return n
}

// expect notes that a value may be there from now on, and returns what could be
// there before.
func (l *ledger) expect(key string, value int) map[int]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.keys[key]
	if before == nil {
		before = map[int]bool{0: true}
	}
	now := maps.Clone(before)
	now[value] = true
	l.keys[key] = now
	return before
}

// certain reports whether a refusal says that nothing was changed.
func certain(err error) bool {
	text := status.Convert(err).Message()
	return strings.Contains(text, "nothing was changed") || strings.Contains(text, "nothing can be changed") ||
		status.Code(err) == codes.InvalidArgument || status.Code(err) == codes.NotFound
}

// reason is an error without the numbers that make each of them different.
func reason(err error) string {
	text := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, status.Convert(err).Message())
	return status.Code(err).String() + ": " + text[:min(len(text), 160)]
}

// readBack asks for the key that the same writer has just changed.
func (l *ledger) readBack(ctx context.Context, key string) {
	l.mu.Lock()
	want, revision := maps.Clone(l.keys[key]), l.revision
	l.mu.Unlock()
	got, at, err := l.rules(ctx, key)
	if err != nil {
		return // the server is away
	}
	l.compare(key, want, got[key])
	if at < revision {
		l.r.report("revision %d was acknowledged, later the server was at %d", revision, at)
	}
}

// check compares all keys with what the server has, while nobody writes.
func (l *ledger) check(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	got, at, err := l.rules(ctx, "")
	if err != nil {
		return err
	}
	l.mu.Lock()
	want, revision := maps.Clone(l.keys), l.revision
	l.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		l.compare(key, want[key], got[key])
	}
	if at < revision {
		l.r.report("revision %d was acknowledged, later the server was at %d", revision, at)
	}
	return nil
}

func (l *ledger) compare(key string, want map[int]bool, got int) {
	if !want[got] {
		l.r.report("rule %s has the value %d (0: it is not there); by what was acknowledged it has one of %v", key, got, slices.Sorted(maps.Keys(want)))
	}
}

// rules is the value of each key, or of one.
func (l *ledger) rules(ctx context.Context, name string) (map[string]int, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := l.c.admin.List(ctx, &pb.ListRequest{Kind: "rule", Name: name})
	if status.Code(err) == codes.NotFound {
		// One that is not there: the revision is that of any list.
		list, err = l.c.admin.List(ctx, &pb.ListRequest{Kind: "service"})
	}
	if err != nil {
		return nil, 0, err
	}
	out := make(map[string]int)
	for _, object := range list.GetObjects() {
		r := object.GetRule()
		if !strings.HasPrefix(r.GetName(), "w") || len(r.GetAllow()) != 1 {
			continue
		}
		if value, err := strconv.Atoi(strings.TrimPrefix(r.GetAllow()[0], "GET /w/")); err == nil {
			out[r.GetName()] = value
		}
	}
	return out, list.GetRevision(), nil
}

// summary is what became of the changes.
func (l *ledger) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "changes: %d acknowledged, %d refused, %d without an answer; revision %d\n", l.acked, l.refused, l.unsure, l.revision)
	for _, r := range slices.Sorted(maps.Keys(l.reasons)) {
		fmt.Fprintf(&b, "  %4d × %s\n", l.reasons[r], r)
	}
	return b.String()
}
