//go:build chaos

package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// TestChaos lets faults drawn from a seed befall a stage under load, one or two
// at a time, for CHAOS_FOR (ten minutes), and holds it to its promises all the
// time. CHAOS_SEED repeats the faults of an earlier run.
func TestChaos(t *testing.T) {
	length := 10 * time.Minute
	if text := os.Getenv("CHAOS_FOR"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("CHAOS_FOR: %v", err)
		}
	}
	seed := rand.Uint64N(1 << 32)
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CHAOS_SEED: %v", err)
		}
	}
	t.Logf("to repeat it: make test-chaos CHAOS_SEED=%d CHAOS_FOR=%s", seed, length)
	s := newStage(t, options{disk: 320, rate: 20, held: 4, writers: 2})
	r := s.torment(rand.New(rand.NewPCG(seed, 0)), new(deck).draw, length)
	s.rest()
	t.Logf("%d faults in %s; recovery by fault:\n%s%s%s", len(r.times), length, r.table(), s.ledger.summary(), s.referee.summary())
	if v := s.referee.verdict(); v != "" {
		t.Errorf("seed %d, after %d faults, the last of them %s:\n%s", seed, len(r.times), r.last, v)
	}
	if s.ledger.acked < len(r.times) || s.referee.count(func(c tally) int { return c.passed }) == 0 {
		t.Errorf("%d changes were acknowledged under %d faults: this has shown nothing", s.ledger.acked, len(r.times))
	}
}

// record is how a run went.
type record struct {
	times map[int]recovery // by number
	last  string
}

// recovery is how long it took until all was well again.
type recovery struct {
	fault string
	took  time.Duration
	bound time.Duration
}

// torment draws faults and waits until each is overcome, until the time is over
// or a promise is broken.
func (s *stage) torment(random *rand.Rand, draw func(*rand.Rand) fault, length time.Duration) record {
	s.t.Helper()
	stretch := lab.Slowness(s.t)
	rec := record{times: make(map[int]recovery)}
	for end := time.Now().Add(length); time.Now().Before(end) && s.referee.verdict() == ""; {
		faults := []fault{draw(random)}
		if random.IntN(4) == 0 {
			faults = append(faults, draw(random))
		}
		rec.last = nameOf(faults)
		r := s.befall(faults, stretch)
		rec.times[len(rec.times)] = r
		s.t.Logf("%s #%d %s: well again after %s", stamp(time.Now()), len(rec.times), rec.last, r.took.Round(10*time.Millisecond))
		s.strange(faults)
	}
	return rec
}

func nameOf(faults []fault) string {
	var names []string
	for _, f := range faults {
		name := f.name
		if f.lasts > 0 {
			name += " for " + f.lasts.Round(100*time.Millisecond).String()
		}
		names = append(names, name)
	}
	return strings.Join(names, ", and ")
}

// befall lets faults happen, lifts them, and waits until all is well.
func (s *stage) befall(faults []fault, stretch float64) recovery {
	s.t.Helper()
	s.t.Logf("%s %s", stamp(time.Now()), nameOf(faults))
	var touched []string
	bound, longest := time.Duration(0), time.Duration(0)
	for _, f := range faults {
		touched = append(touched, f.touches...)
		bound += f.bound
		longest = max(longest, f.lasts)
	}
	over := s.referee.disturb(touched...)
	var ends []func()
	for _, f := range faults {
		ends = append(ends, f.begin(s))
	}
	hold := time.NewTimer(longest)
	select {
	case <-hold.C:
	case <-s.referee.violated:
		hold.Stop()
	}
	for _, end := range slices.Backward(ends) {
		end()
	}
	lifted := time.Now()
	s.referee.restart(served()...)
	bound = time.Duration(float64(bound) * stretch)
	lab.Eventually(s.t, bound, "all is well after "+nameOf(faults), func() error { return s.well(served()...) })
	over()
	return recovery{nameOf(faults), time.Since(lifted), bound}
}

// strange reports programs that ended by themselves where no fault explains it.
func (s *stage) strange(faults []fault) {
	var may []string
	for _, f := range faults {
		may = append(may, f.mayEnd...)
		may = append(may, f.touches...)
	}
	for _, p := range s.programs() {
		for _, e := range p.TakeEndings() {
			if !slices.Contains(may, p.Label) {
				s.referee.report("%s ended by itself at %s: %s\n%s", p.Label, stamp(e.At), e.State, e.Last)
			}
		}
	}
}

// table is the recovery times, by the first words of the fault.
func (r record) table() string {
	byKind := make(map[string][]time.Duration)
	for _, one := range r.times {
		words := strings.Fields(one.fault)
		kind := strings.Join(words[:min(len(words), 3)], " ")
		if strings.Contains(one.fault, ", and ") {
			kind = "two at once"
		}
		byKind[kind] = append(byKind[kind], one.took)
	}
	var kinds []string
	for kind := range byKind {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	var b strings.Builder
	for _, kind := range kinds {
		took := byKind[kind]
		slices.Sort(took)
		fmt.Fprintf(&b, "  %-28s %3d times, median %6s, longest %6s\n", kind, len(took),
			took[len(took)/2].Round(10*time.Millisecond), took[len(took)-1].Round(10*time.Millisecond))
	}
	return b.String()
}
