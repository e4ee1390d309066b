package run

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// leastGarbage is how much a small heap may hold in garbage before it is
	// collected. By Go's default it would be as much as is in use, which in an agent
	// is so little that a collection pays for a few dozen calls only.
	leastGarbage = 8 << 20
	// garbageShare is the percentage of what is in use, where that is more: half of
	// Go's default, as a large heap is one of many streams, which are mostly silent.
	garbageShare = 50
	// leastInUse is what is taken to be in use where it is less, or not yet known as
	// nothing has been collected: Go's smallest heap is by the percentage as well.
	leastInUse = 3 << 20
)

// Garbage is the part that keeps how much garbage the process holds between
// collections apart from how much it uses: it holds a fixed amount while it is
// small, and half of what it uses when it is large. An operator who has set GOGC or
// GOMEMLIMIT has decided already, and it does nothing. The collector is the
// process's: one at a time.
type Garbage struct {
	// Getenv is os.Getenv unless it is set.
	Getenv func(string) string

	set  func(percent int) int // debug.SetGCPercent unless it is set
	used func() uint64         // inUse unless it is set
}

// Run follows each collection until ctx ends, and then has it be as it was before.
func (g Garbage) Run(ctx context.Context) error {
	if g.Getenv == nil {
		g.Getenv = os.Getenv
	}
	if g.set == nil {
		g.set = debug.SetGCPercent
	}
	if g.used == nil {
		g.used = inUse
	}
	if decided(g.Getenv) {
		<-ctx.Done()
		return nil
	}
	percent := garbagePercent(g.used())
	before := g.set(percent)
	defer g.set(before)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-collected():
		}
		// Each setting stops the world for a moment: small changes are let be.
		if next := garbagePercent(g.used()); next < percent*9/10 || next > percent*11/10 {
			percent = next
			g.set(percent)
		}
	}
}

// decided says whether an operator has said when to collect.
func decided(getenv func(string) string) bool {
	return getenv("GOGC") != "" || getenv("GOMEMLIMIT") != ""
}

// Loading collects garbage half as often as usual while load reads what the process
// then keeps: most of it stays, and to look through it time and again was a quarter
// of what the start with a hundred thousand services took. An operator who has set
// GOGC or GOMEMLIMIT has decided already. Not while Garbage runs, nor twice at once.
func Loading[T any](load func() (T, error)) (T, error) {
	const percent = 200 // Go's default is 100
	if !decided(os.Getenv) {
		defer debug.SetGCPercent(debug.SetGCPercent(percent))
	}
	return load()
}

// garbagePercent is the percentage of what is in use that garbage may be.
func garbagePercent(used uint64) int {
	return max(garbageShare, int(leastGarbage*100/max(used, leastInUse)))
}

// inUse is what the percentage is of: the live heap and what is scanned for it.
func inUse() uint64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	var sum uint64
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			sum += s.Value.Uint64()
		}
	}
	return sum
}

// collected is closed when something that nobody holds has been collected: after
// the next collection.
func collected() <-chan struct{} {
	done := make(chan struct{})
	runtime.AddCleanup(&unheld{}, func(done chan struct{}) { close(done) }, done)
	return done
}

// unheld is too large to share a block with what lives longer.
type unheld struct{ _ [64]byte }
