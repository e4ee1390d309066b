//go:build chaos

package chaos

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// TestKillNineTenTimesInAnyOrder kills server, store, each agent, each proxy and
// the caller's ten times, all of them in each round, in random order and without
// waiting between. After each round all is well again, and nothing that was
// acknowledged is lost.
func TestKillNineTenTimesInAnyOrder(t *testing.T) {
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	s := newStage(t, options{rate: 20, held: 4, writers: 2})
	slowness := lab.Slowness(t)
	var victims []fault
	for i := range 3 {
		victims = append(victims, killNamedAgent(i))
	}
	for _, name := range served() {
		victims = append(victims, killNamedService(name))
	}
	victims = append(victims, killServer(nil), killStore(nil), killClient(nil))
	for range 10 {
		var round []fault
		for _, i := range random.Perm(len(victims)) {
			round = append(round, victims[i])
		}
		r := s.befall(round, slowness)
		s.strange(round)
		t.Logf("well again %s after the last kill", r.took.Round(10*time.Millisecond))
	}
	s.conclude()
	if s.ledger.acked < 10 {
		t.Errorf("%d changes were acknowledged: this has shown nothing", s.ledger.acked)
	}
}

// TestBar10RotationsUnderLoad forces 1 000 rotations of SVIDs while requests and
// new connections are made, 100 of the connections held all the time: not one
// fails. The bar asks for 2 000 requests a second, which is for a machine of its
// own; one in twelve of them is what two busy cores bear.
func TestBar10RotationsUnderLoad(t *testing.T) {
	const rotations = 1000
	s := newStage(t, options{rate: measure(40, 500), held: 50, steady: true})
	perRound := len(served()) + 1 // and the caller's own
	before := s.referee.count(func(c tally) int { return c.passed })
	begun := time.Now()
	for range rotations / perRound {
		s.renew(perRound, s.nodes...)
	}
	took := time.Since(begun)
	passed := s.referee.count(func(c tally) int { return c.passed }) - before
	t.Logf("%d rotations in %s, %d requests and exchanges meanwhile", rotations, took.Round(time.Second), passed)
	s.conclude()
	if passed < rotations {
		t.Errorf("only %d requests passed during %d rotations", passed, rotations)
	}
	renewed := 0
	for _, name := range served() {
		renewed += strings.Count(s.services[name].Output(), "identity received")
	}
	if renewed < rotations/2 { // the log keeps the newest of each only
		t.Errorf("proxies took %d SVIDs in %d rotations", renewed, rotations)
	}
}
